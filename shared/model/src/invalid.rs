use std::borrow::Cow;

/// One thing that is wrong with an input: where, and how to mend it. The text is for the person who sent the input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct Invalid {
    /// The field as the sender wrote it: `url`, `events[2]`, `data`.
    pub field: Cow<'static, str>,
    pub detail: Cow<'static, str>,
}

impl Invalid {
    pub fn new(field: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }

    /// The same fault, seen from the document that contains the field's owner: `[3].type`, `webhook.url`.
    pub fn within(self, outer: impl std::fmt::Display) -> Self {
        Self { field: format!("{outer}.{}", self.field).into(), detail: self.detail }
    }
}
