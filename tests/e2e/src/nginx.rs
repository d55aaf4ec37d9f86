//! nginx, as Debian has it: an endpoint as merchants have them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::{Folder, Process, Signal, certificates, ports, wait};

/// It answers 204 to everything, and ends when it is dropped.
#[derive(Debug)]
pub struct Nginx {
    port: u16,
    root: String,
    process: Process,
    // Last, so that the server has ended when its files go.
    folder: Folder,
}

/// What a request was, by the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub event_id: String,
    pub status: u64,
    pub connection: u64,
    pub protocol: String,
}

impl Nginx {
    /// `listen`: what follows the port, `ssl http2`, say; `directives` are those of its server.
    pub async fn start(listen: &str, directives: &str) -> Self {
        let (folder, port) = (Folder::create(), ports::free());
        let (root, chain, key) = certificates::good();
        std::fs::write(folder.join("chain.pem"), chain).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {name};\n"))
            .concat();
        let log = r#"'{"eventId":"$http_x_shopery_event_id","status":$status,"connection":$connection,"protocol":"$server_protocol"}'"#;
        let config = format!(
            "daemon off; pid nginx.pid; worker_processes 1; {user} error_log stderr warn;
            events {{ worker_connections 2048; }}
            http {{
                {temporary}
                log_format served escape=json {log};
                access_log access.log served;
                ssl_certificate chain.pem; ssl_certificate_key key.pem;
                server {{
                    listen 127.0.0.1:{port} {listen};
                    {directives}
                    location / {{ return 204; }}
                }}
            }}"
        );
        std::fs::write(folder.join("nginx.conf"), config).unwrap();
        let mut command = Command::new(binary());
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.join("nginx.conf"));
        let process = Process::start("nginx", command, &folder.join("nginx.log"));
        let mut nginx = Self { port, root, process, folder };
        wait::until("nginx to listen", Duration::from_secs(20), async || {
            if nginx.process.ended().is_some() {
                return Err(nginx.process.output());
            }
            TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        nginx
    }

    /// The authority of its certificate, as PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Other workers take over; those of before end when their connections have.
    pub fn reload(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    pub fn served(&self) -> Vec<Served> {
        let log = std::fs::read_to_string(self.folder.join("access.log")).unwrap();
        // The last line may be half written.
        let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let read = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            let number = |name: &str| line[name].as_u64().unwrap();
            Served {
                event_id: text("eventId"),
                status: number("status"),
                connection: number("connection"),
                protocol: text("protocol"),
            }
        };
        lines.map(read).collect()
    }
}

fn binary() -> PathBuf {
    let path = Path::new("/usr/sbin/nginx");
    assert!(path.exists(), "nginx IS MISSING: run tests/run, which installs it");
    path.to_owned()
}
