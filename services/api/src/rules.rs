//! The rules of a webhook, as a request gives them: what of them to set, what to clear, what to leave.

use std::num::NonZeroU16;

use serde_json::value::RawValue;
use shopery_model::{Changed, Debounce, Filter, Invalid, PayloadFormat, PayloadMode, Rules, SignatureKind};

use crate::body::Fields;

const MAX_RATE_LIMIT: u16 = 1000;

/// `None` leaves a rule; `Some(None)`, which is `null` in the request, clears it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RulesChange {
    fields: Option<Option<shopery_model::Fields>>,
    filter: Option<Option<Filter>>,
    changed: Option<Option<Changed>>,
    debounce: Option<Option<Debounce>>,
    rate_limit: Option<Option<NonZeroU16>>,
    payload: Option<PayloadMode>,
    drop_duplicates: Option<bool>,
    signature: Option<SignatureKind>,
    format: Option<PayloadFormat>,
    ordered: Option<bool>,
}

impl RulesChange {
    pub(crate) fn read(body: &mut Fields) -> Self {
        Self {
            fields: body.clearable("fields", |body| paths(body, "fields", shopery_model::Fields::parse)),
            filter: body.clearable("filter", |body| {
                let pattern = body.raw("filter")?;
                body.check(filter(&pattern))
            }),
            changed: body.clearable("changed", |body| paths(body, "changed", Changed::parse)),
            debounce: body.clearable("debounce", |body| {
                let text = body.string("debounce")?;
                body.check(text.parse())
            }),
            rate_limit: body.clearable("rateLimit", |body| {
                let number = body.raw("rateLimit")?;
                body.check(rate_limit(&number))
            }),
            payload: body.string("payload").and_then(|text| body.check(text.parse())),
            drop_duplicates: body.bool("dropDuplicates"),
            signature: body.string("signature").and_then(|text| body.check(text.parse())),
            format: body.string("format").and_then(|text| body.check(text.parse())),
            ordered: body.bool("ordered"),
        }
    }

    /// The rules as they will be, or `None` if nothing was said of them. What does not go together is noted.
    pub(crate) fn apply(self, stored: Rules, body: &mut Fields) -> Option<Rules> {
        if self == Self::default() {
            return None;
        }
        let Self {
            fields,
            filter,
            changed,
            debounce,
            rate_limit,
            payload,
            drop_duplicates,
            signature,
            format,
            ordered,
        } = self;
        let rules = Rules {
            fields: fields.unwrap_or(stored.fields),
            filter: filter.unwrap_or(stored.filter),
            changed: changed.unwrap_or(stored.changed),
            debounce: debounce.unwrap_or(stored.debounce),
            rate_limit: rate_limit.unwrap_or(stored.rate_limit),
            payload: payload.unwrap_or(stored.payload),
            drop_duplicates: drop_duplicates.unwrap_or(stored.drop_duplicates),
            signature: signature.unwrap_or(stored.signature),
            format: format.unwrap_or(stored.format),
            ordered: ordered.unwrap_or(stored.ordered),
        };
        let wrong = match rules.debounce {
            Some(_) if rules.payload == PayloadMode::Original => Some(
                "cannot go with payload original: it makes one delivery of many events, which carries the latest state",
            ),
            Some(_) if rules.ordered => {
                Some("cannot go with ordered: it holds back the events of one type, and others would go ahead of them")
            }
            _ => None,
        };
        body.check(wrong.map_or(Ok(rules), |wrong| Err(Invalid::new("debounce", wrong))))
    }
}

fn paths<T>(body: &mut Fields, name: &'static str, parse: impl Fn(Vec<String>) -> Result<T, Invalid>) -> Option<T> {
    let paths = body.list(name, |path| Ok(path.to_owned()))?;
    body.check(if paths.is_empty() {
        Err(Invalid::new(name, "must name at least one path, such as customer.email; null takes the rule away"))
    } else {
        parse(paths)
    })
}

fn filter(pattern: &RawValue) -> Result<Filter, Invalid> {
    let is_empty = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(pattern.get())
        .is_ok_and(|members| members.is_empty());
    if is_empty {
        return Err(Invalid::new("filter", "must name at least one field; null takes the rule away"));
    }
    Filter::parse(pattern)
}

fn rate_limit(number: &RawValue) -> Result<NonZeroU16, Invalid> {
    // To JSON, 50 and 50.0 are the same number.
    let whole = serde_json::from_str::<f64>(number.get()).ok().filter(|number| number.fract() == 0.0);
    let whole = whole.filter(|number| (1.0..=f64::from(MAX_RATE_LIMIT)).contains(number));
    let limit = whole.and_then(|number| NonZeroU16::new(number as u16));
    limit.ok_or_else(|| {
        Invalid::new(
            "rateLimit",
            format!(
                "must be a whole number of deliveries a second, from 1 to {MAX_RATE_LIMIT}; null takes the rule away"
            ),
        )
    })
}
