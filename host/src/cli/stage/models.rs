//! The models that the plugins of a stage may ask, or that measure for them: found before, and loaded
//! when there is a row to ask about.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::task::Task;
use crate::{
    cli::{CliError, host, memory},
    model::{
        adapter::Adapter,
        backend::{AnyDevice, WeightType},
        peft,
        template::ChatSettings,
    },
    plugin_set::{EmbeddedWork, MODEL_ROLES, Server},
    progress::Progress,
    round::{Models, Need, Opened, Policy, What},
    run::directory::Directory,
};

/// The models of a stage, without their weights.
pub struct Wanted {
    /// The policy; where nobody asks it, one of the others, so that it need not be there.
    policy: Opened,
    named: BTreeMap<String, Opened>,
    adapters: BTreeMap<String, Adapter>,
    /// Makes the policy that enters the round of the initial model.
    entering: Option<Adapter>,
    asks_policy: bool,
    /// Those of the models that are asked which servers answer for.
    servers: BTreeMap<String, Server>,
    device: AnyDevice,
    weight_type: WeightType,
}

impl Wanted {
    /// Finds the models that are asked; none where none is. `adapter` is the one beside the policy.
    pub fn find(
        task: &Task,
        adapter: Option<&Path>,
        device: impl FnOnce(WeightType) -> Result<AnyDevice, CliError>,
        progress: &Progress,
    ) -> Result<Option<Wanted>, CliError> {
        let names = names(task);
        if names.is_empty() {
            return match adapter {
                None => Ok(None),
                Some(_) => Err(CliError::usage(
                    "an adapter is named, and no plugin of the stage asks a model or needs one to measure",
                )),
            };
        }
        let set = &task.set;
        if let Some((name, round)) = set.models.saved.iter().find(|(it, _)| names.contains(*it)) {
            let message = format!("a plugin asks `{name}`, which round {round} of a run saves");
            return Err(CliError::usage(message).hint(
                "in a plugin set of its own, the adapter folder of that round can be named in `[models]`",
            ));
        }
        let chat = ChatSettings { date: set.chat.date, variables: set.chat.variables.clone() };
        let mut downloads = host::Downloads::new(progress);
        let mut open = |name: &str, model: &str| {
            let report = &mut |state| downloads.note(state);
            match set.models.servers.contains_key(name) {
                true => Opened::open_base(model, chat.clone(), report),
                false => Opened::open(model, chat.clone(), report),
            }
        };
        let asked = set.models.named.iter().filter(|(name, _)| names.contains(*name));
        let (adapters, others): (Vec<_>, Vec<_>) =
            asked.partition(|(_, model)| peft::is_adapter(Path::new(model)));
        let asks_policy = !adapters.is_empty()
            || adapter.is_some()
            || names.iter().any(|name| MODEL_ROLES.contains(&name.as_str()));
        let mut named = BTreeMap::new();
        for (name, model) in others {
            named.insert(name.clone(), open(name, model)?);
        }
        let policy = match named.values().next() {
            Some(other) if !asks_policy => other.clone(),
            _ => open("policy", &set.models.policy)?,
        };
        downloads.finish();
        let entering = adapter.map(|folder| host::writing_adapter(folder, &policy)).transpose()?;
        let read = |(name, folder): (&String, &String)| {
            Ok((name.clone(), host::adapter(Path::new(folder), &policy)?))
        };
        let adapters = adapters.into_iter().map(read).collect::<Result<_, CliError>>()?;
        let weight_type = set.run.dtype;
        let device = device(weight_type)?;
        let asked = |name: &String| (name == "policy" && asks_policy) || named.contains_key(name);
        let servers = set.models.servers.iter().filter(|(name, _)| asked(name));
        let servers = servers.map(|(name, server)| (name.clone(), server.clone())).collect();
        let wanted =
            Wanted { policy, named, adapters, entering, asks_policy, servers, device, weight_type };
        Ok(Some(wanted))
    }

    /// Returns what else decides the last bits of what models say.
    pub fn engine(&self) -> String {
        self.device.class(self.weight_type)
    }

    /// Returns a digest of each model, by name, and what a server calls it that answers for it.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let served = |(name, server): (&String, &Server)| {
            let model = server.model.clone().unwrap_or_default();
            (format!("{name} served"), model)
        };
        let here = self.digests_here().into_iter();
        let here = here.map(|(name, digest)| (name.to_owned(), digest));
        here.chain(self.servers.iter().map(served)).collect()
    }

    fn digests_here(&self) -> BTreeMap<&str, String> {
        let opened = |opened: &Opened| opened.model.digest.clone();
        let initial = self.asks_policy.then(|| ("initial", opened(&self.policy)));
        let entering = self.entering.iter().map(|adapter| ("policy", adapter.digest()));
        let named = self.named.iter().map(|(name, it)| (name.as_str(), opened(it)));
        let adapters = self.adapters.iter().map(|(name, it)| (name.as_str(), it.digest()));
        initial.into_iter().chain(entering).chain(named).chain(adapters).collect()
    }

    /// Makes the models ready to be asked, and returns them with the policy that enters the round. Its
    /// weights are read when it is asked. Servers find an adapter in `directory`, and keep it: workers on other
    /// shards may ask for the same.
    pub fn load(
        &self,
        directory: &Directory,
        progress: &Progress,
    ) -> Result<(Models, Policy), CliError> {
        let (device, weight_type) = (&self.device, self.weight_type);
        let is_here = |name: &String| {
            let server = self.servers.get(name);
            server.is_none_or(|server| server.leaves(EmbeddedWork::Scores))
        };
        let mut named = BTreeMap::new();
        for (name, opened) in self.named.iter().filter(|(name, _)| is_here(name)) {
            memory::check_model(opened, None, device, weight_type)?;
            named.insert(name.clone(), host::load(opened, device, weight_type, progress)?);
        }
        if self.asks_policy && is_here(&"policy".to_owned()) {
            memory::check_model(&self.policy, self.entering.as_ref(), device, weight_type)?;
        }
        let mut models = Models::unloaded(&self.policy, device, weight_type, named, *progress);
        host::serve(&mut models, &self.servers, |name| {
            self.named.get(name).unwrap_or(&self.policy)
        });
        models.exchange_in(directory);
        host::try_servers(&models, device, progress)?;
        for (name, adapter) in &self.adapters {
            models.save(name, &models.adapted(adapter.clone())?);
        }
        let policy = match &self.entering {
            Some(adapter) => models.adapted(adapter.clone())?,
            None => models.initial(),
        };
        Ok((models, policy))
    }
}

/// Returns the names of the models that plugins may ask, or that measure for them.
fn names(task: &Task) -> BTreeSet<String> {
    let called = task.called();
    let asked = called.iter().flat_map(|called| called.wanted.ask.iter());
    let asked = asked.flat_map(|ask| ask.models.iter().cloned());
    let measures = |need: Need| match need.what {
        What::Scored { initial: true, .. } => "initial".to_owned(),
        What::Scored { .. } | What::Cluster { .. } => "policy".to_owned(),
    };
    asked.chain(task.needs().into_iter().map(measures)).collect()
}
