//! Processes of one host that train together, as `torchrun` starts them: which one this is, and how they meet.
//!
//! They meet at a socket in a folder that only this user can enter, under a name of what they run and of `MASTER_PORT`.
//! The port itself is `torchrun`'s own.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{CliError, Device, cancel, exit, host};
use crate::{
    digest::sha256,
    model::backend::AnyDevice,
    model::template::ChatSettings,
    plugin_set::PluginSet,
    progress::{Progress, Style},
    round::{Loaded, Opened, RunError},
    run::Prepared,
    train::{Base, RankError, Ranks, WireError, Work, Worker, WorkerError},
};

/// How long processes that are started together are waited for.
const MEET: Duration = Duration::from_secs(60);

/// How long a rank may take to read a model.
const LOAD: Duration = Duration::from_secs(3600);

/// How long their GPUs may take to be linked.
const LINK: Duration = Duration::from_secs(60);

/// How long who has come may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);

/// How often it is looked whether somebody has come.
const LOOK: Duration = Duration::from_millis(50);

/// What starts several processes calls a port where nobody says another.
const PORT: &str = "29500";

/// Most ranks that one host may have.
const MOST: usize = 256;

/// Which of several processes one is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    rank: usize,
    size: usize,
    /// The same among those of this host.
    local: usize,
    /// `MASTER_PORT`.
    port: String,
}

/// What somebody is told in whose environment the variables are for something else.
const ALONE: &str = "unset `WORLD_SIZE` and `RANK` to run it in one process";

impl Place {
    /// Reads what `torchrun` says in the environment; none where there is one process.
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>, CliError> {
        let number = |name: &str| -> Result<Option<usize>, CliError> {
            let Some(text) = variable(name) else { return Ok(None) };
            let number = text.parse().map_err(|_| {
                CliError::usage(format!("`{name}` is `{}`, expected a number", text.escape_debug()))
            })?;
            Ok(Some(number))
        };
        let Some(size) = number("WORLD_SIZE")?.filter(|&size| size != 1) else { return Ok(None) };
        if !(2..=MOST).contains(&size) {
            let message = format!("`WORLD_SIZE` is {size}, expected a number from 1 to {MOST}");
            return Err(CliError::usage(message));
        }
        let Some(rank) = number("RANK")? else {
            return Err(CliError::usage(format!("`WORLD_SIZE` is {size}, and there is no `RANK`"))
                .hint(format!("`torchrun` sets both; {ALONE}")));
        };
        if rank >= size {
            let message =
                format!("`RANK` is {rank}, expected a number below `WORLD_SIZE`, which is {size}");
            return Err(CliError::usage(message));
        }
        if let Some(here) = number("LOCAL_WORLD_SIZE")?.filter(|&here| here != size) {
            let message =
                format!("`WORLD_SIZE` is {size}, and {here} of these processes are on this host");
            let hint = format!(
                "ranks are of one host; `[train] backend = \"trl\"` trains over several; {ALONE}"
            );
            return Err(CliError::usage(message).hint(hint));
        }
        let local = number("LOCAL_RANK")?.unwrap_or(rank);
        if rank == 0 && local != 0 {
            let message = format!("`LOCAL_RANK` of rank 0 is {local}, expected 0");
            return Err(CliError::usage(message));
        }
        let port = variable("MASTER_PORT").unwrap_or_else(|| PORT.to_owned());
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            let message = format!("`MASTER_PORT` is `{}`, expected a number", port.escape_debug());
            return Err(CliError::usage(message));
        }
        Ok(Some(Place { rank, size, local, port }))
    }

    /// Fails where a plugin set trains nothing that ranks could share.
    fn check(&self, set: &PluginSet) -> Result<(), CliError> {
        let size = self.size;
        let trained: Vec<_> =
            (1..=set.run.rounds).filter_map(|round| Some((round, set.train(round)?))).collect();
        let refused = |what: String, hint: &str| {
            let message = format!("`WORLD_SIZE` is {size}, and {what}");
            Err(CliError::usage(message).hint(format!("{hint}{ALONE}")))
        };
        if let Some((round, _)) = trained.iter().find(|(_, train)| train.trl.is_some()) {
            let what = format!("round {round} trains with TRL, which starts processes of its own");
            return refused(what, "`[train.trl] launch` says how; ");
        }
        if let Some((round, _)) = trained.iter().find(|(_, train)| train.lora.is_none()) {
            let what = format!("round {round} trains every weight, which ranks do not share");
            return refused(what, "`train.method = \"lora\"` trains an adapter; ");
        }
        match trained.is_empty() {
            true => refused("no round trains anything".to_owned(), ""),
            false => Ok(()),
        }
    }

    /// Returns where the ranks of a run meet, in a folder of this user's own.
    fn socket(&self, run: &str) -> Result<PathBuf, CliError> {
        // SAFETY: it only returns a number.
        let user = unsafe { libc::geteuid() };
        let folder = std::env::temp_dir().join(format!("aligner-{user}"));
        let failed = |what: &dyn Display| cannot_meet(&folder, what);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&error));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&folder).map_err(|error| failed(&error))?;
        if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
            return Err(failed(&"it is not a folder that only you can enter"));
        }
        let run = sha256(run.as_bytes());
        Ok(folder.join(format!("ranks-{}-{}", self.port, &run[..16])))
    }
}

fn cannot_meet(place: &Path, why: &dyn Display) -> CliError {
    let message = format!("ranks cannot meet in `{}`: {why}", place.display());
    CliError::new(exit::MODEL_OR_DATA, message)
        .hint("set TMPDIR to a folder of your own, with a path that is not long")
}

/// What a process does next.
pub enum Role {
    /// The run, of which others do a part where there is a lobby.
    Run(Option<Lobby>),
    /// Nothing more: it has worked for rank 0.
    Done,
}

/// Takes this process to its part of what a plugin set trains: all of it where it is alone. `run` is what all ranks of a
/// run were told, and no others.
pub fn role(set: &PluginSet, device: Device, run: &str) -> Result<Role, CliError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let Some(place) = Place::read(&variable)? else { return Ok(Role::Run(None)) };
    place.check(set)?;
    let path = place.socket(run)?;
    match place.rank {
        0 => Ok(Role::Run(Some(Lobby::open(place, path)?))),
        _ => work(&place, &path, device).map(|()| Role::Done),
    }
}

/// Where rank 0 waits for the others.
pub struct Lobby {
    place: Place,
    path: PathBuf,
    listener: UnixListener,
    /// Locked for as long as this waits: the socket is nobody else's.
    _lock: File,
}

impl Lobby {
    fn open(place: Place, path: PathBuf) -> Result<Lobby, CliError> {
        let failed = |error: io::Error| cannot_meet(&path, &error);
        let lock = File::create(path.with_extension("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let message = "another rank 0 of this run waits for its ranks";
                return Err(CliError::usage(message)
                    .hint("each process of a run has a `RANK` of its own, and only one is 0"));
            }
        }
        // What a killed run has left.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Lobby { place, path, listener, _lock: lock })
    }

    /// Waits until all ranks have come, and has them load the policy's weights, which takes a while.
    pub fn meet(self, prepared: &Prepared, progress: &Progress) -> Result<Ranks, CliError> {
        let others = self.place.size - 1;
        let bar = progress.stage("waiting for ranks", others as u64, "ranks");
        let begun = Instant::now();
        let mut ranks = Ranks::new(self.place.size);
        while ranks.come() < others {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream
                        .set_nonblocking(false)
                        .map_err(|error| cannot_meet(&self.path, &error))?;
                    if ranks.admit(stream, HELLO, cancel::flag())? {
                        bar.inc(1);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if cancel::flag().load(Ordering::Relaxed) {
                        return Err(RunError::NotBegun.into());
                    }
                    if begun.elapsed() >= MEET {
                        return Err(self.nobody(ranks.come()));
                    }
                    std::thread::sleep(LOOK);
                }
                Err(error) => return Err(cannot_meet(&self.path, &error)),
            }
        }
        bar.finish();
        let models = &prepared.set.models;
        let policy = &prepared.models["policy"].model;
        let (weight_type, chat) = (prepared.set.run.dtype, &prepared.set.chat);
        ranks.load(
            &Base {
                model: models.policy.clone(),
                digest: policy.digest.clone(),
                chat: ChatSettings { date: chat.date, variables: chat.variables.clone() },
                weight_type,
                class: prepared.device.class(weight_type),
            },
            LOAD,
        )?;
        Ok(ranks)
    }

    fn nobody(&self, come: usize) -> CliError {
        let Place { size, .. } = &self.place;
        let (others, seconds) = (size - 1, MEET.as_secs());
        let message = format!("{come} of {others} other ranks have come in {seconds} s");
        CliError::new(exit::MODEL_OR_DATA, message).hint(format!(
            "`torchrun --no-python --nproc-per-node {size} aligner …` starts all with the same command; {ALONE}"
        ))
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Waits until all ranks have loaded what they were told to, and links their devices where these can be.
pub fn loaded(ranks: &mut Ranks, device: &AnyDevice, progress: &Progress) -> Result<(), CliError> {
    let bar =
        progress.stage("waiting for ranks to load the model", ranks.size() as u64 - 1, "ranks");
    ranks.loaded(&mut || bar.inc(1))?;
    bar.finish();
    if !device.shares_memory() {
        let bar = progress.stage("linking the ranks' GPUs", 1, "links");
        if let Some(why) = ranks.link(device, LINK, cancel::flag())? {
            tracing::warn!("ranks pass gradients through the host's memory: {why}");
        }
        bar.finish();
    }
    Ok(())
}

/// Works for rank 0 until its run has ended, with this process's share of the machine's processors. Rank 0 keeps all of
/// them, as it does all stages but training by itself.
fn work(place: &Place, path: &Path, device: Device) -> Result<(), CliError> {
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let all = std::thread::available_parallelism().map_or(1, |all| all.get());
        // Where threads run already, they are as they are.
        let threads = (all / place.size).max(1);
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    cancel::leave_to_another()?;
    let Some(stream) = connect(place, path)? else { return Ok(()) };
    match work_over(stream, place, device) {
        // How that is, rank 0 says itself.
        Err(Stopped::Worker(WorkerError(WireError::Gone))) => {
            let _ = writeln!(io::stderr(), "rank {}: rank 0 has ended", place.rank);
            Ok(())
        }
        Err(Stopped::Worker(error)) => Err(error.into()),
        Err(Stopped::Refused(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Why a worker stops.
enum Stopped {
    Worker(WorkerError),
    Refused(CliError),
}

impl From<WorkerError> for Stopped {
    fn from(error: WorkerError) -> Stopped {
        Stopped::Worker(error)
    }
}

fn work_over(stream: UnixStream, place: &Place, device: Device) -> Result<(), Stopped> {
    let mut worker = Worker::join(stream, place.rank, place.size)?;
    let base = match worker.wait()? {
        Work::Load(base) => base,
        Work::End => return Ok(()),
    };
    match load(&base, place, device) {
        Ok(loaded) => Ok(worker.work(&loaded.engine)?),
        Err(error) => {
            worker.refuse(&error.message)?;
            Err(Stopped::Refused(error))
        }
    }
}

/// Finds rank 0, which may begin a little later than this process.
fn connect(place: &Place, path: &Path) -> Result<Option<UnixStream>, CliError> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(Some(stream)),
            Err(_) if cancel::flag().load(Ordering::Relaxed) => return Ok(None),
            Err(error) if begun.elapsed() >= MEET => {
                let Place { rank, port, .. } = place;
                let seconds = MEET.as_secs();
                let message = format!(
                    "rank {rank} has not found rank 0 at `MASTER_PORT` {port} in {seconds} s: {error}"
                );
                let hint = "rank 0 says why where it has ended; all ranks need the same command and `MASTER_PORT`";
                return Err(CliError::new(exit::MODEL_OR_DATA, message).hint(hint));
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Loads what rank 0 has loaded, onto a device of the same kind.
fn load(base: &Base, place: &Place, device: Device) -> Result<Loaded, CliError> {
    let opened = Opened::open(&base.model, base.chat.clone(), &mut |_| {})?;
    if opened.model.digest != base.digest {
        let message = format!("model `{}` is not the one that rank 0 has", base.model);
        return Err(CliError::new(exit::MODEL_OR_DATA, message));
    }
    let device = device.of_rank(place.local, &base.class);
    let device = device.resolve(base.weight_type).map_err(|error| CliError {
        hint: Some(format!(
            "start no more processes than there are GPUs, or say with `LOCAL_RANK`, which is {}, which GPU is whose",
            place.local
        )),
        ..error
    })?;
    let class = device.class(base.weight_type);
    if class != base.class {
        let message = format!("works on `{class}`, rank 0 on `{}`", base.class);
        return Err(CliError::usage(message)
            .hint("ranks work on devices of one kind, as what is trained depends on it"));
    }
    // Rank 0 shows that it waits for this.
    host::load(&opened, &device, base.weight_type, &Progress::new(Style::Silent))
}

impl From<RankError> for CliError {
    fn from(error: RankError) -> CliError {
        let code = match error {
            RankError::Wire { source: WireError::Cancelled, .. } => exit::INTERRUPTED,
            _ => exit::MODEL_OR_DATA,
        };
        CliError::new(code, error.to_string())
            .hint("start all ranks again, with the same command and `--resume`")
    }
}

impl From<WorkerError> for CliError {
    fn from(error: WorkerError) -> CliError {
        CliError::new(exit::MODEL_OR_DATA, error.to_string())
            .hint("rank 0 says why; start all ranks again, with the same command and `--resume`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Place>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Place::read(&variable).map_err(|error| error.to_string())
    }

    #[test]
    fn what_torchrun_says_is_understood() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("WORLD_SIZE", "1"), ("RANK", "0")]), Ok(None));
        let place = |rank, size, local, port: &str| {
            Ok(Some(Place { rank, size, local, port: port.to_owned() }))
        };
        let two = [("WORLD_SIZE", "2"), ("RANK", "1")];
        assert_eq!(read(&two), place(1, 2, 1, "29500"));
        let torchrun = [
            ("WORLD_SIZE", "4"),
            ("RANK", "3"),
            ("LOCAL_RANK", "2"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_PORT", "1234"),
        ];
        assert_eq!(read(&torchrun), place(3, 4, 2, "1234"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (variables, expected) in [
            (&[("WORLD_SIZE", "two")][..], "`WORLD_SIZE` is `two`, expected a number"),
            (&[("WORLD_SIZE", "0")], "`WORLD_SIZE` is 0, expected a number from 1 to 256"),
            (&[("WORLD_SIZE", "99999")], "`WORLD_SIZE` is 99999, expected a number from 1 to 256"),
            (&[("WORLD_SIZE", "2")], "`WORLD_SIZE` is 2, and there is no `RANK`"),
            (
                &[("WORLD_SIZE", "2"), ("RANK", "2")],
                "`RANK` is 2, expected a number below `WORLD_SIZE`, which is 2",
            ),
            (&[("WORLD_SIZE", "2"), ("RANK", "-1")], "`RANK` is `-1`, expected a number"),
            (
                &[("WORLD_SIZE", "16"), ("RANK", "1"), ("LOCAL_WORLD_SIZE", "8")],
                "`WORLD_SIZE` is 16, and 8 of these processes are on this host",
            ),
            (
                &[("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_PORT", "../x")],
                "`MASTER_PORT` is `../x`, expected a number",
            ),
        ] {
            let error = read(variables).unwrap_err();
            assert!(error.starts_with(&format!("error: {expected}")), "{error}");
        }
    }
}
