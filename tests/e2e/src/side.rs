//! The merchant's side of one kind of destination: addresses, what comes to them, and how they fail. A promise that holds for all
//! kinds is tested through this.

use std::time::{Duration, Instant};

use shopery_model::{Destination, DestinationKind};

use crate::stack::Plan;
use crate::{Behaviour, Cloud, Fault, Received, Stack, wait};

#[derive(Debug)]
pub struct Side {
    /// `None` of HTTPS, which the stack's own merchant receives.
    pub cloud: Option<Cloud>,
}

impl Side {
    /// `None` where there is no emulator of it, which is said.
    pub async fn start(kind: DestinationKind) -> Option<Self> {
        let cloud = match kind {
            DestinationKind::Https => None,
            DestinationKind::EventBridge => Some(Cloud::amazon().await),
            DestinationKind::PubSub => Some(Cloud::google().await?),
        };
        Some(Self { cloud })
    }

    pub fn kind(&self) -> DestinationKind {
        self.cloud.as_ref().map_or(DestinationKind::Https, |cloud| cloud.kind)
    }

    /// A plan whose services can send there.
    pub fn plan(&self, plan: Plan) -> Plan {
        self.cloud.iter().fold(plan, Plan::cloud)
    }

    /// Makes an address that is this tenant's.
    pub async fn make(&self, stack: &Stack, name: &str, tenant: &str) -> String {
        match &self.cloud {
            None => stack.merchant.url(&format!("/{name}")),
            Some(cloud) => cloud.make(name, tenant).await,
        }
    }

    /// From now on every attempt fails in a way that passes.
    pub fn fail(&self, stack: &Stack, address: &str) {
        match &self.cloud {
            None => stack.merchant.behave(&path(address), Behaviour::Answer(500)),
            Some(cloud) => cloud.proxy.behave(address, Fault::broken(cloud.kind)),
        }
    }

    /// The next requests fail so, and none after them: of a path that nothing has come to yet.
    pub fn fail_first(&self, stack: &Stack, address: &str, times: usize) {
        match &self.cloud {
            None => stack.merchant.behave(&path(address), Behaviour::FailFirst { times, status: 500 }),
            Some(cloud) => cloud.proxy.behave_times(address, Fault::broken(cloud.kind), times),
        }
    }

    /// From now on it works.
    pub fn heal(&self, stack: &Stack, address: &str) {
        match &self.cloud {
            None => stack.merchant.behave(&path(address), Behaviour::Answer(200)),
            Some(cloud) => cloud.proxy.heal(address),
        }
    }

    /// What has been accepted at an address so far, without tests.
    pub async fn received(&self, stack: &Stack, address: &str) -> Vec<Received> {
        match &self.cloud {
            None => {
                let accepted = stack.merchant.arrivals_at(&path(address)).into_iter().filter(|one| one.is_accepted());
                accepted.map(|arrival| Received::of_arrival(&arrival)).filter(|one| !one.is_test()).collect()
            }
            Some(cloud) => cloud.received(address).await,
        }
    }

    /// Waits until this number of deliveries has been accepted.
    pub async fn wait_at(&self, stack: &Stack, address: &str, count: usize, deadline: Duration) -> Vec<Received> {
        wait::until(&format!("{count} deliveries at {address}"), deadline, async || {
            let received = self.received(stack, address).await;
            if received.len() >= count { Ok(received) } else { Err(format!("{} have come", received.len())) }
        })
        .await
    }

    /// When something was attempted at an address, and whether it was accepted.
    pub fn attempts(&self, stack: &Stack, address: &str) -> Vec<(Instant, bool)> {
        match &self.cloud {
            None => {
                let arrivals = stack.merchant.arrivals_at(&path(address));
                arrivals.iter().map(|arrival| (arrival.at, arrival.is_accepted())).collect()
            }
            Some(cloud) => {
                let attempts = cloud.proxy.attempts_at(address).into_iter();
                attempts.map(|(at, _, is_accepted)| (at, is_accepted)).collect()
            }
        }
    }

    /// What the history calls a failure of [`fail`](Self::fail).
    pub fn reason(&self) -> &'static str {
        if self.cloud.is_some() { "provider_error" } else { "http_status" }
    }
}

fn path(address: &str) -> String {
    match address.parse::<Destination>() {
        Ok(Destination::Https(url)) => url.path().to_owned(),
        other => panic!("{address} is no URL: {other:?}"),
    }
}
