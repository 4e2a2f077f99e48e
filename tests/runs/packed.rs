//! Packed plugin sets: made, listed, run as the plugin sets that they are of, resumed and refused.

use std::collections::BTreeMap;

use aligner::pack::{COMPONENTS, Contents, DATA};

use super::{Place, tests};

/// Writes the tiny plugin set as `tiny.toml` with a component and data of its own beside it.
fn write_tiny(place: &Place) {
    let set = std::fs::read_to_string(tests().join("sets/tiny.toml")).unwrap();
    let set = set
        .replace("\"builtin:length\"", "'plugins/Length 1.wasm'")
        .replace("../fixtures", &tests().join("fixtures").display().to_string());
    std::fs::write(place.path("tiny.toml"), set).unwrap();
    std::fs::create_dir_all(place.path("plugins")).unwrap();
    let component = aligner_embed::component("length").unwrap();
    std::fs::write(place.path("plugins/Length 1.wasm"), component).unwrap();
    for data in ["tiny-prompts.jsonl", "tiny-held-out.jsonl"] {
        std::fs::copy(tests().join("sets").join(data), place.path(data)).unwrap();
    }
}

fn remove_tiny(place: &Place) {
    for file in ["tiny.toml", "tiny-prompts.jsonl", "tiny-held-out.jsonl"] {
        std::fs::remove_file(place.path(file)).unwrap();
    }
    std::fs::remove_dir_all(place.path("plugins")).unwrap();
}

/// What the stages of a run left. The manifest names sources, and so do page and cards.
fn stages(place: &Place, run: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = place.files(run);
    for name in ["run.json", "report.html", "final/adapter/README.md", "final/data/README.md"] {
        assert!(files.remove(name).is_some(), "{name}");
    }
    files
}

/// Who packs a plugin set has no program started on the machine of who opens it.
#[test]
fn a_pack_starts_no_programs() {
    let place = Place::new();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    write_tiny(&place);
    let set = std::fs::read_to_string(place.path("tiny.toml")).unwrap();
    let of = |line: &str| set.replace("[train]\n", &format!("[train]\n{line}\n"));
    for (line, key) in
        [("backend = \"trl\"", "backend"), ("backend = \"trl\"\ntrl = { python = \"sh\" }", "trl")]
    {
        std::fs::write(place.path("tiny.toml"), of(line)).unwrap();
        place
            .aligner(&["plugin", "pack", "tiny.toml", "--out", "trl.aligner"])
            .expect(2)
            .says(&[&format!("`{key}` in `[train]` is given, and a pack starts no programs")]);
        assert!(!place.path("trl.aligner").exists());
    }
    std::fs::write(place.path("tiny.toml"), of("")).unwrap();
    place.aligner(&["plugin", "pack", "tiny.toml"]).expect(0);
    let open = ["--plugins", "tiny.aligner", "--model", &model, "--dry-run"];
    let by_hand = ["--set", "train.backend='trl'", "--set", "train.trl.python='no-such-python'"];
    let said = place.aligner(&[&open[..], &by_hand].concat()).expect(0);
    assert!(
        said.stdout.contains("trainer  round 1 by TRL (local, `no-such-python`)"),
        "{}",
        said.stdout
    );
}

#[test]
fn a_pack_runs_as_its_plugin_set_does() {
    let place = Place::new();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    write_tiny(&place);
    place.aligner(&["--plugins", "tiny.toml", "--model", &model, "--out", "set"]).expect(0);
    let said = place.aligner(&["plugin", "pack", "tiny.toml"]).expect(0);
    for part in [
        "components/length1.wasm",
        "was Length 1.wasm\n",
        "was builtin:perplexity\n",
        "data/tiny-prompts.jsonl",
        "not packed: `policy`, a model of this machine, `/",
        "run it:     aligner --plugins tiny.aligner\n",
    ] {
        assert!(said.stdout.contains(part), "no {part:?} in {}", said.stdout);
    }
    place.aligner(&["plugin", "pack", "tiny.toml", "--out", "again.aligner"]).expect(0);
    let pack = std::fs::read(place.path("tiny.aligner")).unwrap();
    assert!(pack == std::fs::read(place.path("again.aligner")).unwrap(), "equal bytes");
    let folder = place.folder.path().display().to_string();
    let typed = |text: &str| pack.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(!typed(&folder), "nothing says where it was packed");
    assert!(typed("# Every stage on a tiny random model"), "comments stay");

    remove_tiny(&place);
    let packed = |out: &str, more: &[&str]| {
        let run = ["--plugins", "tiny.aligner", "--model", &model, "--out", out];
        place.aligner(&[&run[..], more].concat())
    };
    let plan = packed("pack", &["--dry-run"]).expect(0);
    assert!(plan.stdout.contains("tiny (tiny.aligner), 2 rounds"), "{}", plan.stdout);
    packed("pack", &[]).expect(0);
    let (set, pack) = (stages(&place, "set"), stages(&place, "pack"));
    assert_eq!(set.keys().collect::<Vec<_>>(), pack.keys().collect::<Vec<_>>());
    for (name, bytes) in &set {
        assert!(pack[name] == *bytes, "{name} differs");
    }
    place.aligner(&["show", "pack", "p-1"]).expect(0);
    place.aligner(&["report", "pack"]).expect(0);

    // What the command line says stands over the pack, with paths and names of its own.
    packed("short", &["--rounds", "1", "--set", "filter.0.plugin=builtin:length"]).expect(0);
    let source = |run: &str, filter: usize| {
        let manifest: serde_json::Value =
            serde_json::from_slice(&place.files(run)["run.json"]).unwrap();
        manifest["plugin_set"]["filters"][filter]["source"].as_str().unwrap().to_owned()
    };
    assert_eq!(source("short", 0), "builtin:length");
    assert!(source("pack", 0).ends_with("/tiny.aligner#components/length1.wasm"));
}

#[test]
fn a_run_of_a_pack_is_resumed_with_it() {
    let place = Place::new();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    write_tiny(&place);
    place.aligner(&["plugin", "pack", "tiny.toml"]).expect(0);
    remove_tiny(&place);
    let run = |out: &'static str| {
        place.command(&["--plugins", "tiny.aligner", "--model", &model, "--out", out])
    };
    assert!(run("whole").output().unwrap().status.success());
    let killed = run("killed").env("ALIGNER_FAULT", "kill:40").output().unwrap();
    assert!(!killed.status.success());
    std::fs::rename(place.path("tiny.aligner"), place.path("moved.aligner")).unwrap();
    let shown = place.folder.path().canonicalize().unwrap().join("tiny.aligner");
    place.aligner(&["resume", "killed"]).expect(4).says(&[
        &format!("packed plugin set `{}` cannot be used: No such file", shown.display()),
        "hint: put the file back where it was",
    ]);
    std::fs::rename(place.path("moved.aligner"), place.path("tiny.aligner")).unwrap();
    place.aligner(&["resume", "killed"]).expect(0);
    let (whole, resumed) = (place.files("whole"), place.files("killed"));
    for (name, bytes) in whole.iter().filter(|(name, _)| *name != "journal.jsonl") {
        assert!(resumed[name] == *bytes, "{name} differs");
    }
}

#[test]
fn an_embedded_plugin_set_is_packed_with_all_that_it_names() {
    let place = Place::new();
    let said = place.aligner(&["plugin", "pack", "soft-plus.toml"]).expect(0);
    for part in [
        "plugin-set.toml",
        "components/self-align-format.wasm",
        "data/prompts-240.jsonl",
        "data/trusted-40.jsonl",
        "was builtin:soft-plus\n",
        "not packed: `policy`, which is fetched by its name, `smollm2-135m-instruct`\n",
    ] {
        assert!(said.stdout.contains(part), "no {part:?} in {}", said.stdout);
    }
    let listed = place.aligner(&["plugin", "pack", "--list", "soft-plus.aligner"]).expect(0);
    assert!(said.stdout.starts_with(&listed.stdout), "{}", listed.stdout);
    // Its sources are those of the pack and no longer the program's.
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let run = ["--plugins", "soft-plus.aligner", "--model", &model, "--out", "run"];
    let short = ["--rounds", "1", "--set", "data.limit=4", "--set", "generate.max_new_tokens=4"];
    let said = place.aligner(&[&run[..], &short[..]].concat());
    assert!(matches!(said.code, Some(0 | 6)), "{said:?}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&place.files("run")["run.json"]).unwrap();
    for plugin in manifest["plugins"].as_array().unwrap() {
        let source = plugin["source"].as_str().unwrap();
        assert!(source.contains("/soft-plus.aligner#components/"), "{source}");
        let name = plugin["name"].as_str().unwrap();
        let embedded = aligner::digest::sha256(aligner_embed::component(name).unwrap());
        assert_eq!(plugin["digest"], embedded);
    }
}

#[test]
fn what_is_not_packed_is_said() {
    let place = Place::new();
    write_tiny(&place);
    place.aligner(&["plugin", "pack", "tiny.toml"]).expect(0);
    place.aligner(&["plugin", "pack", "tiny.aligner"]).expect(2).says(&[
        "error: `tiny.aligner` is packed already",
        "hint: `aligner plugin pack --list tiny.aligner` says what it holds",
    ]);
    let set = std::fs::read(place.path("tiny.toml")).unwrap();
    place.aligner(&["plugin", "pack", "tiny.toml", "-o", "tiny.toml"]).expect(2).says(&[
        "error: `tiny.toml` is no name of a packed plugin set",
        "for example `tiny.aligner`",
    ]);
    assert_eq!(std::fs::read(place.path("tiny.toml")).unwrap(), set);
    place
        .aligner(&["plugin", "pack", "tiny.toml", "-o", "no/x.aligner"])
        .expect(2)
        .says(&["error: cannot write `no/x.aligner`: "]);
    place
        .aligner(&["plugin", "pack", "--list", "tiny.toml"])
        .expect(2)
        .says(&["error: packed plugin set `tiny.toml` cannot be used: it is no zip archive"]);
    // What a run would refuse is not packed.
    std::fs::write(place.path("plugins/Length 1.wasm"), "no component").unwrap();
    place.aligner(&["plugin", "pack", "tiny.toml", "-o", "x.aligner"]).expect(3);
    std::fs::write(place.path("tiny-prompts.jsonl"), "no rows").unwrap();
    place
        .aligner(&["plugin", "pack", "tiny.toml", "-o", "x.aligner"])
        .expect(4)
        .says(&["the line is not JSON"]);
    let left = place.folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
    left.sort();
    let kept =
        ["plugins", "tiny-held-out.jsonl", "tiny-prompts.jsonl", "tiny.aligner", "tiny.toml"];
    assert_eq!(left, kept);
}

/// Writes a pack of a plugin set as somebody might who means no good.
fn write_pack(place: &Place, name: &str, text: &str) {
    let mut contents = Contents::default();
    contents.add(COMPONENTS, "length", "x", aligner_embed::component("length").unwrap().to_vec());
    contents.add(DATA, "p", "x", b"{\"prompt\": \"a\"}\n".to_vec());
    let mut file = std::fs::File::create(place.path(name)).unwrap();
    contents.write(text, "x.toml", "0.1", &mut file).unwrap();
}

#[test]
fn a_pack_names_nothing_outside_of_it() {
    let place = Place::new();
    std::fs::write(place.path("secret.wasm"), "").unwrap();
    std::fs::create_dir(place.path("secret")).unwrap();
    let set = |plugin: &str, prompts: &str, model: &str| {
        format!(
            "[method]\nname = \"x\"\ncontract = \"0.1\"\n[models]\npolicy = \"{model}\"\n[data]\nprompts = \
             \"{prompts}\"\n[[filter]]\nafter = \"generate\"\nplugin = \"{plugin}\"\n"
        )
    };
    let check = |plugin: &str, prompts: &str, model: &str, parts: &[&str]| {
        write_pack(&place, "x.aligner", &set(plugin, prompts, model));
        place.aligner(&["--plugins", "x.aligner", "--out", "run"]).expect(2).says(parts);
        assert!(!place.path("run").exists());
    };
    let (plugin, prompts, model) =
        ("components/length.wasm", "data/p.jsonl", "smollm2-135m-instruct");
    let above = place.path("secret.wasm").display().to_string();
    for outside in [
        "secret.wasm",
        "../secret.wasm",
        &above,
        "builtin:length",
        "https://example.org/x.wasm",
        "oci://example.org/x:1",
        "components/../secret.wasm",
        "aligner-pack.json",
        "plugin-set.toml",
    ] {
        check(
            outside,
            prompts,
            model,
            &[
                &format!(
                    "error: `plugin` in `[[filter]]` is `{outside}`, which is not in the pack"
                ),
                "  --> x.aligner#plugin-set.toml:10:10",
                "expected one of `components/length.wasm`, `data/p.jsonl`",
                "hint: a packed plugin set has its plugins and data with it; `--set` names others",
            ],
        );
    }
    check(
        plugin,
        "/etc/passwd",
        model,
        &["`prompts` in `[data]` is `/etc/passwd`, which is not in"],
    );
    // What is here by a name that is no alias is not what the pack means.
    for path in ["./secret", "../secret", "/etc", "secret/x.gguf", "secret"] {
        check(
            plugin,
            prompts,
            path,
            &[
                &format!("error: `policy` in `[models]` is `{path}`, and a pack holds no models"),
                "expected \"hf:owner/name@revision\" or an alias: `",
                "hint: `--set models.policy=PATH` gives a model of yours",
            ],
        );
    }
    // Data where a plugin belongs is no plugin.
    write_pack(&place, "x.aligner", &set(prompts, prompts, model));
    place.aligner(&["--plugins", "x.aligner", "--out", "run"]).expect(3).says(&["#data/p.jsonl"]);
    std::fs::write(place.path("x.aligner"), "PK\u{3}\u{4} and nothing more of an archive").unwrap();
    place.aligner(&["--plugins", "x.aligner"]).expect(2).says(&[
        "error: packed plugin set `",
        "x.aligner` cannot be used: it is cut short, or something was added to its end",
        "hint: get the file again from where it came from",
    ]);
}
