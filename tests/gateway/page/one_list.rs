//! The headline is the list of what wants attention, which `status`, the API, the feed and the
//! metric tell, too.

use std::collections::BTreeSet;

use payment_proxy::domain::attention::Attention;
use serde_json::json;
use uuid::Uuid;

use super::browser::Browser;
use super::{Site, TOKEN};
use crate::attention::{kinds, told};
use crate::command_line::{json as json_of, program};
use crate::support::eventually;

/// What an instance finds in itself, a transaction that no test waits for, and a standby, which
/// other tests at the same server would see: another living instance tells of them.
const TOLD_BY_INSTANCES: [Attention; 11] = [
    Attention::ChargedTwice,
    Attention::Unrecorded,
    Attention::InstanceHeld,
    Attention::DatabaseCopy,
    Attention::QueueFull,
    Attention::ClockStep,
    Attention::LogLinesDropped,
    Attention::ProcessorFailing,
    Attention::LongTransaction,
    Attention::UnloggedStandby,
    Attention::NotDurable,
];

fn names(kinds: &[Attention]) -> BTreeSet<String> {
    kinds.iter().map(|kind| kind.name().to_owned()).collect()
}

/// The kinds of the headline and of the list below it, in their order.
async fn headline(browser: &Browser) -> Vec<String> {
    let kinds = browser
        .run(
            "return [...document.querySelectorAll('#situation, #situation-more li')]
                .map((element) => element.dataset.kind).filter((kind) => kind)",
        )
        .await;
    serde_json::from_value(kinds).expect("names")
}

/// Waits until everybody tells these kinds and no others, while another instance is kept alive that
/// tells of some.
async fn until_all_tell(site: &Site, browser: &Browser, expected: &[Attention]) {
    let wanted = names(expected);
    let address = site.url.trim_start_matches("http://");
    eventually(&format!("all tell {wanted:?}"), async || {
        site.database
            .execute(
                "UPDATE service_instance SET seen_at = now() WHERE program = 'of tomorrow';
                 -- Longer than a lease can last would be one of a clock that was set back.
                 UPDATE payment_queue SET lease_until = now() + interval '15 s'
                 WHERE processor = 'default'",
            )
            .await;
        let shown: BTreeSet<String> = headline(browser).await.into_iter().collect();
        shown == wanted
            && told(address, TOKEN, &site.database)
                .await
                .iter()
                .all(|told| *told == wanted)
    })
    .await;
    // The most urgent first, which is what the title of the tab says.
    let order = headline(browser).await;
    let most_urgent = expected.iter().min().expect("one").name();
    assert_eq!(order.first().map(String::as_str), Some(most_urgent));
}

#[tokio::test]
async fn headline_status_api_feed_and_metric_tell_the_same_of_every_kind() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    eventually("all is well", async || {
        browser.text("#situation").await.starts_with("All is well.")
    })
    .await;

    let items: Vec<_> = TOLD_BY_INSTANCES
        .iter()
        .map(|kind| kind.item("another instance says so"))
        .collect();
    let items = json!(items).to_string();
    let (stranded, alive, died) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    site.database
        .execute(&format!(
            "INSERT INTO service_instance (id, seen_at, processors, attention, program)
             VALUES ('{alive}', now(), '{{default,fallback}}', $items${items}$items$,
                 'of tomorrow'),
                ('{died}', now() - interval '30 s', '{{default,fallback}}', '[]', NULL);
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                 processor, reason, requested_at)
             VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'another amount', now());
             INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
                 requested_at, doubt_until)
             VALUES ('{stranded}', 1, now() - interval '5 min', 1, 'old', now() - interval '5 min',
                 now());
             INSERT INTO reconcile_finding (correlation_id, kind, charged_by, detail)
             VALUES (gen_random_uuid(), 'charged twice', '{{default,fallback}}', 'both have it');
             INSERT INTO payment_queue_emptied (life) VALUES (gen_random_uuid());
             UPDATE deployment SET asks_first = true;
             UPDATE processor_health SET enabled = false WHERE processor = 'fallback'"
        ))
        .await;
    let common = [
        &TOLD_BY_INSTANCES[..],
        &[
            Attention::InstanceDied,
            Attention::DeadLetters,
            Attention::Mismatch,
            Attention::Stranded,
            Attention::OldPayment,
            Attention::Unreconciled,
            Attention::AsksFirst,
            Attention::Programs,
            Attention::QueueEmptied,
        ],
    ]
    .concat();
    let one_off = [&common[..], &[Attention::ProcessorOff]].concat();
    until_all_tell(&site, &browser, &one_off).await;
    assert_eq!(
        browser.text("#situation-title").await,
        Attention::ChargedTwice.title()
    );

    site.database
        .execute("UPDATE processor_health SET enabled = false")
        .await;
    let all_off = [&common[..], &[Attention::AllProcessorsOff]].concat();
    until_all_tell(&site, &browser, &all_off).await;

    // Nothing but that all of them fail while payments wait.
    for running in [&site.default, &site.fallback] {
        running.processor.set_failing(true);
    }
    site.database
        .execute(
            "DELETE FROM service_instance WHERE program IS NULL OR program = 'of tomorrow';
             DELETE FROM payment_dead_letter; DELETE FROM reconcile_finding;
             DELETE FROM payment_queue_emptied;
             UPDATE deployment SET asks_first = false;
             UPDATE processor_health SET enabled = true",
        )
        .await;
    let all_fail = [
        Attention::AllProcessorsFailing,
        Attention::OldPayment,
        Attention::Stranded,
        Attention::ProcessorFailing,
    ];
    until_all_tell(&site, &browser, &all_fail).await;

    // Payments wait, though all processors take them.
    for running in [&site.default, &site.fallback] {
        running.processor.set_failing(false);
    }
    site.database
        .execute(
            "DELETE FROM payment_queue;
             -- Claimed by somebody who says nothing of it.
             INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
                requested_at, doubt_until, lease_until)
             VALUES (gen_random_uuid(), 1, now() - interval '12 s', 1, 'default',
                date_trunc('milliseconds', now()), now() + interval '10 min',
                now() + interval '15 s')",
        )
        .await;
    let waits = [Attention::PaymentsWait];
    until_all_tell(&site, &browser, &waits).await;
    site.database.execute("DELETE FROM payment_queue").await;
    eventually("all is well again", async || {
        browser.text("#situation").await.starts_with("All is well.")
    })
    .await;

    // Without a database that is all that anybody knows, and without an instance the page knows
    // less than that.
    site.let_in(false).await;
    let away = [Attention::DatabaseAway];
    eventually("all tell that the database is away", async || {
        let address = site.url.trim_start_matches("http://");
        let wanted = names(&away);
        let client = reqwest::Client::new();
        let get = client.get(format!("http://{address}/attention"));
        let api = get.bearer_auth(TOKEN).send().await.expect("a reply");
        let api = kinds(&api.json().await.expect("JSON"));
        let (_, status) = json_of(&mut program(&site.database.url, &["status"])).await;
        let shown: BTreeSet<String> = headline(&browser).await.into_iter().collect();
        [api, kinds(&status["attention"]), shown]
            .iter()
            .all(|told| *told == wanted)
    })
    .await;
    site.let_in(true).await;
    let told_of_all = [
        &one_off[..],
        &all_off[..],
        &all_fail[..],
        &waits[..],
        &away[..],
    ]
    .concat();
    let Site {
        database, gateway, ..
    } = site;
    gateway.stop().await;
    eventually("status misses instances, and the page news", async || {
        let (_, status) = json_of(&mut program(&database.url, &["status"])).await;
        kinds(&status["attention"]) == names(&[Attention::NoInstance])
            && browser.text("#situation-title").await == "No news."
    })
    .await;
    let told_of_all = names(&[&told_of_all[..], &[Attention::NoInstance]].concat());
    assert_eq!(told_of_all, names(Attention::ALL), "a kind has no test");
}
