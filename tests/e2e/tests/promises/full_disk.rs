//! A disk that is full holds things up, says so, and loses nothing that was accepted.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::{StreamExt, stream};
use shopery_e2e::{Event, Service, SmallDisk, Stack, wait};

const SOON: Duration = Duration::from_secs(60);

fn event(number: usize) -> Event {
    Event::order(&format!("{number}"))
}

/// What stands in the way of a service, as `/readyz` says it.
async fn unready(stack: &Stack, service: Service) -> Result<String, String> {
    let reply = reqwest::get(format!("{}/readyz", stack.url(service))).await.map_err(|error| error.to_string())?;
    let (status, text) = (reply.status().as_u16(), reply.text().await.unwrap());
    if status == 503 { Ok(text) } else { Err(format!("{status}: {text}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_time_without_room_for_it_is_written_later() {
    let disk = SmallDisk::of_mib(8);
    let database = format!("sqlite://{}?mode=rwc", disk.path().join("shopery.db").display());
    let stack = Stack::plan().env("SHOPERY_DATABASE_URL", database).start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    client.publish(&event(0)).await.expect(202);
    client.settled(&webhook, 1, SOON).await;

    disk.fill();
    for number in 1..300 {
        client.publish(&event(number)).await.expect(202);
    }
    stack.merchant.wait_at("/a", 300, SOON).await;
    wait::until_true("the recorder to wait", SOON, async || {
        stack.log(Service::Recorder).matches("the history waits for the database").count() > 3
    })
    .await;
    disk.make_room();
    let history = client.settled(&webhook, 300, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let jetstream = jetstream::new(stack.operator().await);
    assert_eq!(jetstream.get_stream("DEAD").await.unwrap().cached_info().state.messages, 0);
}

/// A nats-server whose disk was full stores nothing until it is restarted, whatever room there is by then.
#[tokio::test(flavor = "multi_thread")]
async fn nats_without_room_is_reported_and_has_all_that_it_acknowledged_after_a_restart() {
    let disk = SmallDisk::of_mib(64);
    let mut stack = Stack::plan().nats_store(disk.path().join("nats")).start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    client.publish(&event(0)).await.expect(202);
    client.settled(&webhook, 1, SOON).await;

    disk.fill();
    let mut accepted = HashSet::from([event(0).id]);
    let mut number = 1;
    wait::until("NATS to have no room", SOON, async || {
        number += 1;
        let reply = client.publish(&event(number)).await;
        match reply.status {
            202 => {
                accepted.insert(event(number).id);
                Err("accepted".to_owned())
            }
            503 => Ok(()),
            status => panic!("{status}: {}", reply.text()),
        }
    })
    .await;
    let told = wait::until("ingest to report it", SOON, async || unready(&stack, Service::Ingest).await).await;
    assert!(told.contains("EVENTS stores nothing") && told.contains("restart NATS"), "{told}");
    disk.make_room();
    stack.stop_nats().await;
    stack.start_nats().await;
    for service in Service::ALL {
        stack.ready(service).await;
    }
    // The one that was refused may have been stored.
    let history = client.settled(&webhook, accepted.len(), SOON).await;
    let known: HashSet<_> = history.iter().map(|delivery| delivery["eventId"].as_str().unwrap().to_owned()).collect();
    assert!(accepted.is_subset(&known), "lost: {:?}", accepted.difference(&known));
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
}

/// NATS notes the acknowledgement and cannot remove the message, and gives it to nobody after its restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_without_room_is_removed_later() {
    // More than could be removed one by one in time.
    const MESSAGES: usize = 6000;
    let disk = SmallDisk::of_mib(64);
    let mut stack = Stack::plan().nats_store(disk.path().join("nats")).start().await;
    stack.stop(Service::Deliverer).await;
    let jetstream = jetstream::new(stack.operator().await);
    let jobs = jetstream.get_stream("JOBS").await.unwrap();
    let store = async |number: usize| {
        jetstream.publish(format!("jobs.bulk.{number}"), "{}".into()).await.unwrap().await.unwrap();
    };
    stream::iter(0..MESSAGES).map(store).buffer_unordered(1000).collect::<Vec<()>>().await;
    let consumer: PullConsumer = jobs.get_consumer("deliverer-bulk").await.unwrap();
    let taken = consumer.fetch().max_messages(MESSAGES).messages().await.unwrap();
    let taken: Vec<_> = taken.map(|message| message.unwrap()).collect().await;
    assert_eq!(taken.len(), MESSAGES);
    disk.fill();
    for message in &taken {
        message.ack().await.unwrap();
    }
    wait::until("the acknowledgements to be noted", SOON, async || {
        let info = jobs.consumer_info("deliverer-bulk").await.map_err(|error| error.to_string())?;
        if info.ack_floor.consumer_sequence == MESSAGES as u64 { Ok(()) } else { Err(format!("{:?}", info.ack_floor)) }
    })
    .await;
    disk.make_room();
    stack.stop_nats().await;
    stack.start_nats().await;
    let left = async || jobs.get_info().await.map(|info| info.state.messages).map_err(|error| error.to_string());
    assert!(wait::until("a look at JOBS", SOON, left).await > 0, "NATS has removed all of them");
    wait::until("JOBS to be empty", SOON, async || match left().await? {
        0 => Ok(()),
        left => Err(left.to_string()),
    })
    .await;
}
