//! Reading query parameters by name; an unknown one is an error, since it would be a filter that does not filter.

use std::str::FromStr;

use axum::Json;
use serde::Serialize;
use shopery_http::Problem;
use shopery_model::{Invalid, parse_time};
use shopery_store::{Cursor, Page, Times};
use time::OffsetDateTime;
use utoipa::ToSchema;

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 200;

/// The answer to a list request: newest first, and the cursor of the next page if there is one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

impl<T> List<T> {
    pub(crate) fn of<R>(page: Page<R>, show: impl Fn(R) -> T) -> Json<Self> {
        let next_cursor = page.next.map(|cursor| cursor.to_string());
        Json(Self { data: page.items.into_iter().map(show).collect(), next_cursor })
    }

    /// What has no further page.
    pub(crate) fn whole(data: Vec<T>) -> Self {
        Self { data, next_cursor: None }
    }
}

#[derive(Debug)]
pub(crate) struct Query {
    parameters: Vec<(String, String)>,
    wrong: Vec<Invalid>,
}

impl Query {
    pub(crate) fn read(query: Option<&str>) -> Self {
        let parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        Self { parameters, wrong: Vec::new() }
    }

    /// A parameter read by `parse`.
    pub(crate) fn take<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let place = self.parameters.iter().position(|(given, _)| given == name)?;
        let (_, text) = self.parameters.remove(place);
        match parse(&text) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.wrong.push(Invalid::new(name, detail));
                None
            }
        }
    }

    /// Every value of a parameter that may be given several times, and have several values with commas between; in their order,
    /// each once. Empty if there is none.
    pub(crate) fn all<T: PartialEq>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        let (given, rest) = std::mem::take(&mut self.parameters).into_iter().partition(|(given, _)| given == name);
        self.parameters = rest;
        let given: Vec<(String, String)> = given;
        for text in given.iter().flat_map(|(_, text)| text.split(',')) {
            match parse(text) {
                Ok(value) if found.contains(&value) => {}
                Ok(value) => found.push(value),
                // The first of them says what is wrong; there may be thousands.
                Err(detail) => {
                    self.wrong.push(Invalid::new(name, detail));
                    break;
                }
            }
        }
        found
    }

    /// Notes that too many values were given.
    pub(crate) fn at_most(&mut self, name: &'static str, count: usize, max: usize) {
        if count > max {
            self.wrong.push(Invalid::new(name, format!("is given {count} times, and the limit is {max}")));
        }
    }

    /// The value, noting that it is missing if nothing else was wrong with it.
    pub(crate) fn require<T>(&mut self, name: &'static str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.wrong.iter().any(|invalid| invalid.field == name) {
            self.wrong.push(Invalid::new(name, "is missing"));
        }
        value
    }

    pub(crate) fn time(&mut self, name: &'static str) -> Option<OffsetDateTime> {
        self.take(name, |text| parse_time(text).map_err(str::to_owned))
    }

    pub(crate) fn times(&mut self) -> Times {
        Times {
            created_at_min: self.time("created_at_min"),
            created_at_max: self.time("created_at_max"),
            updated_at_min: self.time("updated_at_min"),
            updated_at_max: self.time("updated_at_max"),
        }
    }

    pub(crate) fn limit(&mut self) -> u64 {
        let limit = self.take("limit", |text| match u64::from_str(text) {
            Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
            _ => Err(format!("must be a number from 1 to {MAX_LIMIT}")),
        });
        limit.unwrap_or(DEFAULT_LIMIT)
    }

    pub(crate) fn cursor(&mut self) -> Option<Cursor> {
        self.take("cursor", |text| text.parse::<Cursor>().map_err(|invalid| invalid.detail.into_owned()))
    }

    /// Nothing may be wrong and nothing may be left.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in self.parameters {
            let shown: String = name.chars().take(60).collect();
            self.wrong.push(Invalid::new(shown, "is not a known parameter, or is given twice"));
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Problem::invalid(self.wrong)) }
    }
}
