//! A processor, and the way to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use payment_proxy::config::ProcessorSettings;
use payment_proxy::processors::ProcessorClient;
use reqwest::header::CONTENT_TYPE;
use rust_decimal::Decimal;
use simulator::{self, Faults, Processor, Running};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock;
use crate::step::{Ending, Fate};
use crate::support;

/// What a processor has for one payment, as in production.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a processor that is cut off cannot be reached.
const CUT_OFF_FOR: Duration = Duration::from_secs(3);
/// Attempts to listen again where a processor listened before.
const LISTEN_ATTEMPTS: usize = 100;

pub struct Site {
    pub name: &'static str,
    pub processor: Arc<Processor>,
    running: Option<Running>,
    address: SocketAddr,
    front: Front,
    front_address: SocketAddr,
    away_until: Option<Instant>,
}

/// A worker's connections to one site.
#[derive(Clone)]
pub struct Ways {
    pub direct: ProcessorClient,
    through_front: ProcessorClient,
}

impl Site {
    pub async fn open(name: &'static str) -> Self {
        let running = support::processor().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let front_address = listener.local_addr().expect("an address");
        let front = Front::new(&running.url());
        tokio::spawn(axum::serve(listener, front.clone().router()).into_future());
        Self {
            name,
            processor: Arc::clone(&running.processor),
            address: running.addr,
            running: Some(running),
            front,
            front_address,
            away_until: None,
        }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("it is down only in `restart`")
    }

    pub fn ways(&self) -> Ways {
        let client = |address: SocketAddr| {
            let settings = ProcessorSettings {
                name: self.name.to_owned(),
                fee: Decimal::ZERO,
                url: format!("http://{address}").parse().expect("a URL"),
            };
            ProcessorClient::new(&settings, CALL_TIMEOUT, &support::resolver(), None)
                .expect("a client")
        };
        Ways {
            direct: client(self.address),
            through_front: client(self.front_address),
        }
    }

    /// Lets the next payment meet this fate on the way that is returned.
    pub fn prepare(&self, ways: &Ways, fate: Fate) -> ProcessorClient {
        let faced = matches!(fate.ending, Ending::GatewayTimeout | Ending::Refused);
        self.front.next(fate.ending == Ending::Refused);
        let rate = |ending| f64::from(u8::from(fate.ending == ending));
        // A cut-off would end with a change of the faults.
        if self.away_until.is_none() {
            let faults = Faults {
                reply_lost: rate(Ending::ReplyLost),
                request_lost: rate(Ending::RequestLost),
                reply_hangs: rate(Ending::ReplyHangs),
                fail_after: rate(Ending::FailAfter),
                fail_before: rate(Ending::FailBefore),
                too_many: rate(Ending::TooMany),
                gateway_gave_up: rate(Ending::GatewayGaveUp),
                fail_with_text: rate(Ending::FailWithText),
                unasked: f64::from(u8::from(fate.unasked)),
                slow: f64::from(u8::from(fate.slow.is_some())),
                slow_ms: fate.slow.unwrap_or_default() * 1_000,
                lookup_lost: f64::from(u8::from(fate.lookup_lost)),
                ..Faults::default()
            };
            self.processor.set_faults(faults).expect("valid faults");
        }
        let way = if faced {
            &ways.through_front
        } else {
            &ways.direct
        };
        way.clone()
    }

    /// What shows that a request has arrived and is not answered yet: requests in the works, and
    /// those that will never be answered.
    pub fn pending(&self) -> (usize, u64) {
        (
            self.processor.in_service(),
            self.processor.injected().reply_hangs,
        )
    }

    /// Requests of which the gateway gave up, so far.
    pub fn given_up(&self) -> u64 {
        self.processor.injected().gateway_gave_up
    }

    /// Requests since the last [`Self::prepare`] that the front has answered and not yet brought to
    /// the processor's end.
    pub fn on_the_way(&self) -> usize {
        self.front.on_the_way()
    }

    pub fn cut_off(&mut self) {
        self.processor.refuse_for(CUT_OFF_FOR);
        self.away_until = Some(Instant::now() + CUT_OFF_FOR);
    }

    /// Notices that time went by.
    pub fn time_passed(&mut self) {
        self.away_until = self.away_until.filter(|until| Instant::now() <= *until);
    }

    /// Dies and comes back at once with its books, and with no faults.
    pub async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
        self.heal();
        for _ in 0..LISTEN_ATTEMPTS {
            if let Ok(listener) = TcpListener::bind(self.address).await {
                let running = simulator::serve(Arc::clone(&self.processor), listener);
                self.running = Some(running.expect("it serves"));
                return;
            }
            clock::turn().await;
        }
        panic!("{} cannot be used again", self.address);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.away_until = None;
        self.processor
            .set_faults(Faults::default())
            .expect("valid faults");
    }
}

/// Something in front of a processor that answers for it: 400 without having asked it, or 504 while
/// it still works.
#[derive(Clone)]
struct Front {
    http: reqwest::Client,
    upstream: String,
    state: Arc<Mutex<FrontState>>,
}

#[derive(Default)]
struct FrontState {
    refuses: bool,
    forwarded: Vec<JoinHandle<()>>,
}

impl Front {
    fn new(upstream: &str) -> Self {
        Self {
            http: payment_proxy::config::tls::plain()
                .build()
                .expect("a client"),
            upstream: upstream.to_owned(),
            state: Arc::default(),
        }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/payments", post(Self::charge))
            .route("/payments/{id}", get(Self::look_up))
            .with_state(self)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FrontState> {
        self.state.lock().expect("no code panics under this lock")
    }

    /// From now on requests are refused, or not. Those that were forwarded before go on uncounted.
    fn next(&self, refuses: bool) {
        *self.state() = FrontState {
            refuses,
            forwarded: Vec::new(),
        };
    }

    fn on_the_way(&self) -> usize {
        let forwarded = &mut self.state().forwarded;
        forwarded.retain(|call| !call.is_finished());
        forwarded.len()
    }

    async fn charge(State(front): State<Self>, body: Bytes) -> StatusCode {
        let mut state = front.state();
        if state.refuses {
            return StatusCode::BAD_REQUEST;
        }
        let request = front.http.post(format!("{}/payments", front.upstream));
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        state.forwarded.push(tokio::spawn(async move {
            // Nobody waits for the reply.
            let _ = request.send().await;
        }));
        StatusCode::GATEWAY_TIMEOUT
    }

    async fn look_up(State(front): State<Self>, Path(id): Path<Uuid>) -> Response {
        let reply = front.http.get(format!("{}/payments/{id}", front.upstream));
        let Ok(reply) = reply.send().await else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let (status, media_type) = (reply.status(), reply.headers().get(CONTENT_TYPE).cloned());
        let body = reply.bytes().await.unwrap_or_default();
        let media_type = media_type.map(|media_type| [(CONTENT_TYPE, media_type)]);
        match media_type {
            Some(media_type) => (status, media_type, body).into_response(),
            None => status.into_response(),
        }
    }
}
