//! Station 3: which served models may answer to the name that the client wrote?
//!
//! A known model or alias wins. `auto` is looked up in `[steps]` by the header's step; any other name that is a step
//! is looked up there too. An unknown name is an answer (404 with the known names), never a guess: a default model
//! would hide a misspelling until somebody reads the bill.

use crate::domain::ids::ModelIx;
use crate::domain::topology::Topology;

/// The model name that leaves the choice to the step.
pub const AUTO: &str = "auto";

/// The label of a step that `[steps]` does not name, so that clients cannot make new label values.
pub const OTHER_STEP: &str = "other";

/// The label of a call without a step.
pub const NO_STEP: &str = "none";

/// A name made definite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved<'a> {
    /// The model asked for.
    pub model: ModelIx,
    /// The step as a label: a key of `[steps]`, [`OTHER_STEP`] or [`NO_STEP`].
    pub step: &'a str,
}

/// Why a name means nothing here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownModel<'a> {
    /// The names that would have meant something: models, aliases, then steps, each in order.
    pub known: Vec<&'a str>,
    /// Whether the name was `auto` without a step that could tell the model.
    pub auto_without_step: bool,
}

/// Finds the model that `model` (from the body) and `step` (from the header) ask for.
pub fn resolve<'a>(topology: &'a Topology, model: &str, step: Option<&str>) -> Result<Resolved<'a>, UnknownModel<'a>> {
    let header_step = step.map(|name| topology.steps.get_key_value(name));
    let label = match header_step {
        None => NO_STEP,
        Some(None) => OTHER_STEP,
        Some(Some((name, _))) => name,
    };
    if let Some(model) = topology.model_names.get(model) {
        return Ok(Resolved { model: *model, step: label });
    }
    if model == AUTO {
        return match header_step {
            Some(Some((name, model))) => Ok(Resolved { model: *model, step: name }),
            _ => Err(unknown(topology, true)),
        };
    }
    match topology.steps.get_key_value(model) {
        // The name in the model's place is what was asked for; a header that says otherwise only labels.
        Some((name, model)) => Ok(Resolved { model: *model, step: if step.is_some() { label } else { name } }),
        None => Err(unknown(topology, false)),
    }
}

fn unknown(topology: &Topology, auto_without_step: bool) -> UnknownModel<'_> {
    let mut known: Vec<&str> = topology.models.iter().map(|model| model.name.as_str()).collect();
    let mut aliases: Vec<&str> =
        topology.models.iter().flat_map(|model| model.aliases.iter().map(String::as_str)).collect();
    let mut steps: Vec<&str> = topology.steps.keys().map(String::as_str).collect();
    aliases.sort_unstable();
    steps.sort_unstable();
    known.extend(aliases);
    known.extend(steps);
    UnknownModel { known, auto_without_step }
}
