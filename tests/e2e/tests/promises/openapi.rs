//! What the API says of itself is what it does.

use std::process::Stdio;

use serde_json::Value;
use shopery_e2e::{Client, DatabaseKind, Event, NameServer, Stack, parts};
use tokio::process::Command;

on_both_databases!(the_api_does_as_its_document_says);

/// For each operation and phase: `SHOPERY_TEST_EXAMPLES`, or few enough for every day.
fn examples() -> String {
    std::env::var("SHOPERY_TEST_EXAMPLES").unwrap_or_else(|_| "15".to_owned())
}

/// Without limits; and nothing that is made up may be sent to: no name resolves, and no address is allowed. The name server lives
/// as long as the test.
async fn open_stack(database: DatabaseKind) -> (Stack, NameServer) {
    let unlimited = [
        "SHOPERY_API_TENANT_LIMIT",
        "SHOPERY_API_CLIENT_LIMIT",
        "SHOPERY_INGEST_TENANT_LIMIT",
        "SHOPERY_INGEST_CLIENT_LIMIT",
        "SHOPERY_ADDRESS_LIMIT",
    ];
    let dns = NameServer::start().await;
    let plan = Stack::plan().database(database).env("SHOPERY_EGRESS_DNS", dns.address().to_string());
    (unlimited.into_iter().fold(plan, |plan, limit| plan.env(limit, "off")).start().await, dns)
}

async fn the_api_does_as_its_document_says(database: DatabaseKind) {
    let (stack, _dns) = open_stack(database).await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-created"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    client.settled(&webhook, 1, std::time::Duration::from_secs(20)).await;

    is_described(&stack, &client.api).await;
    println!("{database:?}: {}", conforms(&stack, &client, &client.api, &examples()).await);
    // And it has not hurt anybody.
    let kept = client.get(&format!("/company/webhooks/{webhook}")).await;
    assert!(matches!(kept.status, 200 | 404), "{}", kept.text());
    let _: Value = client.get("/company/webhooks").await.expect(200).json();
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_does_as_its_document_says() {
    let (stack, _dns) = open_stack(DatabaseKind::Sqlite).await;
    let client = stack.client("tnt_a");
    is_described(&stack, &client.ingest).await;
    // One operation alone, so more of it.
    let examples = (examples().parse::<usize>().unwrap() * 10).to_string();
    println!("ingest: {}", conforms(&stack, &client, &client.ingest, &examples).await);
    client.publish(&Event::order("1")).await.expect(202);
}

/// The document is one, and the page has all of it.
async fn is_described(stack: &Stack, face: &str) {
    let reader = Client::new(face.to_owned(), face.to_owned(), "tnt_a");
    let document = reader.get("/openapi.json").await.expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    let page = reader.get("/docs").await.expect(200);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(page.text().contains(&format!("id=\"{id}\"")), "the page lacks {method} {path}");
            assert!(
                operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} has no summary"
            );
        }
    }
    let file = stack.folder().join("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let validate =
        Command::new(parts::python()).args(["-m", "openapi_spec_validator"]).arg(&file).output().await.unwrap();
    assert!(validate.status.success(), "{}", String::from_utf8_lossy(&validate.stdout));
}

/// Says how many cases there were.
async fn conforms(stack: &Stack, client: &Client, face: &str, examples: &str) -> String {
    let conformance = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance");
    let report = stack.folder().join("schemathesis.log");
    let output = || std::fs::File::options().create(true).append(true).open(&report).unwrap();
    let status = Command::new(parts::tool("schemathesis"))
        .current_dir(stack.folder().path())
        .args(["--config-file", &format!("{conformance}/schemathesis.toml")])
        .args(["run", &format!("{face}/openapi.json")])
        .args(["--header", "X-tenant-ID: tnt_a", "--max-examples", examples, "--checks", "all"])
        // This one leaves headers away that the line above, or its own authentication, adds again. That every route
        // wants both is shown in `tenants`.
        .args(["--exclude-checks", "missing_required_header"])
        .env("SHOPERY_TOKEN", &client.token)
        .env("PYTHONPATH", conformance)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .kill_on_drop(true)
        .status()
        .await
        .unwrap();
    let said = std::fs::read_to_string(&report).unwrap();
    assert!(status.success(), "schemathesis: {status}\n{said}");
    let cases = said.lines().find(|line| line.contains(" generated, ")).unwrap_or_default().trim();
    assert!(!cases.is_empty(), "{said}");
    assert!(said.lines().all(|line| !line.contains("Runtime Error")), "{said}");
    cases.to_owned()
}
