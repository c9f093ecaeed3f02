//! Just enough of Rust's grammar for `tests/tidy.rs`: code without comments and strings, without tests, as tokens, and
//! the paths in it with `use` trees spelled out.

use std::fmt;

/// One file, cut up for the rules.
#[derive(Clone)]
pub(crate) struct File {
    /// From the crate's root, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) raw: String,
    /// Without comments and the insides of strings.
    pub(crate) with_tests: String,
    /// That, without what stands under `#[cfg(test)]`.
    pub(crate) code: String,
}

impl File {
    /// Cuts up a file; only one that holds Rust has code.
    pub(crate) fn new(path: &str, raw: &str) -> File {
        let with_tests = if path.ends_with(".rs") { strip(raw) } else { String::new() };
        let code = without_tests(&with_tests);
        File { path: path.into(), raw: raw.into(), with_tests, code }
    }

    /// The top-level module that the file belongs to.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many `super` lead from the file's module to the crate.
    pub(crate) fn depth(&self) -> usize {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').count() - usize::from(below.ends_with("/mod.rs"))
    }

    /// The modules declared under `#[cfg(test)]` that live in files of their own.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let tokens = tokens(&self.with_tests);
        let mut modules = Vec::new();
        for start in cfg_tests(&tokens) {
            let item: Vec<_> = tokens[start..].iter().take(8).map(|token| token.text.as_str()).collect();
            let at = item.iter().position(|text| *text == "mod");
            if let Some([_, name, ";", ..]) = at.map(|at| &item[at..]) {
                modules.push((*name).to_owned());
            }
        }
        modules
    }
}

/// A word or a sign.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
    /// In bytes.
    at: usize,
}

/// Words, `::`, and every other sign by itself.
pub(crate) fn tokens(code: &str) -> Vec<Token> {
    let (mut tokens, mut line, mut rest) = (Vec::new(), 1, code);
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let len = match first {
            _ if word(first) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        if first == '\n' {
            line += 1;
        } else if !first.is_whitespace() {
            tokens.push(Token { text: rest[..len].into(), line, at: code.len() - rest.len() });
        }
        rest = &rest[len..];
    }
    tokens
}

/// A path such as `crate::domain::ids`.
#[derive(PartialEq, Debug)]
pub(crate) struct CodePath {
    parts: Vec<String>,
    pub(crate) line: usize,
    /// Whether it is a method or field: something and a `.` stand before it.
    pub(crate) on_value: bool,
}

impl CodePath {
    pub(crate) fn parts(&self) -> Vec<&str> {
        self.parts.iter().map(String::as_str).collect()
    }
}

impl fmt::Display for CodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("::"))
    }
}

/// Every path in the code, with groups spelled out: `a::{b, c::d}` is `a::b` and `a::c::d`.
pub(crate) fn paths(code: &str) -> Vec<CodePath> {
    let tokens = tokens(code);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if is_word(&tokens[at]) {
            let on_value = at > 0 && tokens[at - 1].text == ".";
            at = path_at(&tokens, at, &[], on_value, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path that begins at `at` after `prefix`; returns where it ends.
fn path_at(tokens: &[Token], mut at: usize, prefix: &[String], on_value: bool, found: &mut Vec<CodePath>) -> usize {
    let (mut parts, line) = (prefix.to_vec(), tokens[at].line);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    loop {
        if text(at) == "{" {
            at += 1;
            while !["}", ""].contains(&text(at)) {
                at = if is_word(&tokens[at]) { path_at(tokens, at, &parts, false, found) } else { at + 1 };
            }
            return at + 1;
        }
        match tokens.get(at) {
            // A glob ends a path; a `*` that follows no `::` never comes here.
            Some(token) if is_word(token) || token.text == "*" => parts.push(token.text.clone()),
            _ => break,
        }
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    found.push(CodePath { parts, line, on_value });
    at
}

fn is_word(token: &Token) -> bool {
    token.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Where the items begin that stand under `#[cfg(test)]`: just behind the attribute.
fn cfg_tests(tokens: &[Token]) -> impl Iterator<Item = usize> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let matches = |(at, seven): (usize, &[Token])| {
        seven.iter().map(|token| token.text.as_str()).eq(ATTRIBUTE).then_some(at + ATTRIBUTE.len())
    };
    tokens.windows(ATTRIBUTE.len()).enumerate().filter_map(matches)
}

/// Blanks every item under `#[cfg(test)]`, keeping lines.
fn without_tests(code: &str) -> String {
    let tokens = tokens(code);
    let mut kept = code.to_owned();
    for start in cfg_tests(&tokens) {
        // The item ends with its first `;` or with the brace that closes its first one.
        let mut depth = 0;
        let end = tokens[start..].iter().find(|token| {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            depth == 0 && ["}", ";"].contains(&token.text.as_str())
        });
        let (from, to) = (tokens[start - 7].at, end.map_or(code.len(), |token| token.at + 1));
        kept.replace_range(from..to, &blank(&code[from..to]));
    }
    kept
}

/// Spaces for everything but line ends, byte for byte.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Blanks comments and what stands between quotes.
fn strip(text: &str) -> String {
    let (mut code, mut rest) = (String::with_capacity(text.len()), text);
    while !rest.is_empty() {
        let skipped = literal_len(rest, code.chars().next_back());
        let len = if skipped == 0 { rest.chars().next().map_or(1, char::len_utf8) } else { skipped };
        if skipped == 0 {
            code.push_str(&rest[..len])
        } else {
            code.push_str(&blank(&rest[..len]))
        }
        rest = &rest[len..];
    }
    code
}

/// How long the comment or literal is that `rest` begins with; 0 for none.
fn literal_len(rest: &str, before: Option<char>) -> usize {
    let until = |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest.strip_prefix("br").or(rest.strip_prefix('r')).filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let from = rest.len() - raw.len() + hashes + 1;
            return until(from, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    match rest.as_bytes()[0] {
        b'"' => escaped_len(rest, b'"'),
        // A lifetime is no literal: a character's quote comes after one character, or after a backslash.
        b'\'' if rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'') => escaped_len(rest, b'\''),
        _ => 0,
    }
}

fn escaped_len(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}
