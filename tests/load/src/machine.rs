//! The machine, for a reader of the figures.

/// One fact a line.
pub fn facts() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "processor unknown".to_owned());
    let memory = field("/proc/meminfo", "MemTotal").and_then(|kib| kib.trim_end_matches(" kB").parse::<u64>().ok());
    let memory = memory.map_or_else(String::new, |kib| format!(", {} GiB of memory", kib / 1024 / 1024));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut facts = vec![
        format!("{cores} cores ({model}){memory}, Linux {}; everything on this machine, over loopback", kernel.trim()),
        "ratios refer to the first row a: POSTs over TLS 1.3, as deliveries are".to_owned(),
        "CPU and RSS: ingest, router, deliverer, api (with SQLite) and nats-server; in row a: client and sink"
            .to_owned(),
    ];
    let inherited = inherited();
    if !inherited.is_empty() {
        facts.push(format!("from the environment: {}", inherited.join(" ")));
    }
    facts
}

/// What the services are configured with besides what we tell them. The figures are those of another configuration then.
fn inherited() -> Vec<String> {
    let is_secret = |name: &str| ["SECRET", "PASSWORD", "CREDENTIALS"].iter().any(|word| name.contains(word));
    let mut found: Vec<_> = std::env::vars()
        .filter(|(name, _)| name.starts_with("SHOPERY_") || name.starts_with("OTEL_"))
        .map(|(name, value)| if is_secret(&name) { name } else { format!("{name}={value}") })
        .collect();
    found.sort();
    found
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
