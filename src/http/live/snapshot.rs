//! The whole picture that a viewer gets each second. Each stands for itself, so one that is missed,
//! or a connection that is made anew, needs no repair.

use chrono::{DateTime, Utc};
use router::Explanation;
use serde::Serialize;
use uuid::Uuid;

use super::money::Money;
use super::simulation::Simulation;
use super::window::Columns;
use crate::domain::attention::Item;
use crate::store::queue_statistics::QueueStatistics;
use crate::store::switch::Switch;

/// The service at one moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    /// When it was taken, in milliseconds from 1970.
    pub at_ms: i64,
    /// The instance that took it.
    pub instance: Uuid,
    /// Milliseconds for which the database has not answered. None: it answers.
    pub database_away_ms: Option<u64>,
    /// What wants an operator's attention, the most urgent first; the same as `GET /attention`.
    pub attention: Vec<Item>,
    /// What the database last said. None: nothing yet.
    pub deployment: Option<DeploymentView>,
    /// How many milliseconds ago it said so.
    pub deployment_age_ms: Option<u64>,
    /// The last two minutes.
    pub columns: Columns,
    /// What the router of this instance knows, see `GET /routing`.
    pub router: Explanation,
    /// The simulated processors, where there are any.
    pub simulation: Option<Simulation>,
}

/// What all instances have done together.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeploymentView {
    /// The tables.
    pub queue: QueueStatistics,
    /// When the newest dead letter died.
    pub newest_dead_letter_at: Option<DateTime<Utc>>,
    /// The money.
    pub money: Money,
    /// Who took processors out of use or put them back, when and why.
    pub switches: Vec<Switch>,
}
