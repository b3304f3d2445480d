//! The live page for people who read it otherwise: with a screen reader, by keyboard, in colours of
//! their own, on a narrow or a wide screen. `checks.js` says what is asked of it, beside axe-core.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::browser::{Browser, ENTER, SHIFT, TAB};
use super::{SIMULATED, Settings, Site, TOKEN, until_asked_for_the_token};
use crate::support::{CENTS, eventually};

const CHECKS: &str = include_str!("checks.js");
const AXE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/gateway/page/node_modules/axe-core/axe.min.js"
);
/// Set by `make test` where axe-core could not be installed, after a line that says so.
const NOT_INSTALLED: &str = "AXE_NOT_INSTALLED";

/// Names as long as can be expected, and without a place to break a line at.
const LONG_NAMES: [&str; 2] = [
    "theprimaryprocessorofthenorthernregionwhichsettlesmostofpayments",
    "thefallbackprocessorofthenorthernregionwhichcostsmoreandisslower",
];

/// Settings of an instance whose queue is soon full.
const SMALL_QUEUE: Settings = &[("SIMULATOR_TOKEN", "123"), ("QUEUE_LIMIT", "60")];

/// Media features and what they are set to.
type Preferences = &'static [(&'static str, &'static str)];

/// How the page is looked at: the width of the window, and what its reader prefers.
const VIEWS: [(&str, u32, Preferences); 4] = [
    ("light", 1280, &[("prefers-color-scheme", "light")]),
    ("dark", 1280, &[("prefers-color-scheme", "dark")]),
    ("forced colours", 1280, &[FORCED]),
    ("320 px", 320, &[("prefers-color-scheme", "light")]),
];
const FORCED: (&str, &str) = ("forced-colors", "active");
/// So that no colour is on its way to another one while it is looked at.
const STILL: (&str, &str) = ("prefers-reduced-motion", "reduce");

/// The source of axe-core, unless it could not be installed.
fn axe() -> Option<String> {
    if Path::new(AXE).exists() {
        return Some(std::fs::read_to_string(AXE).expect("it is read"));
    }
    assert!(
        std::env::var_os(NOT_INSTALLED).is_some(),
        "`make page` installs axe-core into tests/gateway/page, or: . scripts/venv.sh; page_tools"
    );
    eprintln!("NOT RUN: axe-core is not installed");
    None
}

/// Shows the page as `preferences` say, in a window of that width.
async fn view(browser: &Browser, width: u32, preferences: &[(&str, &str)]) {
    browser.resize(width, 900, width < 500).await;
    browser.prefer(&[preferences, &[STILL]].concat()).await;
    // Two frames later it is laid out anew.
    browser
        .run(
            "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => \
            done(0))))",
        )
        .await;
}

/// Runs one of the checks. Returns the faults that it finds.
async fn faults(browser: &Browser, check: &str) -> Vec<String> {
    let script = format!("if (!window.checks) {{ {CHECKS} }} return checks.{check}()");
    let found: Value = browser.run(&script).await;
    serde_json::from_value(found).expect("a list of texts")
}

/// A browser, what axe-core is, and all faults so far.
struct Inspection {
    browser: Browser,
    axe: String,
    faults: Vec<String>,
}

impl Inspection {
    /// Inspects the state in which the page is, in every way.
    async fn inspect(&mut self, state: &str) {
        let install = format!("if (!window.axe) {{ {} }}", self.axe);
        self.browser.run(&install).await;
        for (name, width, preferences) in VIEWS {
            view(&self.browser, width, preferences).await;
            let found = faults(&self.browser, "all").await;
            let found = found
                .iter()
                .map(|fault| format!("{state}, {name}: {fault}"));
            self.faults.extend(found);
        }
    }

    fn assert_none(&self) {
        assert!(self.faults.is_empty(), "{}", self.faults.join("\n"));
    }
}

/// Everything that takes the focus and has no name, as the browser tells it to screen readers.
async fn nameless(browser: &Browser) -> Vec<String> {
    let tree = browser.cdp("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().expect("nodes").iter();
    let focusable = nodes.filter(|node| {
        let mut properties = node["properties"].as_array().into_iter().flatten();
        properties
            .any(|property| property["name"] == "focusable" && property["value"]["value"] == true)
    });
    let nameless = focusable.filter(|node| {
        let name = node["name"]["value"].as_str().unwrap_or_default();
        name.trim().is_empty()
    });
    nameless.map(|node| node["role"].to_string()).collect()
}

async fn headline(browser: &Browser, level: &str) {
    eventually(&format!("the page says {level}"), async || {
        !browser.attribute("body", "data-at").await.is_empty()
            && browser.attribute("#situation", "data-level").await == level
    })
    .await;
}

/// Waits until the headline or the list below it has an item of that kind.
async fn told(browser: &Browser, kind: &str) {
    let item = format!("#situation[data-kind={kind}], #situation-more [data-kind={kind}]");
    eventually(&format!("the page tells {kind}"), async || {
        !browser.text(&item).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn no_state_of_the_page_has_a_violation() {
    let Some(axe) = axe() else { return };
    let site = Site::start_as(LONG_NAMES, SMALL_QUEUE).await;
    let mut page = Inspection {
        browser: Browser::start(1280, 900).await,
        axe,
        faults: Vec::new(),
    };

    page.browser.open(&site.url).await;
    until_asked_for_the_token(&page.browser).await;
    page.inspect("signed out").await;
    page.browser.tab_to("#token").await;
    page.browser.press(&["x"]).await;
    page.browser.press(&[ENTER]).await;
    eventually("it says that it is wrong", async || {
        !page.browser.text("#sign-in-wrong").await.is_empty()
    })
    .await;
    page.inspect("wrong token").await;

    let ids = site.gateway.post_many(20).await;
    site.gateway.until_settled(&ids).await;
    page.browser.open(&site.link()).await;
    headline(&page.browser, "calm").await;
    page.inspect("calm").await;

    for processor in [&site.default.processor, &site.fallback.processor] {
        let mut faults = processor.faults();
        faults.request_lost = 1.0;
        processor.set_faults(faults).expect("a rate");
    }
    site.gateway.post(Uuid::new_v4(), CENTS).await;
    eventually("it is in doubt", async || {
        page.browser.text("#figure-in-doubt").await == "1"
    })
    .await;
    page.inspect("in doubt").await;
    for processor in [&site.default.processor, &site.fallback.processor] {
        processor.set_faults(Default::default()).expect("rates");
    }

    let dead = site.dead_letter().await;
    let discard = format!("[data-letter='{dead}'] .danger");
    page.browser.click(&discard).await;
    page.inspect("asked before a discard").await;
    page.browser.click("#confirm button[value=no]").await;
    page.inspect("dead letters").await;

    site.default.processor.set_failing(true);
    let ids = site.gateway.post_many(20).await;
    site.gateway.until_settled(&ids).await;
    told(&page.browser, "processor_failing").await;
    page.inspect("failing").await;
    page.browser
        .click(&format!("#switch-{}", LONG_NAMES[0]))
        .await;
    page.inspect("asked before switching off").await;
    page.browser.click("#confirm button[value=no]").await;

    site.switch(LONG_NAMES[0], "disable").await;
    eventually("it is off", async || {
        page.browser
            .attribute("[role=switch]", "aria-checked")
            .await
            == "false"
    })
    .await;
    page.inspect("switched off").await;
    site.switch(LONG_NAMES[0], "enable").await;

    site.fallback.processor.set_failing(true);
    let posting = async {
        loop {
            site.gateway.post(Uuid::new_v4(), CENTS).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let inspecting = async {
        eventually("posts are refused", async || {
            let posted = site.gateway.post(Uuid::new_v4(), CENTS).await;
            posted == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        headline(&page.browser, "alarm").await;
        page.inspect("full queue").await;
    };
    tokio::select! {
        () = posting => {}
        () = inspecting => {}
    }

    let out = "return fetch('/session', { method: 'DELETE' }).then(({ status }) => status)";
    assert_eq!(page.browser.run(out).await, 204);
    eventually("it says that the session is over", async || {
        page.browser.text("#sign-in-wrong").await == "The session is over."
    })
    .await;
    page.inspect("session over").await;

    page.browser.open(&site.link()).await;
    headline(&page.browser, "alarm").await;
    site.allow_connections(false).await;
    eventually("the page says so", async || {
        page.browser.attribute("#link", "data-state").await == "away"
    })
    .await;
    page.inspect("database away").await;

    site.gateway.signal(Signal::SIGKILL);
    eventually("the page says so", async || {
        page.browser.attribute("#link", "data-state").await == "lost"
    })
    .await;
    page.inspect("instance gone").await;
    page.assert_none();
}

#[tokio::test]
async fn the_pages_of_the_api_and_of_problems_have_no_violation_and_no_nameless_control() {
    let Some(axe) = axe() else { return };
    let site = Site::start(false).await;
    let mut page = Inspection {
        browser: Browser::start(1280, 900).await,
        axe,
        faults: Vec::new(),
    };
    for path in ["/docs/", "/problems/", "/problems/queue-full"] {
        page.browser.open(&format!("{}{path}", site.url)).await;
        page.inspect(path).await;
        assert_eq!(nameless(&page.browser).await, [""; 0], "{path}");
    }
    page.assert_none();
    // And so it is with what takes the focus on the live page.
    page.browser.open(&site.link()).await;
    headline(&page.browser, "calm").await;
    assert_eq!(nameless(&page.browser).await, [""; 0]);
}

#[tokio::test]
async fn text_stands_out_by_4_5_and_drawings_by_3_in_both_schemes_and_off_is_readable() {
    let site = Site::start(true).await;
    let browser = site.browser(1280, 900).await;
    site.default.processor.set_failing(true);
    site.gateway.post_many(20).await;
    eventually("the breaker is open", async || {
        !browser.text(".badge[data-state=open]").await.is_empty()
    })
    .await;
    site.switch("fallback", "disable").await;
    eventually("the other is off", async || {
        !browser.text(".badge[data-state=off]").await.is_empty()
    })
    .await;
    for scheme in ["light", "dark"] {
        view(&browser, 1280, &[("prefers-color-scheme", scheme)]).await;
        assert_eq!(faults(&browser, "texts").await, [""; 0], "{scheme}");
        assert_eq!(faults(&browser, "drawings").await, [""; 0], "{scheme}");
    }
    // What is gone is told in words, and what was known stays readable.
    site.gateway.signal(Signal::SIGKILL);
    eventually("the page says so", async || {
        browser.attribute("#link", "data-state").await == "lost"
    })
    .await;
    assert_eq!(faults(&browser, "texts").await, [""; 0]);
}

#[tokio::test]
async fn in_forced_colours_off_reads_off_and_looks_it_and_legends_keep_their_keys() {
    let site = Site::start(true).await;
    // Off, open and half open in what was, too.
    site.database
        .execute(
            "INSERT INTO service_minute (minute, instance, observed_seconds, accepted, refused,
                processors)
             SELECT date_trunc('minute', now(), 'UTC') - n * interval '1 min', gen_random_uuid(),
                 60, 0, 0,
                json_build_object('default', json_build_object('open', 0, 'half_open', 0, 'off',
                    0)::jsonb
                    || jsonb_build_object(state, 60))
             FROM unnest(ARRAY[2, 3, 4], ARRAY['open', 'half_open', 'off']) AS minute (n, state)",
        )
        .await;
    let browser = site.browser(1280, 900).await;
    eventually("what was is drawn", async || {
        let drawn = "return ['open', 'half_open', 'off', 'closed']
            .every((state) => document.querySelector(`.strip .${state}`))";
        browser.run(drawn).await == true
    })
    .await;
    site.switch("default", "disable").await;
    let toggle = |name: &str, inside: &str| format!("[data-processor={name}] .switch {inside}");
    eventually("it reads Off", async || {
        browser.text(&toggle("default", ":last-child")).await == "Off"
    })
    .await;
    assert_eq!(
        browser.text(&toggle("fallback", ":last-child")).await,
        "In use"
    );
    // A screen reader is told the state of a switch that keeps its name.
    for (name, checked) in [("default", "false"), ("fallback", "true")] {
        let switch = format!("#switch-{name}");
        let state = browser.attribute(&switch, "aria-checked").await;
        assert_eq!(state, checked, "{name}");
    }
    for scheme in ["light", "dark"] {
        view(&browser, 1280, &[FORCED, ("prefers-color-scheme", scheme)]).await;
        let drawn = browser
            .run(
                "const knob = (name) => {
                   const element = document.querySelector(`[data-processor=${name}] .knob`);
                   const [track, thumb] = [getComputedStyle(element), getComputedStyle(element, '::after')];
                   return { track: track.backgroundColor, edge: `${track.borderTopStyle} ${track.borderTopColor}`,
                     thumb: thumb.backgroundColor };
                 };
                 const card = (name) => getComputedStyle(document.querySelector(`[data-processor=${name}]`)).borderLeftStyle;
                 const rate = (checked) => getComputedStyle(document.querySelector(`.segments input${checked} + label`)).backgroundColor;
                 return { off: knob('default'), on: knob('fallback'), cards: [card('default'), card('fallback')],
                   rates: [rate(':checked'), rate(':not(:checked)')] }",
            )
            .await;
        let (off, on) = (&drawn["off"], &drawn["on"]);
        assert_ne!(off["track"], on["track"], "{scheme}: {drawn}");
        for knob in [off, on] {
            assert_ne!(knob["track"], knob["thumb"], "{scheme}: {drawn}");
            let edge = knob["edge"].as_str().expect("a text");
            assert!(edge.starts_with("solid "), "{scheme}: {drawn}");
        }
        assert_eq!(drawn["cards"], json!(["dashed", "solid"]), "{scheme}");
        assert_ne!(drawn["rates"][0], drawn["rates"][1], "{scheme}: {drawn}");
        for check in ["texts", "drawings", "series", "forced"] {
            let found = faults(&browser, check).await;
            assert_eq!(found, [""; 0], "{scheme}: {check}");
        }
    }
}

#[tokio::test]
async fn series_differ_by_hatch_or_dash_and_their_keys_show_it() {
    let site = Site::start(false).await;
    let browser = site.browser(1280, 900).await;
    // Those of the present, and those of what was.
    eventually("the charts are drawn", async || {
        browser
            .run(
                "return document.querySelectorAll('.chart .area[d]').length + \
                document.querySelectorAll('.chart .refused').length",
            )
            .await
            == 3
    })
    .await;
    assert_eq!(faults(&browser, "series").await, [""; 0]);
    // Of as many processors as anybody has, no two look alike, in black and white neither.
    let alike = browser
        .run(
            "return import('/assets/series.js').then(({ lookOf, hatching }) => {
               const looks = Array.from({ length: 30 }, (_, index) => lookOf(index));
               const drawn = looks.slice(0, 5).map((look) => hatching(look).pattern.querySelector('.hatch').getAttribute('d'));
               return [new Set(looks.map((look) => JSON.stringify(look))).size, new Set(drawn).size];
             })",
        )
        .await;
    assert_eq!(alike, json!([30, 5]));
    assert_eq!(faults(&browser, "lists").await, [""; 0]);
}

#[tokio::test]
async fn long_names_fit_320_px_and_wide_screens_are_used() {
    let site = Site::start_as(LONG_NAMES, SIMULATED).await;
    site.dead_letter().await;
    site.default.processor.set_failing(true);
    let ids = site.gateway.post_many(20).await;
    site.gateway.until_settled(&ids).await;
    // It was so before, and was switched by somebody whose name and reason are as long.
    site.database
        .execute(&format!(
            "INSERT INTO service_minute (minute, instance, observed_seconds, accepted, refused,
                processors)
             VALUES (date_trunc('minute', now(), 'UTC') - interval '3 min', gen_random_uuid(), 60,
                 0, 0,
                jsonb_build_object('{0}', jsonb_build_object('open', 60, 'half_open', 0, 'off',
                    0)));
             SELECT switch_processor('{0}', true, '{0}', repeat('{1}', 3))",
            LONG_NAMES[0], LONG_NAMES[1]
        ))
        .await;
    let browser = site.browser(1280, 900).await;
    told(&browser, "processor_failing").await;
    for shown in [
        "#history-breakers-body .switches",
        "#history-breakers-body .strips",
        ".switched",
    ] {
        eventually(shown, async || {
            browser.text(shown).await.contains(LONG_NAMES[0])
        })
        .await;
    }
    eventually("the dead letter is listed", async || {
        !browser.text("[data-letter] .why").await.is_empty()
    })
    .await;
    for width in [320, 390, 768] {
        view(&browser, width, &[]).await;
        assert_eq!(faults(&browser, "overflow").await, [""; 0], "at {width}");
    }
    let mut heights = Vec::new();
    for width in [1280, 1920, 2560, 3840] {
        view(&browser, width, &[]).await;
        assert_eq!(faults(&browser, "overflow").await, [""; 0], "at {width}");
        let used = browser
            .run(
                "const { left } = document.querySelector('.board').getBoundingClientRect();
                 const boxes = [...document.querySelectorAll('.board > *')].map((element) => element.getBoundingClientRect());
                 const rows = boxes.map(({ top, bottom }) => {
                   const middle = (top + bottom) / 2;
                   const beside = boxes.filter((box) => box.top <= middle && middle <= box.bottom);
                   return Math.max(...beside.map(({ right }) => right)) - left;
                 });
                 return { rows, height: document.documentElement.scrollHeight }",
            )
            .await;
        let rows = used["rows"].as_array().expect("rows");
        for row in rows {
            let row = row.as_f64().expect("a width");
            assert!(row > 0.93 * f64::from(width), "{used} at {width}");
        }
        heights.push(used["height"].as_f64().expect("a height"));
    }
    // Width saves height: what lay below is beside.
    assert!(heights[2] < 0.95 * heights[0], "{heights:?}");
}

/// Waits until as many dead letters are listed.
async fn until_listed(browser: &Browser, letters: u64) {
    eventually(&format!("{letters} are listed"), async || {
        let listed = browser.run("return document.querySelectorAll('[data-letter]').length");
        listed.await == letters
    })
    .await;
}

#[tokio::test]
async fn the_focus_is_where_one_goes_on_and_a_wrong_token_is_marked() {
    let site = Site::start(false).await;
    let focused = async |browser: &Browser| {
        let id = browser.run("return document.activeElement.id").await;
        id.as_str().unwrap_or_default().to_owned()
    };
    let browser = Browser::start(1280, 900).await;
    browser.open(&site.url).await;
    until_asked_for_the_token(&browser).await;
    assert_eq!(focused(&browser).await, "token");
    assert_eq!(browser.text("#skip").await, "", "there is nothing to skip");
    browser.type_text("wrong").await;
    browser.press(&[ENTER]).await;
    eventually("it is marked", async || {
        browser.attribute("#token", "aria-invalid").await == "true"
    })
    .await;
    let described_by = browser.attribute("#token", "aria-describedby").await;
    let told = browser.text(&format!("#{described_by}")).await;
    assert_eq!(told, "That is not the token.");
    assert_eq!(focused(&browser).await, "token");
    // What is being typed is not wrong yet.
    browser.press(&["x"]).await;
    assert_eq!(browser.attribute("#token", "aria-invalid").await, "");
    browser
        .run("document.querySelector('#token').value = ''")
        .await;
    browser.type_text(TOKEN).await;
    browser.press(&[ENTER]).await;
    headline(&browser, "calm").await;
    assert_eq!(focused(&browser).await, "live");
    browser.run("document.querySelector('#skip').focus()").await;
    browser.press(&[ENTER]).await;
    assert_eq!(focused(&browser).await, "processors");

    // The buttons of a dead letter go with it; whoever pressed one goes on in its list.
    site.dead_letter().await;
    site.dead_letter().await;
    until_listed(&browser, 2).await;
    for left in [2, 1, 0] {
        browser.tab_to("[data-letter] .danger").await;
        browser.press(&[ENTER]).await;
        if left == 2 {
            // The list is drawn anew while the question is open.
            site.dead_letter().await;
            until_listed(&browser, 3).await;
        }
        browser.click("#confirm-yes").await;
        until_listed(&browser, left).await;
        let inside = browser
            .run("return document.querySelector('#dead-letters').contains(document.activeElement)")
            .await;
        assert_eq!(inside, true, "{left} left");
    }

    // Nothing stays open above the sign-in.
    site.dead_letter().await;
    browser.click("[data-letter] .danger").await;
    let out = "return fetch('/session', { method: 'DELETE' }).then(({ status }) => status)";
    assert_eq!(browser.run(out).await, 204);
    eventually("it says that the session is over", async || {
        browser.text("#sign-in-wrong").await == "The session is over."
    })
    .await;
    assert_eq!(browser.text("#confirm").await, "");
    assert_eq!(focused(&browser).await, "token");
    assert_eq!(browser.attribute("#token", "aria-invalid").await, "");
    browser.press(&[TAB]).await;
    browser.press(&[SHIFT, TAB]).await;
    assert_eq!(focused(&browser).await, "token");

    // Nor does a mark outlive a sign-in by the link.
    browser.type_text("wrong").await;
    browser.press(&[ENTER]).await;
    eventually("it is marked", async || {
        browser.attribute("#token", "aria-invalid").await == "true"
    })
    .await;
    let follow = format!("location.hash = '#token={TOKEN}'");
    browser.run(&follow).await;
    browser.click("#sign-out").await;
    until_asked_for_the_token(&browser).await;
    assert_eq!(browser.attribute("#token", "aria-invalid").await, "");
}
