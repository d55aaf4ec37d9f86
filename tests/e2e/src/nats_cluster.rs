//! A cluster of NATS servers. Each is a process that a test can kill and restart.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::{Process, parts, ports};

#[derive(Debug)]
pub struct NatsCluster {
    binary: PathBuf,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    config: PathBuf,
    log: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl NatsCluster {
    /// Starts three nodes with their stores in `folder`. It does not wait for JetStream.
    pub async fn start(folder: &Path, user: &str, password: &str) -> Self {
        let binary = parts::nats_server().await;
        let names = ["n1", "n2", "n3"];
        let routes: Vec<_> = names.iter().map(|_| ports::free()).collect();
        let all_routes: Vec<_> = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for (name, route) in names.into_iter().zip(&routes) {
            let (port, store) = (ports::free(), folder.join(name));
            std::fs::create_dir_all(&store).unwrap();
            let text = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\n\
                 jetstream {{ store_dir: \"{}\", max_file_store: 64GiB, sync_interval: always }}\n\
                 cluster {{ name: shopery, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n\
                 authorization {{ users: [ {{ user: \"{user}\", password: \"{password}\" }} ] }}\n",
                store.display(),
                all_routes.join(", "),
            );
            let config = store.join("nats.conf");
            std::fs::write(&config, text).unwrap();
            nodes.push(Node { name: name.to_owned(), config, log: store.join("log"), port, process: None });
        }
        let mut cluster = Self { binary, nodes };
        for name in names {
            cluster.start_node(name);
        }
        cluster
    }

    /// As `SHOPERY_NATS_URL` has them.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(|node| format!("nats://127.0.0.1:{}", node.port)).collect();
        urls.join(",")
    }

    /// SIGKILL.
    pub async fn kill_node(&mut self, name: &str) {
        let process = self.node(name).process.take();
        process.unwrap_or_else(|| panic!("{name} does not run")).kill().await;
    }

    pub fn start_node(&mut self, name: &str) {
        let mut command = Command::new(&self.binary);
        let node = self.node(name);
        command.arg("-c").arg(&node.config);
        node.process = Some(Process::start(name, command, &node.log));
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap_or_else(|| panic!("there is no node {name}"))
    }
}
