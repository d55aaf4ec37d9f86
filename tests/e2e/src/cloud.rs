//! A cloud for one test: an emulator, a fault proxy in front of it, and the merchant's queues and subscriptions behind.

use std::collections::HashMap;
use std::time::Duration;

use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use shopery_local::emulators::{Moto, PubSub, REGION};
use shopery_model::{Destination, DestinationKind, Topic};
use tokio::sync::Mutex;

use crate::{FaultProxy, Folder, Process, Received, parts, ports, wait};

const START: Duration = Duration::from_secs(60);
/// Where the topics are.
pub const PROJECT: &str = "shop-analytics";

/// The platform's principal at Amazon, of another account than the buses.
pub const PRINCIPAL: &str = "arn:aws:iam::999999999999:role/shopery-webhooks";
pub const PLATFORM_KEY_ID: &str = "AKIAPLATFORMOFSHOPRY";
pub const PLATFORM_KEY: &str = "the/platforms+secret/key/of/the/e2e/suit";
/// A merchant's own.
pub const OWN_KEY_ID: &str = "AKIAOWNKEYOFMERCHANT";
pub const OWN_KEY: &str = "a/merchants+own/secret/key/of/e2e/suite1";

#[derive(Debug)]
pub struct Cloud {
    pub kind: DestinationKind,
    pub proxy: FaultProxy,
    pub emulator: Emulator,
    received: Mutex<HashMap<String, Vec<Received>>>,
    process: Process,
    // Last, so that the server has ended when its files go.
    _folder: Folder,
}

#[derive(Debug, Clone)]
pub enum Emulator {
    Moto(Moto),
    PubSub(PubSub),
}

impl Cloud {
    /// Amazon's, as moto has it.
    pub async fn amazon() -> Self {
        let (folder, port) = (Folder::create(), ports::free());
        let moto = Moto::at(port).unwrap();
        let command = Moto::command(&parts::tool("moto_server"), port);
        let process = Process::start("moto_server", command, &folder.join("moto.log"));
        let proxy = FaultProxy::start(DestinationKind::EventBridge, moto.url().to_owned()).await;
        Self::ready(proxy, Emulator::Moto(moto), process, folder, DestinationKind::EventBridge).await
    }

    /// Google's own emulator; `None`, and said loudly, where it is not installed: it comes from Google alone.
    pub async fn google() -> Option<Self> {
        let Some(jar) = PubSub::find() else {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            eprintln!(
                "\n*** THE EMULATOR OF PUB/SUB IS MISSING, SO {test} HAS TESTED NOTHING ***\n\
                 *** it is in Google's package google-cloud-cli-pubsub-emulator, and needs Java 17 ***\n"
            );
            return None;
        };
        let (folder, port) = (Folder::create(), ports::free());
        let emulator = PubSub::at(port).unwrap();
        let process =
            Process::start("the emulator of Pub/Sub", PubSub::command(&jar, port), &folder.join("pubsub.log"));
        let proxy = FaultProxy::start(DestinationKind::PubSub, format!("http://{}", emulator.host())).await;
        Some(Self::ready(proxy, Emulator::PubSub(emulator), process, folder, DestinationKind::PubSub).await)
    }

    async fn ready(
        proxy: FaultProxy,
        emulator: Emulator,
        process: Process,
        folder: Folder,
        kind: DestinationKind,
    ) -> Self {
        let mut cloud = Self { kind, proxy, emulator, received: Mutex::default(), process, _folder: folder };
        wait::until("an emulator to be ready", START, async || {
            if let Some(status) = cloud.process.ended() {
                panic!("the emulator has ended: {status}\n{}", cloud.process.output());
            }
            let is_ready = match &cloud.emulator {
                Emulator::Moto(moto) => moto.is_ready().await,
                Emulator::PubSub(emulator) => emulator.is_ready().await,
            };
            if is_ready { Ok(()) } else { Err(cloud.process.output()) }
        })
        .await;
        cloud
    }

    /// What the services are told, so that they send to the proxy.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        match self.kind {
            DestinationKind::PubSub => vec![("PUBSUB_EMULATOR_HOST", self.proxy.host())],
            _ => vec![
                ("AWS_ENDPOINT_URL", format!("http://{}", self.proxy.host())),
                ("AWS_REGION", REGION.to_owned()),
                ("AWS_ACCESS_KEY_ID", PLATFORM_KEY_ID.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", PLATFORM_KEY.to_owned()),
                ("SHOPERY_AWS_PRINCIPAL", PRINCIPAL.to_owned()),
            ],
        }
    }

    /// The address of a bus or topic of this name, there or not.
    pub fn address(&self, name: &str) -> String {
        match self.kind {
            DestinationKind::PubSub => topic(name).to_string(),
            _ => Moto::arn(name),
        }
    }

    /// Makes a bus or a topic that lets us publish what comes from this tenant, with a queue or subscription; returns its address.
    pub async fn make(&self, name: &str, tenant: &str) -> String {
        match &self.emulator {
            Emulator::Moto(moto) => moto.make_bus(name, tenant).await.map(drop).unwrap(),
            Emulator::PubSub(emulator) => {
                emulator.make_topic(&topic(name), &[("shopery-tenant", tenant)]).await.unwrap();
            }
        }
        self.address(name)
    }

    /// A topic without a label.
    pub async fn make_unlabelled(&self, name: &str) -> String {
        let Emulator::PubSub(emulator) = &self.emulator else { panic!("a bus has no labels") };
        emulator.make_topic(&topic(name), &[]).await.unwrap();
        self.address(name)
    }

    /// There is no such bus or topic any more.
    pub async fn delete(&self, name: &str) {
        match &self.emulator {
            Emulator::Moto(moto) => moto.delete_bus(name).await.unwrap(),
            Emulator::PubSub(emulator) => emulator.delete_topic(&topic(name)).await.unwrap(),
        }
    }

    /// All that has come to this address so far, tests included, in the order in which it was taken.
    pub async fn all_received(&self, address: &str) -> Vec<Received> {
        let mut all = self.received.lock().await;
        let new: Vec<_> = match (&self.emulator, address.parse::<Destination>().unwrap()) {
            (Emulator::Moto(moto), Destination::EventBridge(bus)) => {
                let taken = moto.take(&bus.name).await.unwrap();
                taken.iter().map(|event| Received::of_event(event)).collect()
            }
            (Emulator::PubSub(emulator), Destination::PubSub(topic)) => {
                emulator.take(&topic).await.unwrap().into_iter().map(Received::of_message).collect()
            }
            (_, other) => panic!("{other} is of another cloud"),
        };
        let received = all.entry(address.to_owned()).or_default();
        received.extend(new);
        received.clone()
    }

    /// The same without tests.
    pub async fn received(&self, address: &str) -> Vec<Received> {
        self.all_received(address).await.into_iter().filter(|one| !one.is_test()).collect()
    }

    /// Waits until this number of deliveries has come.
    pub async fn wait_at(&self, address: &str, count: usize, deadline: Duration) -> Vec<Received> {
        wait::until(&format!("{count} deliveries at {address}"), deadline, async || {
            let received = self.received(address).await;
            if received.len() >= count { Ok(received) } else { Err(format!("{} have come", received.len())) }
        })
        .await
    }
}

/// The key file of a service account of a merchant. What it says of where tokens are to be had leads nowhere.
pub fn google_key(id: &str) -> Value {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    json!({
        "type": "service_account", "project_id": PROJECT, "private_key_id": id, "private_key": key.serialize_pem(),
        "client_email": format!("shop@{PROJECT}.iam.gserviceaccount.com"), "client_id": "1",
        "token_uri": "https://tokens.invalid/", "universe_domain": "clouds.invalid",
    })
}

fn topic(name: &str) -> Topic {
    Topic { project: PROJECT.to_owned(), name: name.to_owned() }
}
