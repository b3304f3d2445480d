//! What the page says is so, and what it does not know it calls unknown.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rust_decimal::Decimal;
use serde_json::json;
use uuid::Uuid;

use super::browser::{Browser, ENTER, PAGE_UP, TAB};
use super::{Site, TOKEN};
use crate::support::{CENTS, Database, Gateway, eventually, processor};

/// No news is the headline after three seconds, and a little for a busy machine.
const SILENCE_SEEN_WITHIN: Duration = Duration::from_millis(6_500);

impl Site {
    /// What a test puts into the database behind the service's back.
    async fn execute(&self, statement: &str) {
        self.database.execute(statement).await;
    }

    /// Lets nobody into the database, or everybody again.
    pub(super) async fn let_in(&self, anybody: bool) {
        let (_, name) = self.database.url.rsplit_once('/').expect("a path");
        let cluster = Database::at(&std::env::var("TEST_DATABASE_URL").expect("set"));
        let end = match anybody {
            true => String::new(),
            false => format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            ),
        };
        cluster
            .execute(&format!(
                "ALTER DATABASE {name} ALLOW_CONNECTIONS {anybody}; {end}"
            ))
            .await;
    }
}

impl Browser {
    /// The visible texts of all elements that a selector finds.
    async fn texts(&self, selector: &str) -> Vec<String> {
        let script = format!(
            "return [...document.querySelectorAll({})].map((element) => (element.innerText ?? \
            element.textContent).trim())",
            json!(selector)
        );
        let texts = self.run(&script).await;
        serde_json::from_value(texts).expect("texts")
    }

    /// How old the figures are by their own word, in seconds.
    pub(super) async fn age(&self) -> u64 {
        let age = self.text("#age").await;
        let words: Vec<&str> = age.split(' ').collect();
        let ["Figures", "are", seconds, "s", "old"] = words[..] else {
            panic!("{age:?} is no age in seconds");
        };
        seconds.parse().expect("a number")
    }

    /// Waits until so many snapshots more are on the page.
    pub(super) async fn snapshots(&self, count: usize) {
        for _ in 0..count {
            let at = self.attribute("body", "data-at").await;
            eventually("the page goes on", async || {
                self.attribute("body", "data-at").await != at
            })
            .await;
        }
    }

    /// How many calls of a path have been answered, or have failed.
    async fn answers(&self, path: &str) -> u64 {
        let script = format!(
            "return performance.getEntriesByType('resource')
                .filter(({{ name }}) => new URL(name).pathname === '{path}').length"
        );
        self.run(&script).await.as_u64().expect("a number")
    }

    /// Hides the tab, or shows it again.
    pub(super) async fn hide(&self, hidden: bool) {
        self.run(&format!(
            "Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {hidden} }});
             document.dispatchEvent(new Event('visibilitychange'))"
        ))
        .await;
    }

    async fn title(&self) -> String {
        let title = self.run("return document.title").await;
        title.as_str().expect("a title").to_owned()
    }
}

#[tokio::test]
async fn no_news_for_three_seconds_is_the_headline_and_the_age_of_figures_is_told() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    eventually("all is well, and fresh", async || {
        browser.text("#situation").await.starts_with("All is well.")
            && browser.text("#age").await.starts_with("Figures are")
            && browser.attribute("#age", "data-old").await == "false"
    })
    .await;
    assert_eq!(browser.title().await, "payment-proxy");

    // It stands still: nothing breaks, and nothing comes.
    site.gateway.signal(Signal::SIGSTOP);
    let stopped_at = Instant::now();
    eventually("no news is told", async || {
        browser.text("#situation-title").await == "No news."
    })
    .await;
    assert!(stopped_at.elapsed() < SILENCE_SEEN_WITHIN);
    assert_eq!(browser.attribute("#situation", "data-level").await, "alarm");
    assert_eq!(browser.title().await, "No news. payment-proxy");
    assert_eq!(browser.attribute("#age", "data-old").await, "true");
    let age = browser.age().await;
    assert!((3..=8).contains(&age), "{age} s");
    site.gateway.signal(Signal::SIGCONT);
    eventually("there is news again", async || {
        browser.text("#situation").await.starts_with("All is well.")
            && browser.attribute("#age", "data-old").await == "false"
    })
    .await;

    // It dies.
    let died_at = Instant::now();
    site.gateway.crash();
    eventually("no news is told", async || {
        browser.text("#situation-title").await == "No news."
    })
    .await;
    assert!(died_at.elapsed() < SILENCE_SEEN_WITHIN);
    let for_how_long = browser.text("#situation-text").await;
    assert!(
        for_how_long.contains("has said nothing for"),
        "{for_how_long}"
    );
}

#[tokio::test]
async fn while_the_database_is_away_numbers_are_unknown() {
    let site = Site::start(false).await;
    let ids = site.gateway.post_many(3).await;
    site.gateway.until_settled(&ids).await;
    let dead = site.dead_letter().await;
    let browser = site.browser(1280, 900).await;
    eventually("the dead letter is listed", async || {
        let letter = format!("[data-letter='{dead}'] .why");
        !browser.text(&letter).await.is_empty() && browser.text("#figure-dead").await == "1"
    })
    .await;
    site.let_in(false).await;
    let figures = async || browser.texts("#figures .value").await;
    eventually("every figure is unknown", async || {
        figures().await == ["unknown"; 6]
    })
    .await;
    assert!(
        browser
            .text("#situation")
            .await
            .starts_with("The database does not answer.")
    );
    for note in ["#dead-letters-age", "#in-doubt-age"] {
        assert!(browser.text(note).await.starts_with("Unknown"), "{note}");
    }
    let money = browser.text("#money-body").await;
    assert!(
        money.starts_with("As it was ") && money.contains("3 payments"),
        "{money}"
    );
    let share = "[data-processor=default] .facts dd";
    assert_eq!(browser.text(share).await, "unknown");
    // Nor do the charts draw zeros: since then nobody knows what was settled.
    eventually("the newest second of the charts is unknown", async || {
        let newest = browser.texts(".board .legend b").await;
        newest == ["unknown"; 6]
    })
    .await;
    browser.click("#history-hours label:nth-of-type(1)").await;
    let what_was = async || browser.text("#history-note").await;
    eventually("what was cannot be read", async || {
        what_was().await.starts_with("Unknown: ")
    })
    .await;
    let before = browser.answers("/history").await;
    browser.snapshots(2).await;
    eventually("the age grows", async || {
        browser.attribute("#age", "data-old").await == "true"
    })
    .await;
    let now = browser.answers("/history").await;
    assert_eq!(now, before, "nobody asks a database that is away");
    site.let_in(true).await;
    eventually("they are known again", async || {
        !figures().await.contains(&"unknown".to_owned())
            && browser.text("#dead-letters-age").await.is_empty()
            && what_was().await.contains("minute by minute")
    })
    .await;
    assert_eq!(browser.errors_of_the_page().await, Vec::<String>::new());
}

#[tokio::test]
async fn after_a_restart_with_other_processors_an_open_tab_shows_those_alone() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    let cards = async || {
        let script = "return [...document.querySelectorAll('[data-processor]')].map((card) => \
            card.dataset.processor)";
        browser.run(script).await
    };
    assert_eq!(cards().await, json!(["default", "fallback"]));
    let Site {
        database,
        default,
        fallback,
        gateway,
        url,
        ..
    } = site;
    gateway.stop().await;
    let third = processor().await;
    // The second one is the first now, at another fee, and another one is new.
    let others = format!(
        "fallback,0.20,{} third,0.01,{}",
        fallback.url(),
        third.url()
    );
    let settings = [
        ("OPERATOR_LISTEN", url.trim_start_matches("http://")),
        ("OPERATOR_TOKEN", TOKEN),
    ];
    let gateway = Gateway::start(&database, &others, &settings).await;
    eventually("the other processors are on the page", async || {
        cards().await == json!(["fallback", "third"])
    })
    .await;
    let ids = gateway.post_many(2).await;
    gateway.until_settled(&ids).await;
    let fees = "[data-processor] .fee";
    assert_eq!(browser.texts(fees).await, ["20 % fee", "1 % fee"]);
    let legend = browser.text("#throughput .legend").await;
    assert!(
        legend.contains("third") && !legend.contains("default"),
        "{legend}"
    );
    eventually("the money is compared with them", async || {
        let money = browser.text("#money-body").await;
        money.contains("everything at third") && !money.contains("everything at default")
    })
    .await;
    // The same processors, one at another fee.
    gateway.stop().await;
    let others = others.replace("third,0.01", "third,0.02");
    let _gateway = Gateway::start(&database, &others, &settings).await;
    eventually("its fee is on the page", async || {
        browser.texts(fees).await == ["20 % fee", "2 % fee"]
    })
    .await;
    assert_eq!(browser.errors_of_the_page().await, Vec::<String>::new());
    drop(default);
}

#[tokio::test]
async fn payments_in_doubt_are_listed_with_their_processor_age_and_reason() {
    let site = Site::start(false).await;
    let (stranded, exact) = (Uuid::new_v4(), "999999999999.99");
    site.execute(&format!(
        "INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
            requested_at, doubt_until)
         VALUES ('{stranded}', {exact}, now() - interval '5 min', 3, 'old',
            date_trunc('milliseconds', now() - interval '5 min'), now() - interval '3 min');
         INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason,
             first_claim, last_claim)
         SELECT correlation_id, requested_at, 'in_doubt', processor, 'no reply within 15 s', 3, 3
             FROM payment_queue;
         -- More than are listed, whose workers died.
         INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
             requested_at, doubt_until)
         SELECT gen_random_uuid(), 1, now() - interval '40 s', 1, 'old',
            date_trunc('milliseconds', now() - interval '40 s'), now() FROM generate_series(1, 119)"
    ))
    .await;
    let browser = site.browser(1280, 900).await;
    let row = format!("[data-payment='{stranded}']");
    eventually("it is listed", async || {
        !browser.text(&row).await.is_empty()
    })
    .await;
    let text = browser.text(&row).await;
    for part in [
        "999,999,999,999.99",
        "old · not configured any more",
        "no reply within 15 s",
        "5 min",
        "\"no\" is proof from 20",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let all = browser.text("#in-doubt-body").await;
    assert!(all.ends_with("The oldest 100 of 120."), "{all}");
    assert!(all.contains("its worker ended before it could say what it saw"));
    assert_eq!(browser.text("#figure-in-doubt").await, "120");

    // As many as before, and one of them another one.
    let another = Uuid::new_v4();
    let changed = format!("UPDATE payment_queue SET correlation_id = '{another}'");
    site.execute(&format!("{changed} WHERE correlation_id = '{stranded}'"))
        .await;
    let other_row = format!("[data-payment='{another}']");
    eventually("the other one is listed", async || {
        browser.text(&row).await.is_empty() && !browser.text(&other_row).await.is_empty()
    })
    .await;
    // What could not be read is read again, even where it has become none.
    let block = async |urls: &[&str]| {
        browser
            .cdp("Network.setBlockedURLs", json!({ "urls": urls }))
            .await;
    };
    browser.cdp("Network.enable", json!({})).await;
    block(&["*/in-doubt", "*/dead-letters"]).await;
    let text = browser.text(&other_row).await;
    eventually("it grows older", async || {
        browser.text(&other_row).await != text
    })
    .await;
    site.execute("DELETE FROM payment_queue").await;
    eventually("none is counted", async || {
        browser.text("#figure-in-doubt").await == "0"
    })
    .await;
    let dead = Uuid::new_v4();
    site.execute(&format!(
        "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor,
            reason)
         VALUES ('{dead}', 1, now(), 1, 'default', 'no')"
    ))
    .await;
    eventually("a dead letter is counted", async || {
        browser.text("#figure-dead").await == "1"
    })
    .await;
    browser.snapshots(1).await;
    block(&[]).await;
    eventually("both lists are as it is", async || {
        let letter = browser.text(&format!("[data-letter='{dead}']")).await;
        browser.text("#in-doubt-body").await.starts_with("None.") && !letter.is_empty()
    })
    .await;
    assert_eq!(browser.errors_of_the_page().await, Vec::<String>::new());
}

#[tokio::test]
async fn decisions_are_those_about_payments_and_say_why() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    let chance = async |name: &str| {
        let facts = format!("[data-processor={name}] .facts > div:nth-child(2) dd");
        browser.text(&facts).await
    };
    site.default.processor.set_failing(true);
    eventually("its breaker is open", async || {
        browser.text("[data-processor=default] .badge").await == "Breaker open"
    })
    .await;
    // Idle workers ask the router all the time, and nothing comes of it.
    let at = browser.attribute("body", "data-at").await;
    eventually("the page goes on", async || {
        browser.attribute("body", "data-at").await != at
    })
    .await;
    let decisions = browser.text("#decisions-body").await;
    assert!(decisions.starts_with("No payment has come"), "{decisions}");
    assert_eq!(chance("fallback").await, "unknown");
    let answers_in = "[data-processor=fallback] .facts > div:nth-child(3) dd";
    assert_eq!(browser.text(answers_in).await, "unknown");
    assert_eq!(browser.text("[data-processor=fallback] .ticks").await, "");
    assert!(
        browser
            .text("[data-processor=fallback] figcaption")
            .await
            .contains("nothing is known of its chance")
    );

    let ids = site.gateway.post_many(5).await;
    site.gateway.until_settled(&ids).await;
    eventually("it is told why", async || {
        let decisions = browser.text("#decisions-body").await;
        let words: Vec<&str> = decisions.split_whitespace().collect();
        let decisions = words.join(" ");
        decisions.contains("sent to fallback")
            && decisions.contains("no other could have it: default breaker open")
            && decisions.ends_with(" ago")
    })
    .await;
    assert!(!browser.text("#decisions-body").await.contains("not asked"));
    eventually("something is known of its chance", async || {
        chance("fallback").await.ends_with('%')
    })
    .await;
    // What the page makes of the same when it is half a minute older.
    let later = browser
        .run(
            "return Promise.all(['decisions', 'situation'].map((name) => import(`/assets/${name}.js`)))
             .then(([{ decisionList }, { situation }]) => new Promise((done) => {
               const feed = new EventSource('/live');
               feed.onmessage = ({ data }) => {
                 feed.close();
                 const snapshot = JSON.parse(data);
                 const { decisions, processors } = snapshot.router;
                 for (const decision of decisions) decision.ageMs += 30_000;
                 const told = (askedMsAgo) => {
                   for (const each of processors) Object.assign(each, { askedMsAgo, latencyMs: 900 });
                   return situation([], snapshot, 0).text.includes('slow');
                 };
                 const slow = [told(1_000), told(31_000)];
                 decisionList()(snapshot);
                 done([document.querySelector('#decisions-body').innerText, ...slow]);
               };
             }))",
        )
        .await;
    let decisions = later[0].as_str().expect("a text");
    assert!(
        decisions.starts_with("No payment in the last 3"),
        "{decisions}"
    );
    assert_eq!((&later[1], &later[2]), (&json!(true), &json!(false)));
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_hidden_tab_tells_in_its_title_what_wants_attention() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    eventually("all is well", async || {
        browser.text("#situation").await.starts_with("All is well.")
    })
    .await;
    site.execute(
        "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor,
            reason)
         VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'no')",
    )
    .await;
    browser.hide(true).await;
    let tells = "There are dead letters. payment-proxy";
    eventually("the title tells it", async || {
        browser.title().await == tells
    })
    .await;
    // A tab that does not ask misses no answer.
    let seen_at = Instant::now();
    while seen_at.elapsed() < Duration::from_secs(4) {
        assert_eq!(browser.title().await, tells);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    browser.hide(false).await;
    browser.snapshots(1).await;
    assert_eq!(browser.errors().await, Vec::<String>::new());

    // Nor does it call well what does not answer, hidden or seen again.
    browser
        .run(
            "const every = setInterval;
             globalThis.setInterval = (turn, ms) => { globalThis.turn = turn; return every(turn, ms); };",
        )
        .await;
    let before = browser.answers("/attention").await;
    browser.hide(true).await;
    eventually("it has looked", async || {
        browser.answers("/attention").await > before
    })
    .await;
    assert_eq!(browser.title().await, tells);
    site.gateway.crash();
    // It is time for the next look.
    browser.run("turn()").await;
    let no_news = "No news. payment-proxy";
    eventually("the title tells it", async || {
        browser.title().await == no_news
    })
    .await;
    browser.hide(false).await;
    let seen_at = Instant::now();
    while seen_at.elapsed() < Duration::from_secs(1) {
        assert_eq!(browser.title().await, no_news);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(browser.age().await >= 3, "{}", browser.text("#age").await);
}

#[tokio::test]
async fn an_instance_whose_clock_is_another_is_heard_all_the_same() {
    let (database, default) = (Database::create().await, processor().await);
    let folder = tempfile::tempdir().expect("a folder");
    let clock = folder.path().join("clock");
    let set_clock = |seconds: i64| {
        let written = folder.path().join("written");
        std::fs::write(&written, format!("{seconds:+}\n")).expect("a file");
        std::fs::rename(written, &clock).expect("it is ours");
    };
    set_clock(0);
    let address = format!("127.0.0.1:{}", super::free_port());
    let settings = [
        ("OPERATOR_LISTEN", &*address),
        ("OPERATOR_TOKEN", TOKEN),
        ("LD_PRELOAD", &libfaketime()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().expect("a path")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let processors = crate::support::processors(&[&default]);
    let gateway = Gateway::start(&database, &processors, &settings).await;
    let browser = Browser::start(1280, 900).await;
    browser
        .open(&format!("http://{address}/#token={TOKEN}"))
        .await;
    let at = async || {
        let at = browser.attribute("body", "data-at").await;
        at.parse::<i64>().unwrap_or_default()
    };
    let is_well = async || {
        browser.text("#situation-title").await == "All is well."
            && browser.attribute("#age", "data-old").await == "false"
    };
    eventually("all is well", async || is_well().await).await;
    // It is set back while it is watched.
    let before = at().await;
    set_clock(-60);
    eventually("its clock is another", async || at().await < before).await;
    browser.snapshots(2).await;
    assert!(is_well().await, "{}", browser.text("#situation").await);
    // Another instance comes in its place, whose clock is behind that, but not by as much as it
    // took.
    gateway.stop().await;
    set_clock(-64);
    eventually("no news is told", async || {
        browser.text("#situation-title").await == "No news."
    })
    .await;
    let before = browser.text("#who").await;
    let _gateway = Gateway::start(&database, &processors, &settings).await;
    eventually("the other one is heard", async || {
        browser.text("#who").await != before
    })
    .await;
    browser.snapshots(2).await;
    assert!(is_well().await, "{}", browser.text("#situation").await);
}

/// Where Debian's libfaketime is.
fn libfaketime() -> String {
    let mut folders = std::fs::read_dir("/usr/lib").expect("a folder").flatten();
    let library = folders.find_map(|folder| {
        let library = folder.path().join("faketime/libfaketime.so.1");
        library.exists().then_some(library)
    });
    let library = library.expect("scripts/install.sh faketime installs it");
    library.to_str().expect("a path").to_owned()
}

#[tokio::test]
async fn of_an_instance_that_never_read_the_database_nothing_is_called_well() {
    // It takes connections and answers none.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let url = format!("postgres://nobody@127.0.0.1:{port}/none");
    let default = processor().await;
    let address = format!("127.0.0.1:{}", super::free_port());
    let settings = [("OPERATOR_LISTEN", &*address), ("OPERATOR_TOKEN", TOKEN)];
    let processors = crate::support::processors(&[&default]);
    let gateway = Gateway::spawn(&url, &processors, &settings);
    eventually("the instance is alive", async || {
        gateway.try_get("/livez").await.is_ok()
    })
    .await;
    let browser = Browser::start(1280, 900).await;
    browser.open(&format!("http://{address}/")).await;
    super::until_asked_for_the_token(&browser).await;
    let title = "document.querySelector('#situation-title')";
    browser
        .run(&format!(
            "globalThis.titles = [];
             new MutationObserver(() => titles.push({title}.textContent)).observe({title}, {{ childList: true }});
             location.hash = '#token={TOKEN}'"
        ))
        .await;
    eventually("it says that the database is away", async || {
        browser.text("#situation-title").await == "The database does not answer."
    })
    .await;
    assert_eq!(
        browser.run("return titles").await,
        json!(["Nothing is known yet.", "The database does not answer."])
    );
    assert_eq!(browser.text("#age").await, "No figures yet");
    assert_eq!(browser.texts("#figures .value").await, ["unknown"; 6]);
    let money = browser.text("#money-body").await;
    assert!(money.starts_with("Unknown: "), "{money}");
    for note in ["#dead-letters-age", "#in-doubt-age"] {
        assert!(browser.text(note).await.starts_with("Unknown"), "{note}");
    }
    assert_eq!(browser.texts(".board .legend b").await, ["unknown"; 5]);
}

#[tokio::test]
async fn switching_off_asks_for_a_reason_that_all_operators_see() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    let other = site.browser(1280, 900).await;
    let badge = "[data-processor=default] .badge";
    browser.click("#switch-default").await;
    let is_open = async || {
        let open = "return document.querySelector('#confirm').open";
        browser.run(open).await == true
    };
    // Not without a reason and a name, blanks are neither, and not by a second thought.
    for (reason, by) in [
        ("", "Ana"),
        (" ", "Ana"),
        ("They move", ""),
        ("They move", " "),
    ] {
        browser
            .run(&format!(
                "const [reason, by] = ['reason', 'by'].map((name) => document.querySelector(`#confirm-${{name}}`));
                 [reason.value, by.value] = ['{reason}', '{by}'];
                 reason.focus()"
            ))
            .await;
        browser.press(&[ENTER]).await;
        assert!(is_open().await, "{reason:?} {by:?}");
    }
    browser.click("#confirm-no").await;
    assert_eq!(site.database.count("processor_switch").await, 0);
    browser.click("#switch-default").await;
    browser.type_text("They move their database").await;
    browser.press(&[TAB]).await;
    browser.type_text("Ana").await;
    browser.press(&[ENTER]).await;
    eventually("the other operator sees it", async || {
        other.text(badge).await == "Switched off"
    })
    .await;
    eventually("and who, when and why", async || {
        let told = other.text("[data-processor=default] .switched").await;
        told.starts_with("Switched off by Ana, ") && told.ends_with("UTC: They move their database")
    })
    .await;
    eventually("the headline has it, too", async || {
        let told = other.text("#situation").await;
        told.starts_with("Processor default is switched off.")
            && told.contains("by Ana")
            && told.contains("They move their database")
            && told.contains("Put it back into use when the reason is gone")
    })
    .await;
    // The browser remembers who he is.
    browser.click("#switch-default").await;
    eventually("it is on again", async || {
        other.text(badge).await == "Taking payments"
            && other
                .text("[data-processor=default] .switched")
                .await
                .starts_with("Switched on by Ana, ")
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_was_is_shown_for_hours_with_its_gaps_labelled() {
    let site = Site::start(false).await;
    // Three hours, of which nobody saw one, and a quarter without a database.
    site.execute(
        r#"INSERT INTO service_minute
            (minute, instance, observed_seconds, accepted, refused, queued, p50_ms, p99_ms,
                processors)
         SELECT date_trunc('minute', now(), 'UTC') - n * interval '1 min', gen_random_uuid(), 60,
             600, CASE WHEN n < 20 THEN 50 ELSE 0 END,
            CASE WHEN n NOT BETWEEN 20 AND 34 THEN n END, 12, 80,
            jsonb_build_object('default', jsonb_build_object('open', CASE WHEN n < 20 THEN 60
                ELSE 0 END, 'half_open', 0, 'off', 0))
         FROM generate_series(2, 179) AS n WHERE n NOT BETWEEN 60 AND 119;
         INSERT INTO processor_switch (processor, enabled, switched_by, reason, switched_at)
         VALUES ('default', false, 'Ben', 'it was slow', now() - interval '90 min')"#,
    )
    .await;
    let browser = site.browser(1440, 1000).await;
    eventually("it is shown", async || {
        browser
            .text("#history-throughput .legend")
            .await
            .contains("accepted")
    })
    .await;
    let note = browser.text("#history-note").await;
    assert!(
        note.contains("In 15 the database did not answer."),
        "{note}"
    );
    assert!(note.contains("there is no record"), "{note}");
    // The legend is drawn before the chart has its size.
    eventually("the gap is labelled", async || {
        let gaps = browser.texts("#history-throughput .gaps text").await;
        gaps.contains(&"no record".to_owned())
    })
    .await;
    let strip = browser.text("#history-breakers-body .strips li").await;
    assert!(
        strip.starts_with("default") && strip.contains("breaker open in 1"),
        "{strip}"
    );
    let switches = browser.text("#history-breakers-body .switches").await;
    assert!(
        switches.contains("by Ben") && switches.contains("it was slow"),
        "{switches}"
    );
    let titles = browser.texts("#history-breakers-body .strip title").await;
    for told in ["open, 1", "closed, ", "no record, 60 min"] {
        let is_told = |title: &String| title.contains(" UTC: ") && title.contains(told);
        assert!(titles.iter().any(is_told), "{told}: {titles:?}");
    }
    let gap = ".strip rect.unknown[height='0'][width='60']";
    assert_eq!(browser.texts(gap).await.len(), 1);
    // Ten minutes by ten, by keyboard: as all was well but for the breaker, without a database, and
    // in the hour of which there is no record.
    let latest = [
        "default 0",
        "accepted 600",
        "refused 50",
        "median 12 ms",
        "99 % 80 ms",
    ];
    let away = [
        "accepted 600",
        "refused 0",
        "payments unknown",
        "median 12 ms",
    ];
    let nobody = [
        "default unknown",
        "accepted unknown",
        "refused unknown",
        "payments unknown",
        "median unknown",
    ];
    for (minutes, expected) in [(10, &latest[..]), (30, &away), (90, &nobody)] {
        let mut read = Vec::new();
        for chart in ["throughput", "queue", "latency"] {
            let focus = format!("document.querySelector('#history-{chart} .chart').focus()");
            browser.run(&focus).await;
            for _ in 0..minutes / 10 {
                browser.press(&[PAGE_UP]).await;
            }
            let when = browser.text(&format!("#history-{chart} .when")).await;
            assert!(when.ends_with("UTC"), "{when}");
            let legend = format!("#history-{chart} .legend li");
            read.extend(browser.texts(&legend).await);
        }
        for told in expected {
            let is_told = read.iter().any(|item| item == told);
            assert!(is_told, "{told}, {minutes} min ago: {read:?}");
        }
        // A minute or two went by since they were written.
        let queued = read.iter().find_map(|item| item.strip_prefix("payments "));
        if let Some(Ok(queued)) = queued.map(str::parse::<u32>) {
            assert!((8..=12).contains(&queued), "{read:?}");
        }
    }
    let who = browser.text("#history-breakers-body .switches").await;
    assert!(who.contains("Switched off by Ben, 20"), "{who}");
    // A processor that the ledger has had for longer than this page is told with the next look,
    // which comes by itself.
    site.execute(
        "INSERT INTO service_minute (minute, instance, observed_seconds, accepted, refused,
            processors)
         VALUES (date_trunc('minute', now(), 'UTC') - interval '70 min', gen_random_uuid(), 60, 0,
             0,
            jsonb_build_object('old', jsonb_build_object('open', 0, 'half_open', 0, 'off', 60)))",
    )
    .await;
    browser
        .run(
            "const now = performance.now.bind(performance); performance.now = () => now() + 60_000",
        )
        .await;
    eventually("it is in the legend and has a strip", async || {
        let legend = browser.texts("#history-throughput .legend li").await;
        legend.iter().any(|item| item.starts_with("old"))
            && browser
                .texts("#history-breakers-body .strips li")
                .await
                .iter()
                .any(|strip| strip.starts_with("old switched off in 1,"))
    })
    .await;
    // Another range.
    browser.click("#history-hours label:nth-of-type(1)").await;
    eventually("one hour is shown", async || {
        let note = browser.text("#history-note").await;
        note.contains("of 60 minutes")
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn huge_amounts_keep_their_digits_and_the_layout_and_wide_screens_are_used() {
    let site = Site::start(false).await;
    site.dead_letter().await;
    site.gateway.post(Uuid::new_v4(), CENTS).await;
    // Sums that no test can post: a trillion payments of the largest amount.
    site.execute(
        "ALTER TABLE payment_rollup DISABLE TRIGGER USER;
         INSERT INTO payment_rollup (unit, starts_at, processor, requests, amount)
         VALUES ('hour', '2026-01-01', 'default', 1000000000000, 999999999999980000000000.00),
            ('hour', '2026-01-01', 'fallback', 1000000000000, 999999999999980000000000.07);
         INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
             requested_at, doubt_until)
         VALUES (gen_random_uuid(), 999999999999.99, now() - interval '5 min', 3, 'old',
             now() - interval '5 min', now());
         UPDATE payment_dead_letter SET amount = 999999999999.99, reason = repeat('x', 200)",
    )
    .await;
    let browser = site.browser(1280, 900).await;
    let sum = super::number("1999999999999960000000000.07") + Decimal::new(CENTS, 2);
    eventually("the sums are there to the cent", async || {
        super::number(&browser.text("#money-gross").await) == sum
    })
    .await;
    assert!(
        browser
            .text("#money-body .sums")
            .await
            .contains("2,000,000,000,00")
    );
    for width in [320, 768, 1280, 1920, 2560] {
        browser.resize(width, 900, width < 500).await;
        let inner = browser
            .run("return document.documentElement.scrollWidth")
            .await;
        assert!(inner.as_u64() <= Some(width.into()), "{inner} at {width}");
        let cut = browser
            .run(
                "return [...document.querySelectorAll('.panel, .panel *')].filter((element) => element instanceof HTMLElement
                    && !element.matches('.unseen, .segments input')
                    && element.getBoundingClientRect().right > (element.closest('.panel').getBoundingClientRect().right + 1))
                    .map((element) => element.outerHTML.slice(0, 120))",
            )
            .await;
        assert_eq!(cut, json!([]), "at {width}");
        let used = browser
            .run(
                "return document.querySelector('.board').getBoundingClientRect().width / \
                innerWidth",
            )
            .await;
        assert!(used.as_f64() > Some(0.9), "{used} of {width}");
    }
    assert_eq!(browser.errors().await, Vec::<String>::new());
}
