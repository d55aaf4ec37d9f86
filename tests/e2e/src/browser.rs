//! A person at a browser: Chromium without a window, driven through ChromeDriver.
//!
//! What correctness rests on: elements are found by what a person knows them by (label, button, link), what a page shows
//! is waited for, and the scripts of the harness run whatever the content security policy of a page says.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{Folder, Process, Signal, parts, ports, process, wait};

const SOON: Duration = Duration::from_secs(60);
/// More than any page has of what can be focused.
const MAX_TABS: usize = 200;

/// As WebDriver names keys.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const SPACE: &str = " ";

/// A browser with a profile of its own. It ends when it is dropped.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    driver: Process,
    // Last, so that Chromium has ended when its files go.
    folder: Folder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Light,
    Dark,
}

impl Theme {
    pub fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// A command that WebDriver does not have, but ChromeDriver.
#[derive(Debug)]
struct OfVendor {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for OfVendor {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as std::str::FromStr>::Err> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    pub async fn start() -> Self {
        Self::with_preferences(json!({})).await
    }

    /// Of a person who does not let pages run scripts. Those of the harness do not run either.
    pub async fn without_javascript() -> Self {
        Self::with_preferences(json!({ "profile.managed_default_content_settings.javascript": 2 })).await
    }

    async fn with_preferences(preferences: Value) -> Self {
        let (folder, port) = (Folder::create(), ports::free());
        let mut command = Command::new(parts::chromedriver());
        // What Chromium leaves in its home and among temporary files goes with the folder.
        command.env("HOME", folder.path()).env("TMPDIR", folder.path()).arg(format!("--port={port}"));
        let mut driver = Process::start("chromedriver", command, &folder.join("chromedriver.log"));
        let url = format!("http://127.0.0.1:{port}");
        wait::until("chromedriver to be ready", SOON, async || {
            if driver.ended().is_some() {
                panic!("chromedriver has ended: {}", driver.output());
            }
            reqwest::get(format!("{url}/status")).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&folder.join("profile"), preferences));
        let client = wait::within("chromium to start", SOON, builder.connect(&url)).await;
        let client = client.unwrap_or_else(|error| panic!("chromium: {error}\n{}", driver.output()));
        Self { client, driver, folder }
    }

    pub async fn open(&self, url: &str) {
        ok(self.client.goto(url).await);
    }

    pub async fn reload(&self) {
        ok(self.client.refresh().await);
    }

    /// Of the URL.
    pub async fn path(&self) -> String {
        ok(self.client.current_url().await).path().to_owned()
    }

    pub async fn title(&self) -> String {
        ok(self.client.title().await)
    }

    /// The text that the page shows.
    pub async fn text(&self) -> String {
        ok(self.try_text().await)
    }

    /// Of a part of the page alone.
    pub async fn text_of(&self, selector: &str) -> String {
        ok(self.find(selector, Locator::Css(selector)).await.text().await)
    }

    async fn try_text(&self) -> Result<String, CmdError> {
        self.client.find(Locator::Css("body")).await?.text().await
    }

    /// Waits until the page shows a text; returns all of it.
    pub async fn shows(&self, text: &str) -> String {
        self.shows_after(text, async || Ok(())).await
    }

    /// The same, with a reload before each look.
    pub async fn shows_reloaded(&self, text: &str) -> String {
        self.shows_after(text, async || self.client.refresh().await).await
    }

    async fn shows_after(&self, text: &str, mut before: impl AsyncFnMut() -> Result<(), CmdError>) -> String {
        wait::until(&format!("the page to show {text:?}"), SOON, async || {
            before().await.map_err(|error| error.to_string())?;
            let shown = self.try_text().await.map_err(|error| error.to_string())?;
            if shown.contains(text) { Ok(shown) } else { Err(shown) }
        })
        .await
    }

    async fn find(&self, what: &str, locator: Locator<'_>) -> Element {
        let look = async || self.client.find(locator).await.map_err(|error| error.to_string());
        wait::until(&format!("the page to have {what}"), SOON, look).await
    }

    /// Types into the field of this label, in place of what it held.
    pub async fn fill(&self, label: &str, text: &str) {
        let field = format!("//*[@id = //label[starts-with(normalize-space(.), \"{label}\")]/@for]");
        let field = self.find(&format!("a field {label:?}"), Locator::XPath(&field)).await;
        ok(field.clear().await);
        ok(field.send_keys(text).await);
    }

    /// Ticks what has this code in its label, and unfolds what hides it.
    pub async fn tick(&self, code: &str) {
        let label = format!("//label[code = \"{code}\"]");
        let folded = format!("{label}/ancestor::details[not(@open)]/summary");
        self.find(&format!("a choice {code:?}"), Locator::XPath(&label)).await;
        for summary in ok(self.client.find_all(Locator::XPath(&folded)).await) {
            ok(summary.click().await);
        }
        ok(self.find(&format!("a choice {code:?}"), Locator::XPath(&label)).await.click().await);
    }

    pub async fn press(&self, button: &str) {
        let locator = format!("//button[normalize-space(.) = \"{button}\"]");
        ok(self.find(&format!("a button {button:?}"), Locator::XPath(&locator)).await.click().await);
    }

    /// Opens or closes what is folded under this line.
    pub async fn unfold(&self, summary: &str) {
        let locator = format!("//summary[normalize-space(.) = \"{summary}\"]");
        ok(self.find(&format!("a summary {summary:?}"), Locator::XPath(&locator)).await.click().await);
    }

    pub async fn follow(&self, link: &str) {
        ok(self.find(&format!("a link {link:?}"), Locator::LinkText(link)).await.click().await);
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub async fn keys(&self, keys: &str) {
        let pressed = keys.chars().fold(KeyActions::new("keyboard".to_owned()), |pressed, value| {
            pressed.then(KeyAction::Down { value }).then(KeyAction::Up { value })
        });
        ok(self.client.perform_actions(pressed).await);
    }

    /// Presses Tab until what has the focus matches a selector. It must be seen to have it, and so must all before it.
    pub async fn tab_to(&self, selector: &str) {
        let mut passed = Vec::new();
        for _ in 0..MAX_TABS {
            self.keys(TAB).await;
            let focused = "const one = document.activeElement, style = getComputedStyle(one);
                return [one.matches(arguments[0]), style.outlineStyle !== 'none', one.outerHTML.slice(0, 200)]";
            let focused = self.run(focused, vec![json!(selector)]).await;
            assert_ne!(focused[1], false, "the focus is not to be seen: {}", focused[2]);
            if focused[0] == true {
                return;
            }
            passed.push(focused[2].to_string());
        }
        panic!("Tab does not lead to {selector}, but to {passed:#?}");
    }

    /// Runs the body of a function in the page.
    pub async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        ok(self.client.execute(script, arguments).await)
    }

    /// The same, of one that calls its last argument when it is done.
    pub async fn run_async(&self, script: &str, arguments: Vec<Value>) -> Value {
        ok(self.client.execute_async(script, arguments).await)
    }

    /// Shows pages in a window of this width, and the browser wants this theme.
    pub async fn view(&self, width: u32, theme: Theme) {
        let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let wants = json!({ "name": "prefers-color-scheme", "value": theme.name() });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [wants] })).await;
    }

    /// From the next page on, the browser asks for this language.
    pub async fn prefer(&self, language: &str) {
        self.devtools("Network.enable", json!({})).await;
        let headers = json!({ "headers": { "Accept-Language": language } });
        self.devtools("Network.setExtraHTTPHeaders", headers).await;
    }

    /// Where Chromium takes commands of DevTools, on this machine: for a program that looks at pages with the cookies of this browser.
    pub fn devtools_port(&self) -> u16 {
        // Its second line is the path of the browser itself.
        let file = std::fs::read_to_string(self.folder.join("profile/DevToolsActivePort")).unwrap();
        file.lines().next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {file:?}"))
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        ok(self.client.issue_cmd(OfVendor { path: "goog/cdp/execute", body }).await)
    }

    /// The text that was copied last.
    pub async fn clipboard(&self) -> String {
        self.devtools("Browser.grantPermissions", json!({ "permissions": ["clipboardReadWrite"] })).await;
        let read = "const done = arguments[0];
            navigator.clipboard.readText().then(done, error => done(String(error)))";
        self.run_async(read, Vec::new()).await.as_str().unwrap().to_owned()
    }

    /// The whole page as a picture, whatever of it fits into the window.
    pub async fn picture(&self, file: &Path) {
        let size = "const page = document.scrollingElement; return [page.scrollWidth, page.scrollHeight]";
        let size = self.run(size, Vec::new()).await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let taken = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let taken = self.devtools("Page.captureScreenshot", taken).await;
        let png = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }

    /// What the console was told since the last look.
    pub async fn console(&self) -> Vec<String> {
        let body = json!({ "type": "browser" });
        let entries = ok(self.client.issue_cmd(OfVendor { path: "se/log", body }).await);
        let line = |entry: &Value| format!("{} {}", entry["level"].as_str().unwrap(), entry["message"]);
        entries.as_array().unwrap().iter().map(line).collect()
    }

    /// What axe-core finds that keeps people from using this page, as it is now.
    pub async fn barriers(&self) -> Vec<String> {
        self.run(&parts::axe(), Vec::new()).await;
        let found = "const done = arguments[0];
            const node = one => `${one.html} ${[...one.any, ...one.all, ...one.none].map(check => check.message)}`;
            const line = rule => `${rule.id}: ${rule.help}: ${rule.nodes.map(node).join('; ')}`;
            axe.run(document).then(
                report => done({ looked: report.passes.length, found: report.violations.map(line) }),
                error => done({ looked: 0, found: [String(error)] }));";
        let report = self.run_async(found, Vec::new()).await;
        assert_ne!(report["looked"], 0, "axe-core has looked at nothing: {report}");
        report["found"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }

    /// The text of the dialog that is open.
    pub async fn dialog(&self) -> Option<String> {
        match self.client.get_alert_text().await {
            Err(error) if error.is_no_such_alert() => None,
            asked => Some(ok(asked)),
        }
    }
}

#[track_caller]
fn ok<T>(done: Result<T, CmdError>) -> T {
    done.unwrap_or_else(|error| panic!("the browser: {error}"))
}

fn capabilities(profile: &Path, preferences: Value) -> Capabilities {
    let mut arguments = vec![
        format!("--user-data-dir={}", profile.display()),
        // It talks to nobody but the pages.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
    ];
    let plain = [
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-breakpad",
        "--no-first-run",
        "--lang=en-US",
        "--force-color-profile=srgb",
        // Those of phones lie over the page, and take no room.
        "--hide-scrollbars",
    ];
    arguments.extend(plain.map(str::to_owned));
    if nix::unistd::geteuid().is_root() {
        arguments.push("--no-sandbox".to_owned());
    }
    let options = json!({ "binary": parts::chromium(), "args": arguments, "prefs": preferences });
    let wanted = json!({
        "browserName": "chrome",
        // A dialog that a page opens is found, and not closed unseen.
        "unhandledPromptBehavior": "ignore",
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": options,
    });
    wanted.as_object().unwrap().clone()
}

impl Drop for Browser {
    /// ChromeDriver, killed, would leave Chromium behind.
    fn drop(&mut self) {
        if self.driver.ended().is_some() {
            return;
        }
        let family = process::descendants(self.driver.pid());
        for pid in &family {
            let _ = process::send(*pid, Signal::SIGKILL);
        }
        // What still runs would write into the folder that is removed next.
        let deadline = Instant::now() + Duration::from_secs(5);
        while family.iter().any(|pid| process::is_running(*pid)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}
