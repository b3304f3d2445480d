//! A database whose tables have no place to grow.

use std::process::Command;

use payment_proxy::database::Condition;

use super::Site;
use crate::server::Server;
use crate::support::Database;

/// A folder on a small disk of its own, which is gone with this.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where file systems cannot be mounted.
    pub fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::Builder::new()
            .prefix("pp")
            .tempdir_in("/tmp")
            .expect("a folder");
        let options = format!("size={megabytes}m,mode=0777");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(folder)),
            _ => None,
        }
    }

    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// Leaves no byte of it.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.path().join("filler")).expect("a file");
        let block = vec![0; 64 * 1024];
        for size in [block.len(), 4096, 1] {
            while std::io::Write::write_all(&mut file, &block[..size]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.path().join("filler")).expect("the file");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_of_once_and_survived() {
    let Some(disk) = SmallDisk::mount(48) else {
        eprintln!("SKIPPED: only root can mount the small disk that this needs");
        return;
    };
    let server = Server::start().await;
    let admin = Database::at(&server.url());
    let folder = disk.0.path().join("tables");
    std::fs::create_dir(&folder).expect("a folder");
    let owned = Command::new("chown").arg("postgres").arg(&folder).status();
    assert!(owned.expect("chown runs").success());
    admin
        .execute(&format!(
            "CREATE TABLESPACE small LOCATION '{}'",
            folder.display()
        ))
        .await;
    admin
        .execute("CREATE DATABASE small TABLESPACE small")
        .await;
    let url = server.url().replace("5432/postgres", "5432/small");
    // Every commit has a place in the log, which is on another disk; the tables have none to grow.
    let mut site = Site::open(&url, Database::at(&url), &[]).await;
    // They would be settled out of the room that is left.
    site.default.processor.set_failing(true);
    disk.fill();
    site.suffers(Condition::OutOfDisk).await;
    disk.empty();
    site.default.processor.set_failing(false);
    site.recovers().await;
}
