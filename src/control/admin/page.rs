//! The status page: one document with its style and script inside, and a policy under which nothing else runs or loads.
//!
//! Its sources are the small files in `page/`, joined once. The policy names the hashes of exactly these texts; the page
//! may talk to this listener alone, and no string can become markup or code (Trusted Types), whatever is in the names and
//! request ids that it shows.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use once_cell::sync::Lazy;
use sha2::{Digest, Sha256};

/// A document and its `Content-Security-Policy`.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) html: String,
    pub(super) policy: String,
}

/// The status page.
pub(super) static STATUS_PAGE: Lazy<Document> = Lazy::new(|| document(TEMPLATE, &STYLE.concat(), &SCRIPT.concat()));

const TEMPLATE: &str = include_str!("page/index.html");

/// In the order of the cascade.
const STYLE: [&str; 4] = [
    include_str!("page/style/base.css"),
    include_str!("page/style/layout.css"),
    include_str!("page/style/parts.css"),
    include_str!("page/style/pictures.css"),
];

/// One module's text: small helpers first, and last what starts it all.
const SCRIPT: [&str; 18] = [
    include_str!("page/script/dom.js"),
    include_str!("page/script/format.js"),
    include_str!("page/script/judge.js"),
    include_str!("page/script/table.js"),
    include_str!("page/script/feed.js"),
    include_str!("page/script/summary.js"),
    include_str!("page/script/changes.js"),
    include_str!("page/script/projection.js"),
    include_str!("page/map/land.js"),
    include_str!("page/script/marks.js"),
    include_str!("page/script/map.js"),
    include_str!("page/script/regions.js"),
    include_str!("page/script/charts.js"),
    include_str!("page/script/replicas.js"),
    include_str!("page/script/pools.js"),
    include_str!("page/script/records.js"),
    include_str!("page/script/explain.js"),
    include_str!("page/script/main.js"),
];

fn document(template: &str, style: &str, script: &str) -> Document {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source(script),
        source(style)
    );
    Document { html: template.replacen("{style}", style, 1).replacen("{script}", script, 1), policy }
}

/// A text's hash as a policy names it.
fn source(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a phone on a slow line loads in a second or two.
    const BYTES_MAX: usize = 150 * 1024;

    fn between<'a>(text: &'a str, open: &str, close: &str) -> &'a str {
        text.split_once(open).unwrap().1.split_once(close).unwrap().0
    }

    #[test]
    fn the_policy_allows_exactly_what_is_embedded() {
        let Document { html, policy } = &*STATUS_PAGE;
        let script = between(html, "<script type=\"module\">", "</script>");
        let style = between(html, "<style>", "</style>");
        assert!(script.contains("start();") && style.contains(":root"));
        assert!(policy.contains(&format!("script-src '{}'; style-src '{}';", source(script), source(style))));
        assert_eq!((html.matches("<script").count(), html.matches("<style").count()), (1, 1));
        // As the standard's own example has it.
        assert_eq!(source("doSomething();"), "sha256-RFWPLDbv2BY+rCkDzsE+0fr8ylGr2R2faWMhq4lfEQc=");
    }

    #[test]
    fn it_is_small_and_names_nobody_elses_server() {
        let html = &STATUS_PAGE.html;
        assert!(html.len() < BYTES_MAX, "{} bytes", html.len());
        let elsewhere: Vec<_> =
            html.match_indices("://").map(|(at, _)| &html[at - 5..html.len().min(at + 30)]).collect();
        // The name of the SVG namespace is no address: nothing is loaded from there.
        assert!(elsewhere.iter().all(|found| found.contains("://www.w3.org/2000/svg")), "{elsewhere:?}");
    }

    #[test]
    fn nothing_that_the_policy_forbids_is_tried() {
        let script = SCRIPT.concat();
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
        let attributes = TEMPLATE.split_whitespace().filter_map(|word| word.split_once('=')).map(|(name, _)| name);
        let inline: Vec<_> = attributes.filter(|name| *name == "style" || name.starts_with("on")).collect();
        assert!(inline.is_empty(), "inline styles or handlers: {inline:?}");
    }
}
