//! `payment-proxy deployment`: which database the deployment lives in, on what terms, and what
//! operators declare and acknowledge of it.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::output::{print_json, say};
use super::{CellArg, Common, SaidBy, connected, exit_code, field, paragraph};
use crate::config::{DatabaseSettings, OwnerSettings};
use crate::domain::lease::INSTANCE_TTL;
use crate::domain::payment::format_time;
use crate::pipeline::deployment::{Declaration, MemberTerms, declare};
use crate::store::database::{InCell, KnownCell, Session, interval, of_cell};
use crate::store::emptied_queue::{self, EmptiedQueue};
use crate::store::in_doubt::Author;

/// Declarations, and times that the queue was emptied, that are shown, at most.
const WORDS: i64 = 20;

/// `payment-proxy deployment`.
#[derive(Debug, Args)]
pub struct DeploymentArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub action: DeploymentAction,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cell: CellArg,
}

/// What to do with the deployment.
#[derive(Debug, Subcommand)]
pub enum DeploymentAction {
    /// Show which database it lives in, its terms, its instances, what was declared, and when the
    /// queue was emptied
    Show,
    /// Declare what this database is, that a restore is over, or which terms hold; as the owner of
    /// the tables
    Declare {
        /// What it is
        declaration: DeclarationArg,
        /// Why, to be kept in the database
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        reason: String,
        /// With `clone`: delete the open payments and dead letters of the copy, which are the
        /// original's to charge
        #[arg(long)]
        discard: bool,
        /// With `terms`: the instance whose terms hold from now on; `show` has its id
        #[arg(long, value_name = "INSTANCE", required_if_eq("declaration", "terms"))]
        like: Option<Uuid>,
        #[command(flatten)]
        #[allow(missing_docs)]
        owner: Box<OwnerSettings>,
    },
    /// Say that you have seen to what a crash or a failover took from an unlogged queue: operators
    /// are not told of it any more
    Acknowledge {
        /// What was done about it; it is kept
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        reason: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        said: SaidBy,
    },
}

/// What an operator can declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeclarationArg {
    /// The deployment's database, restored from a backup: every processor is asked for a payment
    /// before its first charge
    Restored,
    /// A copy for tests: what is open in it is deleted and never charged
    Clone,
    /// The deployment's database, moved as a whole while nothing ran, as by pg_upgrade
    Moved,
    /// The restore is over: nobody posts again what the backup lacked
    Checked,
    /// The instances go on with the terms of the instance in --like
    Terms,
}

/// What is known of the deployment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    /// Which cell this database is, where there are others.
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<KnownCell>,
    /// The database that it was recorded in.
    recorded: Option<String>,
    /// This database; another one, if this is a copy.
    here: String,
    asks_first: bool,
    terms: Option<MemberTerms>,
    instances: Vec<Instance>,
    /// The newest first.
    declared: Vec<Declared>,
    /// Crashes and failovers that emptied the queue, the newest first.
    emptied: Vec<EmptiedQueue>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    id: Uuid,
    program: Option<String>,
    alive: bool,
    /// Why it accepts and charges nothing.
    held: Option<String>,
    /// What of its terms differs from the deployment's.
    differences: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Declared {
    at: DateTime<Utc>,
    by: String,
    declaration: String,
    reason: String,
    details: String,
}

/// Runs `deployment`. Exits with [`DIFFERS`](super::DIFFERS) when something is held, the
/// declaration was refused, or there was nothing to acknowledge.
///
/// # Errors
/// The database did not answer, or does not allow it to this role.
pub async fn deployment(args: DeploymentArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        DeploymentAction::Show => {
            let (mut all, mut is_well) = (Vec::new(), true);
            for settings in args.cell.of(&args.common.database)? {
                let mut connection = connect(&settings).await?;
                let shown = look(&mut connection).await;
                all.push(shown.map_err(|error| InCell(settings.cell(), error))?);
            }
            for shown in &all {
                if !args.common.json {
                    print(shown)?;
                }
                let held = shown.instances.iter().any(|each| each.held.is_some());
                is_well &= !held && shown.recorded.as_ref() == Some(&shown.here);
            }
            match &all[..] {
                _ if !args.common.json => {}
                [shown] => print_json(shown)?,
                all => print_json(&all)?,
            }
            Ok(exit_code(is_well))
        }
        DeploymentAction::Declare {
            declaration,
            reason,
            discard,
            like,
            owner,
        } => {
            let declaration = match declaration {
                DeclarationArg::Restored => Declaration::Restored,
                DeclarationArg::Clone => Declaration::Clone { discard },
                DeclarationArg::Moved => Declaration::Moved,
                DeclarationArg::Checked => Declaration::Checked,
                DeclarationArg::Terms => Declaration::Terms {
                    like: like.unwrap_or_default(),
                },
            };
            let mut all = Vec::new();
            for settings in args.cell.of(&owner.of(&args.common.database))? {
                let cell = settings.cell();
                let mut connection = connect(&settings).await?;
                let declared = declare(&mut connection, declaration, &reason).await;
                let declared = declared.map_err(|error| InCell(cell, error))?;
                if !args.common.json {
                    let said = match &declared {
                        Ok(details) => format!("{}: {details}", declaration.as_str()),
                        Err(refused) => format!("refused, nothing was changed: {refused}"),
                    };
                    say!("{}", paragraph(&cell.named(said)))?;
                }
                all.push(declared);
            }
            match &all[..] {
                _ if !args.common.json => {}
                [declared] => print_json(declared)?,
                all => print_json(&all)?,
            }
            Ok(exit_code(all.iter().all(Result::is_ok)))
        }
        DeploymentAction::Acknowledge { reason, said } => {
            let author = Author::new(&said.by, &reason);
            let mut times = 0;
            for settings in args.cell.of(&args.common.database)? {
                let mut connection = connect(&settings).await?;
                let acknowledged = emptied_queue::acknowledge(&mut connection, &author).await;
                times += acknowledged.map_err(|error| InCell(settings.cell(), error))?;
            }
            if args.common.json {
                print_json(&Acknowledged {
                    acknowledged: times,
                })?;
            } else {
                let text = match times {
                    0 => "there is nothing to acknowledge".to_owned(),
                    1 => "acknowledged: the queue was emptied once".to_owned(),
                    times => format!("acknowledged: the queue was emptied {times} times"),
                };
                say!("{}", paragraph(&text))?;
            }
            Ok(exit_code(times > 0))
        }
    }
}

/// What an operator has acknowledged.
#[derive(Debug, Serialize)]
struct Acknowledged {
    /// How often the queue had been emptied.
    acknowledged: i64,
}

async fn connect(settings: &DatabaseSettings) -> anyhow::Result<PgConnection> {
    let options = settings.connect_options("payment-proxy deployment");
    let connection = connected(settings, Session::SERVICE.connect(&options)).await;
    connection.map_err(|error| of_cell(settings.cell(), error))
}

async fn look(connection: &mut PgConnection) -> Result<Shown, sqlx::Error> {
    let here = sqlx::query_scalar!(r#"SELECT database_identity() AS "here!""#)
        .fetch_one(&mut *connection)
        .await?;
    let known = sqlx::query!("SELECT identity, asks_first, terms::text AS terms FROM deployment")
        .fetch_optional(&mut *connection)
        .await?;
    let read = |terms: Option<String>| -> Option<MemberTerms> {
        terms.and_then(|terms| serde_json::from_str(&terms).ok())
    };
    let (recorded, asks_first, terms) = match known {
        Some(known) => (Some(known.identity), known.asks_first, read(known.terms)),
        None => (None, false, None),
    };
    let instances = sqlx::query!(
        r#"SELECT id, program, held, terms::text AS terms,
            seen_at BETWEEN now() - $1::interval AND now() + $1::interval AS "alive!"
        FROM service_instance ORDER BY seen_at DESC"#,
        interval(INSTANCE_TTL)
    )
    .fetch_all(&mut *connection)
    .await?;
    let instances = instances.into_iter().map(|row| {
        let own = read(row.terms);
        let differences = own
            .zip(terms.as_ref())
            .map(|(own, terms)| own.differences(terms));
        Instance {
            id: row.id,
            program: row.program,
            alive: row.alive,
            held: row.held.filter(|_| row.alive),
            differences: differences.unwrap_or_default(),
        }
    });
    let instances = instances.collect();
    let declared = sqlx::query_as!(
        Declared,
        r#"SELECT said_at AS at, said_by AS by, declaration, reason, details
            FROM deployment_declaration
        ORDER BY id DESC LIMIT $1"#,
        WORDS
    )
    .fetch_all(&mut *connection)
    .await?;
    let cell = KnownCell::read(&mut *connection).await?;
    let emptied = emptied_queue::list(&mut *connection, WORDS).await?;
    Ok(Shown {
        emptied,
        cell: cell.filter(|cell| cell.cells > 1),
        recorded,
        here,
        asks_first,
        terms,
        instances,
        declared,
    })
}

fn print(shown: &Shown) -> std::io::Result<()> {
    let line = |name: &str, text: &str| say!("{}", field(name, text));
    if let Some(known) = &shown.cell {
        let (cell, cells, deployment) = (known.cell, known.cells, known.deployment);
        line(
            "cell",
            &format!("{cell} of {cells} of deployment {deployment}"),
        )?;
    }
    let recorded = shown.recorded.as_deref().unwrap_or("nowhere");
    line("recorded in", recorded)?;
    match recorded == shown.here {
        true => line("this is", "that database")?,
        false => line("this is", &format!("a copy: {}", shown.here))?,
    }
    if shown.asks_first {
        let asks = "every processor is asked for a payment before its first charge";
        line("restored", asks)?;
    }
    match &shown.terms {
        Some(terms) => {
            for (name, processor) in &terms.processors {
                let (fee, url) = (&processor.fee, &processor.url);
                line("processor", &format!("{name}, fee {fee}, at {url}"))?;
            }
            let settings = format!(
                "{} queue, PROCESSOR_TIMEOUT_MS {}, LATE_CHARGE_MS {}",
                terms.queue_durability, terms.processor_timeout_ms, terms.late_charge_ms
            );
            line("settings", &settings)?;
        }
        None => line("terms", "the next instance says")?,
    }
    for instance in &shown.instances {
        let program = instance.program.as_deref().unwrap_or("an older program");
        let state = match (&instance.held, instance.alive) {
            (Some(held), _) => format!("held: {held}"),
            (None, true) => "serves".to_owned(),
            (None, false) => "not alive".to_owned(),
        };
        line("instance", &format!("{} ({program}) {state}", instance.id))?;
        for difference in &instance.differences {
            line("", difference)?;
        }
    }
    for declared in &shown.declared {
        let Declared {
            at,
            by,
            declaration,
            reason,
            details,
        } = declared;
        let at = format_time(*at);
        let declared = format!("{at} by {by}: {declaration}, {reason:?}: {details}");
        line("declared", &declared)?;
    }
    for emptied in &shown.emptied {
        let acknowledged = match (emptied.acknowledged_at, &emptied.acknowledged_by) {
            (Some(at), Some(by)) => format!(
                "acknowledged at {} by {by}: {:?}",
                format_time(at),
                emptied.reason.as_deref().unwrap_or_default()
            ),
            _ => "not acknowledged".to_owned(),
        };
        let noticed_at = format_time(emptied.noticed_at);
        line("queue emptied", &format!("{noticed_at}, {acknowledged}"))?;
    }
    Ok(())
}
