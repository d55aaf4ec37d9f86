//! What a cloud has answered to a message, told apart by whose it is to mend.

use std::time::Duration;

use shopery_model::{Answer, Credentials, Fault};

use crate::failure::{Failure, SenderFault};

/// Characters of what a cloud says that are quoted.
const MAX_QUOTED: usize = 500;
/// Bytes of it that are kept until what is secret is hidden in it, as a cut could leave half of a secret.
const MAX_KEPT: usize = 4096;
const MAX_CODE: usize = 64;
const MAX_MESSAGE_ID: usize = 256;

/// What a cloud calls the message that it has accepted, or why it has not.
pub(crate) type Sent = Result<String, Refusal>;

/// Why a message was not accepted.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// Whose it is; of the endpoint's, with our words for it.
    pub(crate) failure: Failure,
    /// What the cloud calls it.
    code: Option<String>,
    /// What the cloud says of it. It may repeat what it was sent.
    said: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(fault: Fault, words: impl Into<String>) -> Self {
        Failure::Endpoint(fault, words.into()).into()
    }

    pub(crate) fn ours(fault: SenderFault) -> Self {
        Failure::Ours(fault).into()
    }

    /// What was answered that we cannot read. The message may have been accepted.
    pub(crate) fn unreadable(cloud: &str) -> Self {
        Self::new(Fault::ProviderError, format!("the answer of {cloud} cannot be read"))
    }

    pub(crate) fn with_code(self, code: &str) -> Self {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_code = (1..=MAX_CODE).contains(&code.len()) && code.chars().all(is_plain);
        Self { code: is_code.then(|| code.to_owned()), ..self }
    }

    pub(crate) fn saying(self, said: &str) -> Self {
        let said = said.trim();
        let end = said.floor_char_boundary(MAX_KEPT);
        Self { said: (end > 0).then(|| said[..end].to_owned()), ..self }
    }

    /// The same, of something else that we have asked for.
    pub(crate) fn in_other_words(self, words: &str) -> Self {
        let fault = self.fault();
        let failure = fault.map_or(self.failure, |fault| Failure::Endpoint(fault, words.to_owned()));
        Self { failure, ..self }
    }

    /// For our log.
    pub(crate) fn in_words(&self) -> String {
        match &self.failure {
            Failure::Endpoint(_, words) => words.clone(),
            Failure::Ours(fault) => fault.to_string(),
        }
    }

    pub(crate) fn after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.failure {
            Failure::Endpoint(fault, _) => Some(fault),
            Failure::Ours(_) => None,
        }
    }

    /// The cloud works, and does not want this message or us.
    pub(crate) fn is_of_the_message(&self) -> bool {
        let wants = |fault| matches!(fault, Fault::AccessDenied | Fault::DestinationNotFound | Fault::MessageRejected);
        self.fault().is_some_and(wants)
    }

    /// For the merchant, without what is secret of `credentials`.
    fn answer(self, credentials: &Credentials) -> Result<Answer, Failure> {
        let Failure::Endpoint(fault, words) = self.failure else { return Err(self.failure) };
        let code = self.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        let said = self.said.map(|said| format!(": {}", quoted(&credentials.hide_in(said)))).unwrap_or_default();
        let detail = credentials.hide_in(format!("{words}{code}")) + &said;
        Ok(Answer { code: self.code, retry_after: self.retry_after, ..Answer::failed(fault, detail) })
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, code: None, said: None, retry_after: None }
    }
}

pub(crate) fn answer(sent: Sent, credentials: &Credentials) -> Result<Answer, Failure> {
    match sent {
        Ok(mut message_id) => {
            message_id.truncate(message_id.floor_char_boundary(MAX_MESSAGE_ID));
            Ok(Answer { message_id: Some(message_id), ..Answer::accepted() })
        }
        Err(refusal) => refusal.answer(credentials),
    }
}

/// The start of a text, on one line.
fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(MAX_QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_model::{AwsKey, CloudKey, EndpointSecret};

    #[test]
    fn what_a_cloud_says_is_quoted_within_bounds_and_without_secrets() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let mut credentials = Credentials::new(EndpointSecret::generate().unwrap());
        let key = AwsKey::parse("AKIAIOSFODNN7EXAMPLE", secret, None, None, None).unwrap();
        credentials.cloud = Some(CloudKey::Aws(key));
        for (said, detail) in [
            ("Rate\nexceeded", "no more for now (ThrottlingException): Rate exceeded".to_owned()),
            (secret, "no more for now (ThrottlingException): ***".to_owned()),
            (" ", "no more for now (ThrottlingException)".to_owned()),
            (&"ë".repeat(600), format!("no more for now (ThrottlingException): {}…", "ë".repeat(500))),
            // It lies where the text is cut.
            (&("x".repeat(480) + secret), format!("no more for now (ThrottlingException): {}***", "x".repeat(480))),
        ] {
            let refusal =
                Refusal::new(Fault::Throttled, "no more for now").with_code("ThrottlingException").saying(said);
            let answer = answer(Err(refusal), &credentials).unwrap();
            assert_eq!(answer.code.as_deref(), Some("ThrottlingException"));
            assert_eq!(answer.fault, Some((Fault::Throttled, detail)));
        }
    }

    #[test]
    fn what_is_no_code_is_not_taken_for_one() {
        for code in ["", "<html>", "a b", &"x".repeat(65)] {
            assert_eq!(Refusal::new(Fault::ProviderError, "").with_code(code).code, None);
        }
    }
}
