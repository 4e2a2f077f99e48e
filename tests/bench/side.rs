//! The processes of a row: each loads once and works when it is told to, so runs can alternate.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::row::{Isa, Order, Peer};
use crate::table::Sample;

/// How long a side may take for one answer.
const PATIENCE: Duration = Duration::from_secs(600);
/// Seconds after which a first run is no warm-up any more.
const WARM: f64 = 40.0;

/// A running worker.
pub struct Side {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    log: PathBuf,
    /// What the worker says of itself, mostly versions.
    pub about: Value,
    /// What it did so far.
    pub runs: Runs,
}

/// The runs of a side.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The first, which counts for nothing but `check`.
    pub warm_up: Option<Sample>,
    /// The others, in order.
    pub measured: Vec<Sample>,
}

impl Side {
    /// Starts our worker, which is this program.
    pub fn ours(order: &Order, log: &Path) -> Result<Side, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        Side::start(program.as_os_str(), &["worker".as_ref()], order, log)
    }

    /// Starts the worker of a peer.
    pub fn peer(peer: Peer, python: &Path, order: &Order, log: &Path) -> Result<Side, String> {
        let script = peers_folder().join(peer.script());
        Side::start(python.as_os_str(), &[script.as_os_str()], order, log)
    }

    fn start(
        program: &OsStr,
        arguments: &[&OsStr],
        order: &Order,
        log: &Path,
    ) -> Result<Side, String> {
        let file = File::create(log).map_err(|e| format!("`{}`: {e}", log.display()))?;
        let order_text = serde_json::to_string(order).map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg(order_text)
            .envs(environment(order))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("`{}` cannot be run: {error}", program.display()))?;
        let stdout = child.stdout.take().ok_or("no pipe from the worker")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        let (about, runs) = (Value::Null, Runs::default());
        let log = log.to_owned();
        let mut side = Side { child, stdin, answers, log, about, runs };
        side.about = side.answer()?["ready"].take();
        Ok(side)
    }

    fn answer(&mut self) -> Result<Value, String> {
        let log = self.log.display();
        let line = self.answers.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {} s", PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => format!("ended early; see `{log}`"),
        })?;
        let mut answer: Value =
            serde_json::from_str(&line).map_err(|_| format!("answered `{line}`"))?;
        match answer["error"].take() {
            Value::String(error) => Err(error),
            _ => Ok(answer),
        }
    }

    fn run(&mut self) -> Result<Sample, String> {
        let stdin = self.stdin.as_mut().ok_or("the worker is gone")?;
        writeln!(stdin, "run").and_then(|()| stdin.flush()).map_err(|error| error.to_string())?;
        serde_json::from_value(self.answer()?).map_err(|error| error.to_string())
    }

    /// Works once without being measured. What takes long is warm before it is over, so it counts.
    pub fn warm_up(&mut self) -> Result<(), String> {
        let sample = self.run()?;
        if sample.wall > WARM {
            self.runs.measured.push(sample.clone());
        }
        self.runs.warm_up = Some(sample);
        Ok(())
    }

    /// Works until it has so many measured runs.
    pub fn measure(&mut self, runs: usize) -> Result<(), String> {
        while self.runs.measured.len() < runs {
            let sample = self.run()?;
            self.runs.measured.push(sample);
        }
        Ok(())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.stdin.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Variables that set threads and instructions, for our side and all peers alike.
pub fn environment(order: &Order) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        variables.push((name, order.threads.to_string()));
    }
    for (name, value) in
        [("CUDA_VISIBLE_DEVICES", ""), ("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false")]
    {
        variables.push((name, value.to_owned()));
    }
    for &(name, value) in isa_variables(order.isa) {
        variables.push((name, value.to_owned()));
    }
    variables
}

/// What keeps PyTorch and its libraries to an instruction set.
pub fn isa_variables(isa: Isa) -> &'static [(&'static str, &'static str)] {
    match isa {
        Isa::Best => &[],
        Isa::Avx2 => &[
            ("ATEN_CPU_CAPABILITY", "avx2"),
            ("MKL_ENABLE_INSTRUCTIONS", "AVX2"),
            ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ],
        Isa::Portable => &[
            ("ATEN_CPU_CAPABILITY", "default"),
            ("MKL_ENABLE_INSTRUCTIONS", "SSE4_2"),
            ("ONEDNN_MAX_CPU_ISA", "SSE41"),
        ],
    }
}

/// Returns the folder with the peers' scripts.
pub fn peers_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers")
}

/// The Python that has the peers, and which of their modules it has.
pub struct Python {
    /// The interpreter.
    pub path: PathBuf,
    /// Modules and their versions.
    pub modules: Vec<(String, String)>,
}

impl Python {
    /// Finds it: `$ALIGNER_PEERS_PYTHON`, else the environment that `make peers` makes.
    pub fn find() -> Result<Python, String> {
        let path = match std::env::var_os("ALIGNER_PEERS_PYTHON").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => peers_folder().join(".venv/bin/python"),
        };
        if !path.exists() {
            return Err("no peers are installed; `make peers` installs them".to_owned());
        }
        const ASK: &str = "
import importlib.metadata as m, json
names = {'llama_cpp': 'llama-cpp-python'}
out = {}
for name in ['torch', 'transformers', 'peft', 'trl', 'llama_cpp', 'numpy']:
    try: out[name] = m.version(names.get(name, name))
    except m.PackageNotFoundError: pass
print(json.dumps(out))";
        let output = Command::new(&path)
            .args(["-c", ASK])
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("`{}` cannot be run: {error}", path.display()))?;
        let modules: serde_json::Map<String, Value> = serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("`{}` is no Python that can be asked", path.display()))?;
        let modules = modules
            .into_iter()
            .map(|(name, version)| (name, version.as_str().unwrap_or_default().to_owned()))
            .collect();
        Ok(Python { path, modules })
    }

    /// Says which module of a peer is not there.
    pub fn lacks(&self, peer: Peer) -> Option<&'static str> {
        let has = |module: &str| self.modules.iter().any(|(name, _)| name == module);
        peer.modules().iter().copied().find(|module| !has(module))
    }
}
