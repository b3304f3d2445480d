//! A small file system of its own, which can be filled.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A folder on a small file system (tmpfs), which is gone with this.
#[derive(Debug)]
pub struct Volume(TempDir);

impl Volume {
    /// None where file systems cannot be mounted, which takes root.
    pub fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("pp").tempdir_in("/tmp");
        let folder = folder.ok()?;
        let options = format!("size={megabytes}m,mode=0777");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.ok()?.status.success().then_some(Self(folder))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte of it. What is freed meanwhile is taken by the next call.
    ///
    /// # Errors
    /// The file that fills it cannot be opened.
    pub fn fill(&self) -> io::Result<()> {
        let filler = self.0.path().join("filler");
        let mut file = File::options().create(true).append(true).open(filler)?;
        let block = vec![0; 64 * 1024];
        for size in [block.len(), 4_096, 1] {
            while file.write_all(&block[..size]).is_ok() {}
        }
        Ok(())
    }

    /// Takes away what [`Self::fill`] wrote.
    ///
    /// # Errors
    /// It was not filled.
    pub fn empty(&self) -> io::Result<()> {
        fs::remove_file(self.0.path().join("filler"))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}
