//! A real Chromium without a window, driven through its WebDriver (W3C WebDriver; `chromedriver`
//! comes with Debian's Chromium). A few calls of that protocol are all that is needed here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::eventually_some;

/// A name that WebDriver gives to keys without a character.
pub const TAB: &str = "\u{E004}";
/// See [`TAB`].
pub const SHIFT: &str = "\u{E008}";
/// See [`TAB`].
pub const LEFT: &str = "\u{E012}";
/// See [`TAB`].
pub const RIGHT: &str = "\u{E014}";
/// See [`TAB`].
pub const ENTER: &str = "\u{E007}";

/// See [`TAB`].
pub const PAGE_UP: &str = "\u{E00E}";

/// How long Chromium has to end.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often chromedriver is started: the port that it takes has to be free for IPv4 and IPv6 both.
const STARTS: usize = 5;

/// Starts chromedriver. Returns it with its port, unless it ended before it told one.
fn start_driver() -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver starts; scripts/install.sh chromedriver installs it");
    let mut lines = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
    let port = lines.find_map(|line| {
        let line = line.ok()?;
        let port = line.split("started successfully on port ").nth(1)?;
        port.trim_end_matches('.').parse::<u16>().ok()
    });
    let Some(port) = port else {
        let _ = driver.kill();
        let _ = driver.wait();
        return None;
    };
    // Nobody reads what else it says; it must not stand still for that.
    std::thread::spawn(move || lines.for_each(drop));
    Some((driver, port))
}

/// A browser with one tab.
pub struct Browser {
    driver: Child,
    http: Client,
    url: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one of that size in pixels.
    pub async fn start(width: u32, height: u32) -> Self {
        let (driver, port) = (0..STARTS)
            .find_map(|_| start_driver())
            .expect("chromedriver says its port");
        let profile = tempfile::tempdir().expect("a folder");
        let mut browser = Self {
            driver,
            http: payment_proxy::config::tls::plain()
                .build()
                .expect("a client"),
            url: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let session = browser
            .call(
                Method::POST,
                "",
                json!({"capabilities": {"alwaysMatch": {
                    "browserName": "chrome",
                    "goog:loggingPrefs": {"browser": "ALL"},
                    // Root may not have a sandbox, and /dev/shm is small in containers.
                    "goog:chromeOptions": {"args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                        "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=1", profile]}
                }}}),
            )
            .await;
        let id = session["sessionId"].as_str().expect("a session");
        browser.url = format!("{}/{id}", browser.url);
        browser.resize(width, height, false).await;
        browser
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let value = self.try_call(method, path, &body).await;
        assert!(value.get("error").is_none(), "{path} {body}: {value}");
        value
    }

    /// What the driver answers, which may be an error.
    async fn try_call(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = self
            .http
            .request(method.clone(), format!("{}{path}", self.url));
        let request = match method {
            Method::POST => request.json(body),
            _ => request,
        };
        let reply = request.send().await.expect("chromedriver answers");
        let mut reply: Value = reply.json().await.expect("JSON");
        reply["value"].take()
    }

    /// A command of Chromium's own protocol.
    pub async fn cdp(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.call(Method::POST, "/goog/cdp/execute", body).await
    }

    /// Another size; `mobile` as on a phone.
    pub async fn resize(&self, width: u32, height: u32, mobile: bool) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// What its user prefers, such as `("prefers-color-scheme", "dark")`.
    pub async fn prefer(&self, preferences: &[(&str, &str)]) {
        let features: Vec<Value> = preferences
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        self.cdp(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
    }

    /// Goes there.
    pub async fn open(&self, url: &str) {
        self.call(Method::POST, "/url", json!({ "url": url })).await;
    }

    /// Runs the body of a function and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.call(
            Method::POST,
            "/execute/sync",
            json!({"script": script, "args": []}),
        )
        .await
    }

    /// The visible text of the first element that a selector finds, or "".
    pub async fn text(&self, selector: &str) -> String {
        let script = format!(
            "const found = document.querySelector({}); return found?.checkVisibility() ? \
            found.innerText : ''",
            json!(selector)
        );
        let text = self.run(&script).await;
        text.as_str().expect("a text").trim().to_owned()
    }

    /// An attribute of the first element that a selector finds, or "".
    pub async fn attribute(&self, selector: &str, name: &str) -> String {
        let (selector, name) = (json!(selector), json!(name));
        let script =
            format!("return document.querySelector({selector})?.getAttribute({name}) ?? ''");
        self.run(&script).await.as_str().expect("a text").to_owned()
    }

    /// Clicks on the middle of an element, as a person does: what covers it gets the click.
    pub async fn click(&self, selector: &str) {
        eventually_some(selector, async || {
            let body = json!({"using": "css selector", "value": selector});
            let found = self.call(Method::POST, "/elements", body).await;
            let found = found.as_array()?.first()?.as_object()?.values().next()?;
            let path = format!("/element/{}/click", found.as_str()?);
            // Not yet there, covered by a message that goes away, or drawn anew since it was found.
            let clicked = self.try_call(Method::POST, &path, &json!({})).await;
            clicked.is_null().then_some(())
        })
        .await;
    }

    /// Presses keys, all of them before the first is let go.
    pub async fn press(&self, keys: &[&str]) {
        let down = keys
            .iter()
            .map(|key| json!({"type": "keyDown", "value": key}));
        let up = keys
            .iter()
            .rev()
            .map(|key| json!({"type": "keyUp", "value": key}));
        let actions: Vec<Value> = down.chain(up).collect();
        let keyboard = json!([{"type": "key", "id": "keyboard", "actions": actions}]);
        self.call(Method::POST, "/actions", json!({ "actions": keyboard }))
            .await;
    }

    /// Types a text, key by key.
    pub async fn type_text(&self, text: &str) {
        for letter in text.chars() {
            self.press(&[&letter.to_string()]).await;
        }
    }

    /// Presses Tab until the focus is there.
    pub async fn tab_to(&self, selector: &str) {
        const MOST: usize = 80;
        for _ in 0..MOST {
            let script = format!(
                "return document.activeElement?.matches({}) ?? false",
                json!(selector)
            );
            if self.run(&script).await == true {
                return;
            }
            self.press(&[TAB]).await;
        }
        panic!("Tab does not lead to {selector}");
    }

    /// The CPU time that the browser and its driver have had, with all of their processes.
    pub fn cpu(&self) -> Duration {
        let processes = std::fs::read_dir("/proc").expect("a list of processes");
        let ticks = processes.filter_map(|process| {
            let stat = std::fs::read_to_string(process.ok()?.path().join("stat")).ok()?;
            // Behind the name, which may have anything in it: state, parent, group, ..., user and
            // system time.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
            (ticks(2)? == u64::from(self.driver.id())).then_some(ticks(11)? + ticks(12)?)
        });
        const TICKS_PER_SECOND: u32 = 100;
        let ticks = u32::try_from(ticks.sum::<u64>()).expect("few");
        Duration::from_secs(ticks.into()) / TICKS_PER_SECOND
    }

    /// The page as WebP, in base64: all of it, but for what is below `most` pixels.
    pub async fn picture(&self, most: u64) -> String {
        let size = self
            .run(
                "return [document.documentElement.clientWidth, \
                document.documentElement.scrollHeight]",
            )
            .await;
        let height = size[1].as_u64().map(|height| height.min(most));
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": height, "scale": 1});
        let wanted =
            json!({"format": "webp", "quality": 50, "captureBeyondViewport": true, "clip": clip});
        let picture = self.cdp("Page.captureScreenshot", wanted).await;
        picture["data"].as_str().expect("base64").to_owned()
    }

    /// What went wrong since the last call: exceptions, refused content, failed requests.
    pub async fn errors(&self) -> Vec<String> {
        let log = self
            .call(Method::POST, "/se/log", json!({"type": "browser"}))
            .await;
        let entries = log.as_array().expect("a log").iter();
        entries
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| format!("{}: {}", entry["source"], entry["message"]))
            .collect()
    }

    /// The same without requests that failed, for tests that make them fail.
    pub async fn errors_of_the_page(&self) -> Vec<String> {
        let errors = self.errors().await.into_iter();
        errors
            .filter(|error| !error.starts_with("\"network\""))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session; a driver that is killed leaves it behind.
        let address = self.url.trim_start_matches("http://");
        let (host, path) = address.split_once('/').unwrap_or((address, ""));
        if let Ok(mut connection) = TcpStream::connect(host) {
            let _ = connection.set_read_timeout(Some(QUIT_TIMEOUT));
            let _ = write!(
                connection,
                "DELETE /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n"
            );
            let _ = connection.read(&mut [0; 64]);
        }
        // And where the machine is too busy for that, Chromium is in the driver's group.
        if let Ok(group) = i32::try_from(self.driver.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.driver.wait();
    }
}
