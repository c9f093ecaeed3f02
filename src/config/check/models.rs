//! `[models]` and `[steps]`: what clients can ask for, by which names.

use std::collections::HashMap;

use super::names::{self, Names};
use super::pools::Pools;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Span, Table, Value, list};
use crate::domain::ids::{ModelIx, PoolIx};
use crate::domain::topology::{Model, Pool};
use crate::policy::resolve::{AUTO, NO_STEP, OTHER_STEP};

/// The longest context in tokens that is believed: ten times the longest that is on offer anywhere.
const CONTEXT_TOKENS_MAX: u32 = 100_000_000;

const EXAMPLE: &str = "[models.\"llama-3.1-8b\"]; every pool serves one model";

/// What `[models]` and `[steps]` say.
pub(super) struct Models {
    /// In order of name; `pools` are attached later.
    pub(super) list: Vec<Model>,
    pub(super) names: Names,
    pub(super) by_name: HashMap<String, ModelIx>,
    pub(super) steps: HashMap<String, ModelIx>,
    /// Place, and the GPU kind that is asked for, of each of `list`.
    drafts: Vec<(Span, Option<String>)>,
}

/// Checks `[models]` and `[steps]`.
pub(super) fn check(root: &Table<'_>) -> Models {
    let report = root.report();
    let section = root.required_section("models", EXAMPLE);
    let entries = section.entries();
    if section.is_present() && entries.is_empty() {
        report.error(section.span(), "there is no model", format!("write {EXAMPLE}"));
    }
    let mut models = Models {
        list: Vec::new(),
        names: Names::new("model", "[models]"),
        by_name: HashMap::new(),
        steps: HashMap::new(),
        drafts: Vec::new(),
    };
    for (position, (name, _)) in entries.iter().enumerate() {
        names::model("a model", name, report);
        not_auto(name, report);
        models.names.declare(name, position, report);
        models.by_name.insert(name.value.to_owned(), ModelIx(position));
    }
    let mut aliases = Names::new("alias", "[models]");
    let mut fallbacks = Vec::new();
    for (name, value) in &entries {
        let table = value.table();
        fallbacks.push(table.as_ref().and_then(|table| table.texts("fallbacks")).unwrap_or_default());
        let (mut model, gpu) = model(name, table.as_ref());
        models.drafts.push((name.span.clone(), gpu));
        for alias in table.and_then(|table| table.texts("aliases")).unwrap_or_default() {
            declare_alias(&mut models, &mut aliases, &alias, report);
            model.aliases.push(alias.value.to_owned());
        }
        models.list.push(model);
    }
    for (position, wanted) in fallbacks.iter().enumerate() {
        models.list[position].fallbacks = resolve_fallbacks(&models, ModelIx(position), wanted, report);
    }
    steps(root, &mut models, &aliases);
    models
}

fn model(name: &At<&str>, table: Option<&Table<'_>>) -> (Model, Option<String>) {
    let mut model = Model {
        name: name.value.to_owned(),
        served_as: name.value.to_owned(),
        aliases: Vec::new(),
        context_tokens: None,
        fallbacks: Vec::new(),
        pools: Vec::new(),
    };
    let Some(table) = table else { return (model, None) };
    if let Some(served_as) = table.text("served_as") {
        if served_as.value.is_empty() || served_as.value.len() > 256 || served_as.value.chars().any(char::is_control) {
            let hint = "write the model's name at its engines, or leave the key out when it is the same";
            table.report().error(&served_as.span, "`served_as` is no name of a model", hint);
        }
        model.served_as = served_as.value.to_owned();
    }
    let tokens = table.get("context_tokens");
    model.context_tokens = tokens.and_then(|value| value.whole_number(1..=CONTEXT_TOKENS_MAX, "tokens"));
    let gpu = table.text("gpu");
    if let Some(gpu) = gpu.as_ref().filter(|gpu| gpu.value.is_empty()) {
        table.report().error(&gpu.span, "`gpu` is empty", "write how the `gpu` of the pools that are meant begins");
    }
    (model, gpu.map(|gpu| gpu.value.to_owned()))
}

fn not_auto(name: &At<&str>, report: &Report) {
    if name.value == AUTO {
        let hint = "clients write \"auto\" to let the step choose the model; take another name";
        report.error(&name.span, "\"auto\" is taken", hint);
    }
}

fn declare_alias(models: &mut Models, aliases: &mut Names, alias: &At<&str>, report: &Report) {
    names::model("an alias", alias, report);
    not_auto(alias, report);
    if let Some(first) = models.names.place(alias.value) {
        let message = format!("the alias {} is the name of a model", quoted(alias.value));
        return report.twice(&alias.span, first, message, "a name can mean one model only; remove the alias");
    }
    let position = models.list.len();
    aliases.declare(alias, position, report);
    models.by_name.entry(alias.value.to_owned()).or_insert(ModelIx(position));
}

fn resolve_fallbacks(models: &Models, of: ModelIx, wanted: &[At<&str>], report: &Report) -> Vec<ModelIx> {
    let mut found: Vec<ModelIx> = Vec::new();
    for name in wanted {
        match (models.names.get(name.value).map(ModelIx), models.by_name.get(name.value)) {
            (Some(model), _) if model == of => {
                report.error(&name.span, "a model cannot be its own fallback", "name other models, or remove it");
            }
            (Some(model), _) if found.contains(&model) => {
                let message = format!("{} is named twice", quoted(name.value));
                report.error(&name.span, message, "the order is the order of trying; name each model once");
            }
            (Some(model), _) => found.push(model),
            (None, Some(aliased)) => {
                let message = format!("{} is an alias", quoted(name.value));
                let target = models.list.get(aliased.0).map_or("", |model| model.name.as_str());
                report.error(&name.span, message, format!("write the model's own name, {}", quoted(target)));
            }
            (None, None) => {
                models.names.find(name, report);
            }
        }
    }
    found
}

fn steps(root: &Table<'_>, models: &mut Models, aliases: &Names) {
    let report = root.report();
    for (step, value) in root.section("steps").entries() {
        names::plain("a step", &step, report);
        if [AUTO, OTHER_STEP, NO_STEP].contains(&step.value) {
            let hint = "\"auto\", \"other\" and \"none\" have meanings of their own; take another name";
            report.error(&step.span, format!("no step can be named {}", quoted(step.value)), hint);
        }
        if let Some(first) = models.names.place(step.value).or(aliases.place(step.value)) {
            let message = format!("the step {} has the name of a model", quoted(step.value));
            report.twice(
                &step.span,
                first,
                message,
                "clients may write a step in a model's place; give it another name",
            );
        }
        if let Some(model) = value.text().and_then(|name| find_named(models, &name, &value, report)) {
            models.steps.insert(step.value.to_owned(), model);
        }
    }
}

/// The model with this name or alias.
fn find_named(models: &Models, name: &At<&str>, value: &Value<'_>, report: &Report) -> Option<ModelIx> {
    let found = models.by_name.get(name.value).copied();
    if found.is_none() && name.value.is_empty() {
        report.error(&value.span(), "the step names no model", "write a name of [models], or an alias");
    } else if found.is_none() {
        models.names.find(name, report);
    }
    found
}

/// Tells each model its pools. A model that asks for a kind of GPU takes those of its pools, and of the pools of other
/// models that are served under the same name, whose `gpu` begins so.
pub(super) fn attach_pools(models: &mut Models, pools: &Pools, report: &Report) {
    let served_as: Vec<String> = models.list.iter().map(|model| model.served_as.clone()).collect();
    let mut reachable = vec![false; pools.list.len()];
    for (at, (span, gpu)) in models.drafts.iter().enumerate() {
        let serves = |pool: &Pool| match gpu {
            None => pool.model == ModelIx(at),
            Some(gpu) => {
                served_as.get(pool.model.0) == served_as.get(at)
                    && pool.gpu.as_ref().is_some_and(|kind| kind.starts_with(gpu.as_str()))
            }
        };
        let found: Vec<PoolIx> =
            pools.list.iter().enumerate().filter(|(_, pool)| serves(pool)).map(|(ix, _)| PoolIx(ix)).collect();
        found.iter().for_each(|pool| reachable[pool.0] = true);
        if found.is_empty() && models.list[at].fallbacks.is_empty() && pools.complete {
            report_unserved(&models.list[at].name, span, gpu.as_deref(), pools, report);
        }
        models.list[at].pools = found;
    }
    for (at, _) in reachable.iter().enumerate().filter(|(_, reachable)| !**reachable) {
        if let (Some(place), true) = (pools.places.get(at), pools.complete) {
            let hint = "its model asks for another kind of GPU; change the pool's `gpu` or the model's";
            report.error(place, "no model uses this pool", hint);
        }
    }
}

fn report_unserved(model: &str, span: &Span, gpu: Option<&str>, pools: &Pools, report: &Report) {
    let (message, hint) = match gpu {
        None => {
            let hint = "add a pool with this `model`, give the model `fallbacks`, or remove it";
            (format!("no pool serves the model {}", quoted(model)), hint.to_owned())
        }
        Some(gpu) => {
            let mut kinds: Vec<&str> = pools.list.iter().filter_map(|pool| pool.gpu.as_deref()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let hint = format!("the pools' kinds are: {}", list(kinds.into_iter()));
            (format!("no pool of the model {} has a `gpu` that begins {}", quoted(model), quoted(gpu)), hint)
        }
    };
    report.error(span, message, hint);
}
