//! A database whose tables have no place to grow.

use std::process::Command;

use payment_proxy::store::database::Condition;

use super::Site;
use super::volume::Volume;
use crate::server::Server;
use crate::support::Database;

/// A database of that server whose tables are on that disk.
pub async fn database_on(disk: &Volume, server: &Server) -> Database {
    let admin = Database::at(&server.url());
    let folder = disk.path().join("tables");
    std::fs::create_dir(&folder).expect("a folder");
    let owned = Command::new("chown").arg("postgres").arg(&folder).status();
    assert!(owned.expect("chown runs").success());
    let space = format!("CREATE TABLESPACE small LOCATION '{}'", folder.display());
    admin.execute(&space).await;
    admin
        .execute("CREATE DATABASE small TABLESPACE small")
        .await;
    Database::at(&server.url().replace("5432/postgres", "5432/small"))
}

#[tokio::test]
async fn a_full_disk_is_told_of_once_and_survived() {
    let Some(disk) = Volume::mount(48) else {
        eprintln!("SKIPPED: only root can mount the small disk that this needs");
        return;
    };
    let server = Server::start().await;
    let database = database_on(&disk, &server).await;
    let url = database.url.clone();
    // Every commit has a place in the log, which is on another disk; the tables have none to grow.
    let mut site = Site::open(&url, database, &[]).await;
    // They would be settled out of the room that is left.
    site.default.processor.set_failing(true);
    disk.fill().expect("the disk is filled");
    site.suffers(Condition::OutOfDisk).await;
    disk.empty().expect("the disk is emptied");
    site.default.processor.set_failing(false);
    site.recovers().await;
}
