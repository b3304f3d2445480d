//! A probe of each instance, as a load balancer has: how long `readyz` takes, and what it says.
//! `livez` is asked at the same time, which needs nothing but a CPU: what it takes is what the
//! machine adds.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::Client;
use tokio::task::JoinSet;

/// The pause between two probes of an instance.
const PAUSE: Duration = Duration::from_millis(200);
/// A probe that takes longer has no answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Probes at work.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    _probes: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The longest time until a reply, or until none was waited for.
    longest: Duration,
    /// How much longer than `livez` at the same time, at the longest.
    longest_of_its_own: Duration,
    /// What was said by an instance that is not ready.
    refusals: Vec<(Instant, String)>,
}

impl Watch {
    /// Starts them.
    pub(crate) fn begin(sockets: &[impl AsRef<Path>]) -> anyhow::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut probes = JoinSet::new();
        for socket in sockets {
            let client =
                payment_proxy::config::tls::plain().unix_socket(socket.as_ref().to_owned());
            let client = client.timeout(TIMEOUT).build()?;
            probes.spawn(probe(client, Arc::clone(&seen)));
        }
        Ok(Self {
            seen,
            _probes: probes,
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code panics under this lock")
    }

    /// The longest time that a probe took.
    pub(crate) fn longest(&self) -> Duration {
        self.seen().longest
    }

    /// The longest time that a probe took beyond what the machine added.
    pub(crate) fn longest_of_its_own(&self) -> Duration {
        self.seen().longest_of_its_own
    }

    /// Whether an instance has said since then that it is not ready, in a text that contains this.
    pub(crate) fn has_said(&self, since: Instant, words: &str) -> bool {
        let seen = self.seen();
        let mut refusals = seen.refusals.iter();
        refusals.any(|(at, text)| *at >= since && text.contains(words))
    }

    /// The different texts with which instances have said since then that they are not ready.
    pub(crate) fn refusals(&self, since: Instant) -> Vec<String> {
        let seen = self.seen();
        let refusals = seen.refusals.iter().filter(|(at, _)| *at >= since);
        let mut texts: Vec<String> = refusals.map(|(_, text)| text.clone()).collect();
        texts.sort();
        texts.dedup();
        texts
    }
}

async fn probe(client: Client, seen: Arc<Mutex<Seen>>) {
    loop {
        let asked_at = Instant::now();
        let ask = async |path| {
            let reply = client.get(format!("http://instance/{path}")).send().await;
            (reply, asked_at.elapsed())
        };
        let ((reply, took), (_, machine)) = tokio::join!(ask("readyz"), ask("livez"));
        let answered = match &reply {
            Ok(_) => true,
            Err(error) => error.is_timeout(),
        };
        let refusal = match reply {
            Ok(reply) if !reply.status().is_success() => reply.text().await.ok(),
            _ => None,
        };
        {
            let mut seen = seen.lock().expect("no code panics under this lock");
            // An instance that is not there refuses the connection: that is no answer of its own.
            if answered {
                seen.longest = seen.longest.max(took);
                let own = took.saturating_sub(machine);
                seen.longest_of_its_own = seen.longest_of_its_own.max(own);
            }
            if let Some(text) = refusal {
                seen.refusals.push((asked_at, text));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
