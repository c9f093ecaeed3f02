//! The page as a person meets it: what can be read, what a screen reader says of it, what the keyboard reaches.

use serde_json::{Value, json};

use super::driver::Browser;

/// The page in a browser.
pub(crate) struct Screen {
    pub(crate) browser: Browser,
    origin: String,
}

/// What a screen reader is told of one element.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) role: String,
    pub(crate) name: String,
}

/// Waits until `look()` is true, which is asked at every change of the document.
const UNTIL: &str = "
    return new Promise((resolve) => {
      const check = () => { if (look()) { observer.disconnect(); resolve(true); } };
      const observer = new MutationObserver(check);
      observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
      check();
    });";

impl Screen {
    /// Opens the page of an edge, and waits until it shows how things stand.
    pub(crate) async fn open(browser: Browser, admin: std::net::SocketAddr) -> Screen {
        let screen = Screen { browser, origin: format!("http://{admin}") };
        screen.browser.open(&format!("{}/", screen.origin)).await;
        screen.until("document.documentElement.dataset.feed === 'live'").await;
        screen
    }

    /// Waits until an expression of the page is true.
    pub(crate) async fn until(&self, expression: &str) {
        self.browser.run(&format!("const look = () => {expression};{UNTIL}"), &[]).await;
    }

    /// Waits until this can be read.
    pub(crate) async fn read(&self, text: &str) {
        let look = "const look = () => document.body.innerText.includes(arguments_[0]);";
        self.browser.run(&format!("const arguments_ = arguments; {look}{UNTIL}"), &[json!(text)]).await;
    }

    /// All that can be read, also what would have to be scrolled to.
    pub(crate) async fn text(&self) -> String {
        self.value("document.body.innerText").await.as_str().unwrap().to_owned()
    }

    /// An expression's value.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        self.browser.run(&format!("return {expression};"), &[]).await
    }

    /// All that a screen reader is told, in the order of reading.
    pub(crate) async fn told(&self) -> Vec<Told> {
        self.browser.devtools("Accessibility.enable", json!({})).await;
        let tree = self.browser.devtools("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        nodes.map(|node| Told { role: text(&node["role"]), name: text(&node["name"]) }).collect()
    }

    /// Fails unless a screen reader is told of this.
    pub(crate) async fn tells(&self, role: &str, name: &str) {
        let told = self.told().await;
        let same_role: Vec<_> = told.iter().filter(|told| told.role == role).map(|told| &told.name).collect();
        assert!(same_role.iter().any(|told| *told == name), "no {role} \"{name}\", but {same_role:?}");
    }

    /// Where the focus is: the element's tag, and its text or label.
    pub(crate) async fn focused(&self) -> String {
        let describe = "(() => { const at = document.activeElement;
            return at.tagName.toLowerCase() + ' ' + (at.name || at.id || at.innerText || at.ariaLabel || ''); })()";
        self.value(describe).await.as_str().unwrap().to_owned()
    }

    /// Fails if the console has anything to say, or anything was asked of anybody but the edge.
    pub(crate) async fn nothing_went_wrong(&self) {
        let said = self.browser.log("browser").await;
        assert!(said.is_empty(), "the console says {said:#?}");
        let mut asked = 0;
        for entry in self.browser.log("performance").await {
            let message = entry["message"].as_str().unwrap();
            let Some(at) = message.find("\"Network.requestWillBeSent\"") else { continue };
            let url = message[at..].split_once("\"url\":\"").map_or("", |(_, rest)| rest.split('"').next().unwrap());
            // The browser's own first page is no page of ours.
            let own =
                url.starts_with(&self.origin) || url.starts_with("data:image/svg+xml,") || url.starts_with("chrome:");
            assert!(own, "asked elsewhere: {message}");
            asked += usize::from(url.starts_with(&self.origin));
        }
        assert!(asked > 0, "no request was seen at all");
    }
}
