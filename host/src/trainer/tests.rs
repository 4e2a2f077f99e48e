//! The files of a job as they are written, and what a job says as it is read.

use std::fs;

use serde_json::{Value, json};

use super::said::{Reader, last_lines};
use super::*;
use crate::plugin_set::{Launch, Trl};
use crate::train::{Example, Item, Sequence};

fn script(launch: Launch, processes: u32, arguments: &[&str]) -> String {
    let arguments = arguments.iter().map(|&it| it.to_owned()).collect();
    launch_script(&Trl { launch, processes, arguments, python: "py thon".into(), ..Trl::default() })
}

#[test]
fn a_script_says_what_is_started() {
    let expected = "\
#!/bin/sh
# Starts the training of this folder. By hand, sh launch.sh 1
# Keys such as HF_TOKEN come from the environment.
cd \"$(dirname \"$0\")\" || exit 1
attempt=${1:-1}
mkdir -p \"$attempt\"
echo $$ > \"$attempt/pid\"
export PYTHONUNBUFFERED=1
{
    'py thon' train.py \"$attempt\"
} >> \"$attempt/log.txt\" 2>&1
code=$?
echo $code > \"$attempt/exit\"
exit $code
";
    assert_eq!(script(Launch::Local, 1, &[]), expected);
    assert_eq!(script(Launch::Ray, 1, &["--address=x"]), expected);
    let command = |script: String| {
        let (_, rest) = script.split_once("{\n").unwrap();
        rest.split_once("\n} >>").unwrap().0.to_owned()
    };
    let run = "    'py thon' -m torch.distributed.run ";
    let several = format!("{run}--standalone --nproc-per-node=8 train.py \"$attempt\"");
    assert_eq!(command(script(Launch::Torchrun, 8, &[])), several);
    assert_eq!(command(script(Launch::Ray, 8, &["--address=x"])), several);
    assert_eq!(
        command(script(Launch::Torchrun, 2, &["--nnodes=1", "--rdzv-id=a b"])),
        format!("{run}--nnodes=1 '--rdzv-id=a b' --nproc-per-node=2 train.py \"$attempt\"")
    );
    let slurm = script(Launch::Slurm, 4, &["--partition=gpu"]);
    assert!(!slurm.contains("dirname") && !slurm.contains("partition"), "{slurm}");
    assert_eq!(
        command(slurm),
        "    if [ \"${SLURM_NNODES:-1}\" -gt 1 ]; then
        first=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)
        srun --ntasks-per-node=1 'py thon' -m torch.distributed.run --nnodes=\"$SLURM_NNODES\" \
         --rdzv-id=\"$SLURM_JOB_ID\" --rdzv-backend=c10d --rdzv-endpoint=\"$first:29500\" \
         --nproc-per-node=4 train.py \"$attempt\"
    else
        'py thon' -m torch.distributed.run --standalone --nproc-per-node=4 train.py \"$attempt\"
    fi"
    );
}

#[test]
fn every_script_is_one_that_a_shell_reads() {
    for (_, launch) in Launch::ALL {
        for processes in [1, 4] {
            let text = script(launch, processes, &["it's", "$(exit 3)"]);
            let said = std::process::Command::new("sh").args(["-n", "-c", &text]).output().unwrap();
            assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
        }
    }
}

#[test]
fn rows_have_trls_columns() {
    let example = Example {
        id: "p-1".into(),
        tokens: vec![5, 6, 7, 8],
        trained: vec![false, false, true, true],
    };
    let lines = Lines::of_examples(&[example]);
    let row =
        json!({ "record_id": "p-1", "input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8] });
    assert_eq!(lines.lines, [row]);
    assert_eq!(lines.rows, [("p-1".to_owned(), 2)]);

    let pair = Item::pair("p-2", &[1, 2], &[3], &[4, 5]);
    let row = json!({
        "record_id": "p-2", "prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5],
    });
    let lines = Lines::of_items(std::slice::from_ref(&pair));
    assert_eq!(lines.lines, [row]);
    assert_eq!((lines.rows[0].1, &lines.probe[0]), (3, &pair.sequences[0]));

    let six = |i: u32| Sequence::new(&[i], &[i + 10, i + 20]);
    let item = Item { id: "p-3".into(), sequences: (1..=6).map(six).collect(), desirable: true };
    let lines = Lines::of_items(&vec![item; 9]);
    assert_eq!(lines.probe.len(), 4);
    let sequences = lines.lines[8]["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), 6);
    assert_eq!(sequences[5], json!({ "prompt_ids": [6], "completion_ids": [16, 26] }));
}

fn line(attempt: u32, step: u64, loss: Value) -> String {
    let row = json!({
        "attempt": attempt.to_string(), "step": step, "max_steps": 9, "epoch": 0.5, "loss": loss,
        "grad_norm": 1.0, "learning_rate": 1e-3, "rewards/margins": 0.25, "entropy": 3.0,
    });
    format!("{row}\n")
}

#[test]
fn updates_are_read_as_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("progress.jsonl");
    let mut reader = Reader::new(2);
    assert_eq!(reader.read(&path).unwrap(), []);
    let mut text = line(2, 1, json!(2.5));
    text.push_str(&line(2, 2, json!(2.25))[..20]);
    fs::write(&path, &text).unwrap();
    let first = reader.read(&path).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].step, first[0].loss), (1, Some(2.5)));
    assert_eq!(first[0].preference.rewards_margins, Some(0.25));
    assert_eq!(reader.read(&path).unwrap(), []);
    text.push_str(&line(2, 2, Value::Null)[20..]);
    fs::write(&path, &text).unwrap();
    let second = reader.read(&path).unwrap();
    assert_eq!((second[0].step, second[0].loss), (2, None));

    // Garbage, lines of other attempts, steps that are none, lines without end.
    for odd in [
        "\n",
        "{}\n",
        "null\n",
        "{\n",
        "\u{0}\n",
        &line(1, 3, json!(1.0)),
        &line(2, 10, json!(1.0)),
    ] {
        text.push_str(odd);
    }
    text.push_str(&line(2, 0, json!(1.0)));
    text.push_str(&"9".repeat(300_000));
    fs::write(&path, &text).unwrap();
    assert_eq!(reader.read(&path).unwrap(), []);
    assert_eq!(reader.garbage, 8);
    text.push('\n');
    text.push_str(&line(2, 3, json!(1.0)));
    fs::write(&path, &text).unwrap();
    assert_eq!(reader.read(&path).unwrap().len(), 1);
    assert_eq!(reader.garbage, 9);

    // One that is told twice counts once, as it was told last.
    text.push_str(&line(2, 1, json!(7.0)));
    fs::write(&path, &text).unwrap();
    let (all, garbage) = updates(&path, 2).unwrap();
    assert_eq!(all.iter().map(|update| update.step).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((all[0].loss, garbage), (Some(7.0), 9));
    // Written anew, it is read anew.
    fs::write(&path, line(2, 1, json!(1.0))).unwrap();
    assert_eq!(reader.read(&path).unwrap().len(), 1);
}

#[test]
fn an_end_is_that_of_its_attempt() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Done::read(folder.path(), 1).unwrap(), None);
    let done = |attempt: &str| {
        json!({
            "attempt": attempt, "steps": 3, "files": {}, "probe": [-1.5], "diverged": null,
            "processes": 1, "device": "a\u{1b}[31m card", "versions": { "trl": "1.16.0\n# x" },
        })
    };
    let check = |text: &str, expected: &str| {
        fs::write(folder.path().join("done.json"), text).unwrap();
        let error = Done::read(folder.path(), 1).unwrap_err().to_string();
        assert!(
            error.contains("done.json` cannot be used: ") && error.contains(expected),
            "{error}"
        );
    };
    check("", "EOF");
    check("[]", "invalid");
    check(&done("2").to_string(), "it is of attempt `2`");
    check(&done("1").to_string().replace("-1.5", "NaN"), "expected");
    fs::write(folder.path().join("done.json"), done("1").to_string()).unwrap();
    let done = Done::read(folder.path(), 1).unwrap().unwrap();
    assert_eq!(
        (done.device.as_str(), done.versions["trl"].as_str()),
        ("a [31m card", "1.16.0 # x")
    );
}

#[test]
fn the_end_of_a_log_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.txt");
    assert_eq!(last_lines(&path), Vec::<String>::new());
    let text: String = (0..5000).map(|i| format!("line {i}\r\n\n")).collect();
    fs::write(&path, format!("{text}\u{1b}[31mred\u{7}\n{}", "long ".repeat(200))).unwrap();
    let lines = last_lines(&path);
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[9], "line 4999");
    assert_eq!(lines[10], "[31mred");
    assert!(lines[11].len() < 260 && lines[11].ends_with('…'), "{}", lines[11]);
}
