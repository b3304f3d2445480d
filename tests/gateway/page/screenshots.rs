//! The pictures in `docs/screenshots/`: `make screenshots` takes them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::browser::Browser;
use super::{Site, gateway};
use crate::support::{eventually, processors};

/// Pixels of a picture from top to bottom, at most. On a phone the page goes on.
const MOST_HEIGHT: u64 = 2_400;

/// Hours in which nobody waited for a picture: what instances and triggers would have written, with
/// an outage of the default processor, and a quarter of an hour in which no instance ran.
const HOURS_BEFORE: &str = "
    CREATE TEMPORARY TABLE past AS
        SELECT date_trunc('minute', now(), 'UTC') - ago * interval '1 min' AS minute,
            (5400 + 1300 * sin(ago / 45.0) + 260 * sin(ago / 3.1))::bigint AS rate,
            ago BETWEEN 96 AND 109 AS is_out, abs(sin(ago / 2.3)) AS noise
        FROM generate_series(1, 360) AS ago WHERE ago NOT BETWEEN 231 AND 245;
    INSERT INTO service_minute
        (minute, instance, observed_seconds, accepted, refused, queued, p50_ms, p99_ms, processors)
        SELECT minute, '00000000-0000-4000-8000-000000000000', 60, rate, 0,
            CASE WHEN is_out THEN 900 + 800 * noise ELSE 12 + 20 * noise END,
            CASE WHEN is_out THEN 95 ELSE 9 + 4 * noise END,
            CASE WHEN is_out THEN 900 + 700 * noise ELSE 40 + 60 * noise END,
            jsonb_build_object(
                'default', jsonb_build_object('open', CASE WHEN is_out THEN 58 ELSE 0 END,
                    'half_open', 0, 'off', 0),
                'fallback', jsonb_build_object('open', 0, 'half_open', 0, 'off', 0))
        FROM past;
    INSERT INTO payment_rollup (unit, starts_at, processor, requests, amount)
        SELECT 'minute', minute, CASE WHEN is_out THEN 'fallback' ELSE 'default' END, rate,
            rate * 19.90
        FROM past;
    DROP TABLE past";

/// What the page looks like in its states, in light and dark, on a desk and on a phone.
#[tokio::test]
#[ignore = "it takes minutes, and proves nothing"]
async fn pictures_of_all_states() {
    let site = Site::start(true).await;
    // A second instance, as in production.
    let listed = processors(&[&site.default, &site.fallback]);
    let other = gateway(&site.database, &listed, "http://127.0.0.1:0", &[]).await;
    site.database.execute(HOURS_BEFORE).await;
    let browser = site.browser(1440, 900).await;
    busy(&site, 110).await;
    picture(&browser, "calm", &["light", "dark"]).await;
    browser.resize(390, 844, true).await;
    busy(&site, 2).await;
    picture(&browser, "phone", &["dark"]).await;
    browser.resize(1440, 900, false).await;

    behave(&site, "default", json!({"delay": 1000})).await;
    busy(&site, 10).await;
    for _ in 0..3 {
        site.dead_letter().await;
    }
    behave(&site, "default", json!({"failure": true, "delay": 0})).await;
    busy(&site, 25).await;
    picture(&browser, "failing", &["light", "dark"]).await;

    behave(&site, "fallback", json!({"failure": true})).await;
    busy(&site, 30).await;
    picture(&browser, "down", &["dark"]).await;
    let traffic = json!({ "paymentsPerSecond": 400 });
    put(&site, "/simulator/traffic", &traffic).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    picture(&browser, "backlog", &["light"]).await;

    site.allow_connections(false).await;
    eventually("the page says so", async || {
        browser
            .text("#situation")
            .await
            .starts_with("The database does not answer.")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    picture(&browser, "away", &["light"]).await;
    drop(other);
}

async fn put(site: &Site, path: &str, body: &Value) {
    let status = site.call(Method::PUT, path, body).await;
    assert!(status.is_success(), "{path}: {status}");
}

async fn behave(site: &Site, processor: &str, how: Value) {
    put(site, &format!("/simulator/processors/{processor}"), &how).await;
}

/// So many seconds of payments at a rate that rises and falls, as in life.
async fn busy(site: &Site, seconds: u32) {
    for second in 0..seconds {
        let wave = (f64::from(second) / 9.0).sin() + (f64::from(second) / 4.0).cos() / 2.0;
        // Between 85 and 205, so far from what a cast could cut off.
        #[allow(clippy::cast_possible_truncation)]
        let rate = (145.0 + 40.0 * wave) as i64;
        put(
            site,
            "/simulator/traffic",
            &json!({ "paymentsPerSecond": rate }),
        )
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    put(
        site,
        "/simulator/traffic",
        &json!({ "paymentsPerSecond": 100 }),
    )
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
}

async fn picture(browser: &Browser, name: &str, schemes: &[&str]) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/screenshots"));
    std::fs::create_dir_all(&folder).expect("a folder");
    for scheme in schemes {
        browser.prefer(&[("prefers-color-scheme", *scheme)]).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        let file = folder.join(format!("{name}-{scheme}.webp"));
        let base64 = browser.picture(MOST_HEIGHT).await;
        let mut decode = Command::new("base64");
        let mut decode = decode
            .arg("--decode")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&file).expect("a file"))
            .spawn()
            .expect("base64 starts");
        use std::io::Write;
        let mut input = decode.stdin.take().expect("it is piped");
        input.write_all(base64.as_bytes()).expect("it reads");
        drop(input);
        assert!(decode.wait().expect("it ends").success());
    }
}
