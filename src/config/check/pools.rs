//! `[[pools]]`: the replicas of one model in one region.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::names::{self, Names};
use super::outside::Outside;
use super::replicas;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Knob, Report, Span, Table, Value, hint_among};
use crate::domain::ask::{Dialect, DialectSet};
use crate::domain::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx};
use crate::domain::topology::{Credential, Engine, Pool, Replica, TokenPrice};

const ENGINES: [Engine; 4] = [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp, Engine::OpenAi];

/// Most pools: each is looked at for every request of its model.
const POOLS_MAX: usize = 1_000;

const MAX_IN_FLIGHT: Knob<u32> = Knob {
    key: "max_in_flight",
    default: 128,
    min: 1,
    max: 65_536,
    why: "requests at one replica at a time: 0 would close it, and no engine batches more than a few hundred",
};

/// Most requests in a pool at a time: beyond it the number is a slip of the pen.
const MAX_IN_FLIGHT_TOTAL_MAX: u32 = 16_777_216;

/// Tokens of one replica's KV cache: from one short prompt's to what the index of a pool can hold.
const KV_CACHE_TOKENS: RangeInclusive<u32> = 1_024..=67_108_864;

const QUEUE: Knob<u32> = Knob {
    key: "queue",
    default: 64,
    min: 0,
    max: 4_096,
    why: "calls that wait for a place; a long line only turns an overload into time-outs",
};

const QUEUE_TIMEOUT: Knob<Duration> = Knob {
    key: "queue_timeout",
    default: Duration::from_secs(5),
    min: Duration::ZERO,
    max: Duration::from_secs(120),
    why: "how long a call waits for a place; an answer that ends makes room within seconds",
};

/// What `[[pools]]` says.
pub(super) struct Pools {
    /// In the order of the file.
    pub(super) list: Vec<Pool>,
    /// Where each is declared.
    pub(super) places: Vec<Span>,
    /// Whether every pool has a known model, so that a model without a pool is the model's fault.
    pub(super) complete: bool,
}

/// Checks `[[pools]]`.
pub(super) fn check(
    root: &Table<'_>,
    regions: &Names,
    models: &Names,
    own: &[SocketAddr],
    outside: &Outside<'_>,
) -> (Pools, Vec<Replica>) {
    let report = root.report();
    let value = root.required("pools", "at least one [[pools]] with `name`, `region`, `model`, `engine`, `replicas`");
    let mut pools = Pools { list: Vec::new(), places: Vec::new(), complete: value.is_some() };
    let items = value.as_ref().map(|value| value.items()).unwrap_or_default();
    if items.len() > POOLS_MAX {
        let place = items.get(POOLS_MAX).map(Value::span).unwrap_or_default();
        report.error(&place, format!("more than {POOLS_MAX} pools"), "split the fleet among several edges");
    }
    let mut declared = Names::new("pool", "[[pools]]");
    let mut all = replicas::Replicas::new(own);
    for item in items.iter().take(POOLS_MAX) {
        let Some(table) = item.table() else {
            pools.complete = false;
            continue;
        };
        let name = table.required_text("name", "a name of its own, as name = \"usw-8b\"");
        if !name.value.is_empty() {
            names::plain("a pool", &name, report);
            declared.declare(&name, pools.list.len(), report);
        }
        let model_name = table.required_text("model", "what it serves: a name of [models]");
        let model = models.find(&model_name, report);
        pools.complete &= model.is_some();
        let ix = PoolIx(pools.list.len());
        let mut pool = pool(&table, name.value, regions, outside);
        pool.model = ModelIx(model.unwrap_or_default());
        let http2 = table.get("http2").and_then(|value| value.flag()).unwrap_or_default();
        let added = all.add(&table, ix, name.value, http2, outside);
        pool.replicas = added.map(ReplicaIx).collect();
        pools.list.push(pool);
        pools.places.push(table.span().clone());
    }
    (pools, all.into_list())
}

fn pool(table: &Table<'_>, name: &str, regions: &Names, outside: &Outside<'_>) -> Pool {
    let report = table.report();
    let region = table.required_text("region", "where it is: a name of [regions]");
    let engine = engine(table);
    let gpu = table.text("gpu");
    if let Some(gpu) = gpu.as_ref().filter(|gpu| gpu.value.len() > 64 || gpu.value.chars().any(char::is_control)) {
        report.error(&gpu.span, "`gpu` is no kind of GPU", "write at most 64 characters, as \"H100 80GB\"");
    }
    let cost = table.get("cost_per_hour");
    let token_price = table.get("price_per_million_tokens").and_then(|value| token_price(&value));
    let total = table.get("max_in_flight_total");
    let kv_cache = table.get("kv_cache_tokens");
    Pool {
        name: name.to_owned(),
        region: RegionIx(regions.find(&region, report).unwrap_or_default()),
        model: ModelIx(0),
        engine,
        gpu: gpu.map(|gpu| gpu.value.to_owned()),
        cost_per_hour: cost.and_then(|value| value.number(0.0..=100_000.0, "USD per hour and replica")),
        price_per_million_tokens: token_price,
        max_in_flight: table.knob(&MAX_IN_FLIGHT).value,
        max_in_flight_total: total.and_then(|value| value.whole_number(1..=MAX_IN_FLIGHT_TOTAL_MAX, "calls")),
        queue: table.knob(&QUEUE).value,
        queue_timeout: table.knob(&QUEUE_TIMEOUT).value,
        kv_cache_tokens: kv_cache
            .and_then(|value| value.whole_number(KV_CACHE_TOKENS, "tokens of one replica's cache")),
        credential: credential(table, outside),
        include_usage: include_usage(table, engine),
        dialects: dialects(table, engine),
        replicas: Vec::new(),
    }
}

/// Where no price of cached tokens is stated they cost what others do.
fn token_price(value: &Value<'_>) -> Option<TokenPrice> {
    let table = value.table()?;
    let price = |value: Value<'_>| value.number(0.0..=100_000.0, "USD per million tokens");
    let prompt = table.required("prompt", "what a million tokens of prompts cost, as prompt = 0.20");
    let cached = table.get("cached").and_then(price);
    let completion = table.required("completion", "what a million tokens of answers cost, as completion = 0.60");
    let (prompt, completion) = (prompt.and_then(price), completion.and_then(price));
    let prompt = prompt?;
    Some(TokenPrice { prompt, cached: cached.unwrap_or(prompt), completion: completion? })
}

fn engine(table: &Table<'_>) -> Engine {
    let text = table.required("engine", "what runs there: \"vllm\", \"sglang\", \"llama.cpp\" or \"openai\"");
    let Some(text) = text.and_then(|value| value.text()) else { return Engine::OpenAi };
    ENGINES.into_iter().find(|engine| engine.name() == text.value).unwrap_or_else(|| {
        let hint = hint_among(text.value, ENGINES.iter().map(|engine| engine.name()));
        let hint = format!("{hint}; \"openai\" is any other server with OpenAI's API");
        table.report().error(&text.span, format!("unknown engine {}", quoted(text.value)), hint);
        Engine::OpenAi
    })
}

fn credential(table: &Table<'_>, outside: &Outside<'_>) -> Credential {
    let Some(value) = table.get("api_key") else { return Credential::None };
    if value.as_text().is_some_and(|text| text.value == "pass") {
        return Credential::Pass;
    }
    outside.secret("pools.api_key", &value, table.report()).map_or(Credential::None, Credential::Key)
}

/// llama.cpp tells its `timings` unasked, and would tell them in the event that is taken out.
fn include_usage(table: &Table<'_>, engine: Engine) -> bool {
    let said = table.get("include_usage").and_then(|value| value.flag());
    said.unwrap_or(engine != Engine::LlamaCpp)
}

fn dialects(table: &Table<'_>, engine: Engine) -> DialectSet {
    let Some(value) = table.get("dialects") else { return spoken_by(engine) };
    if value.is_empty_list() {
        let hint = "a pool that speaks nothing serves nobody; leave the key out for the engine's own";
        table.report().error(&value.span(), "`dialects` is empty", hint);
    }
    let texts = value.items().into_iter().filter_map(|item| item.text());
    texts.filter_map(|text| dialect(&text, table.report())).collect()
}

fn dialect(text: &At<&str>, report: &Report) -> Option<Dialect> {
    let found = Dialect::named(text.value);
    if found.is_none() {
        let hint = hint_among(text.value, Dialect::ALL.iter().map(|dialect| dialect.name()));
        report.error(&text.span, format!("unknown dialect {}", quoted(text.value)), hint);
    }
    found
}

/// What an engine speaks when the pool does not say.
fn spoken_by(engine: Engine) -> DialectSet {
    let all = Dialect::ALL.into_iter();
    match engine {
        // Both serve Anthropic's messages natively.
        Engine::Vllm | Engine::LlamaCpp => all.collect(),
        Engine::Sglang | Engine::OpenAi => all.filter(|dialect| *dialect != Dialect::Messages).collect(),
    }
}
