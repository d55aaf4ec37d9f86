//! The label by which the owner of a topic lets a tenant send to it through the platform's service account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use shopery_model::{Fault, Topic};
use tokio::time::Instant;

use super::TIMEOUT;
use super::pub_sub::Api;
use super::refusal::Refusal;
use super::renewal::Source;

/// What the label is called. Its value is [`tenant_label`](super::tenant_label).
const LABEL: &str = "shopery-tenant";
/// After a label was taken away, deliveries end within this time.
const LIFE: Duration = Duration::from_secs(10 * 60);

/// Whether one topic has the label of one tenant.
pub(crate) struct LabelSource {
    pub(crate) api: Arc<Api>,
    pub(crate) topic: Topic,
    pub(crate) label: String,
}

impl Source for LabelSource {
    type Value = ();
    type Error = Refusal;

    async fn fetch(&self) -> Result<((), Instant), Refusal> {
        self.check(Instant::now() + TIMEOUT).await?;
        Ok(((), Instant::now() + LIFE))
    }
}

impl LabelSource {
    pub(crate) async fn check(&self, deadline: Instant) -> Result<(), Refusal> {
        #[derive(Default, Deserialize)]
        struct Found {
            #[serde(default)]
            labels: HashMap<String, String>,
        }
        let Topic { project, name } = &self.topic;
        let response = match self.api.read_topic(&self.topic, deadline).await {
            Ok(response) => response,
            Err(refusal) if refusal.fault() == Some(Fault::AccessDenied) => {
                return Err(
                    refusal.in_other_words("we may not read the labels of the topic, which takes roles/pubsub.viewer")
                );
            }
            Err(refusal) => return Err(refusal),
        };
        let found: Found = serde_json::from_slice(&response.body).map_err(|_| Refusal::unreadable("Pub/Sub"))?;
        if found.labels.get(LABEL).is_some_and(|value| *value == self.label) {
            return Ok(());
        }
        // Whose label it has instead is nobody's business.
        let why = format!(
            "the topic has no label {LABEL}={label}, by which its owner lets you send to it: gcloud pubsub topics update {name} \
             --project={project} --update-labels={LABEL}={label}",
            label = self.label,
        );
        Err(Refusal::new(Fault::AccessDenied, why))
    }
}
