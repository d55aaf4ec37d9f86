use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proptest::prelude::*;

use super::queue::{Amount, MAX_REQUESTS, MAX_WAITING_BYTES, PARTIAL_REQUESTS};
use super::*;

/// What the model of a cloud does with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    /// It alone fails.
    Failed,
    /// The request that it is in is refused for it.
    Rejected,
    /// The request that it is in is throttled.
    Throttled,
    /// Nothing is ever heard of the request that it is in.
    Lost,
    Panics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct To {
    account: u8,
    route: u8,
    is_serial: bool,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    id: u64,
    size: usize,
    fate: Fate,
}

/// A cloud that takes some time, and notes what it was asked for.
#[derive(Default)]
struct Model {
    takes: Duration,
    calls: Mutex<Vec<(To, Vec<u64>, Instant)>>,
    accepted: Mutex<Vec<(To, u64)>>,
    under_way: Mutex<HashMap<To, usize>>,
    most: AtomicUsize,
    spread: AtomicU64,
    /// What it should not have been asked for. A panic would be taken for that of a request.
    wrong: Mutex<Vec<String>>,
}

const MAX_ENTRIES: usize = 5;
const MAX_BYTES: usize = 100;

impl Requests for Arc<Model> {
    type Route = To;
    type Account = u8;
    type Entry = Item;

    const MAX_ENTRIES: usize = MAX_ENTRIES;
    const MAX_BYTES: usize = MAX_BYTES;

    fn account(route: &To) -> u8 {
        route.account
    }

    fn is_serial(route: &To) -> bool {
        route.is_serial
    }

    fn size(entry: &Item) -> usize {
        entry.size
    }

    async fn send(&self, route: &To, entries: &[Item], deadline: Instant) -> Result<Vec<Sent>, Refusal> {
        let bytes: usize = entries.iter().map(|entry| entry.size).sum();
        let mut wrong = Vec::new();
        if entries.is_empty() || entries.len() > MAX_ENTRIES || (bytes > MAX_BYTES && entries.len() > 1) {
            wrong.push(format!("{} entries of {bytes} bytes", entries.len()));
        }
        self.calls.lock().unwrap().push((*route, entries.iter().map(|entry| entry.id).collect(), Instant::now()));
        {
            let mut under_way = self.under_way.lock().unwrap();
            *under_way.entry(*route).or_default() += 1;
            if route.is_serial && under_way[route] > 1 {
                wrong.push("two at a time, where order counts".to_owned());
            }
            self.most.fetch_max(under_way.values().sum(), Ordering::Relaxed);
        }
        self.wrong.lock().unwrap().append(&mut wrong);
        // Requests overtake each other.
        let takes = self.takes * (1 + u32::try_from(self.spread.fetch_add(7, Ordering::Relaxed) % 5).unwrap());
        tokio::time::sleep(takes).await;
        *self.under_way.lock().unwrap().get_mut(route).unwrap() -= 1;
        let has = |fate| entries.iter().any(|entry| entry.fate == fate);
        assert!(!has(Fate::Panics), "as this test wants it");
        if has(Fate::Lost) {
            tokio::time::sleep_until(deadline).await;
            return Err(Refusal::new(Fault::Timeout, ""));
        }
        for (fate, fault) in [(Fate::Throttled, Fault::Throttled), (Fate::Rejected, Fault::MessageRejected)] {
            if has(fate) {
                return Err(Refusal::new(fault, ""));
            }
        }
        let sent = |entry: &Item| match entry.fate {
            Fate::Failed => Err(Refusal::new(Fault::ProviderError, "")),
            _ => {
                self.accepted.lock().unwrap().push((*route, entry.id));
                Ok(entry.id.to_string())
            }
        };
        Ok(entries.iter().map(sent).collect())
    }
}

const MS: Duration = Duration::from_millis(1);

fn to(account: u8, route: u8) -> To {
    To { account, route, is_serial: false }
}

fn model(takes: Duration) -> (Arc<Model>, Batcher<Arc<Model>>) {
    let model = Arc::new(Model { takes, ..Model::default() });
    (model.clone(), Batcher::new(model, Counters::default()))
}

fn item(id: u64, fate: Fate) -> Item {
    Item { id, size: 1, fate }
}

async fn send_all(batcher: &Batcher<Arc<Model>>, route: To, items: impl IntoIterator<Item = Item>) -> Vec<Sent> {
    futures_util::future::join_all(items.into_iter().map(|item| batcher.send(route, item, Instant::now()))).await
}

fn faults(sents: &[Sent]) -> Vec<Option<Fault>> {
    sents.iter().map(|sent| sent.as_ref().err().and_then(Refusal::fault)).collect()
}

/// Nothing waits, nothing is under way, and what has not been throttled is forgotten.
fn assert_is_over(batcher: &Batcher<Arc<Model>>) {
    assert!(batcher.requests().wrong.lock().unwrap().is_empty(), "{:?}", batcher.requests().wrong);
    let accounts = batcher.0.accounts();
    for account in accounts.all.values() {
        assert!(account.routes.is_empty() && account.waiting == Amount::default());
        assert!(!account.pace.is_settled(Instant::now()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_entry_goes_at_once_and_what_comes_meanwhile_shares_requests() {
    let (model, batcher) = model(10 * MS);
    let began = Instant::now();
    let sents = send_all(&batcher, to(1, 1), (0..100).map(|id| item(id, Fate::Accepted))).await;
    assert!(sents.iter().enumerate().all(|(id, sent)| sent.as_ref().unwrap() == &id.to_string()));
    let calls = model.calls.lock().unwrap();
    let sizes: Vec<_> = calls.iter().map(|(_, ids, _)| ids.len()).collect();
    // Those that came first went alone, and at once.
    assert_eq!(sizes[..PARTIAL_REQUESTS], [1; PARTIAL_REQUESTS]);
    assert!(calls[..PARTIAL_REQUESTS].iter().all(|(.., at)| *at == began));
    assert!(sizes[PARTIAL_REQUESTS..].iter().filter(|size| **size < MAX_ENTRIES).count() <= 1, "{sizes:?}");
    assert!(model.most.load(Ordering::Relaxed) <= MAX_REQUESTS && began.elapsed() < 150 * MS, "{:?}", began.elapsed());
    drop(calls);
    assert_is_over(&batcher);
}

#[tokio::test(start_paused = true)]
async fn each_entry_has_an_answer_of_its_own_and_one_that_spoils_a_request_is_found() {
    let (model, batcher) = model(10 * MS);
    let route = To { is_serial: true, ..to(1, 1) };
    use Fate::{Accepted, Failed, Rejected};
    let fates = [Accepted, Accepted, Failed, Rejected, Accepted, Rejected];
    let sents = send_all(&batcher, route, fates.iter().zip(0..).map(|(fate, id)| item(id, *fate))).await;
    let rejected = Some(Fault::MessageRejected);
    assert_eq!(faults(&sents), [None, None, Some(Fault::ProviderError), rejected, None, rejected]);
    assert_eq!(model.accepted.lock().unwrap().iter().map(|(_, id)| *id).collect::<Vec<_>>(), [0, 1, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_account_is_paced_and_no_other() {
    let (model, batcher) = model(10 * MS);
    let began = Instant::now();
    assert_eq!(faults(&send_all(&batcher, to(1, 1), [item(0, Fate::Throttled)]).await), [Some(Fault::Throttled)]);
    let (other, same) = tokio::join!(
        async {
            send_all(&batcher, to(2, 1), [item(1, Fate::Accepted)]).await;
            began.elapsed()
        },
        // Another route of the account.
        async {
            send_all(&batcher, to(1, 2), [item(2, Fate::Accepted)]).await;
            began.elapsed()
        },
    );
    assert!(other < 100 * MS && same >= 60 * MS && same < 250 * MS, "{other:?} {same:?}");
    let calls = model.calls.lock().unwrap().len();
    assert_eq!(calls, 3);
}

#[tokio::test(start_paused = true)]
async fn what_would_wait_for_too_long_is_answered() {
    let (model, batcher) = model(10 * MS);
    // The pause grows beyond what an entry waits for.
    let mut waited = Vec::new();
    for id in 0..9 {
        let began = Instant::now();
        let sents = send_all(&batcher, to(1, 1), [item(id, Fate::Throttled)]).await;
        assert_eq!(faults(&sents), [Some(Fault::Throttled)]);
        waited.push(began.elapsed());
    }
    assert!(waited.iter().all(|waited| *waited <= MAX_THROTTLED_WAIT + 100 * MS), "{waited:?}");
    let refused = send_all(&batcher, to(1, 1), [item(9, Fate::Accepted)]).await;
    let pause = refused[0].as_ref().unwrap_err().retry_after.unwrap();
    assert!(pause >= MAX_THROTTLED_WAIT && pause <= 5000 * MS, "{pause:?}");
    tokio::time::sleep(pause).await;
    assert_eq!(faults(&send_all(&batcher, to(1, 1), [item(10, Fate::Accepted)]).await), [None]);
    // A cloud that is silent is not one that throttles; all that comes of it comes within the time of a request.
    let began = Instant::now();
    let silent = send_all(&batcher, to(2, 1), (0..400).map(|id| item(id, Fate::Lost))).await;
    assert!(faults(&silent).iter().all(|fault| *fault == Some(Fault::Timeout)));
    assert!(began.elapsed() <= TIMEOUT + 100 * MS, "{:?}", began.elapsed());
    // What came to it once is not added to: few entries were on their way.
    assert!(model.calls.lock().unwrap().len() < 11 + 10);
    assert_is_over(&batcher);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_is_a_fault_of_ours_and_the_next_ones_go() {
    let (_, batcher) = model(10 * MS);
    let route = To { is_serial: true, ..to(1, 1) };
    let sents = send_all(&batcher, route, [item(0, Fate::Panics), item(1, Fate::Accepted)]).await;
    assert!(matches!(sents[0].as_ref().unwrap_err().failure, crate::failure::Failure::Ours(SenderFault::Interrupted)));
    assert!(sents[1].is_ok());
    assert_is_over(&batcher);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_takes_no_other_with_it() {
    let (model, batcher) = model(100 * MS);
    let route = To { is_serial: true, ..to(1, 1) };
    let impatient = |id| tokio::time::timeout(10 * MS, batcher.send(route, item(id, Fate::Accepted), Instant::now()));
    let (sent, gone, stays) =
        tokio::join!(impatient(0), impatient(1), batcher.send(route, item(2, Fate::Accepted), Instant::now()));
    assert!(sent.is_err() && gone.is_err() && stays.is_ok());
    // The first was on its way; the second had not gone, and its caller no longer wants it sent.
    assert_eq!(model.accepted.lock().unwrap().iter().map(|(_, id)| *id).collect::<Vec<_>>(), [0, 2]);
    assert_is_over(&batcher);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded() {
    let (_, batcher) = model(100 * MS);
    let large = MAX_WAITING_BYTES / 10;
    let items = (0..60).map(|id| Item { id, size: large, fate: Fate::Accepted });
    let sents = send_all(&batcher, To { is_serial: true, ..to(1, 1) }, items).await;
    let refused = faults(&sents).iter().filter(|fault| **fault == Some(Fault::Throttled)).count();
    // One has gone, and ten wait.
    assert_eq!(refused, 60 - 11);
    assert_is_over(&batcher);
}

#[derive(Debug, Clone)]
struct Step {
    route: u8,
    size: usize,
    fate: Fate,
    pause: u64,
    patience: Option<u64>,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        12 => Just(Fate::Accepted),
        2 => Just(Fate::Failed),
        1 => Just(Fate::Rejected),
        1 => Just(Fate::Throttled),
        1 => Just(Fate::Panics),
    ];
    let patience = prop::option::weighted(0.2, 0u64..60);
    let pause = prop_oneof![3 => Just(0u64), 1 => 0u64..40];
    (0u8..6, 1usize..60, fate, pause, patience).prop_map(|(route, size, fate, pause, patience)| Step {
        route,
        size,
        fate,
        pause,
        patience,
    })
}

async fn play(steps: Vec<Step>, takes: u64) {
    let (model, batcher) = model(Duration::from_millis(takes));
    let mut callers = FuturesUnordered::new();
    let mut answers = HashMap::new();
    let mut note = |(id, answer): (u64, Option<Sent>)| assert!(answers.insert(id, answer).is_none());
    for (step, id) in steps.iter().zip(0u64..) {
        let pause = Instant::now() + Duration::from_millis(step.pause);
        while let Ok(Some(answered)) = tokio::time::timeout_at(pause, callers.next()).await {
            note(answered);
        }
        tokio::time::sleep_until(pause).await;
        let route = To { account: step.route / 2, route: step.route, is_serial: step.route == 5 };
        let send = {
            let (batcher, entry) = (batcher.clone(), Item { id, size: step.size, fate: step.fate });
            async move { batcher.send(route, entry, Instant::now()).await }
        };
        let patience = step.patience.map(Duration::from_millis);
        let mut caller = Box::pin(async move {
            match patience {
                Some(patience) => (id, tokio::time::timeout(patience, send).await.ok()),
                None => (id, Some(send.await)),
            }
        });
        // It is in its place before the next one is.
        match futures_util::poll!(&mut caller) {
            std::task::Poll::Ready(answered) => note(answered),
            std::task::Poll::Pending => callers.push(caller),
        }
    }
    while let Some(answered) = callers.next().await {
        note(answered);
    }
    // What nobody waits for comes to its end too.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(model.wrong.lock().unwrap().is_empty(), "{:?}", model.wrong);
    assert_eq!(answers.len(), steps.len(), "everybody has one answer");
    let accepted = model.accepted.lock().unwrap().clone();
    let once: HashSet<_> = accepted.iter().map(|(_, id)| *id).collect();
    assert_eq!(once.len(), accepted.len(), "nothing was accepted twice");
    for (step, id) in steps.iter().zip(0u64..) {
        match &answers[&id] {
            Some(Ok(message)) => {
                assert_eq!(*message, id.to_string(), "an answer is the entry's own");
                assert!(step.fate == Fate::Accepted && once.contains(&id));
            }
            Some(Err(_)) => assert!(!once.contains(&id), "{id} was accepted, and its caller was told otherwise"),
            None => assert!(step.patience.is_some()),
        }
    }
    // In each route entries go first in the order in which they came.
    let mut last = HashMap::new();
    let mut seen = HashSet::new();
    for (route, ids, _) in model.calls.lock().unwrap().iter() {
        for id in ids.iter().filter(|id| seen.insert(**id)) {
            let before = last.insert(*route, *id);
            assert!(before.is_none_or(|before| before < *id), "{before:?} went before {id}");
        }
    }
    let serial: Vec<_> = accepted.iter().filter(|(route, _)| route.is_serial).map(|(_, id)| *id).collect();
    assert!(serial.is_sorted(), "{serial:?}");
    let accounts = batcher.0.accounts();
    for account in accounts.all.values() {
        assert!(account.routes.is_empty() && account.waiting == Amount::default());
        assert!(account.pace.is_idle(Instant::now()), "{:?}", account.pace);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_is_lost_or_sent_twice_whoever_goes_away(steps in prop::collection::vec(step(), 1..120), takes in 0u64..30) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(steps, takes));
    }
}
