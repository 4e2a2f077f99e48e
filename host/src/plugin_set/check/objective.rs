//! `[train] objective` with its hyper-parameters and its reference, and `[pair]`.

use super::{Checked, one_of};
use crate::{
    objective::{
        Preference,
        sso::{BaseLoss, Sso, SsoGenerator, WeightScope},
    },
    plugin_set::{
        Objective, PairBy, Pairing, PluginSet, Reference,
        keys::{OBJECTIVES, PAIR, TRAIN},
        problem::{Problem, list},
        section::Section,
        settings::base_beta,
        typed::Place,
    },
};

/// Reads the objective. `base` is the user's under this, of which another objective takes nothing.
pub(super) fn objective(table: &Section<'_>, base: Option<Objective>) -> Checked<Objective> {
    let base = base.unwrap_or(Objective::Sft);
    if table.text("objective")?.is_some_and(|name| name == "grpo") {
        return Err(table
            .wrong("objective", "is `grpo`, which is not in this version")
            .label(one_of(&OBJECTIVES.map(|(name, _)| name))));
    }
    let choices = OBJECTIVES.map(|(name, _)| (name, name));
    let chosen = table.choice("objective", &choices)?.unwrap_or(base.name());
    no_other_keys(table, chosen)?;
    let known = if chosen == base.name() { Some(base) } else { Objective::named(chosen) };
    let mut objective = known.expect("every choice has its defaults");
    if let Objective::Preference(preference) = &mut objective {
        hyper_parameters(table, preference)?;
    }
    Ok(objective)
}

/// Puts what is given in the place of what was there.
fn hyper_parameters(table: &Section<'_>, preference: &mut Preference) -> Checked<()> {
    let number = |key: &str, value: &mut f64| -> Checked<()> {
        let given = match key {
            "label_smoothing" => {
                table.number(key, "a number from 0 to under 0.5", |x| (0.0..0.5).contains(&x))
            }
            "alpha" => table.number(key, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x)),
            "gamma" | "center_rewards_coefficient" => {
                table.number(key, "a number, 0 or more", |x| x >= 0.0)
            }
            _ => table.number(key, "a number over 0", |x| x > 0.0),
        };
        *value = given?.unwrap_or(*value);
        Ok(())
    };
    let truth = |key: &str, value: &mut bool| -> Checked<()> {
        *value = table.boolean(key)?.unwrap_or(*value);
        Ok(())
    };
    let base_loss = |value: &mut BaseLoss, beta: &mut f64| -> Checked<()> {
        let losses = [("dpo", BaseLoss::Dpo), ("ipo", BaseLoss::Ipo)];
        if let Some(chosen) = table.choice("base_loss", &losses)?
            && chosen != *value
        {
            (*value, *beta) = (chosen, base_beta(chosen));
        }
        Ok(())
    };
    match preference {
        Preference::Dpo { beta, label_smoothing } => {
            number("beta", beta)?;
            number("label_smoothing", label_smoothing)
        }
        Preference::Ipo { beta, length_averaged } => {
            number("beta", beta)?;
            truth("length_averaged", length_averaged)
        }
        Preference::Hinge { beta } | Preference::Orpo { beta } => number("beta", beta),
        Preference::SimPo { beta, gamma } => {
            number("beta", beta)?;
            number("gamma", gamma)
        }
        Preference::Kto { beta, desirable_weight, undesirable_weight } => {
            number("beta", beta)?;
            number("desirable_weight", desirable_weight)?;
            number("undesirable_weight", undesirable_weight)
        }
        Preference::Reward { center_rewards_coefficient } => {
            number("center_rewards_coefficient", center_rewards_coefficient)
        }
        Preference::Sso(Sso { base_loss: base, beta, gamma, alpha, w_scope, w_detach }) => {
            base_loss(base, beta)?;
            number("beta", beta)?;
            number("gamma", gamma)?;
            number("alpha", alpha)?;
            let scopes = [
                ("all", WeightScope::All),
                ("g_only", WeightScope::GOnly),
                ("none", WeightScope::None),
            ];
            *w_scope = table.choice("w_scope", &scopes)?.unwrap_or(*w_scope);
            truth("w_detach", w_detach)
        }
        Preference::SsoGenerator(SsoGenerator { base_loss: base, beta, gamma }) => {
            base_loss(base, beta)?;
            number("beta", beta)?;
            number("gamma", gamma)
        }
    }
}

/// Refuses hyper-parameters of other objectives.
fn no_other_keys(table: &Section<'_>, chosen: &str) -> Checked<()> {
    let own = OBJECTIVES.iter().find(|(name, _)| *name == chosen).map_or(&[][..], |(_, own)| own);
    // Whoever tries another objective from the command line leaves the file as it is.
    let tried = matches!(table.place_of("objective"), Place::Argument(_)) && table.has("objective");
    let counts = |key: &&str| match table.place_of(key) {
        Place::File(_) => !tried,
        Place::Argument(_) => true,
    };
    let all = OBJECTIVES.iter().flat_map(|(_, keys)| keys.iter().copied());
    match all.filter(|key| table.has(key) && !own.contains(key)).find(counts) {
        None => Ok(()),
        Some(key) => {
            let wrong = table.wrong(key, &format!("is no setting of objective `{chosen}`"));
            let of: Vec<&str> = OBJECTIVES
                .iter()
                .filter(|(_, keys)| keys.contains(&key))
                .map(|(name, _)| *name)
                .collect();
            Err(wrong.label(format!("expected an objective that has it: {}", list(&of))))
        }
    }
}

/// Reads the reference of an objective. `base` is the user's under this.
pub(super) fn reference(
    table: &Section<'_>,
    objective: Objective,
    base: Option<Reference>,
) -> Checked<Option<Reference>> {
    let references = [("initial", Reference::Initial), ("previous", Reference::Previous)];
    let given = table.choice("reference", &references)?;
    let needed = match objective {
        Objective::Sft => false,
        Objective::Preference(preference) => preference.needs_reference(),
    };
    if needed {
        return Ok(given.or(base).or(Some(Reference::Initial)));
    }
    let tried = matches!(table.place_of("objective"), Place::Argument(_)) && table.has("objective");
    match given {
        Some(_) if !tried => Err(table
            .wrong("reference", &format!("is given, and objective `{}` has none", objective.name()))
            .label("expected an objective that holds the policy to a reference, such as `dpo`")),
        _ => Ok(None),
    }
}

/// Reads `[pair]` and sees that the rest of the set gives what the objectives compare.
pub(super) fn pairing(root: &Section<'_>, set: &PluginSet) -> Checked<Option<Pairing>> {
    let table = root.table("pair", &PAIR)?;
    if !set.compares() {
        return match table {
            None => Ok(None),
            Some(table) => {
                Err(Problem::new("`[pair]` is given, and no objective compares", table.place())
                    .label("expected an objective such as `dpo` in `[train]`"))
            }
        };
    }
    let place = match root.table("train", &TRAIN)? {
        Some(train) if train.has("objective") => train.place_of("objective").clone(),
        _ => root.place_of("rounds").clone(),
    };
    if set.principle.is_none() && set.data.pairs.is_none() {
        return Err(Problem::new(
            "the objective compares completions, and each prompt has one",
            &place,
        )
        .label("expected a `[principle]` that puts a prompt in several ways"));
    }
    let choices = [("role", PairBy::Role), ("judge", PairBy::Judge)];
    let judged = set.judge.is_some() && set.data.pairs.is_none();
    let default = if judged { PairBy::Judge } else { PairBy::Role };
    let (mut by, mut reward) = (default, None);
    if let Some(table) = &table {
        by = table.choice("by", &choices)?.unwrap_or(default);
        reward = table.text("reward")?;
        if by == PairBy::Judge && set.judge.is_none() {
            return Err(table
                .wrong("by", "is `judge`, and the plugin set has no `[judge]`")
                .label("expected `role`"));
        }
        if by == PairBy::Role && reward.is_some() {
            return Err(table
                .wrong("reward", "is given, and pairs are made by role")
                .label("expected `by = \"judge\"`, or no `reward`"));
        }
    }
    let trains = (1..=set.run.rounds).filter_map(|round| set.train(round));
    let by_role = trains.filter_map(|train| train.preference()).find(Preference::tells_by_role);
    match by_role {
        Some(preference) if by == PairBy::Judge => {
            let name = preference.name();
            let place = table.as_ref().map_or(&place, |table| table.place_of("by"));
            Err(Problem::new(format!("objective `{name}` tells completions apart by role"), place)
                .label("expected `by = \"role\"` in `[pair]`"))
        }
        _ => Ok(Some(Pairing { by, reward })),
    }
}
