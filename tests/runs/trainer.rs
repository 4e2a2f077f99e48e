//! Runs whose training is left to TRL, with a program in its place that plays jobs of every kind: good ones,
//! and such as die, hang, lie and outlive who started them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::preference::contrast;
use super::{Place, Said, arguments, lines, tests};

fn python() -> String {
    format!("train.trl.python='{}'", tests().join("runs/fake_trainer.py").display())
}

/// Returns a command that runs the tiny plugin set, one round of it by TRL.
fn command(place: &Place, out: &str, fake: &str, more: &[&str]) -> Command {
    let python = python();
    let fixed = ["--rounds", "1", "--set", "train.backend='trl'", "--set", &python];
    let arguments = arguments("tiny", out, &[&fixed, more].concat());
    let mut command = place.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    command.env("FAKE", fake).env("HF_TOKEN", SECRET);
    command
}

/// A key that stands nowhere but in the environment.
const SECRET: &str = "hf_doNotWriteThisDown";

fn run(place: &Place, out: &str, fake: &str, more: &[&str]) -> Said {
    Said::of(command(place, out, fake, more).output().unwrap())
}

fn resume(place: &Place, out: &str, fake: &str) -> Said {
    Said::of(place.command(&["resume", out]).env("FAKE", fake).output().unwrap())
}

/// Returns the attempts that were started.
fn starts(place: &Place, run: &str) -> Vec<String> {
    let file = place.path(run).join("rounds/01/trl/starts.txt");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Fails where a run's files hold the key.
fn no_secret(place: &Place, run: &str) {
    for (name, bytes) in place.files(run) {
        // What the program itself prints into its log is its own word.
        if !name.ends_with("/1/log.txt") {
            let found = bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
            assert!(!found, "the key is in {name}");
        }
    }
    let log = fs::read_to_string(place.path(run).join("log.txt")).unwrap();
    assert!(!log.contains(SECRET), "{log}");
}

#[test]
fn a_job_trains_a_round() {
    let place = Place::new();
    let said = run(&place, "run", "", &[]).expect(0);
    assert!(said.stderr.contains("round 1: train: "), "{}", said.stderr);
    let files = place.files("run");
    let steps = lines(&files, "rounds/01/metrics.jsonl");
    let rows = lines(&files, "rounds/01/train.jsonl");
    assert_eq!(steps.len(), rows.len().div_ceil(2));
    assert_eq!(steps[1]["loss"], 1.0);
    // The tokens that were trained are counted here, whatever TRL calls by that name.
    let data = lines(&files, "rounds/01/trl/data.jsonl");
    let order = &lines(&files, "rounds/01/trl/order.jsonl")[0];
    let trained = |row: &Value| {
        let labels = data[row.as_u64().unwrap() as usize]["labels"].as_array().unwrap();
        labels.iter().filter(|label| **label != -100).count() as u64
    };
    assert_eq!(steps[0]["num_tokens"], trained(&order[0]) + trained(&order[1]));
    let statement: Value = serde_json::from_slice(&files["rounds/01/trainer.json"]).unwrap();
    assert_eq!(statement["versions"]["trl"], "fake");
    assert_eq!(statement["attempts"], 1);
    let card = String::from_utf8(files["final/adapter/README.md"].clone()).unwrap();
    assert!(card.contains("- trainer: TRL, 1 process on cpu (python 3, trl fake)"), "{card}");
    assert!(!card.contains("to the byte"), "{card}");
    // What is large is there once.
    assert!(!files.keys().any(|name| name.contains("checkpoints") || name.ends_with("lock")));
    assert!(!files.contains_key("rounds/01/trl/1/adapter/adapter_model.safetensors"));
    no_secret(&place, "run");

    // The adapter is one of aligner's own.
    let adapter = place.path("run").join("final/adapter");
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let data = tests().join("trl/held-out.jsonl").display().to_string();
    let score = ["model", "score", "--model", &model, "--adapter", adapter.to_str().unwrap()];
    place.aligner(&[&score[..], &["--data", &data]].concat()).expect(0);

    // It is finished, and whoever verifies it takes what others made as it was recorded.
    run(&place, "run", "die", &[]).expect(0);
    let all = place.aligner(&["verify", "run", "--all"]).expect(0);
    assert!(all.stdout.contains("not done again  round 1: train"), "{}", all.stdout);
    assert!(all.stdout.contains("as it was recorded"), "{}", all.stdout);
    place.aligner(&["verify", "run"]).expect(0);
    // So does whoever reuses it, though another program would start the job.
    run(&place, "again", "die", &["--reuse", "run", "--set", "train.trl.launch='torchrun'"])
        .expect(0);
    assert_eq!(starts(&place, "again"), Vec::<String>::new());
    assert_eq!(place.files("again")["rounds/01/metrics.jsonl"], files["rounds/01/metrics.jsonl"]);
    assert_eq!(
        fs::read(place.path("again").join("final/adapter/adapter_model.safetensors")).unwrap(),
        fs::read(adapter.join("adapter_model.safetensors")).unwrap()
    );
    // Another rate is another training.
    run(&place, "other", "die", &["--reuse", "run", "--set", "train.learning_rate=0.5"]).expect(4);
    // A forged adapter does not verify.
    let weights = place.path("run").join("rounds/01/adapter/adapter_model.safetensors");
    let mut forged = fs::read(&weights).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    fs::write(&weights, forged).unwrap();
    place.aligner(&["verify", "run", "--all"]).expect(5).says(&["adapter_model.safetensors"]);
}

#[test]
fn every_objective_that_trl_has_becomes_a_job() {
    let place = Place::new();
    let (contrast, python) = (contrast(), python());
    for (objective, columns) in [
        ("dpo", &["prompt_ids", "chosen_ids", "rejected_ids"][..]),
        ("ipo", &["prompt_ids", "chosen_ids", "rejected_ids"]),
        ("sso", &["sequences"]),
    ] {
        let chosen = format!("train.objective='{objective}'");
        let more = ["--set", &contrast, "--set", &chosen, "--set", "train.backend='trl'"];
        let more = [&more[..], &["--set", &python, "--set", "train.beta=0.3"]].concat();
        place.set("tiny-dpo", objective, &more).expect(0);
        let files = place.files(objective);
        for round in ["rounds/01", "rounds/02"] {
            for row in lines(&files, &format!("{round}/trl/data.jsonl")) {
                assert!(columns.iter().all(|column| row[*column].is_array()), "{row}");
            }
            // TRL asks the reference itself.
            assert!(!files.contains_key(&format!("{round}/reference.jsonl")));
        }
        let config = |round: &str| -> Value {
            serde_json::from_slice(&files[&format!("{round}/trl/config.json")]).unwrap()
        };
        assert_eq!(config("rounds/01")["objective"], objective);
        assert_eq!(config("rounds/01")["loss"]["beta"], 0.3);
        // `reference = "previous"`: first the base, then what round 1 made, from which round 2 goes on.
        assert_eq!(config("rounds/01")["reference"], "initial");
        assert_eq!(config("rounds/02")["reference"], "adapter");
        let weights = |name: &str| &files[&format!("{name}/adapter_model.safetensors")];
        assert_eq!(weights("rounds/02/trl/reference"), weights("rounds/01/adapter"));
        assert_eq!(weights("rounds/02/trl/start"), weights("rounds/01/adapter"));
        assert_ne!(weights("rounds/02/trl/start"), weights("rounds/02/adapter"));
    }
}

/// What goes wrong once stops the run, or not, as its settings say; the run can be resumed, and no update
/// counts twice.
#[test]
fn a_job_that_comes_to_nothing_is_told_of_and_started_again() {
    let place = Place::new();
    let whole = {
        run(&place, "whole", "", &[]).expect(0);
        place.files("whole")
    };
    let cases: [(&str, &[&str]); 10] = [
        ("die", &["the job ended without an adapter: exit code 7", "| Traceback", "out of"]),
        ("loud", &["exit code 3", "| the end of a long log"]),
        ("no-adapter", &["the job ended without an adapter: exit code 0"]),
        ("unchanged", &["training has changed nothing of it"]),
        ("shape", &["it has other pairs, ranks or scales than it began with (rank 4, expected 2)"]),
        ("cut", &["`adapter_model.safetensors` is not what the job says that it wrote"]),
        ("half-done", &["done.json` cannot be used: EOF"]),
        ("other-model", &["is the most that rounding explains"]),
        ("hang", &["the job made no update for 0.02 min and was ended"]),
        ("never", &["the job made no update for 0.02 min and was ended"]),
    ];
    for (fake, expected) in cases {
        let hang = ["--set", "train.trl.timeout_minutes=0.02"];
        let more = if fake == "hang" || fake == "never" { &hang[..] } else { &[] };
        let said = run(&place, fake, fake, more)
            .expect(4)
            .says(expected)
            .says(&["round 1: train: ", &format!("aligner resume {fake}")]);
        assert!(!said.stderr.contains(SECRET), "{}", said.stderr);
        assert!(!said.stderr.contains('\u{1b}'), "{}", said.stderr);
        no_secret(&place, fake);
        assert!(!place.path(fake).join("rounds/01/adapter").exists());
        resume(&place, fake, "").expect(0);
        assert_eq!(starts(&place, fake), ["1", "2"], "{fake}");
        let files = place.files(fake);
        for name in ["rounds/01/metrics.jsonl", "rounds/01/train.jsonl", "report.json"] {
            assert!(files[name] == whole[name], "{name} of {fake} differs");
        }
        let weights = "final/adapter/adapter_model.safetensors";
        assert!(files[weights] == whole[weights], "{fake}");
        fs::remove_dir_all(place.path(fake)).unwrap();
    }
    for fake in ["die:1", "cut:1", "half-done:1"] {
        let name = fake.replace(':', "-");
        run(&place, &name, fake, &["--set", "train.trl.max_restarts=1"])
            .expect(0)
            .says(&["it is started again (1 of 1)"]);
        assert_eq!(starts(&place, &name), ["1", "2"], "{fake}");
        let files = place.files(&name);
        assert!(files["rounds/01/metrics.jsonl"] == whole["rounds/01/metrics.jsonl"], "{fake}");
    }
    // One that has said what it made is not waited for.
    for (fake, expected) in [("slow-start", &[][..]), ("garbage", &["lines that nobody can read"])]
    {
        run(&place, fake, fake, &[]).expect(0).says(expected);
        let files = place.files(fake);
        assert!(files["rounds/01/metrics.jsonl"] == whole["rounds/01/metrics.jsonl"], "{fake}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_the_rounds_fault() {
    let place = Place::new();
    run(&place, "diverged", "diverged", &[]).expect(4).says(&["loss is NaN in step 2 of"]);
    run(&place, "nan", "nan", &[])
        .expect(4)
        .says(&["holds NaN at number 0, expected finite numbers"]);
    let watch = "\n[watch]\non_alarm = \"stop\"\nperplexity = { max_rise = 1e9 }\n";
    place.write_set("watched.toml", watch);
    let python = python();
    let arguments = ["--plugins", "watched.toml", "--out", "watched", "--rounds", "1"];
    let more = ["--set", "train.backend='trl'", "--set", &python];
    let mut command = place.command(&[&arguments[..], &more].concat());
    let said = Said::of(command.env("FAKE", "diverged").output().unwrap());
    said.expect(6).says(&["an alarm leaves no round"]);
    let report = fs::read_to_string(place.path("watched/report.json")).unwrap();
    assert!(report.contains("diverged"), "{report}");
}

fn started(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn pid_of(place: &Place, run: &str) -> Option<i32> {
    let file = place.path(run).join("rounds/01/trl/1/pid");
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn lives(pid: i32) -> bool {
    // SAFETY: signal 0 only looks.
    unsafe { libc::kill(-pid, 0) == 0 }
}

/// A job outlives the aligner that started it: the next one follows it and starts no second one.
#[test]
fn a_killed_aligner_finds_its_job_again() {
    let place = Place::new();
    let mut child = started(&mut command(&place, "run", "wait", &[]));
    wait_for("the job", || place.path("run/rounds/01/trl/1/progress.jsonl").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let pid = pid_of(&place, "run").unwrap();
    assert!(lives(pid), "the job goes on");
    let child = started(place.command(&["resume", "run"]).env("FAKE", "die"));
    std::thread::sleep(Duration::from_secs(2));
    fs::write(place.path("run/rounds/01/trl/go"), "").unwrap();
    Said::of(child.wait_with_output().unwrap())
        .expect(0)
        .says(&["attempt 1 is followed, which an earlier process started"]);
    assert_eq!(starts(&place, "run"), ["1"]);

    // One that ended meanwhile is not done again either.
    let mut child = started(&mut command(&place, "late", "wait", &[]));
    wait_for("the job", || place.path("late/rounds/01/trl/1/progress.jsonl").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(place.path("late/rounds/01/trl/go"), "").unwrap();
    wait_for("its end", || place.path("late/rounds/01/trl/1/exit").exists());
    resume(&place, "late", "die").expect(0);
    assert_eq!(starts(&place, "late"), ["1"]);
}

#[test]
fn who_stops_a_run_stops_its_job() {
    let place = Place::new();
    let mut child = started(&mut command(&place, "run", "wait", &[]));
    wait_for("the job", || place.path("run/rounds/01/trl/1/progress.jsonl").exists());
    let pid = pid_of(&place, "run").unwrap();
    // SAFETY: the process is this test's child.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_for("the job's end", || !lives(pid));
    resume(&place, "run", "").expect(0);
    assert_eq!(starts(&place, "run"), ["1", "2"]);

    // So does who throws it away.
    let mut child = started(&mut command(&place, "fresh", "wait", &[]));
    wait_for("the job", || place.path("fresh/rounds/01/trl/1/progress.jsonl").exists());
    let pid = pid_of(&place, "fresh").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    run(&place, "fresh", "", &["--fresh"]).expect(0);
    assert!(!lives(pid));
}

#[test]
fn what_is_not_there_is_found_before_the_first_completion() {
    let place = Place::new();
    let set = |key: &str, value: &str| format!("train.trl.{key}='{value}'");
    let more = ["--set", &set("python", "no-such-python")];
    run(&place, "run", "", &more).expect(2).says(&["TRL cannot train round 1", "no-such-python"]);
    assert!(!place.path("run/rounds/01").exists());
    run(&place, "slurm", "", &["--set", &set("launch", "slurm")])
        .expect(2)
        .says(&["there is no `sbatch` on the search path"]);
}

/// A cluster in a folder: programs that say what Slurm and Ray say, and run jobs here.
struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    fn new(place: &Place) -> Cluster {
        let folder = place.path("cluster");
        fs::create_dir_all(&folder).unwrap();
        let cluster = Cluster { folder };
        cluster.program(
            "sbatch",
            "echo \"$@\" >> $C/calls\n\
             [ -n \"$SBATCH_SAYS\" ] && { echo \"$SBATCH_SAYS\"; exit 1; }\n\
             for a in \"$@\"; do case $a in --chdir=*) d=${a#--chdir=};; esac; attempt=$a; done\n\
             cd \"$d\"\n\
             setsid sh launch.sh \"$attempt\" > /dev/null 2>&1 &\n\
             while [ ! -s $attempt/pid ]; do sleep 0.05; done\n\
             cp $attempt/pid $C/41\n\
             echo 41\n",
        );
        cluster.program(
            "squeue",
            "echo squeue \"$@\" >> $C/calls\n\
             [ -e $C/down ] && { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }\n\
             [ -e $C/queue ] && { echo PENDING; exit; }\n\
             case \"$*\" in *--name=*) [ -e $C/41 ] && echo 41; exit;; esac\n\
             if kill -0 -$(cat $C/41) 2> /dev/null; then echo RUNNING; else echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; fi\n",
        );
        cluster.program("sacct", "echo 'NODE_FAIL'\n");
        cluster.program("scancel", "echo scancel \"$@\" >> $C/calls\nkill -TERM -$(cat $C/41)\n");
        cluster.program(
            "ray",
            "echo \"$@\" >> $C/calls\n\
             case $2 in\n\
             submit) for a in \"$@\"; do script=$attempt; attempt=$a; done; cd $(dirname \"$script\"); setsid sh launch.sh \"$attempt\" > /dev/null 2>&1 &\n\
             while [ ! -s $attempt/pid ]; do sleep 0.05; done; cp $attempt/pid $C/$5;;\n\
             status) for a in \"$@\"; do id=$a; done; [ -e $C/$id ] || { echo \"Job $id does not exist.\" >&2; exit 1; }\n\
             if kill -0 -$(cat $C/$id) 2> /dev/null; then echo \"Status for job '$id': RUNNING\"; else echo \"Job '$id' succeeded\"; fi;;\n\
             stop) for a in \"$@\"; do id=$a; done; kill -TERM -$(cat $C/$id);;\n\
             esac\n",
        );
        cluster
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.folder.join(name);
        let script = format!("#!/bin/sh\nC={}\n{script}", self.folder.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn on_path(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.folder.display()));
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.join("calls")).unwrap_or_default()
    }
}

fn on_cluster(
    place: &Place,
    cluster: &Cluster,
    launch: &str,
    fake: &str,
    more: &[&str],
) -> Command {
    let launch_key = format!("train.trl.launch='{launch}'");
    let fixed = ["--set", &launch_key, "--set", "train.trl.poll_seconds=1"];
    let mut command = command(place, launch, fake, &[&fixed, more].concat());
    cluster.on_path(&mut command);
    command
}

#[test]
fn slurm_runs_a_job() {
    let place = Place::new();
    let cluster = Cluster::new(&place);
    let go = |fake: &str, more: &[&str]| {
        let said = on_cluster(&place, &cluster, "slurm", fake, more).output().unwrap();
        let _ = fs::remove_file(place.path("cluster/41"));
        Said::of(said)
    };
    let partition = ["--set", "train.trl.arguments=['--partition=gpu']"];
    go("", &partition).expect(0);
    let calls = cluster.calls();
    assert!(calls.contains("--parsable --job-name=aligner-"), "{calls}");
    let script = place.path("slurm/rounds/01/trl/launch.sh").canonicalize().unwrap();
    assert!(calls.contains(&format!(" --partition=gpu {} 1", script.display())), "{calls}");
    assert!(!calls.contains(SECRET), "{calls}");

    // It dies, and the scheduler knows why.
    go("die", &["--fresh"])
        .expect(4)
        .says(&["the job ended without an adapter: Slurm says NODE_FAIL"]);
    // The scheduler takes nothing, or says something odd.
    let mut refused = on_cluster(&place, &cluster, "slurm", "", &["--fresh"]);
    Said::of(refused.env("SBATCH_SAYS", "sbatch: error: invalid partition").output().unwrap())
        .expect(4)
        .says(&["`sbatch` took no job: sbatch: error: invalid partition"]);

    // aligner is killed while the job runs, before it could note the number: the job is found by its name.
    fs::remove_dir_all(place.path("slurm")).unwrap();
    let mut child = started(&mut on_cluster(&place, &cluster, "slurm", "wait", &[]));
    let record = place.path("slurm/rounds/01/trl/job.json");
    wait_for("its number", || fs::read_to_string(&record).is_ok_and(|it| it.contains("\"41\"")));
    wait_for("the job", || place.path("slurm/rounds/01/trl/1/progress.jsonl").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut known: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    assert_eq!(known["id"], "41");
    known["id"] = Value::Null;
    fs::write(&record, known.to_string()).unwrap();
    // At first nobody answers, which is no reason to start a second one.
    fs::write(place.path("cluster/down"), "").unwrap();
    let mut again = place.command(&["resume", "slurm"]);
    cluster.on_path(&mut again);
    let child = started(&mut again);
    wait_for("a question", || cluster.calls().contains("squeue -h -o %i --name=aligner-"));
    std::thread::sleep(Duration::from_secs(2));
    fs::remove_file(place.path("cluster/down")).unwrap();
    fs::write(place.path("slurm/rounds/01/trl/go"), "").unwrap();
    Said::of(child.wait_with_output().unwrap()).expect(0).says(&[
        "attempt 1 is followed, which an earlier process started",
        "nobody says what has become of the job: squeue: slurm_load_jobs error: Unable to contact",
    ]);
    assert_eq!(starts(&place, "slurm"), ["1"]);
    let _ = fs::remove_file(place.path("cluster/41"));

    // Who waits in a queue does not hang, and Ctrl-C takes the job out of it.
    fs::write(place.path("cluster/queue"), "").unwrap();
    fs::remove_dir_all(place.path("slurm")).unwrap();
    let more = ["--set", "train.trl.timeout_minutes=0.02"];
    let child = started(&mut on_cluster(&place, &cluster, "slurm", "never", &more));
    wait_for("the job", || place.path("slurm/rounds/01/trl/1/pid").exists());
    std::thread::sleep(Duration::from_secs(4));
    // SAFETY: the process is this test's child.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    Said::of(child.wait_with_output().unwrap())
        .expect(130)
        .says(&["the job waits in a queue (PENDING)"]);
    assert!(cluster.calls().contains("scancel 41"), "{}", cluster.calls());
}

#[test]
fn ray_runs_a_job() {
    let place = Place::new();
    let cluster = Cluster::new(&place);
    let more = ["--set", "train.trl.arguments=['--address=http://head:8265']"];
    let go = |fake: &str, more: &[&str]| {
        Said::of(on_cluster(&place, &cluster, "ray", fake, more).output().unwrap())
    };
    go("", &more).expect(0);
    let calls = cluster.calls();
    assert!(calls.contains("job submit --no-wait --submission-id aligner-"), "{calls}");
    // Whoever runs it is in another folder.
    let script = place.path("ray/rounds/01/trl/launch.sh").canonicalize().unwrap();
    assert!(calls.contains(&format!("-- sh {} 1", script.display())), "{calls}");
    assert!(calls.contains("job status --address=http://head:8265 aligner-"), "{calls}");
    go("no-adapter", &["--fresh"]).expect(4).says(&["Ray says that it succeeded"]);

    fs::remove_dir_all(place.path("ray")).unwrap();
    let mut child = started(&mut on_cluster(&place, &cluster, "ray", "wait", &[]));
    // Until it is submitted, and at work.
    let submitted = || {
        let record = fs::read_to_string(place.path("ray/rounds/01/trl/job.json"));
        record.is_ok_and(|record| record.contains("\"id\": \"aligner-"))
    };
    let progress = place.path("ray/rounds/01/trl/1/progress.jsonl");
    wait_for("the job", || progress.exists() && submitted());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut again = place.command(&["resume", "ray"]);
    cluster.on_path(&mut again);
    let mut child = started(&mut again);
    std::thread::sleep(Duration::from_secs(3));
    // SAFETY: the process is this test's child.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(starts(&place, "ray"), ["1"]);
    assert!(cluster.calls().contains("job stop --no-wait aligner-"), "{}", cluster.calls());
}

#[test]
fn torchrun_starts_several_processes() {
    let place = Place::new();
    let more = ["--set", "train.trl.launch='torchrun'", "--set", "train.trl.processes=2"];
    run(&place, "run", "", &more).expect(0);
    let starts = fs::read_to_string(place.path("run/rounds/01/trl/starts.txt")).unwrap();
    let expected = "1 -m torch.distributed.run --standalone --nproc-per-node=2 train.py 1\n";
    assert_eq!(starts, expected);
    let script = fs::read_to_string(Path::new(&place.path("run/rounds/01/trl/launch.sh"))).unwrap();
    assert!(script.contains("torch.distributed.run"), "{script}");
}
