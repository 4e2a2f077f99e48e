//! `aligner.lock`.

use aligner::digest::sha256;

use super::registry::Registry;
use super::server::Server;
use super::{Desk, another, component};

#[test]
fn a_changed_file_is_refused_until_the_change_is_accepted() {
    let desk = Desk::new();
    std::fs::write(desk.place.path("mine.wasm"), component()).unwrap();
    desk.write_set("set.toml", "plugin = \"mine.wasm\"");
    let locked = desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    let row = format!("{}  mine.wasm\n", sha256(&component()));
    assert!(locked.stdout.contains(&row), "{}", locked.stdout);
    assert!(locked.stdout.ends_with("3 sources in aligner.lock\n"), "{}", locked.stdout);
    let lock = || std::fs::read_to_string(desk.place.path("aligner.lock")).unwrap();
    let before = lock();
    desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    assert_eq!(lock(), before, "the same again");
    desk.run("set.toml", "run", &[]).expect(0);

    std::fs::write(desk.place.path("mine.wasm"), another()).unwrap();
    let (old, new) = (sha256(&component()), sha256(&another()));
    desk.run("set.toml", "other", &[]).expect(3).says(&[
        &format!("has sha256 {new}, and `aligner.lock` says {old}"),
        "hint: `aligner plugin lock set.toml` accepts the change",
    ]);
    assert!(!desk.place.path("other").exists());
    let accepted = desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    let rows = format!("{new}  mine.wasm\n{old}  as it was before\n");
    assert!(accepted.stdout.contains(&rows), "{}", accepted.stdout);
    desk.run("set.toml", "other", &["--dry-run"]).expect(0);
}

#[test]
fn a_changed_data_file_is_refused() {
    let desk = Desk::new();
    desk.write_set("set.toml", "plugin = \"builtin:length\"");
    let text = std::fs::read_to_string(desk.place.path("set.toml")).unwrap();
    let prompts = crate::runs::tests().join("sets/tiny-prompts.jsonl");
    let text = text.replace(&prompts.display().to_string(), "p.jsonl");
    std::fs::write(desk.place.path("set.toml"), text).unwrap();
    std::fs::copy(&prompts, desk.place.path("p.jsonl")).unwrap();
    desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    desk.run("set.toml", "run", &["--dry-run"]).expect(0);
    let mut changed = std::fs::read(desk.place.path("p.jsonl")).unwrap();
    let old = sha256(&changed);
    changed.push(b'\n');
    std::fs::write(desk.place.path("p.jsonl"), &changed).unwrap();
    desk.run("set.toml", "run", &["--dry-run"]).expect(2).says(&[
        "`prompts` in `[data]` names `p.jsonl`, which is not what `aligner.lock` says",
        &old,
        &sha256(&changed),
        "hint: `aligner plugin lock set.toml` accepts the change",
    ]);
    // Other prompts on the command line are the user's own.
    let own = prompts.display().to_string();
    desk.run("set.toml", "run", &["--dry-run", "--prompts", &own]).expect(0);
}

#[test]
fn a_source_that_was_not_locked_is_refused_in_a_set_that_was() {
    let desk = Desk::new();
    for name in ["one.wasm", "two.wasm"] {
        std::fs::write(desk.place.path(name), component()).unwrap();
    }
    desk.write_set("set.toml", "plugin = \"one.wasm\"");
    desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    desk.write_set("set.toml", "plugin = \"two.wasm\"");
    desk.run("set.toml", "run", &["--dry-run"]).expect(2).says(&[
        "is not in `aligner.lock`",
        "set.toml:",
        "`aligner plugin lock set.toml` accepts",
    ]);
    desk.write_set("set.toml", "plugin = \"./one.wasm\"");
    desk.run("set.toml", "run", &["--dry-run"]).expect(0);
    // A set beside it that was never locked may name what it likes, but what is locked is what it was.
    desk.write_set("other.toml", "plugin = \"two.wasm\"");
    desk.run("other.toml", "run", &["--dry-run"]).expect(0);
    desk.write_set("other.toml", "plugin = \"one.wasm\"");
    std::fs::write(desk.place.path("one.wasm"), another()).unwrap();
    desk.run("other.toml", "run", &["--dry-run"]).expect(3).says(&["`aligner.lock` says"]);
}

#[test]
fn a_lock_stands_for_the_digest_of_what_is_fetched() {
    let desk = Desk::new();
    let server = Server::serving("200 OK", "", component());
    desk.write_set("set.toml", &format!("plugin = \"{}\"", server.url("length.wasm")));
    desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    let address = server.address;
    drop(server);
    desk.run("set.toml", "run", &["--dry-run"]).expect(0);
    std::fs::remove_dir_all(desk.place.path("cache/fetched")).unwrap();
    let changed =
        Server::at(address, |_, stream| super::server::respond(stream, "200 OK", "", &another()));
    desk.run("set.toml", "run", &["--dry-run"]).expect(3).says(&[
        &sha256(&component()),
        &sha256(&another()),
        "aligner plugin lock set.toml",
    ]);
    desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    desk.run("set.toml", "run", &["--dry-run"]).expect(0);
    drop(changed);

    // A digest in the plugin set that says something else than the lock.
    let typed =
        format!("plugin = \"http://{address}/length.wasm\"\nsha256 = \"{}\"", sha256(&component()));
    desk.write_set("set.toml", &typed);
    desk.run("set.toml", "run", &["--dry-run"])
        .expect(2)
        .says(&["`sha256` in `[[filter]]` is not what `aligner.lock` says", &sha256(&another())]);
}

#[test]
fn a_locked_tag_that_moves_is_fetched_as_it_was() {
    let desk = Desk::new();
    let registry = Registry::start(None);
    let source = registry.source("length:1");
    let push = |bytes: Vec<u8>| {
        std::fs::write(desk.place.path("mine.wasm"), bytes).unwrap();
        desk.aligner(&["plugin", "push", "mine.wasm", &source]).expect(0);
    };
    push(component());
    desk.write_set("set.toml", &format!("plugin = \"{source}\""));
    desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    push(another());
    let forget = || std::fs::remove_dir_all(desk.place.path("cache/fetched")).unwrap();
    forget();
    desk.run("set.toml", "run", &[]).expect(0);
    let json = String::from_utf8(desk.place.files("run")["run.json"].clone()).unwrap();
    assert!(json.contains(&sha256(&component())), "{json}");
    let accepted = desk.aligner(&["plugin", "lock", "set.toml"]).expect(0);
    assert!(accepted.stdout.contains("as it was before"), "{}", accepted.stdout);
    desk.run("set.toml", "run", &[]).expect(5).says(&["differs in filter"]);
}

#[test]
fn only_a_plugin_set_that_is_a_file_is_locked() {
    let desk = Desk::new();
    let lock = |set: &str| desk.aligner(&["plugin", "lock", set]);
    lock("soft-plus.toml").expect(2).says(&["comes with aligner"]);
    lock("missing.toml").expect(2).says(&["no plugin set `missing.toml`"]);
    std::fs::write(desk.place.path("text.wasm"), "text").unwrap();
    desk.write_set("set.toml", "plugin = \"text.wasm\"");
    lock("set.toml").expect(3).says(&["is not WebAssembly"]);
    assert!(!desk.place.path("aligner.lock").exists());
    desk.write_set("set.toml", "plugin = \"builtin:length\"");
    std::fs::write(desk.place.path("aligner.lock"), "version = 7").unwrap();
    lock("set.toml").expect(2).says(&["has version 7, this aligner reads 1"]);
    desk.run("set.toml", "run", &["--dry-run"]).expect(2).says(&["has version 7", "hint: "]);
}
