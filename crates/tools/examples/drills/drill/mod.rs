//! The drills, by what hurts: the front door, connections, the database, disks, time, and people.

mod connections;
mod database;
mod disks;
pub(crate) mod failover;
mod front_door;
mod people;
mod pooler;
mod restarts;
mod restore;
mod time;

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use payment_proxy::config::QueueDurability;

use crate::site::Site;
use tools::deployment::Setup;
use tools::deployment::cluster::no_replication_origins;
use tools::deployment::volume::Volume;

/// What is walked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drill {
    /// 4,200 clients that send a byte every 6 s, or every .8 s, through nginx
    SlowClients,
    /// 1,300 idle clients at each instance, which may open 1,024 files
    FewFiles,
    /// 2,000 clients at once while nginx stands still for a second, and HTTP/1.0 without a Host
    Crowd,
    /// 200 requests a second for /docs/, in public and as an operator, in turns with none
    DocsLoad,
    /// Wrong tokens at the operators' address, as fast as they come
    WrongTokens,
    /// Processors, and then the database, that break all connections, three times each
    BrokenConnections,
    /// Ten restarts of instances, one after the other, as the runbook says
    Restarts,
    /// A lock on the queue, and then on the ledger, for 6 s
    LockedTables,
    /// Indexes built and rebuilt CONCURRENTLY beside a transaction that stays open for 8 s
    IndexMaintenance,
    /// PostgreSQL stopped where it stands for 15 s
    FrozenDatabase,
    /// PostgreSQL killed with all its processes, three times (logged queue)
    KilledDatabase,
    /// The database's clock 85 s ahead while calls are open, 10 hours back with a crash, 10 minutes
    /// back
    ClockSteps,
    /// The volume of the database's tables full for 8 s, and a checkpoint meanwhile
    FullDisk,
    /// The volume of the WAL full until the server stops (logged queue)
    FullWal,
    /// The volume of the instances' logs full, at level debug
    FullLog,
    /// A dump restored in place that is older than what was settled, and posts of what it lacks
    RestoredDump,
    /// An auditor who lifts all limits, holds a snapshot and tries to fill the disk
    LongAudit,
    /// Failover: the synchronous standby is made the leader, as planned
    PlannedSwitchover,
    /// Failover: the leader's machine killed with -9, Patroni and PostgreSQL
    KilledLeader,
    /// Failover: the leader's machine stopped where it stands for 60 s
    FrozenLeader,
    /// Failover: etcd away for 60 s
    EtcdAway,
    /// Failover: HAProxy away for 1 s
    RestartedHaproxy,
    /// Failover: the synchronous standby killed with -9
    LostStandby,
    /// Behind a transaction pooler: PgBouncer killed with -9, three times
    KilledPooler,
    /// Behind a transaction pooler: PostgreSQL killed with all its processes, three times (logged)
    PooledCrash,
    /// Behind a transaction pooler: instances killed with -9, six times
    PooledInstances,
    /// Behind a transaction pooler: ten restarts of instances, one after the other
    PooledRestarts,
}

impl Drill {
    /// Its name, as `make drills DRILLS=...` takes it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What it does.
    pub(crate) fn about(self) -> String {
        let value = self.to_possible_value();
        let help = value.and_then(|value| Some(value.get_help()?.to_string()));
        help.unwrap_or_default()
    }

    /// Whether its database is three PostgreSQL under Patroni.
    pub(crate) fn is_replicated(self) -> bool {
        matches!(
            self,
            Self::PlannedSwitchover
                | Self::KilledLeader
                | Self::FrozenLeader
                | Self::EtcdAway
                | Self::RestartedHaproxy
                | Self::LostStandby
        )
    }

    /// Whether PgBouncer is between the instances and the database, in transaction mode.
    pub(crate) fn is_pooled(self) -> bool {
        matches!(
            self,
            Self::KilledPooler | Self::PooledCrash | Self::PooledInstances | Self::PooledRestarts
        )
    }

    /// Size of the small file system that it needs, in megabytes.
    pub(crate) fn volume(self) -> Option<u32> {
        match self {
            Self::FullDisk => Some(128),
            Self::FullWal => Some(112),
            Self::FullLog => Some(48),
            _ => None,
        }
    }

    /// Whether clients may be told 503.
    pub(crate) fn refuses(self) -> bool {
        self.is_replicated()
            || matches!(
                self,
                Self::BrokenConnections
                    | Self::LockedTables
                    | Self::IndexMaintenance
                    | Self::FrozenDatabase
                    | Self::KilledDatabase
                    | Self::ClockSteps
                    | Self::FullDisk
                    | Self::FullWal
                    | Self::RestoredDump
                    | Self::KilledPooler
                    | Self::PooledCrash
                    | Self::PooledInstances
            )
    }

    /// The highest p99 with which it passes: for attacks of which others should notice little. It
    /// has room for a machine whose CPUs the attack itself takes.
    pub(crate) fn p99_limit(self) -> Option<Duration> {
        match self {
            Self::SlowClients | Self::FewFiles | Self::DocsLoad | Self::WrongTokens => {
                Some(Duration::from_millis(500))
            }
            _ => None,
        }
    }

    /// Makes the deployment one to which this can happen.
    pub(crate) fn adapt(
        self,
        setup: &mut Setup,
        folder: &Path,
        volume: Option<&Volume>,
    ) -> anyhow::Result<()> {
        setup.pooled = self.is_pooled();
        let on_volume = |name: &str| volume.map(|volume| volume.path().join(name));
        match self {
            Self::FewFiles => setup.most_files = Some(1_024),
            Self::KilledDatabase | Self::PooledCrash => setup.durability = QueueDurability::Logged,
            Self::ClockSteps => setup.clock_can_be_set = true,
            Self::FullDisk => {
                setup.server_settings = vec![no_replication_origins()?.to_owned()];
                setup.data = on_volume("data");
                setup.wal = Some(folder.join("wal"));
            }
            Self::FullWal => {
                setup.durability = QueueDurability::Logged;
                setup.wal = on_volume("wal");
            }
            Self::FullLog => {
                setup.instance_logs = on_volume("logs");
                setup.settings = &[("LOG_FORMAT", "json"), ("RUST_LOG", "debug")];
            }
            _ => {}
        }
        for made in setup.wal.iter().chain(&setup.instance_logs) {
            std::fs::create_dir(made)?;
        }
        Ok(())
    }

    /// Lets it happen, and heals it.
    pub(crate) async fn run(self, site: &Site) -> anyhow::Result<()> {
        match self {
            Self::SlowClients => front_door::slow_clients(site).await,
            Self::FewFiles => front_door::few_files(site).await,
            Self::Crowd => front_door::crowd(site).await,
            Self::DocsLoad => front_door::docs_load(site).await,
            Self::WrongTokens => people::wrong_tokens(site).await,
            Self::BrokenConnections => connections::broken(site).await,
            Self::Restarts => restarts::one_by_one(site).await,
            Self::LockedTables => database::locked_tables(site).await,
            Self::IndexMaintenance => database::index_maintenance(site).await,
            Self::FrozenDatabase => database::frozen(site).await,
            Self::KilledDatabase => database::killed(site).await,
            Self::ClockSteps => time::clock_steps(site).await,
            Self::FullDisk => disks::full_disk(site).await,
            Self::FullWal => disks::full_wal(site).await,
            Self::FullLog => disks::full_log(site).await,
            Self::RestoredDump => restore::restored_dump(site).await,
            Self::LongAudit => people::long_audit(site).await,
            Self::PlannedSwitchover => failover::switchover(site).await,
            Self::KilledLeader => failover::killed_leader(site).await,
            Self::FrozenLeader => failover::frozen_leader(site).await,
            Self::EtcdAway => failover::etcd_away(site).await,
            Self::RestartedHaproxy => failover::restarted_haproxy(site).await,
            Self::LostStandby => failover::lost_standby(site).await,
            Self::KilledPooler => pooler::killed(site).await,
            Self::PooledCrash => database::killed(site).await,
            Self::PooledInstances => pooler::killed_instances(site).await,
            Self::PooledRestarts => restarts::one_by_one(site).await,
        }
    }
}
