//! What is published: an order of about 500 bytes, as the catalogue describes it. Every order has the same number
//! of bytes, so the sink can tell a body that was cut. A product that is imported has the body of an order too: what is
//! in it makes no difference to anybody here.

use std::fmt::Write;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The id of an event: the sheet that it is written down on, and its number there.
pub fn event_id(sheet: usize, number: usize) -> String {
    format!("load-{sheet:02}-{number:08}")
}

/// The inverse of [`event_id`].
pub fn parse_event_id(id: &[u8]) -> Option<(usize, usize)> {
    let (sheet, number) = std::str::from_utf8(id).ok()?.strip_prefix("load-")?.split_once('-')?;
    Some((sheet.parse().ok()?, number.parse().ok()?))
}

/// The resource: what arrives at the endpoint.
pub fn order(sheet: usize, number: usize) -> String {
    let mut json = String::with_capacity(600);
    push_order(&mut json, sheet, number);
    json
}

/// The resource of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Order,
    Product,
}

impl Kind {
    /// The kind as events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Product => "product",
        }
    }
}

/// One event in CloudEvents 1.0 JSON, of now: what claims to be from before may be late, and is looked into.
pub fn push_event(json: &mut String, kind: Kind, sheet: usize, number: usize) {
    let kind = kind.name();
    let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = write!(
        json,
        r#"{{"specversion":"1.0","id":"load-{sheet:02}-{number:08}","source":"load","type":"{kind}-created","subject":"{kind}/{sheet:02}{number:08}","time":"{time}","data":"#
    );
    push_order(json, sheet, number);
    json.push('}');
}

fn push_order(json: &mut String, sheet: usize, number: usize) {
    let _ = write!(
        json,
        r#"{{"id":"ord_{sheet:02}{number:08}","number":{number:08},"#,
        // A JSON number has no leading zeros.
        number = 10_000_000 + number
    );
    json.push_str(
        r#""status":"open","currency":"EUR","total_price":149.80,"customer":{"id":"cus_7","email":"zoe@example.com"},"shipping_address":{"line1":"Storgatan 112","city":"Göteborg","postcode":"411 24","country":"SE"},"line_items":[{"sku":"MUG-BLUE","title":"Blue mug","quantity":2,"price":29.90},{"sku":"TEA-EARL-250","title":"Earl Grey, 250 g","quantity":1,"price":90.00}],"created_at":"2026-11-24T10:00:00Z","updated_at":"2026-11-24T10:00:00Z"}"#,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_that_ingest_takes() {
        let mut json = String::new();
        push_event(&mut json, Kind::Product, 3, 41);
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&event["id"], &event["type"]), (&event_id(3, 41).into(), &"product-created".into()));
        assert_eq!(event["data"], serde_json::from_str::<serde_json::Value>(&order(3, 41)).unwrap());
    }

    #[test]
    fn an_order_has_about_500_bytes_whatever_its_number() {
        let bytes = order(0, 0).len();
        assert!((450..600).contains(&bytes), "{bytes}");
        assert_eq!(order(63, 9_999_999).len(), bytes);
    }

    #[test]
    fn an_event_id_reads_back() {
        assert_eq!(parse_event_id(event_id(7, 123_456).as_bytes()), Some((7, 123_456)));
        for bad in ["", "load-", "load-1", "evt_1", "load-x-1"] {
            assert_eq!(parse_event_id(bad.as_bytes()), None, "{bad}");
        }
    }
}
