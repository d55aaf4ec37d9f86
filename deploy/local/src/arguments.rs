use std::net::SocketAddr;
use std::path::PathBuf;

/// Runs all of Shopery Webhooks on this machine, and shows a delivery.
///
/// Any SHOPERY_* variable of the services (`shopery-deliverer --help` lists them) holds here too, but for those that the
/// launcher itself decides.
#[derive(Debug, clap::Parser)]
#[command(name = "shopery-local", version)]
pub struct Arguments {
    /// Where everything is kept; a later start on the same directory resumes
    #[arg(long, value_name = "DIR", default_value = ".local")]
    pub data_dir: PathBuf,

    /// Keep everything in a temporary directory, which is removed at the end
    #[arg(long, conflicts_with = "data_dir")]
    pub ephemeral: bool,

    /// Start everything, but do not create the demo webhook and do not publish the sample order
    #[arg(long)]
    pub no_demo: bool,

    /// Also deliver to http:// and loopback endpoints
    #[arg(long)]
    pub insecure_endpoints: bool,

    /// Also run emulators of the clouds (moto, and that of Pub/Sub where it is installed), and show a delivery through each
    #[arg(long)]
    pub cloud_emulators: bool,

    /// Address of the REST API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub api: SocketAddr,

    /// Address where events are published over HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    pub ingest: SocketAddr,

    /// Address of the backoffice, the pages [default: 127.0.0.1:8086, or another port if that is taken]
    #[arg(long, value_name = "ADDR")]
    pub backoffice: Option<SocketAddr>,

    /// Use this NATS server rather than start one; SHOPERY_NATS_USER and SHOPERY_NATS_PASSWORD are used if set
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,

    /// Use this PostgreSQL or SQLite database rather than a SQLite file in the data directory
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}
