//! `GET /explain`: where would this call go from here, and why? As `nearpool explain --json` tells it, but of the running
//! edge: with the round trips that it has measured, its replicas as they are, and its sessions.

use std::net::IpAddr;
use std::time::Instant;

use super::answer::Answer;
use crate::control::explain::{Asked, Unexplained, explain};
use crate::domain::ask::Dialect;
use crate::roster::Roster;
use crate::wire::names::{NAME_BYTES_MAX, is_name};
use crate::wire::query;

/// What may be asked, by name.
const NAMES: &[&str] = &["ip", "model", "step", "session", "key", "dialect"];

/// Answers a query; 400 with what to do about it where it cannot be answered.
pub(super) fn answer(roster: &Roster, query: &str, now: Instant) -> Answer {
    explained(roster, query, now).unwrap_or_else(|refusal| refusal)
}

fn explained(roster: &Roster, query: &str, now: Instant) -> Result<Answer, Answer> {
    let values = query::read(query, NAMES).map_err(|error| bad(&error.to_string()))?;
    let [ip, model, step, session, key, dialect] = &values[..] else { return Err(bad("the query cannot be read")) };
    let ip = ip.as_deref().ok_or_else(|| bad("give the client's address: /explain?ip=ADDRESS&model=NAME"))?;
    let ip: IpAddr =
        ip.trim().parse().map_err(|_| bad(&format!("'{ip}' is no address; write it as 192.0.2.1 or 2001:db8::1")))?;
    let model = model.as_deref().ok_or_else(|| bad("give a model, alias or step: /explain?ip=ADDRESS&model=NAME"))?;
    let dialect = dialect.as_deref().unwrap_or(Dialect::Chat.name());
    let dialect = Dialect::named(dialect).ok_or_else(|| {
        bad(&format!("no dialect '{dialect}'; known are {}", Dialect::ALL.map(Dialect::name).join(", ")))
    })?;
    let (step, session, key) = (named("step", step)?, named("session", session)?, key.as_deref());
    let asked = Asked { ip, model, step, session, key, dialect };
    let snapshot = roster.snapshot();
    let told = explain(&asked, &snapshot, Some(&roster.sessions), now);
    told.map(|explanation| Answer::json(200, &explanation.json())).map_err(|error| {
        let (status, code) = match &error {
            Unexplained::UnknownModel(_) => (400, "model_not_found"),
            Unexplained::NotServed { .. } => (400, "dialect_not_served"),
            Unexplained::Geo(_) => (500, "geo"),
        };
        Answer::error(status, code, &error.to_string())
    })
}

fn bad(message: &str) -> Answer {
    Answer::error(400, "bad_query", message)
}

/// A name as a header would give it.
fn named<'a>(what: &str, name: &'a Option<String>) -> Result<Option<&'a str>, Answer> {
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    match name.filter(|name| !is_name(name)) {
        None => Ok(name),
        Some(_) => Err(bad(&format!("a {what} is at most {NAME_BYTES_MAX} bytes of visible ASCII"))),
    }
}
