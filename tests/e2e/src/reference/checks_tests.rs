use super::super::order::tests::state;
use super::super::rules::tests::plain;
use super::super::{Patched, Rules, States};
use super::*;

/// An order that was created, updated and deleted, and a webhook that was told so.
fn good() -> Seen {
    let states = States::new(vec![
        state("1", "order-created", 10_000, 10_000),
        state("2", "order-updated", 20_000, 20_000),
        state("3", "order-deleted", 30_000, 30_000),
    ]);
    let mut webhook = Webhook { id: "wbh".to_owned(), rules: plain(), patched: vec![], rows: vec![], arrivals: vec![] };
    for state in states.all() {
        webhook.rows.push(Row {
            id: format!("dlv_{}", state.id),
            event: state.id.clone(),
            event_type: state.event_type.clone(),
            resource: state.resource.clone(),
            state: "delivered".to_owned(),
            attempts: 1,
            reason: String::new(),
            carried_by: None,
            created: state.stored,
            updated: state.stored + 20,
        });
        webhook.arrivals.push(Arrival {
            delivery: format!("dlv_{}", state.id),
            event: state.id.clone(),
            source: state.source.clone(),
            event_type: state.event_type.clone(),
            payload_event: state.id.clone(),
            payload_at: state.at(),
            sequence: format!("{:032}", state.at()),
            attempt: 1,
            began: state.stored,
            arrived: state.stored as f64 + 10.0,
            answered: Some((200, state.stored as f64 + 15.0)),
            body: state.data.json(),
        });
    }
    Seen {
        tenant: "t".to_owned(),
        states: [("order/a".to_owned(), states)].into(),
        webhooks: vec![webhook],
        is_disturbed: false,
    }
}

/// Makes `change` to what is good, and expects this to be found.
#[track_caller]
fn finds(what: &str, change: impl FnOnce(&mut Webhook)) {
    let mut seen = good();
    change(&mut seen.webhooks[0]);
    let found = check(&seen);
    assert!(found.iter().any(|found| found.contains(what)), "{what} is not in {found:#?}");
}

#[track_caller]
fn finds_nothing(change: impl FnOnce(&mut Webhook)) {
    let mut seen = good();
    change(&mut seen.webhooks[0]);
    assert_eq!(check(&seen), Vec::<String>::new());
}

/// A delivery ends without having been sent.
fn end(webhook: &mut Webhook, place: usize, state: &str, carried_by: Option<&str>) {
    let row = &mut webhook.rows[place];
    row.state = state.to_owned();
    row.carried_by = carried_by.map(str::to_owned);
    let id = row.id.clone();
    webhook.arrivals.retain(|arrival| arrival.delivery != id);
}

/// The first delivery is sent again after the deletion was delivered, with the state of this event.
fn retry(webhook: &mut Webhook, payload: usize) {
    let mut again = webhook.arrivals[0].clone();
    let carried = &webhook.arrivals[payload];
    (again.payload_event, again.payload_at) = (carried.payload_event.clone(), carried.payload_at);
    again.sequence.clone_from(&carried.sequence);
    (again.attempt, again.began, again.arrived) = (2, 40_000, 40_010.0);
    again.answered = Some((200, 40_020.0));
    webhook.arrivals.push(again);
}

#[test]
fn what_is_good_passes() {
    finds_nothing(|_| {});
}

#[test]
fn every_event_has_one_delivery_at_its_end() {
    finds("nothing is known of", |webhook| drop(webhook.rows.pop()));
    finds("a second time", |webhook| webhook.rows.push(webhook.rows[0].clone()));
    finds("nobody is owed", |webhook| webhook.rules.events = vec!["order-updated"]);
    finds("has come to no end", |webhook| webhook.rows[0].state = "parked".to_owned());
}

#[test]
fn an_end_is_what_has_happened() {
    finds("has accepted no such thing", |webhook| drop(webhook.arrivals.pop()));
    finds("the endpoint has accepted it", |webhook| webhook.rows[1].state = "failed".to_owned());
    finds("it cannot end so", |webhook| end(webhook, 1, "discarded", None));
    finds("it cannot end so", |webhook| end(webhook, 1, "filtered", None));
    finds("it cannot end so", |webhook| end(webhook, 1, "expired", None));
    finds_nothing(|webhook| {
        end(webhook, 1, "discarded", None);
        let change = Change::EnableAndDiscard;
        webhook.patched.push(Patched { change, asked: 19_000, answered: 19_010 });
    });
    let filter = |above| {
        move |webhook: &mut Webhook| {
            webhook.rules.above = Some(above);
            (0..3).for_each(|place| end(webhook, place, "filtered", None));
        }
    };
    finds_nothing(filter(100));
    finds("it cannot end so", filter(99));
}

#[test]
fn what_is_carried_by_another_was_told_by_it() {
    finds_nothing(|webhook| end(webhook, 1, "superseded", Some("dlv_3")));
    finds("by nobody", |webhook| end(webhook, 1, "superseded", None));
    finds("no delivery of this webhook", |webhook| end(webhook, 1, "superseded", Some("dlv_9")));
    finds("is no reason", |webhook| end(webhook, 0, "superseded", Some("dlv_2")));
    finds("anything newer", |webhook| {
        webhook.rules.ordered = true;
        end(webhook, 1, "superseded", Some("dlv_1"));
    });
    finds("which carries it, is failed", |webhook| {
        end(webhook, 1, "superseded", Some("dlv_3"));
        end(webhook, 2, "failed", None);
    });
    finds("nothing of this webhook is a duplicate", |webhook| end(webhook, 1, "duplicate", Some("dlv_1")));
}

#[test]
fn a_duplicate_tells_this_endpoint_nothing_new() {
    let duplicate = |webhook: &mut Webhook| {
        webhook.rules.fields = vec!["id", "status"];
        for arrival in &mut webhook.arrivals {
            arrival.body = r#"{"id":"a","status":"open"}"#.to_owned();
        }
        webhook.rows[1].event_type = "order-created".to_owned();
        end(webhook, 1, "duplicate", Some("dlv_1"));
    };
    let mut seen = good();
    let mut states = seen.states["order/a"].all().to_vec();
    states[1].event_type = "order-created".to_owned();
    seen.states.insert("order/a".to_owned(), States::new(states));
    duplicate(&mut seen.webhooks[0]);
    assert_eq!(check(&seen), Vec::<String>::new());
    // The endpoint is another one since.
    seen.webhooks[0].patched.push(Patched { change: Change::Secret, asked: 15_000, answered: 15_010 });
    assert!(check(&seen)[0].contains("has not told this endpoint"), "{:?}", check(&seen));
}

#[test]
fn a_request_is_what_it_says() {
    finds("no such event", |webhook| webhook.arrivals[1].source = "other".to_owned());
    finds("no state of the resource", |webhook| webhook.arrivals[1].payload_event = "9".to_owned());
    finds("the history does not know", |webhook| webhook.arrivals[1].delivery = "dlv_9".to_owned());
    finds("under another name", |webhook| webhook.arrivals[1].event_type = "order-paid".to_owned());
    finds("the body is not that state", |webhook| webhook.arrivals[1].body.push(' '));
    finds("not of that time", |webhook| webhook.arrivals[1].payload_at += 1);
    finds("the filter does not match", |webhook| webhook.rules.above = Some(100));
    finds("older than the event's own", |webhook| {
        let arrival = &mut webhook.arrivals[1];
        (arrival.payload_event, arrival.payload_at) = ("1".to_owned(), 10_000);
    });
    finds("a deletion under another name", |webhook| retry(webhook, 2));
    finds("not the original state", |webhook| {
        webhook.rules.original = true;
        retry(webhook, 1);
    });
    finds("is of (", |webhook| webhook.arrivals[1].delivery = "dlv_1".to_owned());
}

#[test]
fn sequences_are_in_the_order_of_the_states() {
    finds("is no sequence", |webhook| webhook.arrivals[1].sequence = "7".to_owned());
    finds("but not", |webhook| webhook.arrivals[1].sequence = format!("{:032}", 7));
    finds("and at", |webhook| {
        let mut again = webhook.arrivals[1].clone();
        again.sequence = format!("{:032}", 20_001);
        webhook.arrivals.push(again);
    });
}

#[test]
fn a_later_attempt_carries_the_latest_state_and_undoes_no_deletion() {
    let created_again = |webhook: &mut Webhook, payload| {
        retry(webhook, payload);
        let again = webhook.arrivals.last_mut().unwrap();
        (again.began, again.arrived, again.answered) = (25_000, 25_010.0, Some((200, 25_020.0)));
    };
    finds_nothing(|webhook| created_again(webhook, 1));
    finds("2 was there before the attempt", |webhook| created_again(webhook, 0));
    finds("it undoes the deletion", |webhook| retry(webhook, 1));
    finds("the newest state is 3", |webhook| webhook.arrivals[2].payload_event = "2".to_owned());
}

#[test]
fn ordered_deliveries_come_one_after_the_other() {
    let ordered = |change: fn(&mut Webhook)| {
        move |webhook: &mut Webhook| {
            webhook.rules = Rules { ordered: true, original: true, ..plain() };
            change(webhook);
        }
    };
    finds_nothing(ordered(|_| {}));
    finds("came after", ordered(|webhook| webhook.arrivals.swap(0, 1)));
    finds("was under way", ordered(|webhook| webhook.arrivals[0].answered = Some((500, 20_010.5))));
    finds_nothing(|webhook| webhook.arrivals.swap(0, 1));
}
