//! The plans by which the server executed the statements of the service, as the server itself tells
//! them.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::Database;

/// Collects plans while it lives, of what is executed on this thread in sessions that began after
/// it.
pub struct ExecutedPlans {
    plans: Arc<Mutex<Vec<String>>>,
    _collecting: DefaultGuard,
}

impl ExecutedPlans {
    /// Has the server tell the plan of every statement, those inside of functions included, to its
    /// client, as a notice, which sqlx logs.
    pub async fn of(database: &Database) -> Self {
        let name = database.url.rsplit('/').next().expect("the URL has a path");
        database
            .execute(&format!(
                "ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain';
                 ALTER DATABASE {name} SET auto_explain.log_min_duration = 0;
                 ALTER DATABASE {name} SET auto_explain.log_nested_statements = on;
                 ALTER DATABASE {name} SET auto_explain.log_level = 'notice'"
            ))
            .await;
        let plans = Arc::default();
        let layer = Collect(Arc::clone(&plans));
        let subscriber = tracing_subscriber::registry().with(layer);
        Self {
            plans,
            _collecting: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The plans so far of the statements that contain that text, and forgets all.
    pub fn take(&self, statement: &str) -> Vec<String> {
        let mut plans = self.plans.lock().expect("nothing panics under this lock");
        let all = std::mem::take(&mut *plans);
        all.into_iter()
            .filter(|plan| plan.contains(statement))
            .collect()
    }
}

struct Collect(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        if event.metadata().target() == "sqlx::postgres::notice" {
            event.record(&mut message);
        }
        if message.0.contains("plan:") {
            self.0
                .lock()
                .expect("nothing panics under this lock")
                .push(message.0);
        }
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
