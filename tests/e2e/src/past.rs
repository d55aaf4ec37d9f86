//! A past: many deliveries over the last thirty days, written straight into the tables of a PostgreSQL, with the counts that
//! the recorder would have kept of them. Tenants of unequal size, few of everything that is rare.

use std::collections::HashMap;
use std::fmt::Write as _;

use shopery_model::{DeliveryId, TenantId, WebhookId};
use time::{Duration, OffsetDateTime};

use crate::documents::Random;
use crate::postgres::Postgres;

/// So long ago it began.
pub const DAYS: i64 = 30;
/// The one that hardly any delivery is of.
pub const RARE_TYPE: &str = "inventory-deleted";
const TYPES: [&str; 6] =
    ["order-created", "order-updated", "order-paid", "product-updated", "customer-created", "inventory-updated"];
const LINES: usize = 20_000;
const HOUR: i64 = 3_600_000;
/// Sizes of buckets as the table has them, and how long they are in milliseconds.
const MINUTES: (i64, i64) = (60_001, 60_000);
const HOURS: (i64, i64) = (HOUR, HOUR);

/// A tenant, its webhooks, and its part of a thousand deliveries.
#[derive(Debug)]
pub struct Member {
    pub tenant: TenantId,
    /// Of the first one almost all deliveries are `filtered`.
    pub webhooks: Vec<WebhookId>,
    pub share: usize,
}

#[derive(Debug)]
pub struct Past {
    pub members: Vec<Member>,
    pub deliveries: usize,
    pub now: OffsetDateTime,
}

/// By whose they are, how long the bucket is, and when it begins: so many of what is in a column.
type Counts = HashMap<(String, String, i64, i64), HashMap<String, u64>>;

struct Row {
    member: usize,
    webhook: WebhookId,
    created: i64,
    updated: i64,
    state: &'static str,
    event_type: &'static str,
    millis: usize,
}

impl Past {
    /// Writes it; returns how many deliveries each member has in each state.
    pub async fn write(&self, postgres: &Postgres, random: &mut Random) -> HashMap<(usize, &'static str), u64> {
        let (mut counts, mut states) = (Counts::new(), HashMap::new());
        let indexes = drop_indexes(postgres).await;
        let mut copy = postgres.copy(
            "deliveries (id, tenant, webhook_id, event_id, event_type, resource, event_sequence, triggered_at, state, rank, \
             attempt_count, fault, fault_detail, next_attempt_at, updated_at, late_at, carried_by, response_status, attempts)",
        );
        let mut lines = String::new();
        for number in 0..self.deliveries {
            let row = self.row(number, random);
            *states.entry((row.member, row.state)).or_default() += 1;
            self.count(&row, &mut counts);
            self.line(number, &row, &mut lines);
            if number % LINES == 0 {
                copy.send(&std::mem::take(&mut lines)).await;
            }
        }
        copy.send(&lines).await;
        copy.end().await;
        postgres.value(&format!("SET maintenance_work_mem = '1GB'; {indexes}")).await;
        write_counts(counts, postgres).await;
        // Long done, had it been written day by day.
        postgres.value("VACUUM ANALYZE").await;
        postgres.value("CHECKPOINT").await;
        states
    }

    fn row(&self, number: usize, random: &mut Random) -> Row {
        let mut part = random.below(self.members.iter().map(|member| member.share).sum());
        let member = self.members.iter().position(|member| match part.checked_sub(member.share) {
            Some(rest) => {
                part = rest;
                false
            }
            None => true,
        });
        let member = member.unwrap();
        let webhooks = &self.members[member].webhooks;
        let place = random.below(webhooks.len());
        let age = Duration::days(DAYS).whole_milliseconds() * (self.deliveries - number) as i128
            / i128::try_from(self.deliveries).unwrap();
        let age = i64::try_from(age).unwrap();
        let now = i64::try_from(self.now.unix_timestamp_nanos() / 1_000_000).unwrap();
        let created = now - age;
        let is_recent = age < Duration::days(3).whole_milliseconds() as i64;
        let state = match random.below(10_000) {
            0..1 if is_recent => "pending",
            1..3 if is_recent => "parked",
            0..10 if place == 0 => "delivered",
            _ if place == 0 => "filtered",
            0..150 => "failed",
            150..250 => "duplicate",
            250..350 => "superseded",
            350..360 => "expired",
            _ => "delivered",
        };
        // Some are late: they were tried again, or parked.
        let delay = match random.below(100) {
            0..2 => 600_000 + random.below(3_600_000),
            2 => 3_600_000 + random.below(3 * 86_400_000),
            _ => random.below(2_000),
        };
        let updated = (created + i64::try_from(delay).unwrap()).min(now);
        let event_type = if random.once_in(100_000) { RARE_TYPE } else { TYPES[random.below(TYPES.len())] };
        Row { member, webhook: webhooks[place], created, updated, state, event_type, millis: 1 + random.below(400) }
    }

    fn count(&self, row: &Row, counts: &mut Counts) {
        let tenant = self.members[row.member].tenant.to_string();
        let now = i64::try_from(self.now.unix_timestamp_nanos() / 1_000_000).unwrap();
        // Minutes are kept for 49 hours.
        let sizes = if row.updated > now - 49 * HOUR { &[MINUTES, HOURS][..] } else { &[HOURS] };
        let mut columns = Vec::new();
        if row.is_attempted() {
            let bucket = ((row.millis as f64).log2() * 4.0).ceil();
            columns.extend(["attempts".to_owned(), format!("ms_{bucket}")]);
        }
        if row.state == "failed" {
            columns.push("failed_http_status".to_owned());
        }
        if row.state != "pending" {
            columns.push(format!("state_{}", row.state));
        }
        for subject in [row.webhook.to_string(), format!("tenant:{tenant}")] {
            for (size, millis) in sizes {
                let key = (tenant.clone(), subject.clone(), *size, row.updated / millis * millis);
                let counts = counts.entry(key).or_default();
                for column in &columns {
                    *counts.entry(column.clone()).or_default() += 1;
                }
            }
        }
    }

    fn line(&self, number: usize, row: &Row, lines: &mut String) {
        let Row { member, webhook, created, updated, state, event_type, millis } = row;
        let tenant = &self.members[*member].tenant;
        let event = format!("evt-{number}");
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(*created) * 1_000_000).unwrap();
        let id = DeliveryId::of(tenant, "e2e", &event, at, *webhook);
        let late = if updated - created >= 600_000 { updated.to_string() } else { "\\N".to_owned() };
        let status = match *state {
            "failed" if number.is_multiple_of(20) => 503,
            "failed" => 500,
            _ => 200,
        };
        let answered = if row.is_attempted() { status.to_string() } else { "\\N".to_owned() };
        let fault = match *state {
            "failed" => format!("http_status\tit answered {status}"),
            _ => "\\N\t\\N".to_owned(),
        };
        let attempts = match row.is_attempted() {
            true => format!(
                r#"{{"id":"att_{}","number":1,"started_at":{created},"duration_ms":{millis},"url":"https://shop.example.com/webhooks/orders","request_bytes":1200,"status":{status},"fault":null,"response_body":"ok"}}"#,
                &id.to_string()[4..]
            ),
            false => String::new(),
        };
        writeln!(
            lines,
            "{id}\t{tenant}\t{webhook}\t{event}\t{event_type}\torder/{number}\t{number}\t{created}\t{state}\t{}\t{}\t{fault}\t\\N\t\
             {updated}\t{late}\t\\N\t{answered}\t{attempts}",
            if *state == "delivered" { (1_i64 << 40) - 1 } else { 5 },
            u8::from(row.is_attempted()),
        )
        .unwrap();
    }
}

async fn write_counts(counts: Counts, postgres: &Postgres) {
    let columns = "SELECT string_agg(column_name, ',' ORDER BY ordinal_position) FROM information_schema.columns \
                   WHERE table_name = 'counts' AND ordinal_position > 4";
    let columns = postgres.value(columns).await;
    let mut copy = postgres.copy(&format!("counts (tenant, subject, size, bucket, {columns})"));
    let mut lines = String::new();
    for (place, ((tenant, subject, size, bucket), counts)) in counts.into_iter().enumerate() {
        write!(lines, "{tenant}\t{subject}\t{size}\t{bucket}").unwrap();
        for column in columns.split(',') {
            write!(lines, "\t{}", counts.get(column).unwrap_or(&0)).unwrap();
        }
        lines.push('\n');
        if place % LINES == 0 {
            copy.send(&std::mem::take(&mut lines)).await;
        }
    }
    copy.send(&lines).await;
    copy.end().await;
}

/// It is quicker to make them again than to keep them. Returns how.
async fn drop_indexes(postgres: &Postgres) -> String {
    let ours = "FROM pg_indexes WHERE tablename = 'deliveries' AND indexname <> 'deliveries_pkey'";
    let indexes = format!("SELECT string_agg(replace(indexdef, ' ON ONLY ', ' ON '), '; ') {ours}");
    let indexes = postgres.value(&indexes).await;
    let names = postgres.value(&format!("SELECT string_agg(indexname, ', ') {ours}")).await;
    postgres.value(&format!("DROP INDEX {names}")).await;
    indexes
}

impl Row {
    fn is_attempted(&self) -> bool {
        matches!(self.state, "delivered" | "failed")
    }
}
