//! The settings of an instance: one flag and one environment variable each, one default, in one
//! place.

pub mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;

use crate::config::tls::Authorities;
use crate::domain::cell::{Cell, Cells, MAX_CELLS};

/// Settings that every command that touches the database takes.
#[derive(Debug, Clone, Args)]
pub struct DatabaseSettings {
    /// Where PostgreSQL is, as a URL; its password is never logged. Several, with commas between
    /// them, are the cells of a deployment
    #[arg(
        long,
        global = true,
        env = "DATABASE_URL",
        value_name = "DATABASE_URL",
        hide_env_values = true,
        default_value = "postgres://payment_proxy@127.0.0.1:5432/payments"
    )]
    pub database_url: DatabaseUrls,

    /// The password, which then need not be in the URL, where some characters mean something else
    #[arg(
        long,
        global = true,
        env = "DATABASE_PASSWORD",
        value_name = "DATABASE_PASSWORD",
        hide_env_values = true
    )]
    pub database_password: Option<Password>,

    /// A file that holds the password; it goes before DATABASE_PASSWORD
    #[arg(
        long,
        global = true,
        env = "DATABASE_PASSWORD_FILE",
        value_name = "DATABASE_PASSWORD_FILE"
    )]
    pub database_password_file: Option<InFile<Password>>,

    /// DATABASE_URL past the pooler, for what needs a session of its own: migrations, archives and
    /// notifications; with the same cells, and the same password
    #[arg(
        long,
        global = true,
        env = "DIRECT_DATABASE_URL",
        value_name = "DIRECT_DATABASE_URL",
        hide_env_values = true
    )]
    pub direct_database_url: Option<DatabaseUrls>,

    /// Whether accepted payments survive a crash of the database server, at the cost of speed
    #[arg(
        long,
        global = true,
        env = "QUEUE_DURABILITY",
        value_name = "QUEUE_DURABILITY",
        value_enum,
        default_value_t = QueueDurability::Unlogged,
    )]
    pub queue_durability: QueueDurability,
}

impl DatabaseSettings {
    /// The settings of each cell.
    #[must_use]
    pub fn cells(&self) -> Cells<Self> {
        let urls = &self.database_url;
        Cells::make(urls.len(), |cell| Self {
            database_url: urls.at(cell),
            direct_database_url: self.direct_at(cell),
            ..self.clone()
        })
    }

    /// DIRECT_DATABASE_URL where that cell is meant. A list of another length stays as it is, for
    /// [`check_direct`](Self::check_direct) to refuse.
    fn direct_at(&self, cell: Cell) -> Option<DatabaseUrls> {
        let direct = self.direct_database_url.clone()?;
        let same = direct.len() == self.database_url.len();
        Some(if same { direct.at(cell) } else { direct })
    }

    /// Whether DIRECT_DATABASE_URL has as many cells as DATABASE_URL.
    ///
    /// # Errors
    /// It has not: how many there are.
    pub(crate) fn check_direct(&self) -> Result<(), String> {
        match &self.direct_database_url {
            None => Ok(()),
            Some(direct) => direct.has_cells_of("DIRECT_DATABASE_URL", &self.database_url),
        }
    }

    /// The cell that these settings lead to: the first, unless they are of [`cells`](Self::cells).
    #[must_use]
    pub fn cell(&self) -> Cell {
        self.database_url.cell
    }

    /// How to connect, under the name that the URL gives in `application_name`, or else as
    /// `application`.
    #[must_use]
    pub fn connect_options(&self, application: &str) -> PgConnectOptions {
        self.options_of(self.database_url.here(), application)
    }

    /// The same past the pooler, where DIRECT_DATABASE_URL says how.
    #[must_use]
    pub(crate) fn direct_options(&self, application: &str) -> PgConnectOptions {
        let url = self.direct_database_url.as_ref();
        self.options_of(url.unwrap_or(&self.database_url).here(), application)
    }

    fn options_of(&self, url: &DatabaseUrl, application: &str) -> PgConnectOptions {
        // Each session says its `extra_float_digits` itself. In the first message of a connection
        // poolers refuse it.
        let options = url.0.clone().extra_float_digits(None);
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name(application),
        };
        let in_file = self.database_password_file.as_ref().map(|file| &file.0);
        match in_file.or(self.database_password.as_ref()) {
            Some(Password(password)) => options.password(password),
            None => options,
        }
    }
}

/// The database as the role that owns the tables, where the service has another.
#[derive(Debug, Clone, Args)]
pub struct OwnerSettings {
    /// DATABASE_URL as the role that owns the tables, with the same cells; without it, as the
    /// service
    #[arg(
        long,
        env = "MIGRATE_DATABASE_URL",
        value_name = "MIGRATE_DATABASE_URL",
        hide_env_values = true
    )]
    pub migrate_database_url: Option<DatabaseUrls>,

    /// The password of that role
    #[arg(
        long,
        env = "MIGRATE_DATABASE_PASSWORD",
        value_name = "MIGRATE_DATABASE_PASSWORD",
        requires = "migrate_database_url",
        hide_env_values = true
    )]
    pub migrate_database_password: Option<Password>,

    /// A file that holds the password of that role; it goes before MIGRATE_DATABASE_PASSWORD
    #[arg(
        long,
        env = "MIGRATE_DATABASE_PASSWORD_FILE",
        value_name = "MIGRATE_DATABASE_PASSWORD_FILE",
        requires = "migrate_database_url"
    )]
    pub migrate_database_password_file: Option<InFile<Password>>,
}

impl OwnerSettings {
    /// The settings of the service, but with the owner's role.
    #[must_use]
    pub fn of(&self, service: &DatabaseSettings) -> DatabaseSettings {
        match &self.migrate_database_url {
            None => service.clone(),
            Some(url) => DatabaseSettings {
                database_url: url.clone(),
                database_password: self.migrate_database_password.clone(),
                database_password_file: self.migrate_database_password_file.clone(),
                direct_database_url: None,
                queue_durability: service.queue_durability,
            },
        }
    }
}

/// The settings of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateSettings {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub owner: OwnerSettings,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub purge: PurgeSettings,
}

impl MigrateSettings {
    /// The database as the owner of the tables.
    #[must_use]
    pub fn owner(&self) -> DatabaseSettings {
        self.owner.of(&self.database)
    }

    /// The settings of each cell.
    ///
    /// # Errors
    /// The owner has another number of cells.
    pub fn cells(&self) -> Result<Cells<Self>, String> {
        let service = &self.database.database_url;
        let owner = self.owner.migrate_database_url.as_ref();
        if let Some(owner) = owner {
            owner.has_cells_of("MIGRATE_DATABASE_URL", service)?;
        }
        Ok(Cells::make(service.len(), |cell| Self {
            database: DatabaseSettings {
                database_url: service.at(cell),
                direct_database_url: self.database.direct_at(cell),
                ..self.database.clone()
            },
            owner: OwnerSettings {
                migrate_database_url: owner.map(|owner| owner.at(cell)),
                ..self.owner.clone()
            },
            purge: self.purge.clone(),
        }))
    }
}

/// The setting that `serve` and `migrate` share.
#[derive(Debug, Clone, Args)]
pub struct PurgeSettings {
    /// Whether `POST /purge-payments` empties queue and ledger (`true` or `false`). `migrate`
    /// grants the right to it
    #[arg(
        long,
        env = "ALLOW_PURGE",
        value_name = "ALLOW_PURGE",
        default_value = "false",
        action = clap::ArgAction::Set,
    )]
    pub allow_purge: bool,
}

/// The setting that `serve` and `probe` share.
#[derive(Debug, Clone, Args)]
pub struct ListenSettings {
    /// Where the API listens: `host:port`, or `unix:/path`
    #[arg(
        long,
        env = "LISTEN",
        value_name = "LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: Listen,
}

/// Settings that every command that calls processors takes.
#[derive(Debug, Clone, Args)]
pub struct ProcessorsSettings {
    /// The processors in order of preference: `name,fee,url`, separated by white space
    #[arg(
        long,
        env = "PROCESSORS",
        value_name = "PROCESSORS",
        hide_env_values = true,
        default_value = "default,0.05,http://payment-processor-default:8080 \
            fallback,0.15,http://payment-processor-fallback:8080"
    )]
    pub processors: Processors,

    /// Milliseconds that a processor has to answer one call
    #[arg(
        long = "processor-timeout-ms",
        env = "PROCESSOR_TIMEOUT_MS",
        value_name = "PROCESSOR_TIMEOUT_MS",
        default_value = "15000",
        value_parser = milliseconds,
    )]
    pub processor_timeout: Duration,

    /// A file with the certificates of the authorities (PEM) that vouch for processors whose URL is
    /// `https`, and no others; without it, those that the system trusts
    #[arg(long, env = "PROCESSOR_CA_FILE", value_name = "PROCESSOR_CA_FILE")]
    pub processor_ca_file: Option<InFile<Authorities>>,
}

impl ProcessorsSettings {
    /// Who vouches for processors, where it is not the system that says so.
    #[must_use]
    pub fn authorities(&self) -> Option<&Authorities> {
        self.processor_ca_file.as_ref().map(|file| &file.0)
    }
}

/// The settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub listen: ListenSettings,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,

    /// Where summaries are read instead, as of a moment ago, and settled payments: a standby of the
    /// database, or one of each cell, in their order
    #[arg(
        long,
        env = "READ_DATABASE_URL",
        value_name = "READ_DATABASE_URL",
        hide_env_values = true
    )]
    pub read_database_url: Option<DatabaseUrls>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub processors: ProcessorsSettings,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub purge: PurgeSettings,

    /// Payments that may wait to be settled. Beyond it clients are told to come again
    #[arg(
        long,
        env = "QUEUE_LIMIT",
        value_name = "QUEUE_LIMIT",
        default_value = "5000000"
    )]
    pub queue_limit: NonZeroU64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub operator: OperatorSettings,

    /// What Prometheus may say instead, for `/metrics` and nothing else
    #[arg(
        long,
        env = "METRICS_TOKEN",
        value_name = "METRICS_TOKEN",
        hide_env_values = true
    )]
    pub metrics_token: Option<OperatorToken>,

    /// A file that holds it
    #[arg(
        long,
        env = "METRICS_TOKEN_FILE",
        value_name = "METRICS_TOKEN_FILE",
        conflicts_with = "metrics_token"
    )]
    pub metrics_token_file: Option<InFile<OperatorToken>>,

    /// Threads that serve payments. More instances serve better than more threads
    #[arg(
        long,
        env = "WORKER_THREADS",
        value_name = "WORKER_THREADS",
        default_value = "1"
    )]
    pub worker_threads: NonZeroUsize,

    /// Where traces are exported to, by OTLP over HTTP, such as http://collector:4318; they are not
    /// without it
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        value_parser = http_url,
    )]
    pub otel_exporter_otlp_endpoint: Option<Url>,

    /// The admin token of simulated processors. With it operators can make them slow or failing,
    /// and make payments up: never where processors are real
    #[arg(
        long,
        env = "SIMULATOR_TOKEN",
        value_name = "SIMULATOR_TOKEN",
        hide_env_values = true
    )]
    pub simulator_token: Option<SimulatorToken>,

    /// Milliseconds after an unanswered call in which the processor may still charge the payment
    #[arg(
        long = "late-charge-ms",
        env = "LATE_CHARGE_MS",
        value_name = "LATE_CHARGE_MS",
        default_value = "60000",
        value_parser = milliseconds,
    )]
    pub late_charge: Duration,

    /// Milliseconds for which an outage of a cheaper processor is waited for before a higher fee is
    /// paid
    #[arg(
        long = "hold-ms",
        env = "HOLD_MS",
        value_name = "HOLD_MS",
        default_value = "2000",
        value_parser = milliseconds_or_none,
    )]
    pub hold: Duration,
}

/// Settings that `serve` and `status` share.
#[derive(Debug, Clone, Args)]
pub struct OperatorSettings {
    /// Where the operator's API listens: `host:port`, or `unix:/path`. It is off without a token
    #[arg(
        long,
        env = "OPERATOR_LISTEN",
        value_name = "OPERATOR_LISTEN",
        default_value = "127.0.0.1:8081"
    )]
    pub operator_listen: Listen,

    /// What operators say in `Authorization: Bearer`; without it, the operator's API is off
    #[arg(
        long,
        env = "OPERATOR_TOKEN",
        value_name = "OPERATOR_TOKEN",
        hide_env_values = true
    )]
    pub operator_token: Option<OperatorToken>,

    /// A file that holds it
    #[arg(
        long,
        env = "OPERATOR_TOKEN_FILE",
        value_name = "OPERATOR_TOKEN_FILE",
        conflicts_with = "operator_token"
    )]
    pub operator_token_file: Option<InFile<OperatorToken>>,
}

impl OperatorSettings {
    /// The token, wherever it was given.
    #[must_use]
    pub fn token(&self) -> Option<&OperatorToken> {
        given(&self.operator_token, &self.operator_token_file)
    }
}

impl Settings {
    /// The token for `/metrics`, wherever it was given.
    #[must_use]
    pub(crate) fn metrics_token(&self) -> Option<&OperatorToken> {
        given(&self.metrics_token, &self.metrics_token_file)
    }
}

/// A secret that stands in a setting, or else in the file that another one names.
fn given<'a, T>(direct: &'a Option<T>, in_file: &'a Option<InFile<T>>) -> Option<&'a T> {
    direct.as_ref().or(in_file.as_ref().map(|file| &file.0))
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// What a crash of the database *server* does to payments that are accepted and not yet settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueueDurability {
    /// They are lost. A crash of the service, or a clean restart of the server, loses nothing.
    Unlogged,
    /// They survive.
    Logged,
}

impl QueueDurability {
    /// In a word, as it is configured.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlogged => "unlogged",
            Self::Logged => "logged",
        }
    }

    /// `pg_class.relpersistence` of the queue in this mode.
    #[must_use]
    pub fn relpersistence(self) -> i8 {
        i8::try_from(match self {
            Self::Unlogged => b'u',
            Self::Logged => b'p',
        })
        .expect("ASCII letters fit an i8")
    }
}

/// The operators' secret, which is not printed.
#[derive(Clone)]
pub struct OperatorToken(String);

impl OperatorToken {
    /// The shortest that is accepted, in bytes.
    pub(crate) const MIN_BYTES: usize = 16;

    /// The secret itself, to say it to an instance.
    #[must_use]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether that is the token, in a time that does not depend on how much of it is right.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        constant_time_eq::constant_time_eq(self.0.as_bytes(), given.as_bytes())
    }

    /// What nobody without the token can say of that text: its HMAC-SHA256, in hexadecimal.
    #[must_use]
    pub fn seal(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        hexadecimal(&mac.finalize().into_bytes())
    }
}

impl FromStr for OperatorToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() < Self::MIN_BYTES {
            return Err(format!("expected at least {} bytes", Self::MIN_BYTES));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("OperatorToken(..)")
    }
}

/// The password of a role of the database, which is not printed.
#[derive(Clone)]
pub struct Password(String);

impl FromStr for Password {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("expected a password".to_owned()),
            text => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password(..)")
    }
}

/// What stands in a file, as orchestrators hand over secrets; a newline at its end does not belong
/// to it.
#[derive(Debug, Clone)]
pub struct InFile<T>(pub T);

impl<T: FromStr<Err = String>> FromStr for InFile<T> {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
        let value = text.trim_end_matches(['\r', '\n']).parse();
        value
            .map(Self)
            .map_err(|error: String| format!("in that file, {error}"))
    }
}

/// The admin token of simulated processors, which is not printed.
#[derive(Clone)]
pub struct SimulatorToken(pub String);

impl FromStr for SimulatorToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("expected a token".to_owned()),
            text => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Debug for SimulatorToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SimulatorToken(..)")
    }
}

/// What the query of a database's URL may say. The library below leaves out what it does not know.
const URL_PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// A PostgreSQL URL that does not print its password.
#[derive(Clone)]
pub struct DatabaseUrl(pub PgConnectOptions);

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let accepted = "expected postgres://user:password@host:port/database";
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return Err(accepted.to_owned());
        }
        if text.contains('#') {
            return Err(format!("a # is written %23 in a URL; {accepted}"));
        }
        // Where this is no URL at all, the next step says so.
        let url = Url::parse(text).ok();
        for (name, _) in url.iter().flat_map(Url::query_pairs) {
            let is_option = name.strip_prefix("options[");
            let is_option = is_option.is_some_and(|name| name.len() > 1 && name.ends_with(']'));
            if !is_option && !URL_PARAMETERS.contains(&&*name) {
                return Err(format!(
                    "the parameter {name:?} is not known; known are {} and options[NAME]",
                    URL_PARAMETERS.join(", ")
                ));
            }
        }
        PgConnectOptions::from_str(text)
            .map(Self)
            .map_err(|error| format!("{error}; {accepted}"))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (options, database) = (&self.0, self.0.get_database().unwrap_or("-"));
        match options.get_socket() {
            Some(folder) => write!(out, "{database} at {}", folder.display()),
            None => write!(
                out,
                "{database} at {}:{}",
                options.get_host(),
                options.get_port()
            ),
        }
    }
}

/// The URLs of the databases of a deployment, one for each cell, with commas between them.
#[derive(Clone)]
pub struct DatabaseUrls {
    urls: Arc<[DatabaseUrl]>,
    /// The one that is meant.
    cell: Cell,
}

impl DatabaseUrls {
    /// That of the cell that is meant, which is the first unless [`at`](Self::at) said another.
    #[must_use]
    pub fn here(&self) -> &DatabaseUrl {
        &self.urls[self.cell.number() - 1]
    }

    /// The same list, where that cell is meant.
    #[must_use]
    pub fn at(&self, cell: Cell) -> Self {
        Self {
            urls: Arc::clone(&self.urls),
            cell,
        }
    }

    /// How many there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // There is at least one.
    pub fn len(&self) -> usize {
        self.urls.len()
    }

    /// Whether this list, the value of `variable`, has as many cells as `DATABASE_URL`.
    ///
    /// # Errors
    /// It has not: how many there are.
    pub(crate) fn has_cells_of(&self, variable: &str, database_url: &Self) -> Result<(), String> {
        match (self.len(), database_url.len()) {
            (own, cells) if own == cells => Ok(()),
            (own, cells) => Err(format!(
                "{variable} has {own} URLs and DATABASE_URL {cells}: give one for each cell, in \
                the same order"
            )),
        }
    }
}

impl FromStr for DatabaseUrls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A comma may also stand within a URL.
        let mut texts: Vec<String> = Vec::new();
        for part in text.split(',') {
            let begins = part.contains("://");
            match texts.last_mut() {
                Some(url) if !begins => {
                    url.push(',');
                    url.push_str(part);
                }
                _ => texts.push(part.to_owned()),
            }
        }
        if texts.len() > MAX_CELLS {
            return Err(format!("expected at most {MAX_CELLS} URLs"));
        }
        let several = texts.len() > 1;
        let urls = texts.iter().zip(1..).map(|(text, number)| {
            let url = if several { text.trim() } else { text };
            url.parse().map_err(|error| match several {
                true => format!("URL {number}: {error}"),
                false => error,
            })
        });
        let urls: Arc<[DatabaseUrl]> = urls.collect::<Result<_, String>>()?;
        let cells = Cells::make(urls.len(), |cell| cell);
        Ok(Self {
            urls,
            cell: *cells.first(),
        })
    }
}

impl fmt::Debug for DatabaseUrls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

impl fmt::Display for DatabaseUrls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, url) in self.urls.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{url}")?;
        }
        Ok(())
    }
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// `host:port`: the first address of this machine that the name leads to when an instance
    /// starts.
    Name(String),
    /// A unix socket, made at start and open to every local user.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("expected an absolute path after unix:".to_owned()),
            None => match text.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) if is_name_and_port(text) => Ok(Self::Name(text.to_owned())),
                Err(_) => Err(
                    "expected an address and port such as 127.0.0.1:8080 or name:8080, or \
                    unix:/path"
                        .to_owned(),
                ),
            },
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Name(name) => out.write_str(name),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// Whether that is a host's name and a port. What has digits and dots only is a mistyped address.
fn is_name_and_port(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.rsplit_once(':').is_some_and(|(host, port)| {
        host.bytes().all(letters)
            && host.bytes().any(|byte| byte.is_ascii_alphabetic())
            && port.parse::<u16>().is_ok()
    })
}

/// A payment processor as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessorSettings {
    /// Its name in tables, summaries and logs.
    pub name: String,
    /// The share of each payment that it keeps, from 0 to less than 1.
    pub fee: Decimal,
    /// The URL that its paths are joined to.
    pub url: Url,
}

/// Bytes of the hash of a query that are shown. Few, so that many queries have the same.
const QUERY_HASH_BYTES: usize = 4;

/// All processors in order of preference: at least one, with distinct names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processors(pub Vec<ProcessorSettings>);

impl ProcessorSettings {
    /// The URL in the one form that all ways to write it have in common, for others to read: in the
    /// place of its query, which may be a secret, stands a part of that query's hash, which tells
    /// it from another one and does not tell it.
    #[must_use]
    pub fn address(&self) -> String {
        // Reading it has made scheme and host lower case and left out a default port.
        let mut url = self.url.clone();
        url.set_query(None);
        let address = url.as_str().trim_end_matches('/').to_owned();
        let Some(query) = self.url.query() else {
            return address;
        };
        let hash = Sha256::digest(query);
        format!("{address}?query-{}", hexadecimal(&hash[..QUERY_HASH_BYTES]))
    }
}

impl FromStr for Processors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let processors = text
            .split_whitespace()
            .enumerate()
            .map(|(index, text)| parse_processor(index + 1, text))
            .collect::<Result<Vec<_>, _>>()?;
        if processors.is_empty() {
            return Err("expected at least one name,fee,url".to_owned());
        }
        for (index, processor) in processors.iter().enumerate() {
            let same =
                |earlier: &&ProcessorSettings| earlier.name.eq_ignore_ascii_case(&processor.name);
            if let Some(earlier) = processors[..index].iter().find(same) {
                return Err(match earlier.name == processor.name {
                    true => format!("the name {:?} stands twice", processor.name),
                    false => format!(
                        "the names {:?} and {:?} differ by case only, which people take for one \
                        processor",
                        earlier.name, processor.name
                    ),
                });
            }
            let address = processor.address();
            let mut earlier = processors[..index].iter();
            if let Some(earlier) = earlier.find(|earlier| earlier.address() == address) {
                return Err(format!(
                    "{:?} and {:?} have the same URL: one processor under two names",
                    earlier.name, processor.name
                ));
            }
        }
        Ok(Self(processors))
    }
}

/// Reads the `number`-th processor. What is wrong with it is said without its URL, which may hold
/// secrets.
fn parse_processor(number: usize, text: &str) -> Result<ProcessorSettings, String> {
    let parts: Vec<&str> = text.splitn(3, ',').collect();
    let [name, fee, url] = parts[..] else {
        return Err(format!("in entry {number} expected name,fee,url"));
    };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(letters) {
        return Err(format!(
            "in entry {number} expected a name of letters, digits, - and _"
        ));
    }
    let fee = Decimal::from_str_exact(fee)
        .ok()
        .filter(|fee| !fee.is_sign_negative() && *fee < Decimal::ONE)
        .ok_or_else(|| format!("of {name:?} expected a fee from 0 to less than 1, such as 0.05"))?;
    let url = Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.port() != Some(0))
        .ok_or_else(|| format!("of {name:?} expected a URL such as http://processor:8080"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "the URL of {name:?} has a user or a password, which no call would carry"
        ));
    }
    if url.fragment().is_some() {
        return Err(format!(
            "the URL of {name:?} has a fragment (#), which no call would carry"
        ));
    }
    Ok(ProcessorSettings {
        name: name.to_owned(),
        fee,
        url,
    })
}

/// Bytes as text.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| url.scheme() == "http" && url.has_host())
        .ok_or_else(|| "expected a URL such as http://collector:4318".to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match milliseconds_or_none(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("expected a whole number of milliseconds, 1 or more".to_owned()),
    }
}

fn milliseconds_or_none(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(count) => Ok(Duration::from_millis(u64::from(count))),
        Err(_) => Err("expected a whole number of milliseconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_list_of_processors_is_refused_with_what_is_accepted() {
        for (text, expected) in [
            ("", "at least one"),
            ("default", "name,fee,url"),
            ("default,0.05", "name,fee,url"),
            (",0.05,http://a", "a name of letters"),
            ("default,5%,http://a", "a fee from 0"),
            ("default,1,http://a", "a fee from 0"),
            ("default,0.05,ftp://a", "a URL"),
            ("a,0,http://me:secret@a", "a user or a password"),
            ("a,0,http://me@a", "a user or a password"),
            ("a,0,http://a/#part", "a fragment"),
            ("a,0,http://a:0", "a URL"),
            ("a,0,http://a:99999", "a URL"),
            ("a,0,http://[::1", "a URL"),
            ("a,0,http://", "a URL"),
            ("a,0,http://a a,0,http://b", "stands twice"),
            ("a,0,http://a A,0,http://b", "differ by case only"),
        ] {
            let error = text.parse::<Processors>().expect_err(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_address_that_others_read_tells_queries_apart_and_none_of_them() {
        let address = |url: &str| {
            let processors: Processors = format!("a,0,{url}").parse().expect(url);
            processors.0[0].address()
        };
        assert_eq!(address("HTTP://A:80/path/"), "http://a/path");
        let one = address("http://a/path?key=secret");
        let other = address("http://a/path?key=Secret");
        assert!(one.starts_with("http://a/path?query-") && one != other);
        assert!(!one.contains("secret") && !one.contains("key"), "{one}");
    }

    #[test]
    fn a_place_to_listen_is_an_address_a_name_or_a_socket() {
        for (text, expected) in [
            (
                "[::1]:0",
                Listen::Tcp(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0))),
            ),
            (
                "api-1.stack:8081",
                Listen::Name("api-1.stack:8081".to_owned()),
            ),
            ("unix:/a b", Listen::Unix("/a b".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "nowhere",
            ":8080",
            "a:b",
            "a:65536",
            "127.0.0.256:80",
            "a b:80",
            "::1:80",
            "unix:a",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_database_url_says_and_nobody_would_heed_is_refused_by_its_name() {
        for (url, expected) in [
            (
                "postgres://db/a?target_session_attrs=read-write",
                "\"target_session_attrs\"",
            ),
            (
                "postgres://db/a?sslmode=require&connect_timeout=3",
                "\"connect_timeout\"",
            ),
            (
                "postgres://db/a?channel_binding=require",
                "\"channel_binding\"",
            ),
            ("postgres://db/a?SSLMODE=require", "\"SSLMODE\""),
            ("postgres://db/a?options[]=1", "\"options[]\""),
            ("postgres://db/a?=", "\"\""),
            ("postgres://me:se#cret@db/a", "%23"),
        ] {
            let error = url.parse::<DatabaseUrl>().expect_err(url);
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("cret"), "{error}");
        }
    }

    #[test]
    fn a_password_is_the_files_or_else_the_variables_or_else_the_urls() {
        let settings = |file: Option<&str>, variable: Option<&str>| DatabaseSettings {
            database_url: "postgres://me:url@db/books".parse().expect("a URL"),
            database_password: variable.map(|text| text.parse().expect("a password")),
            database_password_file: file.map(|text| InFile(text.parse().expect("a password"))),
            direct_database_url: None,
            queue_durability: QueueDurability::Unlogged,
        };
        let nasty = "/#?@:% '\"\\$x";
        for (file, variable, expected) in [
            (None, None, "url"),
            (None, Some(nasty), nasty),
            (Some(nasty), Some("variable"), nasty),
        ] {
            let options = settings(file, variable).connect_options("payment-proxy");
            let same = options.clone().password(expected);
            assert_eq!(format!("{options:?}"), format!("{same:?}"), "{expected}");
        }
    }

    #[test]
    fn what_a_database_url_says_is_heeded() {
        let url: DatabaseUrls = "postgres://h/d?user=u&password=p&host=%2Fs&port=7&dbname=e\
            &application_name=till&options=-c%20geqo%3Doff&options[work_mem]=8MB&sslmode=disable\
            &statement-cache-capacity=50"
            .parse()
            .expect("a URL");
        let settings = DatabaseSettings {
            database_url: url,
            database_password: None,
            database_password_file: None,
            direct_database_url: None,
            queue_durability: QueueDurability::Logged,
        };
        let options = settings.connect_options("payment-proxy");
        assert_eq!(options.get_application_name(), Some("till"));
        assert_eq!(options.get_options(), Some("-c geqo=off -c work_mem=8MB"));
        assert_eq!(
            (
                options.get_username(),
                options.get_database(),
                options.get_port()
            ),
            ("u", Some("e"), 7)
        );
        let url = "postgres://h/d".parse().expect("a URL");
        let settings = DatabaseSettings {
            database_url: url,
            ..settings
        };
        let options = settings.connect_options("payment-proxy");
        assert_eq!(options.get_application_name(), Some("payment-proxy"));
    }

    #[test]
    fn a_list_of_urls_has_a_cell_for_each() {
        let list = "postgres://u:a,b@h/one?application_name=x,y, postgresql://h:7/two,\
            \n postgres:///three?host=/s";
        let settings = DatabaseSettings {
            database_url: list.parse().expect("three URLs"),
            database_password: None,
            database_password_file: None,
            direct_database_url: None,
            queue_durability: QueueDurability::Logged,
        };
        let shown = settings.database_url.to_string();
        assert_eq!(shown, "one at h:5432, two at h:7, three at /s");
        let names = settings.cells().map(|cell| {
            let options = cell.connect_options("payment-proxy");
            let database = options.get_database().map(str::to_owned);
            (cell.cell().to_string(), database.unwrap_or_default())
        });
        let names: Vec<(String, String)> = names.into_iter().collect();
        let expected = [("1", "one"), ("2", "two"), ("3", "three")];
        let expected = expected.map(|(cell, name)| (format!("cell {cell} of 3"), name.to_owned()));
        assert_eq!(names, expected);
        let first = settings.connect_options("payment-proxy");
        assert_eq!(first.get_application_name(), Some("x,y"));
        assert_eq!(first.get_database(), Some("one"), "the first unless said");
    }

    #[test]
    fn a_bad_url_in_a_list_is_named_by_its_number_and_not_shown() {
        for (list, expected) in [
            ("postgres://h/a,postgres://me:s3cret@h/b?x=1", "URL 2: "),
            ("postgres://h/a,postgrs://me:s3cret@h/b", "URL 2: "),
            (
                &vec!["postgres://h/a"; MAX_CELLS + 1].join(","),
                "at most 64",
            ),
        ] {
            let error = list.parse::<DatabaseUrls>().expect_err(list);
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_owner_has_as_many_cells_as_the_service() {
        let settings = |owner: &str| MigrateSettings {
            database: DatabaseSettings {
                database_url: "postgres://h/a,postgres://h/b".parse().expect("URLs"),
                database_password: None,
                database_password_file: None,
                direct_database_url: None,
                queue_durability: QueueDurability::Logged,
            },
            owner: OwnerSettings {
                migrate_database_url: Some(owner.parse().expect("URLs")),
                migrate_database_password: None,
                migrate_database_password_file: None,
            },
            purge: PurgeSettings { allow_purge: false },
        };
        let cells = settings("postgres://o@h/a,postgres://o@h/b").cells();
        let cells = cells.expect("as many");
        let urls: Vec<String> = cells
            .into_iter()
            .map(|cell| cell.owner().database_url.here().to_string())
            .collect();
        assert_eq!(urls, ["a at h:5432", "b at h:5432"]);
        let refused = settings("postgres://o@h/a").cells().expect_err("one only");
        assert!(refused.starts_with("MIGRATE_DATABASE_URL has 1 URLs and DATABASE_URL 2"));
    }

    #[test]
    fn a_refused_list_of_processors_never_prints_what_its_urls_hold() {
        for text in [
            "a,0,http://me:s3cret@a",
            "a,0,http://me:s3cret@a b",
            "a,2,http://me:s3cret@a?code=s3cret",
            "a,0,ftp://me:s3cret@a?code=s3cret",
            "a,0,http://a?code=s3cret#s3cret",
            "http://me:s3cret@a,0,a",
            "http://me:s3cret@a",
            "a,http://me:s3cret@a,0",
            "a,0,http://b?code=s3cret a,0,http://b?code=s3cret",
        ] {
            let error = text.parse::<Processors>().expect_err(text);
            assert!(!error.contains("s3cret"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_database_url_never_prints_its_password() {
        let url: DatabaseUrl = "postgres://me:secret@db:5433/books"
            .parse()
            .expect("a valid URL");
        assert_eq!(
            format!("{url} {url:?}"),
            "books at db:5433 books at db:5433"
        );
    }
}
