use std::fmt;
use std::str::FromStr;

use sea_orm::{ColumnTrait, Condition};
use shopery_model::Invalid;

/// A part of a list, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next part begins, if there may be one.
    pub next: Option<Cursor>,
}

/// The last row of a page: the next page begins behind it, whatever was written in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) created_at: i64,
    pub(crate) id: String,
}

impl Cursor {
    /// The rows that come after this one, newest first.
    pub(crate) fn behind<C: ColumnTrait>(&self, created_at: C, id: C) -> Condition {
        let same_instant = Condition::all().add(created_at.eq(self.created_at)).add(id.lt(self.id.as_str()));
        Condition::any().add(created_at.lt(self.created_at)).add(same_instant)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at, self.id)
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.split_once('.')
            .and_then(|(created_at, id)| {
                let plain = id.len() <= 40 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                plain.then_some(Self { created_at: created_at.parse().ok()?, id: id.to_owned() })
            })
            .ok_or_else(|| Invalid::new("cursor", "must be the nextCursor of an earlier page, unchanged"))
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

    pub(crate) fn try_map<U, E>(self, convert: impl Fn(T) -> Result<U, E>) -> Result<Page<U>, E> {
        let items = self.items.into_iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Page { items, next: self.next })
    }
}
