//! What waits for a webhook, and what becomes of it when the webhook is enabled.

use std::str::FromStr;
use std::time::Duration;

use shopery_control::Backlog;
use shopery_model::{Invalid, TenantId, WebhookId};
use shopery_queue::{Parked, Queue};

use crate::body::Fields;

/// A webhook is shown without this rather than late.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What waits for a webhook now; `None` if PARKED does not say.
pub(crate) async fn look(queue: &Queue, tenant: &TenantId, id: WebhookId) -> Option<Backlog> {
    let look = async {
        let parked = Parked::count(queue, tenant, id).await?;
        let oldest_at = if parked == 0 { None } else { Parked::oldest(queue, tenant, id).await? };
        anyhow::Ok(Backlog { parked, oldest_at })
    };
    match tokio::time::timeout(LOOK_TIMEOUT, look).await.map_err(anyhow::Error::from).flatten() {
        Ok(waiting) => Some(waiting),
        Err(error) => {
            tracing::warn!(%tenant, webhook = %id, "cannot tell what waits: {error:#}");
            None
        }
    }
}

/// The field `waiting` of a change that enables a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Send,
    Discard,
}

impl Wish {
    pub(crate) fn read(fields: &mut Fields, is_enabled: bool) -> Self {
        let wish = fields.string("waiting").and_then(|text| {
            fields.check(if is_enabled {
                text.parse()
            } else {
                Err(Invalid::new(
                    "waiting",
                    "says what becomes of what has waited until a webhook is enabled: give it with \"isEnabled\": true",
                ))
            })
        });
        wish.unwrap_or(Self::Send)
    }
}

impl FromStr for Wish {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "send" => Ok(Self::Send),
            "discard" => Ok(Self::Discard),
            _ => Err(Invalid::new("waiting", "must be send or discard")),
        }
    }
}
