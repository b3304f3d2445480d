//! What an open tab costs, on a busy day.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Site, TOKEN};
use crate::support::eventually;
use reqwest::Method;

/// Payments per second that are made up.
const BUSY: u32 = 400;
/// For how long a tab is watched.
const WATCHED: Duration = Duration::from_secs(6);
/// The share of a CPU that the thread of the page may take.
const MAIN_THREAD_SHARE: f64 = 0.04;
/// The share of a CPU that the whole browser may take, which draws without a graphics card here.
const BROWSER_SHARE: f64 = 0.10;
/// What the page may hold in its memory, and what may come over the line in two minutes, in bytes.
const HEAP_AND_LINE: f64 = 2.5e6;

impl Site {
    /// Has the gateway make payments up.
    async fn busy(&self, payments_per_second: u32) {
        let rate = json!({ "paymentsPerSecond": payments_per_second });
        let status = self.call(Method::PUT, "/simulator/traffic", &rate).await;
        assert!(status.is_success());
    }
}

fn metric(metrics: &Value, name: &str) -> f64 {
    let metrics = metrics["metrics"].as_array().expect("metrics");
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found
        .and_then(|metric| metric["value"].as_f64())
        .expect(name)
}

#[tokio::test]
async fn an_open_tab_takes_a_few_per_cent_of_a_cpu_and_little_memory_and_says_nothing_aloud() {
    let site = Site::start(true).await;
    let browser = site.browser(1440, 900).await;
    site.busy(BUSY).await;
    eventually("it is busy", async || {
        let rate = browser.text("#figure-settled").await;
        rate.replace(',', "")
            .parse::<f64>()
            .is_ok_and(|rate| rate > 100.0)
    })
    .await;
    eventually("all is well", async || {
        browser.text("#situation").await.starts_with("All is well.")
    })
    .await;
    // CPU time, not the time on the clock, of which a busy machine takes as much as it likes.
    let clock = json!({ "timeDomain": "threadTicks" });
    browser.cdp("Performance.enable", clock).await;
    // What a screen reader would say.
    browser
        .run(
            "globalThis.said = [];
             for (const region of document.querySelectorAll('[aria-live], [role=status], [role=alert]')) {
                 new MutationObserver(() => said.push(region.id + ': ' + region.textContent))
                     .observe(region, { subtree: true, childList: true, characterData: true });
             }",
        )
        .await;
    let before = browser.cdp("Performance.getMetrics", json!({})).await;
    let (cpu_before, begun_at) = (browser.cpu(), Instant::now());
    tokio::time::sleep(WATCHED).await;
    let took = begun_at.elapsed().as_secs_f64();
    let browser_share = (browser.cpu() - cpu_before).as_secs_f64() / took;
    let after = browser.cdp("Performance.getMetrics", json!({})).await;
    let tasks = metric(&after, "TaskDuration") - metric(&before, "TaskDuration");
    let share = tasks / took;
    println!("main thread {share:.3} of a CPU, the browser {browser_share:.3}");
    assert!(share < MAIN_THREAD_SHARE, "{share:.3} of a CPU");
    assert!(browser_share < BROWSER_SHARE, "{browser_share:.3} of a CPU");
    // Nothing moves by itself, so nothing is drawn between two snapshots.
    let moving = browser
        .run(
            "return document.getAnimations().filter((each) => each.playState === 'running').length",
        )
        .await;
    assert_eq!(moving, 0);
    assert_eq!(browser.run("return said").await, json!([]));
    // Nor would what changes all the time at another hour: only the headline is read aloud.
    let loud = "return ['age', 'figures', 'situation-text', 'situation-more', 'history-note'].filter((id) =>
        document.getElementById(id).closest('[aria-live], [role=status], [role=alert]'))";
    assert_eq!(browser.run(loud).await, json!([]));
    // The memory that is left after a collection.
    browser.cdp("HeapProfiler.collectGarbage", json!({})).await;
    let heap = browser.cdp("Performance.getMetrics", json!({})).await;
    let heap = metric(&heap, "JSHeapUsedSize");
    println!("{heap} bytes of heap");
    assert!(heap < HEAP_AND_LINE, "{heap} bytes");
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_is_live_on_a_slow_line_and_two_minutes_of_it_are_small() {
    let site = Site::start(true).await;
    site.busy(BUSY).await;
    let mut events = site.feed().await;
    let (mut bytes, mut seen) = (0, 0);
    while seen < 4 {
        let part = events.chunk().await.expect("a stream").expect("no end");
        bytes += part.len();
        seen += part.windows(2).filter(|end| end == b"\n\n").count();
    }
    let each = bytes as f64 / f64::from(u32::try_from(seen).expect("few"));
    println!("{each} bytes each");
    assert!(each * 120.0 < HEAP_AND_LINE, "{each} bytes a second");

    // Slow 3G, as browsers emulate it.
    let browser = super::Browser::start(1280, 900).await;
    browser.cdp("Network.enable", json!({})).await;
    let slow = json!({
        "offline": false, "latency": 400, "downloadThroughput": 50_000, "uploadThroughput": 50_000
    });
    browser.cdp("Network.emulateNetworkConditions", slow).await;
    browser.open(&format!("{}/#token={TOKEN}", site.url)).await;
    eventually("the page is live", async || {
        browser.text("#link-text").await == "Live"
    })
    .await;
    for _ in 0..4 {
        let at = browser.attribute("body", "data-at").await;
        eventually("the next snapshot is there", async || {
            browser.attribute("body", "data-at").await != at
        })
        .await;
        assert_ne!(browser.text("#situation-title").await, "No news.");
    }

    // What comes late is old when it comes, however much of it there is.
    let slower = json!({
        "offline": false, "latency": 400, "downloadThroughput": each / 2.5, "uploadThroughput": 50_000
    });
    browser
        .cdp("Network.emulateNetworkConditions", slower)
        .await;
    // Which is so for connections that are made from now on.
    browser.hide(true).await;
    browser.hide(false).await;
    browser
        .run(
            "globalThis.late = 0;
             new MutationObserver(() => {
                 late = Math.max(late, Number(document.querySelector('#age').textContent.match(/[0-9]+/)));
             }).observe(document.body, { attributeFilter: ['data-at'] })",
        )
        .await;
    eventually("a snapshot is seconds old when it comes", async || {
        browser.run("return late").await.as_u64() >= Some(2)
    })
    .await;
}
