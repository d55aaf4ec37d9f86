//! A platform service that publishes over NATS, with credentials that allow just that.

use std::time::Duration;

use async_nats::{ConnectOptions, HeaderMap, Request};
use serde_json::Value;

use crate::Event;

/// What a publisher of one tenant is given.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub url: String,
    pub user: String,
    pub password: String,
    pub inbox_prefix: String,
}

#[derive(Debug, Clone)]
pub struct Publisher {
    pub client: async_nats::Client,
    tenant: String,
}

impl Credentials {
    pub async fn connect(&self) -> async_nats::Client {
        self.options().connect(&self.url).await.unwrap_or_else(|error| panic!("cannot connect to NATS: {error}"))
    }

    /// For a connection that outlives a restart of the server.
    pub fn options(&self) -> ConnectOptions {
        ConnectOptions::with_user_and_password(self.user.clone(), self.password.clone())
            .custom_inbox_prefix(&self.inbox_prefix)
            .reconnect_delay_callback(|_| Duration::from_millis(50))
    }
}

impl Publisher {
    pub async fn connect(credentials: &Credentials, tenant: &str) -> Self {
        Self { client: credentials.connect().await, tenant: tenant.to_owned() }
    }

    /// `in.<tenant>.<event>`
    pub fn subject(&self, event_type: &str) -> String {
        format!("in.{}.{}", shopery_model::escape(&self.tenant), shopery_model::escape(event_type))
    }

    /// Publishes and waits for the answer: the stream's acknowledgement, or a problem.
    pub async fn publish(&self, event: &Event) -> Result<Value, String> {
        self.request(self.subject(&event.event_type), event.json(), HeaderMap::new()).await
    }

    pub async fn request(&self, subject: String, body: String, headers: HeaderMap) -> Result<Value, String> {
        let request = Request::new().payload(body.into()).headers(headers).timeout(Some(Duration::from_secs(5)));
        let reply = self.client.send_request(subject, request).await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&reply.payload).map_err(|error| format!("{error}: {:?}", reply.payload))
    }
}
