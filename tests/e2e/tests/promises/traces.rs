//! One trace from publish through router to POST.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use shopery_e2e::client::ONE;
use shopery_e2e::collector::Collector;
use shopery_e2e::{Behaviour, Event, Stack, wait};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_publish_to_post() {
    let collector = Collector::start().await;
    let plan = Stack::plan().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "200");
    let stack = plan.start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let token = "Bearer the-token-of-a-gateway";
    let given = json!({ "headers": { "Authorization": token }, "signature": "both" });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], given).await;

    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let url = format!("{}/events", client.ingest);
    let request = client.request(reqwest::Method::POST, &url).header("content-type", ONE);
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    shopery_e2e::client::send(request.body(Event::order("1").json())).await.unwrap().expect(202);

    let over_nats = "0af7651916cd43dd8448eb211c80319c";
    let publisher = stack.publisher("tnt_a").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", format!("00-{over_nats}-b7ad6b7169203331-01").as_str());
    publisher.request(publisher.subject("order-created"), Event::order("2").json(), headers).await.unwrap();

    stack.merchant.wait_at("/a", 3, SOON).await;
    for trace in [trace, over_nats] {
        wait::until(&format!("the spans of {trace}"), SOON, async || {
            let spans: Vec<_> = collector.spans().into_iter().filter(|span| span.trace == trace).collect();
            let services: HashSet<_> = spans.iter().map(|span| span.service.as_str()).collect();
            if ["shopery-ingest", "shopery-router", "shopery-deliverer"].iter().all(|name| services.contains(name)) {
                Ok(())
            } else {
                Err(format!("{spans:?}"))
            }
        })
        .await;
    }
    // Each span but the first hangs on one of the same trace.
    wait::until("a tree of spans", SOON, async || {
        let spans: Vec<_> = collector.spans().into_iter().filter(|span| span.trace == trace).collect();
        let ids: HashSet<_> = spans.iter().map(|span| span.id.as_str()).chain(["00f067aa0ba902b7"]).collect();
        if spans.iter().all(|span| ids.contains(span.parent.as_str())) { Ok(()) } else { Err(format!("{spans:?}")) }
    })
    .await;
    let secret = client.secret(&webhook).await;
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.whole.contains(&webhook)), "{spans:?}");
    for hidden in [token, &secret["whsec_".len()..]] {
        assert!(spans.iter().all(|span| !span.whole.contains(hidden)), "a span holds a secret: {spans:?}");
    }
}
