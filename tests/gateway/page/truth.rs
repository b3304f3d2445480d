//! What the page says is so, and what it does not know it calls unknown.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use uuid::Uuid;

use super::browser::{Browser, ENTER, TAB};
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
            "return [...document.querySelectorAll({})].map((element) => (element.innerText ?? element.textContent).trim())",
            json!(selector)
        );
        let texts = self.run(&script).await;
        serde_json::from_value(texts).expect("texts")
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
    eventually("the newest second of the chart is unknown", async || {
        browser.texts("#throughput .legend b").await == ["unknown"; 3]
    })
    .await;
    eventually("the age grows", async || {
        browser.attribute("#age", "data-old").await == "true"
    })
    .await;
    site.let_in(true).await;
    eventually("they are known again", async || {
        !figures().await.contains(&"unknown".to_owned())
            && browser.text("#dead-letters-age").await.is_empty()
    })
    .await;
    assert_eq!(browser.errors_of_the_page().await, Vec::<String>::new());
}

#[tokio::test]
async fn after_a_restart_with_other_processors_an_open_tab_shows_those_alone() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    let cards = async || {
        let script = "return [...document.querySelectorAll('[data-processor]')].map((card) => card.dataset.processor)";
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
    assert_eq!(browser.errors_of_the_page().await, Vec::<String>::new());
    drop(default);
}

#[tokio::test]
async fn payments_in_doubt_are_listed_with_their_processor_age_and_reason() {
    let site = Site::start(false).await;
    let (stranded, exact) = (Uuid::new_v4(), "999999999999.99");
    site.execute(&format!(
        "INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor, requested_at, doubt_until)
         VALUES ('{stranded}', {exact}, now() - interval '5 min', 3, 'old',
            date_trunc('milliseconds', now() - interval '5 min'), now() - interval '3 min');
         INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason, first_claim, last_claim)
         SELECT correlation_id, requested_at, 'in_doubt', processor, 'no reply within 15 s', 3, 3 FROM payment_queue"
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
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(browser.text("#figure-in-doubt").await, "1");
    site.execute("DELETE FROM payment_queue").await;
    eventually("it is gone", async || {
        browser.text("#in-doubt-body").await.starts_with("None.")
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
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
        decisions.contains("sent to fallback") && decisions.contains("default breaker open")
    })
    .await;
    assert!(!browser.text("#decisions-body").await.contains("not asked"));
    eventually("something is known of its chance", async || {
        chance("fallback").await.ends_with('%')
    })
    .await;
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
    let hide = async |hidden: bool| {
        browser
            .run(&format!(
                "Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {hidden} }});
                 document.dispatchEvent(new Event('visibilitychange'))"
            ))
            .await
    };
    site.execute(
        "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor, reason)
         VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'no')",
    )
    .await;
    hide(true).await;
    eventually("the title tells it", async || {
        browser.title().await == "There are dead letters. payment-proxy"
    })
    .await;
    let at = browser.attribute("body", "data-at").await;
    hide(false).await;
    eventually("the page goes on", async || {
        browser.attribute("body", "data-at").await != at
    })
    .await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn switching_off_asks_for_a_reason_that_all_operators_see() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    let other = site.browser(1280, 900).await;
    let badge = "[data-processor=default] .badge";
    browser.click("#switch-default").await;
    // Not without a reason, and not by a second thought.
    browser.press(&[ENTER]).await;
    assert!(
        browser
            .run("return document.querySelector('#confirm').open")
            .await
            == true
    );
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
            (minute, instance, observed_seconds, accepted, refused, queued, p50_ms, p99_ms, processors)
         SELECT date_trunc('minute', now(), 'UTC') - n * interval '1 min', gen_random_uuid(), 60, 600, CASE WHEN n < 20 THEN 50 ELSE 0 END,
            CASE WHEN n NOT BETWEEN 20 AND 34 THEN n END, 12, 80,
            jsonb_build_object('default', jsonb_build_object('open', CASE WHEN n < 20 THEN 60 ELSE 0 END, 'half_open', 0, 'off', 0))
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
    // Minute by minute, by keyboard.
    let focus = "document.querySelector('#history-queue .chart').focus()";
    browser.run(focus).await;
    browser.press(&["\u{E011}"]).await;
    let read = browser.text("#history-queue .when").await;
    assert!(read.ends_with("UTC"), "{read}");
    // Another range.
    browser.click("#history-hours label:nth-of-type(1)").await;
    eventually("one hour is shown", async || {
        browser
            .text("#history-note")
            .await
            .contains("of 60 minutes")
            || !browser.text("#history-note").await.contains("no record")
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
         INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor, requested_at, doubt_until)
         VALUES (gen_random_uuid(), 999999999999.99, now() - interval '5 min', 3, 'old', now() - interval '5 min', now());
         UPDATE payment_dead_letter SET amount = 999999999999.99",
    )
    .await;
    let browser = site.browser(1280, 900).await;
    eventually("the sums are there to the cent", async || {
        browser
            .text("#money-gross")
            .await
            .starts_with("1,999,999,999,999,960,000,000,0")
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
            .run("return document.querySelector('.board').getBoundingClientRect().width / innerWidth")
            .await;
        assert!(used.as_f64() > Some(0.9), "{used} of {width}");
    }
    assert_eq!(browser.errors().await, Vec::<String>::new());
}
