//! A NATS cluster of three nodes: all streams and buckets get three replicas, and the kill of a leader loses nothing.
//!
//! `SHOPERY_TEST_NODE_KILLS` is the number of kills. The test prints how long publishing and deliveries paused after each.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::ClusterInfo;
use futures_util::TryStreamExt;
use shopery_e2e::stack::Stack;
use shopery_e2e::{Event, Service, wait};

const SOON: Duration = Duration::from_secs(60);
const KILLS: usize = 2;
const STREAMS: [&str; 14] = [
    "INBOUND",
    "EVENTS",
    "DEFERRED",
    "JOBS",
    "RETRY",
    "PARKED",
    "OUTCOMES",
    "DEAD",
    "KV_CONFIG",
    "KV_CIRCUITS",
    "KV_PROGRESS",
    "KV_LEASES",
    "KV_BURSTS",
    "KV_GIVEN_UP",
];
/// Prefixes of the names of durable consumers.
const SERVICES: [&str; 4] = ["ingest", "router", "deliverer", "recorder"];
/// Delay between two published events.
const BETWEEN: Duration = Duration::from_millis(20);

/// Waits until every stream, bucket and durable consumer has three replicas that have all of it.
async fn replicated(jetstream: &jetstream::Context) {
    let current_replicas = |cluster: Option<&ClusterInfo>| {
        let all = cluster.map(|cluster| cluster.replicas.as_slice()).unwrap_or_default();
        all.iter().filter(|replica| replica.current).count()
    };
    wait::until("three replicas of everything", SOON, async || {
        for name in STREAMS {
            let stream = jetstream.get_stream(name).await.map_err(|error| format!("{name}: {error}"))?;
            let info = stream.cached_info();
            let current = current_replicas(info.cluster.as_ref());
            if (info.config.num_replicas, current) != (3, 2) {
                return Err(format!("{name} has {} replicas, {current} of them current", info.config.num_replicas));
            }
            // The server adds replicas of consumers after those of their stream.
            let mut consumers = stream.consumers();
            while let Some(consumer) = consumers.try_next().await.map_err(|error| format!("{name}: {error}"))? {
                if consumer.config.durable_name.is_some() && current_replicas(consumer.cluster.as_ref()) != 2 {
                    return Err(format!("{} of {name} has not all its replicas", consumer.name));
                }
            }
        }
        Ok(())
    })
    .await;
}

/// When every stream and every durable consumer has somebody who answers for it again.
async fn whole_again(mut jetstream: jetstream::Context) -> Instant {
    jetstream.set_timeout(Duration::from_millis(500));
    loop {
        if is_whole(&jetstream).await.is_ok() {
            return Instant::now();
        }
        tokio::task::yield_now().await;
    }
}

async fn is_whole(jetstream: &jetstream::Context) -> Result<(), async_nats::Error> {
    for name in STREAMS {
        let stream = jetstream.get_stream(name).await?;
        let consumers: Vec<String> = stream.consumer_names().try_collect().await?;
        // Watches have ephemeral consumers with one replica.
        let is_durable = |name: &&String| SERVICES.iter().any(|service| name.starts_with(service));
        for consumer in consumers.iter().filter(is_durable) {
            stream.consumer_info(consumer).await?;
        }
    }
    Ok(())
}

/// The node that leads a stream.
async fn leader(jetstream: &jetstream::Context, stream: &str) -> String {
    wait::until(&format!("a leader of {stream}"), SOON, async || {
        let info = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
        info.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()).ok_or("none".to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_of_a_node_that_leads_loses_nothing_and_stops_nothing_for_long() {
    let kills = std::env::var("SHOPERY_TEST_NODE_KILLS").ok().map_or(KILLS, |text| text.parse().unwrap());
    // With the times of production.
    let plan = Stack::plan().cluster_of_three().env("SHOPERY_ACK_WAIT", "30s");
    let mut stack = plan.env("SHOPERY_STREAM_REPLICAS", "1").start().await;
    let jetstream = jetstream::new(stack.operator().await);
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    client.publish(&Event::order("first")).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    // As an operator does who adds nodes.
    stack.stop(Service::Controller).await;
    stack.run_with(Service::Controller, &[("SHOPERY_STREAM_REPLICAS", "3")]).await;
    replicated(&jetstream).await;

    let mut published = HashSet::from(["evt_first".to_owned()]);
    for kill in 0..kills {
        let of = STREAMS[(2 * kill + 8) % STREAMS.len()];
        let node = leader(&jetstream, of).await;
        let mut killed_at = None;
        let (mut last_published, mut published_pause) = (Instant::now(), Duration::ZERO);
        let mut whole = None;
        let mut pace = tokio::time::interval(BETWEEN);
        let began = Instant::now();
        for number in 0.. {
            if number == 50 {
                stack.cluster().kill_node(&node).await;
                killed_at = Some(Instant::now());
                whole = Some(tokio::spawn(whole_again(jetstream.clone())));
            }
            // Longer than an election.
            if killed_at.is_some_and(|at| at.elapsed() > Duration::from_secs(12)) {
                break;
            }
            let event = Event::order(&format!("{kill}-{number}"));
            // Publishers repeat an event until it is accepted.
            wait::until("an event to be accepted", SOON, async || match client.try_publish(&event).await {
                Ok(reply) if reply.status == 202 => Ok(()),
                Ok(reply) => Err(reply.text()),
                Err(error) => Err(error.to_string()),
            })
            .await;
            published_pause = published_pause.max(last_published.elapsed());
            last_published = Instant::now();
            published.insert(event.id);
            pace.tick().await;
        }
        client.in_state(&webhook, "delivered", published.len(), SOON).await;
        let mut came: Vec<_> = stack.merchant.arrivals_at("/a").iter().map(|arrival| arrival.at).collect();
        // What was on its way from the node that was killed comes after `ack_wait`, and does not stop the others.
        came.retain(|at| *at > began && *at <= last_published);
        came.sort_unstable();
        let delivered_pause = came.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let whole = wait::within("NATS to be whole again", SOON, whole.unwrap()).await.unwrap();
        let whole_after = whole - killed_at.unwrap();
        println!(
            "kill {kill}, of {node}, which led {of}: NATS was whole again after {whole_after:.1?}, publishing paused for \
             {published_pause:.1?}, deliveries for {delivered_pause:.1?}"
        );
        // A service can start while a node is down.
        stack.kill(Service::Router).await;
        stack.run(Service::Router).await;
        stack.cluster().start_node(&node);
        replicated(&jetstream).await;
    }
    let arrivals = stack.merchant.arrivals_at("/a");
    let came: HashSet<_> = arrivals.iter().map(|arrival| arrival.event_id().to_owned()).collect();
    assert_eq!(came, published);
}
