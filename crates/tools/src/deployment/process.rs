//! A process of the round, which ends with it whatever happens.

use std::fs::OpenOptions;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Where the lines go that a process logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// To the end of its file.
    File,
    /// To a disk that is full.
    FullDisk,
    /// Into a pipe whose reader has gone.
    ReaderGone,
    /// Into a pipe that nobody reads.
    Unread,
}

/// A program that is started, ended and started again.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    program: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    /// How it is told to end when nobody waits for its end.
    end: Signal,
    child: Option<Child>,
    /// The other end of [`Log::Unread`].
    unread: Option<PipeReader>,
}

impl Process {
    /// One that is not started yet. `end` is what it is sent when this, or the whole torture, is
    /// gone.
    pub fn new(
        name: &'static str,
        logs: &Path,
        end: Signal,
        program: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Self {
        Self {
            name,
            program,
            environment,
            log: logs.join(format!("{name}.log")),
            end,
            child: None,
            unread: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Gives it other variables from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// Starts it; its log goes on where it was.
    pub fn start(&mut self) -> io::Result<()> {
        self.start_with(Log::File, &[])
    }

    /// Starts it with another log, and with other values of these variables, until it ends.
    ///
    /// It has to be called on a thread that lives as long as the round, as workers of the runtime
    /// do: the kernel's promise to end the child is bound to the thread that started it.
    pub fn start_with(&mut self, log: Log, variables: &[(&str, &str)]) -> io::Result<()> {
        self.unread = None;
        let mut file = OpenOptions::new();
        let log: OwnedFd = match log {
            Log::File => file.create(true).append(true).open(&self.log)?.into(),
            Log::FullDisk => file.write(true).open("/dev/full")?.into(),
            Log::ReaderGone => io::pipe()?.1.into(),
            Log::Unread => {
                let (reader, writer) = io::pipe()?;
                self.unread = Some(reader);
                writer.into()
            }
        };
        let signal = self.end.as_str().trim_start_matches("SIG");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", signal, "--"])
            .args(&self.program)
            .envs(self.environment.iter().cloned())
            .envs(variables.iter().copied())
            // A Ctrl-C at the terminal is for the torture, which ends its processes in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Its process id, while it has not been seen to end.
    pub fn pid(&self) -> Option<Pid> {
        let id = self.child.as_ref()?.id()?;
        i32::try_from(id).ok().map(Pid::from_raw)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It is our child and not waited for, so the id is still its own.
            let _ = kill(pid, signal);
        }
    }

    /// Stops it where it stands with its children, and says which they are; [`thaw`] lets them go
    /// on.
    pub fn freeze(&self) -> Option<Vec<Pid>> {
        let this = self.pid()?;
        // The parent first: it cannot start others after that.
        let _ = kill(this, Signal::SIGSTOP);
        let mut all = vec![this];
        all.extend(children(this));
        for pid in &all[1..] {
            let _ = kill(*pid, Signal::SIGSTOP);
        }
        Some(all)
    }

    /// Waits for its end, or gives up.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = tokio::time::timeout(within, child.wait())
            .await
            .ok()?
            .ok()?;
        self.child = None;
        Some(status)
    }

    /// Whether it has ended though nobody told it to.
    pub fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Kills it as a crash would.
    pub async fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.ended(Duration::from_secs(10)).await;
    }

    /// Asks it to end, and kills it when it takes longer. Returns whether it ended in time.
    pub async fn stop(&mut self, signal: Signal, within: Duration) -> bool {
        if self.child.is_none() {
            return true;
        }
        self.signal(signal);
        if self.ended(within).await.is_some() {
            return true;
        }
        self.crash().await;
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(self.end);
    }
}

/// Lets processes go on that were stopped where they stood.
pub fn thaw(all: &[Pid]) {
    for pid in all.iter().rev() {
        let _ = kill(*pid, Signal::SIGCONT);
    }
}

/// The children of a process.
pub fn children(of: Pid) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| status(*pid).is_some_and(|(_, parent)| parent == of.as_raw()))
        .collect()
}

/// The CPU time that a process and its children have used, those that have ended included.
pub fn cpu_time(pid: Pid) -> Duration {
    let own = stat(pid).map_or(0, |fields| {
        // utime, stime, and those of children that were waited for.
        let times = fields.iter().skip(11).take(4);
        times
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum::<u64>()
    });
    let own = Duration::from_millis(own * 1_000 / TICKS_PER_SECOND);
    own + children(pid).into_iter().map(cpu_time).sum::<Duration>()
}

/// What Linux counts CPU time in for programs, on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// What stands in `/proc/PID/stat` after the name of the program.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything but a last parenthesis.
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(fields.map(str::to_owned).collect())
}

/// The state letter of a process and its parent.
fn status(pid: Pid) -> Option<(char, i32)> {
    let fields = stat(pid)?;
    let parent = fields.get(1)?.parse().ok()?;
    Some((fields.first()?.chars().next()?, parent))
}

/// Whether it still runs; one that nobody has waited for has ended all the same.
pub fn lives(pid: Pid) -> bool {
    status(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}
