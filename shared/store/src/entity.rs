//! The tables, as sea-orm sees them.

pub(crate) mod webhook {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "webhooks")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub tenant: String,
        pub name: String,
        pub url: String,
        /// The patterns, separated by commas.
        pub events: String,
        pub state: String,
        /// The credentials; of before there were keys, the secret in plain.
        pub sealed: super::Hidden,
        /// JSON
        pub rules: String,
        pub created_at: i64,
        pub updated_at: i64,
        /// The first attempt that failed after the last one that did not.
        pub failing_since: Option<i64>,
        pub disabled_at: Option<i64>,
        pub disabled_reason: Option<String>,
        /// When the event that tells of it was stored.
        pub told_at: Option<i64>,
        /// JSON: what has failed since `failing_since`.
        pub failures: Option<String>,
        /// When we warned that it will be disabled, and when the event of that was stored.
        pub warned_at: Option<i64>,
        pub warning_notified_at: Option<i64>,
        pub discard_before: Option<i64>,
        /// Since then its endpoint is another one.
        pub endpoint_since: Option<i64>,
        pub version: i64,
        pub description: Option<String>,
        /// JSON
        pub metadata: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod webhook_change {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "webhook_changes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub tenant: String,
        pub webhook_id: String,
        pub action: String,
        pub author: Option<String>,
        /// JSON
        pub changes: String,
        pub created_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod config_outbox {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "config_outbox")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub tenant: String,
        pub webhook_id: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A delivery of which it is still to be published that it has failed.
pub(crate) mod failure_outbox {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "failure_outbox")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub delivery_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub round: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A webhook of which others know that it fails.
pub(crate) mod circuit_notice {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "circuit_notices")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub webhook_id: String,
        pub tenant: String,
        /// Since when its circuit was open.
        pub since: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod idempotency_key {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "idempotency_keys")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub key: String,
        pub fingerprint: String,
        /// None while it is worked on.
        pub status: Option<i32>,
        pub location: Option<String>,
        pub body: Option<super::Hidden>,
        pub created_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod delivery {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "deliveries")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub tenant: String,
        pub webhook_id: String,
        pub event_id: String,
        pub event_type: String,
        pub resource: String,
        /// Where EVENTS holds the event.
        pub event_sequence: i64,
        pub triggered_at: i64,
        /// The event's `source`; None in rows of before deliveries told it.
        pub source: Option<String>,
        pub state: String,
        /// Of two outcomes of a delivery, the higher one is the truth.
        pub rank: i64,
        pub attempt_count: i32,
        pub fault: Option<String>,
        pub fault_detail: Option<String>,
        /// What the endpoint has answered to the last attempt; None in rows of before this was kept.
        pub response_status: Option<i16>,
        pub next_attempt_at: Option<i64>,
        pub updated_at: i64,
        /// `updated_at`, if that is long after the delivery was made.
        pub late_at: Option<i64>,
        /// The delivery that has told the receiver the same, or newer.
        pub carried_by: Option<String>,
        /// JSON objects, separated by commas.
        pub attempts: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod recovery {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "recoveries")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub tenant: String,
        pub webhook_id: String,
        pub state: String,
        pub since: i64,
        pub until: i64,
        /// Separated by commas.
        pub statuses: String,
        pub mode: String,
        pub total: Option<i64>,
        pub resent: i64,
        pub skipped: i64,
        pub unavailable: i64,
        /// The last delivery that is done with.
        pub place: Option<String>,
        pub error: Option<String>,
        /// Who works on it, or did last.
        pub lease_owner: String,
        /// From then on somebody else may.
        pub lease_until: i64,
        pub created_at: i64,
        pub updated_at: i64,
        pub finished_at: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod recovery_item {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "recovery_items")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub recovery_id: String,
        /// The resource, or the delivery: one message of it is sent.
        #[sea_orm(primary_key, auto_increment = false)]
        pub item: String,
        pub delivery_id: String,
        pub round: i64,
        pub state: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A text column whose content `Debug` does not show.
#[derive(Clone, PartialEq, Eq, sea_orm::DeriveValueType)]
pub(crate) struct Hidden(pub(crate) String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}
