//! All that an installation stores and says, for a look at what must not be in it.

use std::process::Stdio;

use async_nats::jetstream;
use futures_util::TryStreamExt;
use tokio::process::Command;

use crate::{Metrics, Service, Stack, parts};

/// The SQL tables, every message of every stream and bucket, and what the services log and count.
#[derive(Debug)]
pub struct Stored(Vec<(String, String)>);

impl Stored {
    pub async fn of(stack: &Stack) -> Self {
        let mut all = vec![("the database".to_owned(), database(stack).await)];
        let jetstream = jetstream::new(stack.operator().await);
        let streams: Vec<_> = jetstream.streams().try_collect().await.unwrap();
        for info in streams {
            let name = info.config.name;
            let stream = jetstream.get_stream(&name).await.unwrap();
            let state = &stream.cached_info().state;
            let mut text = String::new();
            for sequence in state.first_sequence..=state.last_sequence {
                // One that was taken off meanwhile is not stored any more.
                if let Ok(message) = stream.get_raw_message(sequence).await {
                    let payload = String::from_utf8_lossy(&message.payload);
                    text += &format!("{} {:?} {payload}\n", message.subject, message.headers);
                }
            }
            all.push((name, text));
        }
        all.extend(Service::ALL.map(|service| (format!("the log of {}", service.name()), stack.log(service))));
        for service in Service::ALL {
            // Of one that is stopped there are none.
            if let Ok(metrics) = Metrics::of(&stack.url(service)).await {
                all.push((format!("the metrics of {}", service.name()), metrics.text().to_owned()));
            }
        }
        Self(all)
    }

    /// What a part holds: `the database`, or a stream by its name.
    pub fn part(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("nothing is called {name}")).1
    }

    /// Nothing of all this contains one of these texts.
    #[track_caller]
    pub fn assert_without<'a>(&self, hidden: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (what, text) in hidden {
            assert!(text.len() >= 8, "{what} is too short to be looked for");
            for (place, stored) in &self.0 {
                let line = stored.lines().find(|line| line.contains(text));
                assert!(line.is_none(), "{place} holds {what}: {}", line.unwrap_or_default());
            }
        }
    }
}

async fn database(stack: &Stack) -> String {
    match &stack.postgres {
        Some(postgres) => postgres.dump().await,
        None => sqlite(stack, "print(*db.iterdump(), sep='\\n')").await,
    }
}

/// Executes statements while nobody else writes.
pub async fn execute(stack: &Stack, sql: &str) {
    match &stack.postgres {
        Some(postgres) => drop(postgres.value(sql).await),
        None => drop(sqlite(stack, &format!("db.executescript({sql:?})")).await),
    }
}

/// What a query of one value finds.
pub async fn value(stack: &Stack, sql: &str) -> String {
    match &stack.postgres {
        Some(postgres) => postgres.value(sql).await,
        None => sqlite(stack, &format!("print(db.execute({sql:?}).fetchone()[0])")).await.trim().to_owned(),
    }
}

async fn sqlite(stack: &Stack, python: &str) -> String {
    let file = stack.folder().join("shopery.db");
    let script = format!("import sqlite3\ndb = sqlite3.connect({file:?})\n{python}\n");
    let done = Command::new(parts::python()).args(["-c", &script]).stdin(Stdio::null()).output().await.unwrap();
    assert!(done.status.success(), "{python}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
