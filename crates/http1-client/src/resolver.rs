//! The addresses of processors, as the system resolves names: by `getaddrinfo`, and so by
//! `/etc/hosts`, by `/etc/resolv.conf` as it is now, and by whatever else `/etc/nsswitch.conf`
//! says.
//!
//! The two families of addresses are asked for at the same time, because a name server may be
//! silent for one of them and a single question for both then waits for seconds. `getaddrinfo`
//! blocks and cannot be broken off, so each question has a thread of its own, and their number is
//! limited.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo};
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Notify;
use tower_service::Service;

/// How long an address is believed, whatever the name server says: that of a container engine says
/// ten minutes, and a processor that is started anew has another address at once.
pub const NAME_TTL: Duration = Duration::from_secs(2);
/// How long it is believed that a name has no address.
const ABSENCE_TTL: Duration = Duration::from_millis(250);
/// How long addresses of one family wait for those of the other (the resolution delay of RFC 8305).
const OTHER_FAMILY: Duration = Duration::from_millis(50);
/// After how long without an answer a question is asked again: the system repeats one that was lost
/// after 5 s, and it does not look again into files that were changed meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// The longest such pause, to which each further question doubles it.
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// Questions for one family of one name that may be open at once. Each holds a thread, for 10 s
/// where one name server is silent, for 30 s where three are.
const OPEN_QUESTIONS: usize = 16;
/// Bytes of the stack of such a thread.
const STACK_BYTES: usize = 512 * 1024;

/// Asks the system for the addresses of one family.
type Ask = dyn Fn(&str, Family) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Finds addresses. Clones share what they know; each name that they are asked for is remembered.
#[derive(Clone)]
pub struct Resolver {
    hosts: Arc<Mutex<HashMap<String, Arc<Host>>>>,
    ask: Arc<Ask>,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V6,
    V4,
}

impl Resolver {
    /// As the system finds them.
    #[must_use]
    pub fn of_system() -> Self {
        Self::asking(ask_system)
    }

    fn asking(
        ask: impl Fn(&str, Family) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            hosts: Arc::default(),
            ask: Arc::new(ask),
        }
    }

    /// The addresses of a name, IPv6 first: whoever connects tries the families side by side.
    ///
    /// # Errors
    /// It has none, or they cannot be found out.
    async fn find(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let host = {
            let mut hosts = lock(&self.hosts);
            Arc::clone(hosts.entry(name.to_owned()).or_default())
        };
        loop {
            let mut answered = pin!(host.answered.notified());
            answered.as_mut().enable();
            let until = match host.look(name, &self.ask, Instant::now()) {
                Look::Known(addresses) => return addresses,
                Look::Wait(until) => until,
            };
            let _ = tokio::time::timeout_at(until.into(), answered).await;
        }
    }
}

/// What is known of a name.
#[derive(Default)]
struct Host {
    families: Mutex<[Asked; 2]>,
    answered: Notify,
}

/// What is known of its addresses of one family.
#[derive(Default)]
struct Asked {
    answer: Option<Answer>,
    /// Questions that have no answer yet.
    open: usize,
    /// Since when there is any.
    open_since: Option<Instant>,
    /// When the last question was asked, and how long it has until the next.
    last: Option<(Instant, Duration)>,
}

struct Answer {
    asked_at: Instant,
    came_at: Instant,
    addresses: Result<Vec<SocketAddr>, String>,
}

enum Look {
    Known(io::Result<Vec<SocketAddr>>),
    /// Nothing before that, unless an answer comes.
    Wait(Instant),
}

impl Host {
    /// What is known now; asks for what is not.
    fn look(self: &Arc<Self>, name: &str, ask: &Arc<Ask>, now: Instant) -> Look {
        let mut families = lock(&self.families);
        for (index, family) in [Family::V6, Family::V4].into_iter().enumerate() {
            if families[index].is_due(now) {
                families[index].asks(now);
                self.spawn(name, ask, index, family, &mut families);
            }
        }
        let fresh = families.each_ref().map(|asked| asked.fresh(now));
        let found = |answers: &[&Answer]| {
            let addresses = answers
                .iter()
                .filter_map(|answer| answer.addresses.as_ref().ok());
            addresses.flatten().copied().collect::<Vec<_>>()
        };
        let next = families.iter().filter_map(Asked::asks_again_at).min();
        let next = next.unwrap_or(now + ASK_AGAIN);
        match fresh {
            [Some(v6), Some(v4)] => Look::Known(match found(&[v6, v4]) {
                addresses if addresses.is_empty() => Err(no_address(&[v6, v4])),
                addresses => Ok(addresses),
            }),
            [Some(one), None] | [None, Some(one)] => {
                let addresses = found(&[one]);
                let other_since = families.iter().filter_map(|asked| asked.open_since).max();
                let until = one.came_at.max(other_since.unwrap_or(now)) + OTHER_FAMILY;
                match addresses.is_empty() {
                    true => Look::Wait(next),
                    false if until <= now => Look::Known(Ok(addresses)),
                    false => Look::Wait(until.min(next)),
                }
            }
            [None, None] => Look::Wait(next),
        }
    }

    /// Asks in a thread.
    fn spawn(
        self: &Arc<Self>,
        name: &str,
        ask: &Arc<Ask>,
        index: usize,
        family: Family,
        families: &mut [Asked; 2],
    ) {
        let (host, ask, name) = (Arc::clone(self), Arc::clone(ask), name.to_owned());
        let asked_at = Instant::now();
        let asking = move || {
            let addresses = ask(&name, family);
            lock(&host.families)[index].answered(asked_at, addresses);
            host.answered.notify_waiters();
        };
        let thread = thread::Builder::new()
            .name("resolver".to_owned())
            .stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(asking) {
            families[index].answered(asked_at, Err(error));
        }
    }
}

impl Asked {
    fn fresh(&self, now: Instant) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| {
            let kept = match &answer.addresses {
                Ok(addresses) if !addresses.is_empty() => NAME_TTL,
                _ => ABSENCE_TTL,
            };
            now.saturating_duration_since(answer.came_at) < kept
        })
    }

    /// Whether a question is to be asked now.
    fn is_due(&self, now: Instant) -> bool {
        self.fresh(now).is_none()
            && match (self.open, self.asks_again_at()) {
                (0, _) => true,
                (1..OPEN_QUESTIONS, Some(at)) => at <= now,
                _ => false,
            }
    }

    /// When an open question is repeated, where it may be.
    fn asks_again_at(&self) -> Option<Instant> {
        let (at, pause) = self.last?;
        (1..OPEN_QUESTIONS).contains(&self.open).then(|| at + pause)
    }

    fn asks(&mut self, now: Instant) {
        let pause = match self.last {
            Some((_, pause)) if self.open > 0 => (2 * pause).min(ASK_AGAIN_AT_MOST),
            _ => ASK_AGAIN,
        };
        self.open += 1;
        self.open_since.get_or_insert(now);
        self.last = Some((now, pause));
    }

    /// An answer to a question of that time came. One to an older question tells nothing new.
    fn answered(&mut self, asked_at: Instant, addresses: io::Result<Vec<SocketAddr>>) {
        self.open -= 1;
        if self
            .answer
            .as_ref()
            .is_none_or(|known| known.asked_at <= asked_at)
        {
            self.answer = Some(Answer {
                asked_at,
                came_at: Instant::now(),
                addresses: addresses.map_err(|error| error.to_string()),
            });
            // What is still open is older: it is not waited for any more.
            self.open_since = None;
        }
    }
}

/// Why no family has an address.
fn no_address(answers: &[&Answer]) -> io::Error {
    let mut errors: Vec<&str> = answers
        .iter()
        .filter_map(|answer| answer.addresses.as_ref().err().map(String::as_str))
        .collect();
    errors.dedup();
    match errors.is_empty() {
        true => io::Error::other("the name has no address"),
        false => io::Error::other(errors.join("; ")),
    }
}

fn ask_system(name: &str, family: Family) -> io::Result<Vec<SocketAddr>> {
    let hints = AddrInfoHints {
        address: match family {
            Family::V6 => AddrFamily::Inet6,
            Family::V4 => AddrFamily::Inet,
        }
        .into(),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let found = getaddrinfo(Some(name), None, Some(hints))?;
    found.map(|found| Ok(found?.sockaddr)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Resolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Resolver")
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move { Ok(names.find(name.as_str()).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Longer than any call waits.
    const LONG: Duration = Duration::from_secs(60);
    const V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

    fn address(family: Family) -> SocketAddr {
        match family {
            Family::V6 => V6,
            Family::V4 => V4,
        }
    }

    async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(limit, future).await.ok()
    }

    #[tokio::test]
    async fn many_calls_at_once_ask_once_for_each_family() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let names = Resolver::asking(move |_, family| {
            count.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
            Ok(vec![address(family)])
        });
        let found = futures_util::future::join_all((0..500).map(|_| names.find("a"))).await;
        for addresses in found {
            assert_eq!(addresses.expect("addresses"), [V6, V4]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        names.find("b").await.expect("addresses");
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn silence_for_one_family_does_not_hide_the_other() {
        for silent in [Family::V6, Family::V4] {
            let names = Resolver::asking(move |_, family| {
                if family == silent {
                    thread::sleep(LONG);
                }
                Ok(vec![address(family)])
            });
            let found = within(Duration::from_secs(1), names.find("a")).await;
            let known = [Family::V6, Family::V4]
                .into_iter()
                .find(|one| *one != silent);
            let known = known.map(address).into_iter().collect::<Vec<_>>();
            assert_eq!(found.expect("in time").expect("addresses"), known);
        }
    }

    #[tokio::test]
    async fn a_family_without_addresses_is_no_error_while_the_other_has_one() {
        let names = Resolver::asking(|name, family| match (name, family) {
            ("a", Family::V6) => Err(io::Error::other("no AAAA")),
            ("b", _) => Err(io::Error::other("no such name")),
            ("c", _) => Ok(Vec::new()),
            _ => Ok(vec![address(family)]),
        });
        assert_eq!(names.find("a").await.expect("an address"), [V4]);
        let error = names.find("b").await.expect_err("none");
        assert_eq!(error.to_string(), "no such name");
        assert!(names.find("c").await.is_err());
    }

    #[tokio::test]
    async fn a_question_that_hangs_hides_no_later_answer_and_threads_are_limited() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // The first question of each family is lost.
        let names = Resolver::asking(move |name, family| {
            let earlier = count.fetch_add(1, Ordering::Relaxed);
            if name == "silent" || earlier < 2 {
                thread::sleep(LONG);
            }
            Ok(vec![address(family)])
        });
        let found = within(Duration::from_secs(1), names.find("a")).await;
        assert_eq!(found.expect("in time").expect("addresses"), [V6, V4]);
        assert_eq!(asked.swap(0, Ordering::Relaxed), 4);

        let calls = (0..100).map(|_| within(Duration::from_secs(1), names.find("silent")));
        let found = futures_util::future::join_all(calls).await;
        assert!(found.iter().all(Option::is_none), "nobody answers");
        let asked = asked.load(Ordering::Relaxed);
        assert!((2..=6).contains(&asked), "{asked} questions");
    }

    #[test]
    fn a_silent_server_gets_few_questions_however_many_call() {
        let (mut asked, begin) = (Asked::default(), Instant::now());
        for millisecond in 0..60_000 {
            let now = begin + Duration::from_millis(millisecond);
            if asked.is_due(now) {
                asked.asks(now);
            }
        }
        assert_eq!(asked.open, OPEN_QUESTIONS);
        // An answer to an old question is taken where there is none to a newer one, and not
        // otherwise.
        asked.answered(begin + LONG, Ok(vec![V4]));
        asked.answered(begin, Ok(vec![V6]));
        let answer = asked.answer.expect("an answer");
        assert_eq!(answer.addresses.expect("addresses"), [V4]);
        assert_eq!(asked.open, OPEN_QUESTIONS - 2);
    }
}
