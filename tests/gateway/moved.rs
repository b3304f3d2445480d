//! Names of processors, as a system resolves them: in a mount namespace with files of its own under
//! `/etc`, and a name server on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http1_client::NAME_TTL;
use payment_proxy::serve::SHUTDOWN;
use simulator::{self, Running};
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, TIMEOUT, eventually, processor};

/// How long the name server says that its answers hold, in seconds, as that of a container engine
/// does.
const TTL: u32 = 600;
/// How much later than it should an address may be found, on a busy machine.
const SLACK: Duration = Duration::from_secs(3);
const NAME: &str = "processor.test";
const OLD: Ipv4Addr = Ipv4Addr::LOCALHOST;
const NEW: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What a name server answers for every name.
#[derive(Debug, Clone, Copy)]
enum Answers {
    /// This address, and none of IPv6.
    All(Ipv4Addr),
    /// This address; questions for IPv6 are dropped.
    Ipv4Only(Ipv4Addr),
    /// All questions are dropped.
    Nothing,
}

/// A system whose names are ours.
struct System {
    folder: TempDir,
    answers: watch::Sender<Answers>,
}

impl System {
    /// None where nobody may make one.
    async fn start(answers: Answers) -> Option<Self> {
        let possible = Command::new("unshare")
            .args(["--mount", "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !possible {
            eprintln!("SKIPPED: only root can have files of its own under /etc and a name server");
            return None;
        }
        // An address of its own, so that tests do not meet.
        let [_, a, b, c] = Uuid::new_v4().as_u128().to_be_bytes()[..4] else {
            unreachable!("four bytes")
        };
        let address = SocketAddr::from(([127, a, b, c.clamp(1, 254)], 53));
        let socket = UdpSocket::bind(address).await.expect("port 53");
        let answers = watch::Sender::new(answers);
        tokio::spawn(serve_names(socket, answers.subscribe()));
        let folder = tempfile::tempdir().expect("a folder");
        let system = Self { folder, answers };
        system.set_hosts("");
        let servers = format!("nameserver {}\n", address.ip());
        std::fs::write(system.file("resolv.conf"), servers).expect("it is ours");
        std::fs::write(system.file("nsswitch.conf"), "hosts: files dns\n").expect("it is ours");
        Some(system)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What stands in `/etc/hosts`, beside `localhost`. Written in place: that very file is
    /// mounted.
    fn set_hosts(&self, line: &str) {
        let text = format!("127.0.0.1 localhost\n{line}\n");
        std::fs::write(self.file("hosts"), text).expect("it is ours");
    }

    /// A command that ends in this program, and runs in this system.
    fn run(&self, program: &str) -> Command {
        const MOUNT: &str = r#"for file in hosts resolv.conf nsswitch.conf; do
            mount --bind "$0/$file" "/etc/$file" || exit; done; exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNT]);
        command.arg(self.folder.path()).arg(program);
        command
    }

    fn gateway(&self, database: &Database, port: u16) -> Gateway {
        let program = self.run(env!("CARGO_BIN_EXE_payment-proxy"));
        let processors = format!("default,0.05,http://{NAME}:{port}");
        Gateway::spawn_by(program, &database.url, &processors, &[], |folder| {
            std::fs::File::create(folder.join("log")).expect("a log file")
        })
    }
}

async fn serve_names(socket: UdpSocket, answers: watch::Receiver<Answers>) {
    let mut datagram = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut datagram).await.expect("a question");
        let answers = *answers.borrow();
        if let Some(reply) = reply(&datagram[..length], answers) {
            socket.send_to(&reply, client).await.expect("sent");
        }
    }
}

/// The answer to a question (RFC 1035, 4.1), if there is one.
fn reply(question: &[u8], answers: Answers) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let labels = question[HEADER_BYTES..]
        .iter()
        .position(|byte| *byte == 0)?;
    let name_end = HEADER_BYTES + labels + 1;
    let is_ipv4 = question[name_end..name_end + 2] == TYPE_A;
    let address = match answers {
        Answers::All(address) | Answers::Ipv4Only(address) if is_ipv4 => Some(address),
        Answers::All(_) => None,
        Answers::Ipv4Only(_) | Answers::Nothing => return None,
    };
    let mut reply = question[..2].to_vec();
    // A reply without an error, to one question.
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend(&question[HEADER_BYTES..name_end + 4]);
    if let Some(address) = address {
        // The name of the question, an address of the internet.
        reply.extend([0xC0, HEADER_BYTES as u8, 0, 1, 0, 1]);
        reply.extend(TTL.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

/// The processor goes on at another address, with its ledger.
async fn moved(running: Running, to: Ipv4Addr) -> Running {
    let (books, port) = (Arc::clone(&running.processor), running.addr.port());
    running.kill().await;
    let listener = TcpListener::bind((to, port)).await;
    simulator::serve(books, listener.expect("the port there")).expect("a processor")
}

/// Posts a payment, which is settled within that limit.
async fn settles_within(gateway: &Gateway, limit: Duration) {
    let id = Uuid::new_v4();
    assert_eq!(gateway.post(id, CENTS).await, 202);
    let begun_at = Instant::now();
    gateway.until_settled(&[id]).await;
    let took = begun_at.elapsed();
    assert!(took < limit, "{took:?}: {}", gateway.log());
}

#[tokio::test]
async fn a_processor_that_changes_its_address_is_found_again_within_seconds() {
    let Some(system) = System::start(Answers::All(OLD)).await else {
        return;
    };
    let (database, running) = (Database::migrated().await, processor().await);
    let gateway = system.gateway(&database, running.addr.port());
    gateway.until_ready().await;
    settles_within(&gateway, SLACK).await;
    // By DNS, and then by a file that comes before it.
    let running = moved(running, NEW).await;
    system.answers.send_replace(Answers::All(NEW));
    settles_within(&gateway, NAME_TTL + SLACK).await;
    let running = moved(running, OLD).await;
    system.set_hosts(&format!("{OLD} {NAME}"));
    settles_within(&gateway, NAME_TTL + SLACK).await;
    assert_eq!(running.processor.payments().len(), 3);
}

#[tokio::test]
async fn every_name_that_the_system_finds_is_called_though_a_name_server_is_silent() {
    for (what, answers, hosts) in [
        ("no answer for IPv6", Answers::Ipv4Only(OLD), String::new()),
        ("a line for IPv4", Answers::Nothing, format!("{OLD} {NAME}")),
        (
            "a line for both",
            Answers::Nothing,
            format!("{OLD} {NAME}\n::1 {NAME}"),
        ),
    ] {
        let Some(system) = System::start(answers).await else {
            return;
        };
        system.set_hosts(&hosts);
        let mut getent = tokio::process::Command::from(system.run("getent"));
        let getent = getent.args(["ahostsv4", NAME]).output().await;
        let getent = getent.expect("it starts");
        assert!(getent.status.success(), "{what}: {getent:?}");
        let (database, running) = (Database::migrated().await, processor().await);
        let gateway = system.gateway(&database, running.addr.port());
        gateway.until_ready().await;
        settles_within(&gateway, SLACK).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_silent_name_server_holds_up_nothing_but_the_calls_to_its_names() {
    let Some(system) = System::start(Answers::Nothing).await else {
        return;
    };
    let (database, running) = (Database::migrated().await, processor().await);
    let gateway = system.gateway(&database, running.addr.port());
    gateway.until_ready().await;
    let ids = gateway.post_many(100).await;
    eventually("the name server is asked", async || {
        gateway.threads("resolver") > 0
    })
    .await;
    let begun_at = Instant::now();
    while begun_at.elapsed() < Duration::from_secs(3) {
        assert!(gateway.is_ready().await);
        let threads = gateway.threads("resolver");
        assert!(threads <= 16, "{threads} threads wait for the name server");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nor the end of an instance.
    let (took, log) = gateway.stop().await;
    assert!(took < SHUTDOWN, "{took:?}: {log}");
    let program = system.run(env!("CARGO_BIN_EXE_payment-proxy"));
    let gateway = Gateway::spawn_by(
        program,
        "postgres://a@database.test/b",
        "a,0,http://a",
        &[],
        |_| Stdio::null(),
    );
    eventually("it is alive", async || {
        gateway.try_get("/livez").await.is_ok()
    })
    .await;
    let (took, _) = gateway.stop().await;
    assert!(took < SHUTDOWN, "{took:?} while the database is looked for");

    let gateway = system.gateway(&database, running.addr.port());
    eventually("the name server is asked", async || {
        gateway.threads("resolver") > 0
    })
    .await;
    system.answers.send_replace(Answers::All(OLD));
    let answered_at = Instant::now();
    gateway.until_settled(&ids).await;
    assert!(answered_at.elapsed() < TIMEOUT / 2, "{}", gateway.log());
    assert_eq!(running.processor.payments().len(), 100);
}
