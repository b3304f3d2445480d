//! A processor whose name leads to another address from one moment to the next.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::proto::op::{Message, MessageType};
use hickory_resolver::proto::rr::{RData, Record, RecordType, rdata};
use payment_proxy::charge::{NAME_KEPT, Names, ProcessorClient, Reply};
use payment_proxy::simulator;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::support::{default_at, new_claim, processor};

/// How long the name server says that its answers hold, in seconds, as that of a container engine does.
const TTL: u32 = 600;
/// Payments are posted so often.
const PAUSE: Duration = Duration::from_millis(50);
/// How much later than it should the new address may be found, on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// A name server for which every name has one address.
struct NameServer {
    address: SocketAddr,
    leads_to: watch::Sender<Ipv4Addr>,
}

impl NameServer {
    async fn start(first: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let leads_to = watch::Sender::new(first);
        let leads = leads_to.subscribe();
        tokio::spawn(async move {
            let mut datagram = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut datagram).await.expect("a question");
                let question = Message::from_vec(&datagram[..length]).expect("a question");
                let answer = answer(question, *leads.borrow());
                let answer = answer.to_vec().expect("an answer");
                socket.send_to(&answer, client).await.expect("sent");
            }
        });
        Self { address, leads_to }
    }

    fn names(&self) -> Names {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
        Names::of_servers(ResolverConfig::from_name_servers(vec![server])).expect("names")
    }
}

fn answer(mut message: Message, address: Ipv4Addr) -> Message {
    message.metadata.message_type = MessageType::Response;
    let asked = message.queries[0].clone();
    if asked.query_type() == RecordType::A {
        let data = RData::A(rdata::A(address));
        message.add_answer(Record::from_rdata(asked.name().clone(), TTL, data));
    }
    message
}

#[tokio::test]
async fn a_processor_that_changes_its_address_is_found_again_within_seconds() {
    let (old, new) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let running = processor().await;
    let port = running.addr.port();
    let name_server = NameServer::start(old).await;
    let settings = default_at(&format!("http://processor.test:{port}"));
    let timeout = Duration::from_secs(5);
    let client = ProcessorClient::new(&settings, timeout, &name_server.names(), None);
    let client = client.expect("a client");
    let is_charged = |reply: &Reply| matches!(reply, Reply::Status { code: 200, .. });
    let first = client.post(&new_claim(), None).await;
    assert!(is_charged(&first), "{first:?}");

    // It goes on elsewhere, with its books.
    let books = Arc::clone(&running.processor);
    running.kill().await;
    let listener = TcpListener::bind((IpAddr::from(new), port)).await;
    let _running = simulator::serve(Arc::clone(&books), listener.expect("the port there"))
        .expect("a processor");
    name_server.leads_to.send_replace(new);
    let moved_at = Instant::now();
    let claim = new_claim();
    loop {
        match client.post(&claim, None).await {
            reply if is_charged(&reply) => break,
            Reply::NotConnected(_) => {}
            reply => panic!("not a proof that nothing happened: {reply:?}"),
        }
        assert!(
            moved_at.elapsed() < NAME_KEPT + SLACK,
            "the old address is still believed"
        );
        tokio::time::sleep(PAUSE).await;
    }
    let charged = books.payments();
    assert_eq!(charged.len(), 2);
}
