//! A worker whose every step is taken by hand: what it holds between claim, send and settle.

use std::sync::Arc;
use std::time::Duration;

use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::pipeline::route;
use payment_proxy::pipeline::settle::CompletedClaim;
use payment_proxy::processors::{Outcome, Stop, charge, find_charge, resolve};
use payment_proxy::store::claim::Claim;
use payment_proxy::store::clock::DatabaseClock;
use payment_proxy::telemetry::metrics::{EarlyLookup, Total};
use router::{Policy, ProcessorTerms, Router};
use rust_decimal::Decimal;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::{self, Moment};
use crate::site::{CALL_TIMEOUT, Site, Ways};
use crate::step::{Ending, Fate};

/// A value whose times were true at a moment.
pub struct Held<T> {
    pub what: T,
    pub since: Moment,
}

/// A call that waits for time to go by.
pub struct Call {
    pub site: usize,
    /// When it is over at the latest.
    pub due: Instant,
    task: JoinHandle<CompletedClaim>,
}

pub struct Actor {
    terms: LeasePolicy,
    /// What it knows of the database's clock: nothing when it has just started.
    pub clock: Arc<DatabaseClock>,
    ways: Arc<Vec<Ways>>,
    stop: Stop,
    pub claims: Vec<Held<Claim>>,
    pub calls: Vec<Call>,
    pub ended: Vec<CompletedClaim>,
}

/// What came of a send.
pub enum Sent {
    /// The processor works on it, and will store it or not.
    InTheWorks,
    /// There is nothing left that could happen to it there.
    Over,
}

impl Actor {
    pub fn start(sites: &[Site], terms: LeasePolicy) -> Self {
        Self {
            terms,
            clock: Arc::new(DatabaseClock::new(terms, Total::default())),
            ways: Arc::new(sites.iter().map(Site::ways).collect()),
            stop: Stop::default(),
            claims: Vec::new(),
            calls: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Sends a claim as the worker does. It comes back as an end, or as a call that waits for time.
    pub async fn send(&mut self, sites: &[Site], held: Held<Claim>, fate: Fate) -> Sent {
        let claim = held.what;
        let index = index_of(sites, &claim.processor);
        let site = &sites[index];
        let client = site.prepare(&self.ways[index], fate);
        let (served, hanging) = site.pending();
        let given_up = site.given_up();
        let stop = self.stop.clone();
        let task = tokio::spawn(async move {
            let outcome = match claim.earlier {
                None => charge(&client, &claim, permit(), &stop).await,
                Some(earlier) => resolve(&client, &claim, earlier, || Some(permit()), &stop).await,
            };
            CompletedClaim { claim, outcome }
        });
        let waits = || {
            let (served_now, hanging_now) = site.pending();
            served_now > served || hanging_now > hanging
        };
        clock::until("a request is answered or waits for time", || {
            match fate.ending {
                Ending::GatewayTimeout => task.is_finished() && (waits() || site.on_the_way() == 0),
                Ending::GatewayGaveUp => {
                    let at_once = fate.slow.is_none() || site.given_up() == given_up;
                    task.is_finished() && (waits() || at_once)
                }
                _ => task.is_finished() || waits(),
            }
        })
        .await;
        let in_the_works = site.pending().0 > served;
        let works_for = match fate.ending {
            Ending::ReplyHangs => CALL_TIMEOUT,
            _ => Duration::from_secs(fate.slow.unwrap_or_default()).min(CALL_TIMEOUT),
        };
        self.calls.push(Call {
            site: index,
            due: Instant::now() + works_for,
            task,
        });
        self.collect().await;
        if in_the_works {
            Sent::InTheWorks
        } else {
            Sent::Over
        }
    }

    /// Asks for payments whose lease runs, as an instance does when another one may have died.
    /// Returns how many are charged.
    pub async fn ask_elsewhere(&mut self, sites: &[Site], held: Vec<Claim>) -> usize {
        let known = self.ended.len();
        for claim in held {
            let client = &self.ways[index_of(sites, &claim.processor)].direct;
            let occasion = EarlyLookup::HeldElsewhere;
            if let Some(requested_at) = find_charge(client, &claim, 1, occasion).await {
                let outcome = Outcome::Charged { requested_at };
                self.ended.push(CompletedClaim { claim, outcome });
            }
        }
        self.ended.len() - known
    }

    /// Takes the ends of the calls that are over.
    pub async fn collect(&mut self) {
        let (over, open) = std::mem::take(&mut self.calls)
            .into_iter()
            .partition::<Vec<_>, _>(|call| call.task.is_finished());
        self.calls = open;
        for call in over {
            self.ended
                .push(call.task.await.expect("a call does not panic"));
        }
    }

    /// Waits for the calls of which this is true, without letting time go by.
    pub async fn wait_for(&mut self, over: impl Fn(&Call) -> bool) {
        let calls = &self.calls;
        clock::until("a call is over", || {
            calls
                .iter()
                .all(|call| !over(call) || call.task.is_finished())
        })
        .await;
        self.collect().await;
    }

    /// Dies, and begins anew with nothing.
    pub async fn crash(&mut self, sites: &[Site]) {
        for call in std::mem::replace(self, Self::start(sites, self.terms)).calls {
            call.task.abort();
            let _ = call.task.await;
        }
        // The processors see that their client is gone.
        clock::turn().await;
    }

    /// Sends nothing from now on.
    pub fn drain(&self) {
        self.stop.draining.cancel();
    }

    /// Leaves its open calls open.
    pub async fn stop_now(&mut self) {
        self.stop.now.cancel();
        self.wait_for(|_| true).await;
    }

    /// The first ends that it holds.
    pub fn take_ended(&mut self, count: usize) -> Vec<CompletedClaim> {
        let count = count.min(self.ended.len());
        self.ended.drain(..count).collect()
    }
}

pub fn index_of(sites: &[Site], name: &str) -> usize {
    sites
        .iter()
        .position(|site| site.name == name)
        .expect("a claim names a processor of the claim")
}

/// A permit of a router that knows of no trouble: the sequence decides who is sent where.
fn permit() -> router::Permit {
    let terms = ProcessorTerms {
        name: "any".to_owned(),
        fee: Decimal::ZERO,
    };
    let router = Router::new(Policy::default(), vec![terms], Duration::ZERO);
    route::share(router, &Arc::default(), &Arc::default())
        .try_permit(0)
        .expect("a new router has room")
}
