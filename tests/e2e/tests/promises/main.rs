//! The promises of Shopery Webhooks, each shown on real servers: the services as the binaries that are shipped, NATS,
//! SQLite or PostgreSQL, and receivers over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

/// A test of each name for both databases; what needs PostgreSQL has `postgres` in its path.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        on_both_databases!(@ sqlite Sqlite $($name),+);
        on_both_databases!(@ postgres Postgres $($name),+);
    };
    (@ $module:ident $kind:ident $($name:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(shopery_e2e::DatabaseKind::$kind).await;
                }
            )+
        }
    };
}

/// A test of each name for each kind of destination, of which a cloud may have no emulator on this machine.
macro_rules! on_every_kind {
    ($($name:ident),+ $(,)?) => {
        on_every_kind!(@ https Https $($name),+);
        on_every_kind!(@ eventbridge EventBridge $($name),+);
        on_every_kind!(@ pubsub PubSub $($name),+);
    };
    (@ $module:ident $kind:ident $($name:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(side) = shopery_e2e::Side::start(shopery_model::DestinationKind::$kind).await {
                        super::$name(side).await;
                    }
                }
            )+
        }
    };
}

/// A test of each name for each cloud that has an emulator on this machine.
macro_rules! on_both_clouds {
    ($($name:ident),+ $(,)?) => {
        mod eventbridge {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(shopery_e2e::Cloud::amazon().await).await;
                }
            )+
        }
        mod pubsub {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(cloud) = shopery_e2e::Cloud::google().await {
                        super::$name(cloud).await;
                    }
                }
            )+
        }
    };
}

mod access;
mod accounting;
mod attempts;
mod back_pressure;
mod backoffice;
mod broken;
mod changes;
mod cli;
mod clocks;
mod clouds;
mod cluster;
mod control_plane;
mod crashes;
mod custom_headers;
mod database;
mod destinations;
mod documents;
mod duplicates;
mod egress;
mod endpoints;
mod event_types;
mod faults;
mod flapping;
mod full_disk;
mod history;
mod idempotency;
mod identity;
mod input;
mod isolation;
mod large_history;
mod launcher;
mod lighthouse;
mod limits;
mod looked_into;
mod many_webhooks;
mod metrics;
mod model;
mod newest_events;
mod notified;
mod openapi;
mod operations;
mod ordered;
mod pages;
mod pages_look;
mod partitions;
mod recovery;
mod repeats;
mod rotation;
mod rules;
mod schema;
mod secrets_at_rest;
mod shared_state;
mod shares;
mod sign_in;
mod stop;
mod stuck;
mod tenants;
mod terminals;
mod traces;
mod truth;
mod verification;
mod versions;
mod webhook_life;
mod webhook_page;
mod well_endpoints;
