//! Ten thousand prompts under way at once.

use std::cell::Cell;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;

use super::{quick, without_weights};
use crate::runs::{Place, lines};

const PROMPTS: usize = 10_000;

#[test]
fn ten_thousand_prompts_are_under_way_in_little_memory() {
    // SAFETY: the struct is plain numbers, which both calls fill or read.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        limit.rlim_cur as usize
    };
    // Where the system allows fewer, the program asks fewer at once, and says so.
    let at_once = PROMPTS.min(limit.saturating_sub(256));
    let place = Place::new();
    without_weights(&place);
    let rows = (0..PROMPTS).map(|row| format!("{}\n", json!({ "id": format!("p{row}"), "prompt": format!("{row}: {}", "is it so? ".repeat(12)) })));
    std::fs::write(place.path("prompts.jsonl"), rows.collect::<String>()).unwrap();
    let set = "[method]\nname = \"many\"\ncontract = \"0.1\"\n[models.policy]\nbase = \"./base\"\nin_flight = 10000\n\
        server = \"SERVER\"\n[data]\nprompts = \"prompts.jsonl\"\n[run]\nrounds = 1\n[generate]\nmax_new_tokens = 16\n";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let (most, begun) = local.block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        std::fs::write(place.path("set.toml"), set.replace("SERVER", &format!("http://{address}")))
            .unwrap();
        let come = Rc::new(Cell::new(0));
        let mut child = place.command(&["--plugins", "set.toml", "--out", "run"]);
        let begun = Instant::now();
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut most = 0;
        loop {
            let taken = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
            if let Ok(Ok((stream, _))) = taken {
                let come = come.clone();
                // Held back until all of them are under way.
                let hold = async move || {
                    come.set(come.get() + 1);
                    while come.get() < at_once {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                };
                tokio::task::spawn_local(quick::serve(stream, hold));
            }
            most = most.max(peak(child.id()).unwrap_or(0));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "{} came", come.get());
        }
        let said = crate::runs::Said::of(child.wait_with_output().unwrap());
        said.expect(0);
        assert!(come.get() >= PROMPTS);
        (most, begun.elapsed())
    });
    let files = place.files("run");
    let done = lines(&files, "rounds/01/generate.jsonl");
    assert_eq!(done.len(), PROMPTS);
    assert!(done.iter().all(|row| row["variants"][0]["completion"]["text"] == "Yes."));
    println!(
        "{at_once} at once: {} MB at the height, {:.1} s",
        most / 1_000_000,
        begun.as_secs_f64()
    );
    assert!(most > 10_000_000 && most < 300_000_000, "{most} bytes");
}

/// Returns the most memory that a process has had, in bytes.
fn peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
