use std::fmt;
use std::str::FromStr;

use sea_orm::sea_query::SimpleExpr;
use sea_orm::{ColumnTrait, Condition};
use shopery_model::Invalid;
use time::OffsetDateTime;

use crate::to_millis;

/// A part of a list, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next part begins, if there may be one.
    pub next: Option<Cursor>,
}

/// The id of the last row of a page: the next page begins behind it, whatever was written in between. Ids begin with
/// the time of their creation, so they are the order of every list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) String);

/// When the rows of a list were created and last changed; both ends belong to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub created_at_min: Option<OffsetDateTime>,
    pub created_at_max: Option<OffsetDateTime>,
    pub updated_at_min: Option<OffsetDateTime>,
    pub updated_at_max: Option<OffsetDateTime>,
}

impl Times {
    pub(crate) fn created(&self, column: impl ColumnTrait) -> Condition {
        between(column, self.created_at_min, self.created_at_max)
    }

    pub(crate) fn updated(&self, column: impl ColumnTrait) -> Condition {
        between(column, self.updated_at_min, self.updated_at_max)
    }
}

fn between(column: impl ColumnTrait, min: Option<OffsetDateTime>, max: Option<OffsetDateTime>) -> Condition {
    let ends: [Option<SimpleExpr>; 2] =
        [min.map(|min| column.gte(to_millis(min))), max.map(|max| column.lte(to_millis(max)))];
    ends.into_iter().fold(Condition::all(), Condition::add_option)
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // A prefix of three letters and a ULID.
        let is_ulid = |id: &str| id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if text.split_once('_').is_some_and(|(prefix, id)| prefix.len() == 3 && is_ulid(id)) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("cursor", "must be the nextCursor of an earlier page, unchanged"))
    }
}

impl<T> Page<T> {
    /// From up to `limit` + 1 rows: the one too many tells that there is more.
    pub(crate) fn of(mut rows: Vec<T>, limit: u64, cursor: impl Fn(&T) -> Cursor) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Self { next: rows.last().filter(|_| more).map(cursor), items: rows }
    }

    pub(crate) fn filter_map<U>(self, convert: impl Fn(T) -> Option<U>) -> Page<U> {
        Page { items: self.items.into_iter().filter_map(convert).collect(), next: self.next }
    }

    pub(crate) fn try_map<U, E>(self, convert: impl Fn(T) -> Result<U, E>) -> Result<Page<U>, E> {
        let items = self.items.into_iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Page { items, next: self.next })
    }
}
