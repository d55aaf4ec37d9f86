//! Lighthouse looks at the pages as somebody who has signed in sees them, and holds next to nothing against any of them.

use std::time::Duration;

use axum::response::Html;
use shopery_e2e::lighthouse::{Asked, Screen, audit};
use shopery_e2e::{Browser, Stack, ports};

use crate::backoffice::Backoffice;
use crate::pages::sign_in;
use crate::pages_look::furnish;

const SOON: Duration = Duration::from_secs(60);
/// In each category.
const MIN_SCORE: f64 = 0.95;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_nearly_full_scores() {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").env("SHOPERY_CIRCUIT_FAILURES", "50");
    let stack = plan.start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let [works, fails, _] = furnish(&stack, &client).await;
    let failed = client.in_state(&fails, "failed", 3, SOON).await.remove(0)["id"].as_str().unwrap().to_owned();
    let browser = Browser::start().await;
    sign_in(&browser, &backoffice, &client).await;

    let desk = [
        ("sign-in", "/sign-in".to_owned()),
        ("webhooks", "/webhooks".to_owned()),
        ("new", "/webhooks/new".to_owned()),
        ("webhook", format!("/webhooks/{works}")),
        ("webhook that fails", format!("/webhooks/{fails}")),
        ("edit", format!("/webhooks/{fails}/edit")),
        ("changes", format!("/webhooks/{fails}/changes")),
        ("verify", format!("/webhooks/{works}/verify")),
        ("recover", format!("/webhooks/{fails}/recover")),
        ("deliveries", "/deliveries".to_owned()),
        ("delivery", format!("/deliveries/{failed}")),
        ("events", "/events".to_owned()),
        ("event", "/events/evt_1?resource=order%2F1".to_owned()),
    ];
    let phone = [("webhooks on a phone", "/webhooks".to_owned()), ("new on a phone", "/webhooks/new".to_owned())];
    let asked = |screen, (name, path): (&str, String)| {
        let url = format!("{}{path}", backoffice.url);
        Asked { name: name.to_owned(), url, screen }
    };
    let desk = desk.into_iter().map(|page| asked(Screen::Desk, page));
    let phone = phone.into_iter().map(|page| asked(Screen::Phone, page));
    let reports = audit(&browser, &desk.chain(phone).collect::<Vec<_>>()).await;

    for report in &reports {
        println!("{:.2} {} of {}", report.score, report.category, report.page);
    }
    let low = reports.iter().filter(|report| report.score < MIN_SCORE);
    let low: Vec<_> = low
        .map(|report| {
            format!("{} of {}: {}\n  {}", report.category, report.page, report.score, report.failed.join("\n  "))
        })
        .collect();
    assert!(low.is_empty(), "{} scores are below {MIN_SCORE}:\n{}", low.len(), low.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lighthouse_holds_against_a_page_is_found() {
    const BAD: &str =
        "<html><title>t</title><main><h1>h</h1><p style='color:#999;background:#aaa'>faint</p><img src=x>";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let routes = axum::Router::new().fallback(async || Html(BAD));
    tokio::spawn(async move { axum::serve(listener, routes).await });

    let browser = Browser::start().await;
    let nowhere = format!("http://127.0.0.1:{}/", ports::free());
    let asked = [("bad", url), ("away", nowhere)];
    let asked = asked.map(|(name, url)| Asked { name: name.to_owned(), url, screen: Screen::Desk });
    let reports = audit(&browser, &asked).await;
    let [accessibility, practices, away @ ..] = &reports[..] else { panic!("{reports:?}") };
    assert!(accessibility.score < MIN_SCORE && practices.score < 1.0, "{reports:?}");
    let found = [accessibility.failed.join("\n"), practices.failed.join("\n")].join("\n");
    for audit in ["color-contrast", "html-has-lang", "image-alt", "doctype"] {
        assert!(found.contains(audit), "{audit}: {found}");
    }
    assert!(away.iter().all(|report| report.score == 0.0 && !report.failed.is_empty()), "{away:?}");
}
