//! Station 3: which served models may answer to the name that the client wrote?
//!
//! A known model or alias wins. `auto` is looked up in `[steps]` by the header's step; any other name that is a step
//! is looked up there too. An unknown name is an answer (404 with the known names), never a guess: a default model
//! would hide a misspelling until somebody reads the bill.
//!
//! Names are compared as they are written, case included.

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
    /// The names that would have meant something: models, aliases, then steps, each in order. Steps alone where the name was
    /// `auto` and a step was wanted.
    pub known: Vec<&'a str>,
    /// Whether the name was `auto` without a step that could tell the model.
    pub auto_without_step: bool,
}

impl UnknownModel<'_> {
    /// For whoever asked for the model by this name.
    pub fn message(&self, asked: &str) -> String {
        let known = self.known.join(", ");
        match self.auto_without_step {
            false => format!("the model '{asked}' does not exist; known names: {known}"),
            true if self.known.is_empty() => "the model 'auto' needs steps, and none are configured in [steps]".into(),
            true => format!("the model 'auto' needs a known step in the header x-agent-step; known steps: {known}"),
        }
    }
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
    let mut steps: Vec<&str> = topology.steps.keys().map(String::as_str).collect();
    steps.sort_unstable();
    if auto_without_step {
        return UnknownModel { known: steps, auto_without_step };
    }
    let mut known: Vec<&str> = topology.models.iter().map(|model| model.name.as_str()).collect();
    let mut aliases: Vec<&str> =
        topology.models.iter().flat_map(|model| model.aliases.iter().map(String::as_str)).collect();
    aliases.sort_unstable();
    known.extend(aliases);
    known.extend(steps);
    UnknownModel { known, auto_without_step }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::Fleet;

    fn topology() -> Topology {
        Fleet::new()
            .model("llama-70b", &["large"])
            .model("llama-8b", &["small", "fast"])
            .step("planner", "llama-70b")
            .step("tool_caller", "llama-8b")
            .build()
    }

    /// `model` with header step `step` means this model and this step label.
    #[track_caller]
    fn check(model: &str, step: Option<&str>, expected: (&str, &str)) {
        let topology = topology();
        let resolved = resolve(&topology, model, step).unwrap();
        assert_eq!((topology.model(resolved.model).name.as_str(), resolved.step), expected);
    }

    #[track_caller]
    fn check_unknown(model: &str, step: Option<&str>, message: &str) {
        assert_eq!(resolve(&topology(), model, step).unwrap_err().message(model), message);
    }

    #[test]
    fn a_known_model_or_alias_wins_and_the_header_step_only_labels() {
        check("llama-8b", None, ("llama-8b", NO_STEP));
        check("small", None, ("llama-8b", NO_STEP));
        check("large", Some("planner"), ("llama-70b", "planner"));
        check("small", Some("planner"), ("llama-8b", "planner"));
    }

    #[test]
    fn a_step_in_the_models_place_is_looked_up() {
        check("planner", None, ("llama-70b", "planner"));
        check("tool_caller", Some("tool_caller"), ("llama-8b", "tool_caller"));
        check("planner", Some("tool_caller"), ("llama-70b", "tool_caller"));
        check("planner", Some("researcher"), ("llama-70b", OTHER_STEP));
    }

    #[test]
    fn auto_asks_the_header_step() {
        check("auto", Some("planner"), ("llama-70b", "planner"));
        check("auto", Some("tool_caller"), ("llama-8b", "tool_caller"));
        let steps = "the model 'auto' needs a known step in the header x-agent-step; known steps: planner, tool_caller";
        check_unknown("auto", None, steps);
        check_unknown("auto", Some("researcher"), steps);
        let without = Fleet::new().model("small", &["fast"]).build();
        let message = resolve(&without, "auto", Some("planner")).unwrap_err().message("auto");
        assert_eq!(message, "the model 'auto' needs steps, and none are configured in [steps]");
    }

    #[test]
    fn an_unknown_header_step_labels_as_other() {
        check("small", Some("researcher"), ("llama-8b", OTHER_STEP));
        check("small", Some(""), ("llama-8b", OTHER_STEP));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        for model in ["lama-8b", "Llama-8B", "llama-8b ", "", "served/llama-8b"] {
            let known = "llama-70b, llama-8b, fast, large, small, planner, tool_caller";
            let message = format!("the model '{model}' does not exist; known names: {known}");
            check_unknown(model, None, &message);
            check_unknown(model, Some("planner"), &message);
        }
    }

    #[test]
    fn a_model_may_be_called_auto_or_like_a_step() {
        let topology = Fleet::new().model("auto", &["planner"]).model("big", &[]).step("planner", "big").build();
        for name in ["auto", "planner"] {
            assert_eq!(topology.model(resolve(&topology, name, Some("planner")).unwrap().model).name, "auto");
        }
    }
}
