//! `payment-proxy divide`: the payments of one database move into cells.

use clap::Args;

use crate::config::{DatabaseSettings, DatabaseUrls, MigrateSettings};
use crate::domain::cell::Cell;
use crate::store::divide::{self, Divided};

/// `payment-proxy divide`.
#[derive(Debug, Args)]
pub struct DivideArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: MigrateSettings,
    /// The database whose payments move, as the role that owns its tables; the password of that
    /// role for the cells holds here, too
    #[arg(
        long,
        env = "DIVIDE_DATABASE_URL",
        value_name = "DIVIDE_DATABASE_URL",
        hide_env_values = true
    )]
    pub from: DatabaseUrls,
}

/// Runs `divide`. It logs how far it is.
///
/// # Errors
/// As `migrate`, which makes the cells first, and [`divide::divide`].
pub async fn divide(args: DivideArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.from.len() == 1, "--from is one database");
    super::migrate(&args.settings).await?;
    let from = DatabaseSettings {
        database_url: args.from,
        direct_database_url: None,
        ..args.settings.owner()
    };
    let cells = args.settings.cells().map_err(anyhow::Error::msg)?;
    let divided = divide::divide(&from, &cells).await;
    let Divided {
        settled,
        open,
        dead,
        closed_for,
    } = divided.map_err(|error| match error.downcast_ref::<Cell>() {
        Some(_) => error,
        None => super::naming(&from, error),
    })?;
    tracing::info!(
        payments.settled = settled,
        payments.open = open,
        payments.dead = dead,
        closed_seconds = closed_for.as_secs_f64(),
        "all payments are in the cells: start instances with their list, and stop the others"
    );
    Ok(())
}
