//! An error of the API (RFC 9457, `application/problem+json`).

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct Problem {
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct FieldError {
    pub field: String,
    pub detail: String,
}

impl Problem {
    /// Of an answer; what is no problem+json, such as a proxy's page, is known by its status alone.
    pub fn read(status: u16, body: &[u8]) -> Self {
        let read = serde_json::from_slice::<Self>(body).ok().filter(|problem| !problem.title.is_empty());
        match read {
            Some(problem) => Self { status, ..problem },
            None => {
                Self { status, title: "it was not the API that answered".into(), detail: String::new(), errors: vec![] }
            }
        }
    }
}
