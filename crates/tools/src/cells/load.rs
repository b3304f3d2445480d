//! Clients: each payment is posted until it is accepted, to one instance after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use payment_proxy::domain::cell::Cell;
use reqwest::{Client, StatusCode};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a client waits for a reply.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits after both instances refused.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a payment is posted before its client gives up.
const POSTS: u32 = 240;
/// The amount of every payment.
pub(crate) const AMOUNT: &str = "19.90";
/// The time between two looks whether something was accepted.
const POLL: Duration = Duration::from_millis(20);

/// What became of posts that were not refused, by phase and cell.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    accepted: u32,
    /// No reply, or a status that no client should see.
    other: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Of the deployment.
    cells: usize,
    phases: Vec<&'static str>,
    told: BTreeMap<(usize, usize), Told>,
    /// Posts that got 503, by the phases of post and reply, and by cell.
    refused: BTreeMap<(usize, usize, usize), u32>,
    accepted: Vec<Uuid>,
    given_up: Vec<Uuid>,
    /// When a payment of each cell was accepted last.
    last: BTreeMap<usize, Instant>,
}

/// Posts new payments at a steady rate.
pub(crate) struct Load {
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome(State);

/// A client of each instance.
pub(crate) fn clients(sockets: &[PathBuf]) -> Vec<Client> {
    let client = |socket: &PathBuf| {
        let client = payment_proxy::config::tls::plain().unix_socket(socket.as_path());
        client.timeout(TIMEOUT).build().expect("a client")
    };
    sockets.iter().map(client).collect()
}

/// Posts a payment once.
pub(crate) async fn post(client: &Client, id: Uuid) -> Option<StatusCode> {
    let body = format!(r#"{{"correlationId":"{id}","amount":{AMOUNT}}}"#);
    let request = client.post("http://instance/payments");
    let request = request
        .header("content-type", "application/json")
        .body(body);
    Some(request.send().await.ok()?.status())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no code panics under this lock")
}

impl Load {
    /// Begins, without a phase.
    pub(crate) fn start(sockets: &[PathBuf], rate: u32, cells: usize) -> Self {
        let state = Arc::new(Mutex::new(State {
            cells,
            ..State::default()
        }));
        let stop = CancellationToken::new();
        let clients = Arc::new(clients(sockets));
        let (shared, stopped) = (Arc::clone(&state), stop.clone());
        let running = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
            let mut posts = JoinSet::new();
            while !stopped.is_cancelled() {
                ticks.tick().await;
                let (state, clients) = (Arc::clone(&shared), Arc::clone(&clients));
                posts.spawn(async move { one(&state, &clients).await });
                while posts.try_join_next().is_some() {}
            }
            posts.join_all().await;
        });
        Self {
            state,
            stop,
            running,
        }
    }

    /// From now on this is so.
    pub(crate) fn phase(&self, phase: &'static str) {
        println!("{phase}");
        lock(&self.state).phases.push(phase);
    }

    /// Waits until payments of those cells that were posted from now on are accepted. Returns how
    /// long that took.
    pub(crate) async fn until_accepted_in(
        &self,
        cells: &[usize],
        within: Duration,
    ) -> anyhow::Result<Duration> {
        let begun_at = Instant::now();
        loop {
            let since = |state: &State, cell| state.last.get(cell).is_some_and(|at| *at > begun_at);
            if cells.iter().all(|cell| since(&lock(&self.state), cell)) {
                return Ok(begun_at.elapsed());
            }
            anyhow::ensure!(
                begun_at.elapsed() < within,
                "cells {cells:?} take no payments within {within:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Posts nothing new, and waits until every payment was accepted.
    pub(crate) async fn stop(self) -> Outcome {
        self.stop.cancel();
        let _ = self.running.await;
        Outcome(std::mem::take(&mut *lock(&self.state)))
    }
}

/// The life of one client.
async fn one(state: &Mutex<State>, clients: &[Client]) {
    let id = Uuid::new_v4();
    let cell = Cell::of_payment(id, lock(state).cells);
    for round in 0..POSTS {
        for turn in 0..clients.len() {
            // That in which the post begins, whatever is so when the reply comes.
            let phase = lock(state).phases.len();
            let instance = (id.as_u128() as usize).wrapping_add(turn) % clients.len();
            let told = post(&clients[instance], id).await;
            let mut state = lock(state);
            let until = state.phases.len();
            match told {
                Some(status) if status.is_success() => {
                    state.told.entry((phase, cell)).or_default().accepted += 1;
                    state.accepted.push(id);
                    state.last.insert(cell, Instant::now());
                    return;
                }
                Some(StatusCode::SERVICE_UNAVAILABLE) => {
                    *state.refused.entry((phase, until, cell)).or_default() += 1;
                }
                _ => state.told.entry((phase, cell)).or_default().other += 1,
            }
        }
        if round + 1 < POSTS {
            tokio::time::sleep(PAUSE).await;
        }
    }
    lock(state).given_up.push(id);
}

impl Outcome {
    /// The payments that were accepted.
    pub(crate) fn accepted(&self) -> &[Uuid] {
        &self.0.accepted
    }

    /// How many of that cell were accepted in that phase.
    pub(crate) fn accepted_in(&self, phase: &str, cell: usize) -> u32 {
        let place = self.place(phase);
        place.map_or(0, |place| self.told(place, cell).accepted)
    }

    /// Payments that no instance accepted.
    pub(crate) fn given_up(&self) -> &[Uuid] {
        &self.0.given_up
    }

    /// Posts of that cell in that phase that got 503.
    pub(crate) fn refused(&self, phase: &str, cell: usize) -> u32 {
        let place = self.place(phase);
        place.map_or(0, |place| self.refused_at(place, cell))
    }

    /// What was refused of each cell: the numbers of the phases of post and reply, counted from 0,
    /// the cell, and how many posts.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (usize, usize, usize, u32)> {
        let counted = self.0.refused.iter();
        counted.map(|(&(from, until, cell), &posts)| {
            (from.saturating_sub(1), until.saturating_sub(1), cell, posts)
        })
    }

    /// The number of a phase, from 0 on.
    fn place(&self, phase: &str) -> Option<usize> {
        self.0.phases.iter().position(|known| *known == phase)
    }

    fn told(&self, place: usize, cell: usize) -> Told {
        let told = self.0.told.get(&(place + 1, cell));
        told.copied().unwrap_or_default()
    }

    fn refused_at(&self, place: usize, cell: usize) -> u32 {
        let until = (place + 1, 0, cell)..=(place + 1, usize::MAX, cell);
        let refused = self.0.refused.range(until);
        let refused = refused.filter(|((_, _, of), _)| *of == cell);
        refused.map(|(_, posts)| posts).sum()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:26} {:>6} {:>9} {:>9} {:>9}",
            "phase", "cell", "accepted", "503", "other"
        )?;
        for (place, phase) in self.0.phases.iter().enumerate() {
            for cell in 1..=self.0.cells {
                let Told { accepted, other } = self.told(place, cell);
                let refused = self.refused_at(place, cell);
                writeln!(
                    out,
                    "{phase:26} {cell:>6} {accepted:>9} {refused:>9} {other:>9}"
                )?;
            }
        }
        Ok(())
    }
}
