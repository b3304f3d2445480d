//! The live page, in a real browser against real instances.

use std::str::FromStr;
use std::time::Duration;

use chrono::Utc;
use payment_proxy::config::OperatorToken;
use reqwest::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};
use simulator::Running;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, processor, processors, processors_as};

mod accessibility;
mod browser;
mod costs;
mod one_list;
mod screenshots;
mod truth;

use browser::{Browser, ENTER, LEFT, RIGHT, SHIFT, TAB};

const TOKEN: &str = "a token: of some + length";
/// Settings of an instance beside those that every one here has.
type Settings = &'static [(&'static str, &'static str)];
/// Those of one that can make its processors slow and failing, and payments up.
const SIMULATED: Settings = &[("SIMULATOR_TOKEN", "123")];

/// An instance with its page, and both processors.
struct Site {
    database: Database,
    default: Running,
    fallback: Running,
    gateway: Gateway,
    url: String,
    names: [&'static str; 2],
    settings: Settings,
}

impl Site {
    async fn start(simulated: bool) -> Self {
        let settings = if simulated { SIMULATED } else { &[] };
        Self::start_as(["default", "fallback"], settings).await
    }

    /// One whose processors have those names.
    async fn start_as(names: [&'static str; 2], settings: Settings) -> Self {
        let database = Database::create().await;
        let (default, fallback) = (processor().await, processor().await);
        let url = format!("http://127.0.0.1:{}", free_port());
        let listed = processors_as(names, &[&default, &fallback]);
        let gateway = gateway(&database, &listed, &url, settings).await;
        eventually("the processors are known", async || {
            database.count("processor_health").await == 2
        })
        .await;
        Self {
            database,
            default,
            fallback,
            gateway,
            url,
            names,
            settings,
        }
    }

    /// The address with the token in it, as `make run` prints it.
    fn link(&self) -> String {
        format!("{}/#token={TOKEN}", self.url)
    }

    /// A browser that came through that link.
    async fn browser(&self, width: u32, height: u32) -> Browser {
        let browser = Browser::start(width, height).await;
        browser.open(&self.link()).await;
        eventually("the page is live", async || {
            browser.text("#link-text").await == "Live"
        })
        .await;
        browser
    }

    async fn restart(self) -> Self {
        let Self {
            database,
            default,
            fallback,
            gateway: old,
            url,
            names,
            settings,
        } = self;
        old.stop().await;
        let listed = processors_as(names, &[&default, &fallback]);
        let gateway = gateway(&database, &listed, &url, settings).await;
        Self {
            database,
            default,
            fallback,
            gateway,
            url,
            names,
            settings,
        }
    }

    /// A request of a program of an operator.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let client = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        let request = client.request(method, format!("{}{path}", self.url));
        request.header(AUTHORIZATION, format!("Bearer {TOKEN}"))
    }

    /// What a program of an operator is answered.
    async fn call(&self, method: Method, path: &str, body: &Value) -> StatusCode {
        let call = self.request(method, path).json(body);
        call.send().await.expect("a reply").status()
    }

    /// The feed of the page, as it comes.
    async fn feed(&self) -> Response {
        let call = self.request(Method::GET, "/live");
        call.send().await.expect("a reply")
    }

    /// Puts a processor into use (`enable`) or takes it out (`disable`).
    async fn switch(&self, processor: &str, how: &str) {
        let path = format!("/routing/{processor}/{how}");
        let body = json!({"reason": "a test"});
        assert_eq!(
            self.call(Method::POST, &path, &body).await,
            StatusCode::NO_CONTENT
        );
    }

    /// Lets nobody connect to the database, or everybody again.
    async fn allow_connections(&self, allowed: bool) {
        let (_, name) = self.database.url.rsplit_once('/').expect("a path");
        let cluster = Database::at(&std::env::var("TEST_DATABASE_URL").expect("set"));
        let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}");
        cluster.execute(&allow).await;
        if !allowed {
            cluster
                .execute(&format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
                    datname = '{name}'"
                ))
                .await;
        }
    }

    /// Puts a payment into a processor's ledger behind our back, so that ours is refused.
    async fn dead_letter(&self) -> Uuid {
        let id = Uuid::new_v4();
        let body = format!(
            r#"{{"correlationId":"{id}","amount":5.00,"requestedAt":"2026-07-01T00:00:00.000Z"}}"#
        );
        let post = payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .post(format!("{}/payments", self.default.url()));
        let post = post.header("content-type", "application/json").body(body);
        assert!(post.send().await.expect("a reply").status().is_success());
        self.gateway.post(id, CENTS).await;
        eventually("it is dead", async || {
            self.gateway.state(id).await == "dead"
        })
        .await;
        id
    }
}

async fn gateway(database: &Database, processors: &str, url: &str, settings: Settings) -> Gateway {
    let own = [
        ("OPERATOR_LISTEN", url.trim_start_matches("http://")),
        ("OPERATOR_TOKEN", TOKEN),
    ];
    Gateway::start(database, processors, &[&own, settings].concat()).await
}

/// A port that stays the same when the instance is started anew. It is none of those that the
/// system gives to others meanwhile.
fn free_port() -> u16 {
    let first = 10_000 + u16::try_from(std::process::id() % 20_000).expect("below 20,000");
    let mut ports = (first..32_000).chain(10_000..first);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

/// The number in a text such as `1,234.50`.
fn number(text: &str) -> Decimal {
    Decimal::from_str(&text.replace(',', "")).unwrap_or_else(|_| panic!("{text:?} is no number"))
}

#[tokio::test]
async fn the_page_shows_what_the_api_and_the_ledger_say() {
    let site = Site::start(false).await;
    let mut ids = site.gateway.post_many(40).await;
    let rich = Uuid::new_v4();
    site.gateway.post(rich, 999_999_999_999).await;
    ids.push(rich);
    site.gateway.until_settled(&ids).await;
    site.default.processor.set_failing(true);
    let others = site.gateway.post_many(9).await;
    site.gateway.until_settled(&others).await;
    // Of the second in which somebody begins to look, the charts have only what comes after that.
    let over = 1_000 - Utc::now().timestamp_subsec_millis();
    tokio::time::sleep(Duration::from_millis(over.into())).await;

    let browser = site.browser(1440, 900).await;
    let summary = site.gateway.json("/payments-summary").await;
    let total = |name: &str| number(&summary[name]["totalAmount"].to_string());
    let (by_default, by_fallback) = (total("default"), total("fallback"));
    let fee = |of: Decimal, percent: i64| {
        let half_up = RoundingStrategy::MidpointAwayFromZero;
        (of * Decimal::new(percent, 2)).round_dp_with_strategy(2, half_up)
    };
    let fees = fee(by_default, 5) + fee(by_fallback, 15);
    assert!(by_fallback > Decimal::ZERO, "{summary}");
    eventually("the money is that of the API", async || {
        number(&browser.text("#money-gross").await) == by_default + by_fallback
    })
    .await;
    assert_eq!(number(&browser.text("#money-fees").await), fees);
    assert_eq!(number(&browser.text("#fees-paid").await), fees);
    let all_at = |percent: i64| fee(by_default + by_fallback, percent);
    assert_eq!(number(&browser.text("#fees-at-default").await), all_at(5));
    assert_eq!(number(&browser.text("#fees-at-fallback").await), all_at(15));
    assert!(
        browser
            .text("#money-body .sums")
            .await
            .contains("50 payments"),
        "{}",
        browser.text("#money-body").await
    );

    // What the router knows is on the page, too.
    eventually("the breaker is open", async || {
        browser.text("[data-processor=default] .badge").await == "Breaker open"
    })
    .await;
    eventually(
        "the headline has it, and what is done about it",
        async || {
            let told = browser.text("#situation").await;
            told.starts_with("Processor default is failing.")
                && told.contains("Payments go to fallback.")
        },
    )
    .await;
    // The seconds of the charts add up to the same.
    let requests = |name: &str| summary[name]["totalRequests"].as_f64().expect("a number");
    let share = 100.0 * requests("default") / (requests("default") + requests("fallback"));
    assert_eq!(
        browser.text("[data-processor=default] .facts dd").await,
        format!("{} %", (share * 10.0).round() / 10.0)
    );
    assert_eq!(browser.text("#figure-queued").await, "0");
    assert_eq!(browser.text("#figure-dead").await, "0");
    assert!(
        browser
            .text("#dead-letters-body")
            .await
            .starts_with("None.")
    );

    // The whole deployment counts, whoever settled.
    let more = Gateway::start(
        &site.database,
        &processors(&[&site.default, &site.fallback]),
        &[],
    )
    .await;
    let ids = more.post_many(5).await;
    more.until_settled(&ids).await;
    eventually("the other instance's payments are there", async || {
        browser
            .text("#money-body .sums")
            .await
            .contains("55 payments")
    })
    .await;
    eventually("both instances are counted", async || {
        browser.text("#who").await.ends_with("one of 2")
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_processor_is_switched_off_and_on_by_keyboard() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    browser.tab_to("#switch-default").await;
    browser.press(&[" "]).await;
    browser.type_text("maintenance").await;
    browser.press(&[TAB]).await;
    browser.type_text("Ana").await;
    browser.press(&[ENTER]).await;
    eventually("it is off", async || {
        browser.text("[data-processor=default] .badge").await == "Switched off"
    })
    .await;
    assert_eq!(
        browser.attribute("#switch-default", "aria-checked").await,
        "false"
    );
    let ids = site.gateway.post_many(5).await;
    site.gateway.until_settled(&ids).await;
    assert!(site.default.processor.payments().is_empty());
    assert_eq!(site.fallback.processor.payments().len(), 5);

    // Charts are read second by second, and the way back leads to the switch again.
    browser.press(&[SHIFT, TAB]).await;
    browser.press(&[LEFT]).await;
    browser.press(&[LEFT]).await;
    browser.press(&[RIGHT]).await;
    assert!(browser.text("#latency .when").await.ends_with("s ago"));
    assert!(browser.text("#latency .unseen").await.contains("median"));
    browser.tab_to("#switch-default").await;
    browser.press(&[ENTER]).await;
    eventually("it is on", async || {
        browser.text("[data-processor=default] .badge").await == "Taking payments"
    })
    .await;
    let ids = site.gateway.post_many(5).await;
    site.gateway.until_settled(&ids).await;
    assert!(!site.default.processor.payments().is_empty());
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_processor_that_is_made_to_fail_on_the_page_opens_its_breaker_there() {
    let site = Site::start(true).await;
    let browser = site.browser(1280, 900).await;
    browser.click("#traffic label:nth-of-type(2)").await;
    eventually("payments are made up", async || {
        site.default.processor.payments().len() > 10
    })
    .await;
    browser.click("label[for=failing-default]").await;
    eventually("its breaker is open", async || {
        browser.text("[data-processor=default] .badge").await == "Breaker open"
    })
    .await;
    assert!(site.default.processor.failing());
    eventually("the other one has the payments", async || {
        site.fallback.processor.payments().len() > 10
            && browser
                .text("#situation")
                .await
                .contains("Payments go to fallback.")
    })
    .await;
    browser.click("label[for=failing-default]").await;
    eventually("it is back", async || {
        browser.text("[data-processor=default] .badge").await == "Taking payments"
    })
    .await;
    eventually("it is slow", async || {
        // Again, should the page have moved under the first click.
        browser
            .click("[data-processor=fallback] .segments label:nth-of-type(3)")
            .await;
        site.fallback.processor.delay() == Duration::from_secs(1)
    })
    .await;
    browser.click("#traffic label:nth-of-type(1)").await;
    eventually("nothing is made up any more", async || {
        browser.text("#figure-accepted").await == "0"
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_can_be_simulated_without_the_simulators_token() {
    let site = Site::start(false).await;
    for (path, body) in [
        ("/simulator/processors/default", json!({"failure": true})),
        ("/simulator/traffic", json!({"paymentsPerSecond": 10})),
    ] {
        let status = site.call(Method::PUT, path, &body).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    assert!(!site.default.processor.failing());
    let browser = site.browser(1280, 900).await;
    assert_eq!(browser.text("#simulation").await, "");
    assert_eq!(browser.text(".behaviour").await, "");
}

#[tokio::test]
async fn dead_letters_are_retried_and_discarded_on_the_page() {
    let site = Site::start(false).await;
    let retried = site.dead_letter().await;
    let discarded = site.dead_letter().await;
    let browser = site.browser(1280, 900).await;
    let row = |id: Uuid, inside: &str| format!("[data-letter='{id}'] {inside}");
    eventually("both are listed", async || {
        browser.text("#figure-dead").await == "2"
            && !browser.text(&row(discarded, ".why")).await.is_empty()
    })
    .await;
    assert!(browser.text(&row(retried, ".why")).await.contains("5.00"));
    let told = browser.text(&row(retried, ".muted")).await;
    assert!(
        told.starts_with("default · ") && told.contains(" attempt") && told.contains("UTC"),
        "{told}"
    );

    browser.click(&row(discarded, ".danger")).await;
    browser.click("#confirm button[value=no]").await;
    assert_eq!(site.database.count("payment_dead_letter").await, 2);
    browser.click(&row(discarded, ".danger")).await;
    browser.click("#confirm-yes").await;
    eventually("it is gone", async || {
        site.database.count("payment_dead_letter").await == 1
            && browser.text(&row(discarded, ".why")).await.is_empty()
    })
    .await;

    site.default.processor.purge().expect("it is purged");
    browser.click(&row(retried, ".retry")).await;
    site.gateway.until_settled(&[retried]).await;
    eventually("none is left", async || {
        browser.text("#figure-dead").await == "0"
            && browser
                .text("#dead-letters-body")
                .await
                .starts_with("None.")
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_says_that_the_database_is_away_and_outlives_a_restart_of_the_instance() {
    let site = Site::start(false).await;
    let ids = site.gateway.post_many(3).await;
    site.gateway.until_settled(&ids).await;
    let browser = site.browser(1280, 900).await;
    site.allow_connections(false).await;
    eventually("the page says so", async || {
        browser
            .text("#situation")
            .await
            .starts_with("The database does not answer.")
    })
    .await;
    assert_eq!(browser.text("#link-text").await, "Live, database away");
    // What was known stays, and what this instance knows by itself goes on.
    assert!(
        browser
            .text("#money-body .sums")
            .await
            .contains("3 payments")
    );
    let at = browser.attribute("body", "data-at").await;
    eventually("snapshots go on", async || {
        browser.attribute("body", "data-at").await != at
    })
    .await;
    site.allow_connections(true).await;
    eventually("it recovers", async || {
        browser.text("#situation").await.starts_with("All is well.")
            && browser.text("#link-text").await == "Live"
    })
    .await;

    let before = browser.text("#who").await;
    let site = site.restart().await;
    eventually("the new instance is on the page", async || {
        let who = browser.text("#who").await;
        who != before && browser.text("#link-text").await == "Live"
    })
    .await;
    let ids = site.gateway.post_many(2).await;
    site.gateway.until_settled(&ids).await;
    eventually("it moves", async || {
        browser
            .text("#money-body .sums")
            .await
            .contains("5 payments")
    })
    .await;
    assert_eq!(browser.errors_of_the_page().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_fits_a_phone_and_obeys_preferences() {
    let site = Site::start(true).await;
    site.dead_letter().await;
    site.gateway.post(Uuid::new_v4(), 999_999_999_999).await;
    let browser = site.browser(1280, 900).await;
    eventually("the dead letter is listed", async || {
        !browser.text("[data-letter] .why").await.is_empty()
    })
    .await;
    for width in [320, 390, 768, 1024, 1440] {
        browser.resize(width, 800, width < 500).await;
        let inner = browser
            .run("return document.documentElement.scrollWidth")
            .await;
        assert!(inner.as_u64() <= Some(width.into()), "{inner} at {width}");
        // Nor is anything cut off inside a panel.
        let cut = browser
            .run(
                "return [...document.querySelectorAll('.panel, .panel *')].filter((element) => element instanceof HTMLElement
                    && !element.matches('.unseen, .segments input') && element.getBoundingClientRect().right > innerWidth + 1)
                    .map((element) => element.outerHTML.slice(0, 120))",
            )
            .await;
        assert_eq!(cut, json!([]), "at {width}");
    }
    let ground = async || {
        browser
            .run("return getComputedStyle(document.body).backgroundColor")
            .await
    };
    browser.prefer(&[("prefers-color-scheme", "light")]).await;
    let light = ground().await;
    browser
        .prefer(&[
            ("prefers-color-scheme", "dark"),
            ("prefers-reduced-motion", "reduce"),
        ])
        .await;
    assert_ne!(ground().await, light);
    let moving = async || {
        browser
            .run(
                "return document.getAnimations().filter((each) => each.playState === \
                'running').length",
            )
            .await
    };
    eventually("what moved has come to rest", async || moving().await == 0).await;
    let at = browser.attribute("body", "data-at").await;
    eventually("it is drawn anew", async || {
        browser.attribute("body", "data-at").await != at
    })
    .await;
    assert_eq!(moving().await, 0);
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

async fn until_asked_for_the_token(browser: &Browser) {
    eventually("it asks for the token", async || {
        browser
            .text("#sign-in-form")
            .await
            .contains("Operator token")
    })
    .await;
}

#[tokio::test]
async fn a_browser_signs_in_with_the_token_and_out_again() {
    let site = Site::start(false).await;
    let browser = Browser::start(1280, 900).await;
    browser.open(&site.url).await;
    until_asked_for_the_token(&browser).await;
    browser.tab_to("#token").await;
    browser.type_text("not the token").await;
    browser.press(&[ENTER]).await;
    eventually("it says that it is wrong", async || {
        browser.text("#sign-in-wrong").await == "That is not the token."
    })
    .await;
    browser
        .run("document.querySelector('#token').value = ''")
        .await;
    browser.tab_to("#token").await;
    browser.type_text(TOKEN).await;
    browser.press(&[ENTER]).await;
    eventually("the page is live", async || {
        browser.text("#link-text").await == "Live"
    })
    .await;
    // A reload needs no token; no script can read the cookie.
    browser.open(&site.url).await;
    eventually("the page is live", async || {
        browser.text("#link-text").await == "Live"
    })
    .await;
    assert_eq!(browser.run("return document.cookie").await, "");
    browser.click("#sign-out").await;
    eventually("it asks for the token", async || {
        browser.text("#link-text").await == "Signed out"
    })
    .await;
    browser.open(&site.url).await;
    until_asked_for_the_token(&browser).await;
    // The link takes the token out of the address bar.
    let browser = site.browser(1280, 900).await;
    assert_eq!(
        browser.run("return location.href").await,
        format!("{}/", site.url)
    );
    let (_, log) = site.gateway.stop().await;
    assert!(!log.contains(TOKEN) && !log.contains("some%20"), "{log}");
}

#[tokio::test]
async fn a_cookie_is_good_for_our_own_page_only() {
    let site = Site::start(false).await;
    let http = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    let sign_in = async |token: &str, site_header: &str| {
        let call = http.post(format!("{}/session", site.url));
        let call = call.header("sec-fetch-site", site_header);
        call.json(&json!({ "token": token }))
            .send()
            .await
            .expect("a reply")
    };
    assert_eq!(
        sign_in("wrong", "same-origin").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        sign_in(TOKEN, "cross-site").await.status(),
        StatusCode::FORBIDDEN
    );
    let signed_in = sign_in(TOKEN, "same-origin").await;
    assert_eq!(signed_in.status(), StatusCode::NO_CONTENT);
    let cookie = signed_in.headers()[SET_COOKIE]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(
        cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    assert!(!cookie.contains(TOKEN));

    let call = async |method: Method, path: &str, cookie: &str, headers: &[(&str, &str)]| {
        let mut call = http.request(method, format!("{}{path}", site.url));
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        let call = call.header(COOKIE, format!("other=1; {cookie}"));
        call.send().await.expect("a reply").status()
    };
    let get = async |cookie: &str| call(Method::GET, "/routing", cookie, &[]).await;
    assert_eq!(get(&cookie).await, StatusCode::OK);
    // Neither a changed end nor a changed seal is believed.
    let (name, session) = cookie.split_once('=').expect("a value");
    let (ends_at, seal) = session.split_once('.').expect("a seal");
    let later: i64 = ends_at.parse::<i64>().expect("a time") + 1;
    for forged in [
        format!("{later}.{seal}"),
        format!("{ends_at}."),
        ends_at.to_owned(),
        String::new(),
    ] {
        assert_eq!(
            get(&format!("{name}={forged}")).await,
            StatusCode::UNAUTHORIZED,
            "{forged}"
        );
    }

    let disable = async |headers: &[(&str, &str)]| {
        call(Method::POST, "/routing/default/disable", &cookie, headers).await
    };
    let host = site.url.trim_start_matches("http://");
    for foreign in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://127.0.0.1:1")],
        &[("sec-fetch-site", "same-site"), ("origin", &site.url)],
        &[("origin", host)],
    ] {
        assert_eq!(disable(foreign).await, StatusCode::FORBIDDEN, "{foreign:?}");
    }
    assert_eq!(
        disable(&[("sec-fetch-site", "same-origin")]).await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        disable(&[("origin", &site.url)]).await,
        StatusCode::NO_CONTENT
    );

    // Nothing stands inline, and nobody may frame the page.
    let page = http.get(&site.url).send().await.expect("a reply");
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .expect("text");
    assert!(
        policy.contains("default-src 'none'")
            && policy.contains("frame-ancestors 'none'")
            && !policy.contains("unsafe"),
        "{policy}"
    );
}

#[tokio::test]
async fn the_feed_ends_with_the_session() {
    let site = Site::start(false).await;
    // As the service makes it, but for a session that is nearly over.
    let ends_at = chrono::Utc::now().timestamp() + 3;
    let token: OperatorToken = TOKEN.parse().expect("a token");
    let id = Uuid::new_v4();
    let seal = token.seal(&format!("operator session {id} until {ends_at}"));
    let look = async || {
        let request = reqwest::Client::new().get(format!("{}/live", site.url));
        let cookie = format!("payment_proxy_operator={ends_at}.{id}.{seal}");
        request
            .header(COOKIE, cookie)
            .send()
            .await
            .expect("a reply")
    };
    let reply = look().await;
    assert_eq!(reply.status(), StatusCode::OK);
    let whole = tokio::time::timeout(Duration::from_secs(10), reply.text()).await;
    let seen = whole.expect("the feed ends").expect("text");
    assert!(seen.contains("data:"), "{seen}");
    assert_eq!(look().await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn viewers_share_one_look_a_second_and_without_viewers_there_is_none() {
    let site = Site::start(false).await;
    // Nothing but the page looks for the newest dead letter.
    let looks = async || {
        sqlx::query_scalar::<_, i64>(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = \
            'payment_dead_letter_died_at_idx'",
        )
        .fetch_one(&site.database.pool)
        .await
        .expect("a count")
    };
    const VIEWERS: usize = 8;
    const SECONDS: i64 = 4;
    let viewers = (0..VIEWERS).map(|_| async {
        let mut events = site.feed().await;
        let mut seen = 0;
        let _ = tokio::time::timeout(Duration::from_secs(SECONDS.unsigned_abs()), async {
            while events.chunk().await.expect("a stream").is_some() {
                seen += 1;
            }
        })
        .await;
        seen
    });
    let seen = futures_util::future::join_all(viewers).await;
    assert!(seen.iter().all(|seen| *seen >= 2), "{seen:?}");
    eventually("the looks are counted", async || looks().await > 0).await;
    // The server counts what an idle session did within ten seconds.
    const COUNTED_WITHIN: Duration = Duration::from_secs(11);
    let mut counts = vec![looks().await];
    loop {
        tokio::time::sleep(COUNTED_WITHIN).await;
        counts.push(looks().await);
        let [.., before, now] = counts[..] else {
            continue;
        };
        if now == before {
            break;
        }
        assert!(counts.len() < 5, "somebody looks: {counts:?}");
    }
    let counted = counts[counts.len() - 1];
    assert!(counted <= SECONDS + 2, "{counted} looks in {SECONDS} s");
}
