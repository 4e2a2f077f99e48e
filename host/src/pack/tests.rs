//! Packs as they are written, and what is not one.

use std::io::{Cursor, Read};
use std::path::Path;

use super::*;

fn packed() -> Vec<u8> {
    let mut contents = Contents::default();
    contents.add(COMPONENTS, "a.wasm", "builtin:a", b"wasm".to_vec());
    contents.add(DATA, "p.jsonl", "p.jsonl", b"{}\n".to_vec());
    let mut out = Vec::new();
    contents.write("[method]\n", "s.toml", "0.1", &mut out).unwrap();
    out
}

/// An archive of files in this order, whatever they are called.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    archive::write(files.iter().copied(), &mut out).unwrap();
    out
}

/// A pack of a plugin set and these files, with a list of them as it should be.
fn listed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let packed = |(name, bytes): &(&str, &[u8])| {
        let packed = Packed { from: "x".into(), bytes: bytes.len() as u64, sha256: sha256(bytes) };
        ((*name).to_owned(), packed)
    };
    let files = [files, &[(SET, b"[method]\n")]].concat();
    let manifest = Manifest {
        format: FORMAT,
        contract: "0.1".into(),
        files: files.iter().map(packed).collect(),
    };
    let list = serde_json::to_vec(&manifest).unwrap();
    archive(&[&[(MANIFEST, &list[..])], &files[..]].concat())
}

/// Opens a pack and reads all that is in it.
fn open(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, PackError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.aligner");
    std::fs::write(&path, bytes).unwrap();
    let renamed = |error: PackError| PackError { path: "x.aligner".into(), ..error };
    let pack = Pack::open(&path).map_err(renamed)?;
    pack.plugin_set().map_err(renamed)?;
    let names = pack.manifest().files.keys();
    names.map(|name| Ok((name.clone(), pack.read(name).map_err(renamed)?))).collect()
}

#[track_caller]
fn check(bytes: Vec<u8>, expected: &str) {
    let found = open(&bytes).unwrap_err().to_string();
    let found = found.strip_prefix("packed plugin set `x.aligner` cannot be used: ").unwrap();
    assert_eq!(found, expected);
}

/// Returns where the header of a file in the directory begins.
fn central(bytes: &[u8], name: &str) -> usize {
    let wanted = |at: &usize| {
        bytes[*at..].starts_with(b"PK\x01\x02") && bytes[*at + 46..].starts_with(name.as_bytes())
    };
    (0..bytes.len() - 46).find(wanted).unwrap()
}

/// Puts other bytes into the header of a file in the directory.
fn patched(mut bytes: Vec<u8>, name: &str, at: usize, new: &[u8]) -> Vec<u8> {
    let at = central(&bytes, name) + at;
    bytes.splice(at..at + new.len(), new.iter().copied());
    bytes
}

#[test]
fn packs_are_read_as_they_were_written() {
    let files = open(&packed()).unwrap();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["components/a.wasm", "data/p.jsonl", SET]);
    assert_eq!(files["components/a.wasm"], b"wasm");
    assert_eq!(packed(), packed(), "equal files give equal bytes");
}

#[test]
fn packs_are_zip_archives_to_others() {
    let bytes = packed();
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    archive.validate_header_consistency().unwrap();
    assert_eq!(archive.len(), 4);
    let mut text = String::new();
    archive.by_name(SET).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "[method]\n");
    let entry = archive.by_name("components/a.wasm").unwrap();
    assert_eq!((entry.unix_mode(), entry.size()), (Some(0o100_644), 4));
}

#[test]
fn names_are_those_that_a_pack_can_hold() {
    let mut contents = Contents::default();
    let mut check = |folder: &str, like: &str, expected: &str| {
        assert_eq!(contents.add(folder, like, "x", Vec::new()), expected);
    };
    check(COMPONENTS, "Min Words.wasm", "components/minwords.wasm");
    check(COMPONENTS, "minwords", "components/minwords-2.wasm");
    check(COMPONENTS, "../..", "components/file.wasm");
    check(COMPONENTS, "", "components/file-2.wasm");
    check(DATA, "p.jsonl", "data/p.jsonl");
    check(DATA, "prompts.csv", "data/prompts.csv.jsonl");
    check(DATA, &"é🦀".repeat(300), "data/file.jsonl");
    check(DATA, &"x".repeat(300), &format!("data/{}.jsonl", "x".repeat(64)));
}

#[test]
fn what_is_no_pack_is_said() {
    check(b"".to_vec(), "it is no zip archive");
    check(b"[method]\nname = 'not a pack at all'\n".to_vec(), "it is no zip archive");
    check([b"#!/bin/sh\n", &packed()[..]].concat(), "it is no zip archive");
    let cut = "it is cut short, or something was added to its end";
    let whole = packed();
    check(whole[..whole.len() - 1].to_vec(), cut);
    check(whole[..whole.len() / 2].to_vec(), cut);
    check([&whole[..], b"\n"].concat(), cut);
    let gone = PackError {
        path: "x".into(),
        fault: Pack::open(Path::new("/nowhere/x.aligner")).unwrap_err().fault,
    };
    assert_eq!(gone.hint().unwrap(), "put the file back where it was");
}

#[test]
fn names_lead_nowhere() {
    let holds = |name: &str| {
        format!(
            "it holds `{name}`, and a pack holds `aligner-pack.json`, `plugin-set.toml`, and files of \
             lower-case names in `components/` and `data/`"
        )
    };
    for name in [
        "../x.wasm",
        "/etc/passwd",
        "components/../../x.wasm",
        "components/a/b.wasm",
        "components/",
        "components/.hidden",
        "components/A.wasm",
        "components/a\\b.wasm",
        "C:\\x.wasm",
        "x.wasm",
        "",
    ] {
        check(archive(&[(name, b"")]), &holds(name));
    }
    check(archive(&[("data/\u{1b}[2J\u{202e}", b"")]), &holds("data/\u{fffd}[2J\u{fffd}"));
    let long = format!("data/{}", "x".repeat(500));
    check(archive(&[(&long, b"")]), &holds(&format!("{}…", &long[..200])));
}

#[test]
fn archives_of_other_kinds_are_refused() {
    let a = "components/a.wasm";
    check(archive(&[(a, b"1"), (a, b"2")]), "it holds `components/a.wasm` twice");
    let foreign = |what: &str| format!("it is not as `aligner plugin pack` writes it: {what}");
    check(
        archive(&[("data/b", b""), (a, b"")]),
        &foreign("`components/a.wasm` is not in the order of names"),
    );
    let compressed = "`components/a.wasm` is compressed, and a pack holds its files as they are";
    check(patched(packed(), a, 10, &[8, 0]), compressed);
    // A bomb says that few bytes are many, or that many files are the same bytes.
    check(patched(packed(), a, 24, &[0xff; 4]), compressed);
    check(
        patched(packed(), a, 20, &[0xff; 8]),
        "`components/a.wasm` has 4294967295 bytes, of which it may have 268435456",
    );
    let header = foreign("`data/p.jsonl` has a header of another kind");
    let first = central(&packed(), a) + 42;
    let same = packed()[first..first + 4].to_vec();
    check(patched(packed(), "data/p.jsonl", 42, &same), &header);
    check(patched(packed(), "data/p.jsonl", 12, &[1]), &header);
    check(patched(packed(), a, 8, &[1, 0]), &foreign("`components/a.wasm` is encrypted"));
    check(
        patched(packed(), a, 40, &0o120_777u16.to_le_bytes()),
        "`components/a.wasm` is a symbolic link",
    );
    check(
        patched(packed(), a, 16, &[0]),
        &foreign("`components/a.wasm` is not what the directory says"),
    );
    let mut many = packed();
    let end = many.len() - 14;
    many.splice(end..end + 4, [0xff; 4]);
    check(many, "it holds 65535 files, and a pack has at most 1000");
}

#[test]
fn files_are_those_that_were_listed() {
    let set: (&str, &[u8]) = (SET, b"");
    check(archive(&[set]), "it has no `aligner-pack.json`");
    check(archive(&[(MANIFEST, b"{}")]), "it has no `plugin-set.toml`");
    let with = |list: &str| archive(&[(MANIFEST, list.as_bytes()), set]);
    let damaged = |what: &str| format!("its `aligner-pack.json` is damaged: {what}");
    check(with("{}"), &damaged("it names no `format`"));
    check(with("no"), &damaged("expected ident at line 1 column 2"));
    check(
        with(r#"{"format": 2, "wings": 3}"#),
        "it has pack format 2, and this aligner reads up to 1",
    );
    check(with(r#"{"format": 1, "contract": "0.1"}"#), &damaged("missing field `files`"));
    check(
        with(r#"{"format": 1, "contract": "0.1", "files": {}}"#),
        "it holds `plugin-set.toml`, which its `aligner-pack.json` does not list",
    );
    let file = |from: &str, digest: &str| {
        format!(
            "{{\"format\": 1, \"contract\": \"0.1\", \"files\": {{\"plugin-set.toml\": \
             {{\"from\": \"{from}\", \"bytes\": 0, \"sha256\": \"{digest}\"}}}}}}"
        )
    };
    let wrong = damaged("what it says of `plugin-set.toml` is wrong");
    check(with(&file("a\\u001b[2J", &sha256(b""))), &wrong);
    check(with(&file("a", "abc")), &wrong);
    check(
        with(&file("a", &sha256(b"other"))),
        &format!(
            "`plugin-set.toml` has sha256 {}, and its `aligner-pack.json` says {}",
            sha256(b""),
            sha256(b"other")
        ),
    );
    // Listed and not there.
    let whole = listed(&[("data/a", b"1")]);
    open(&whole).unwrap();
    let list = archive::Archive::open(temporary(&whole)).unwrap().read(MANIFEST).unwrap().unwrap();
    check(archive(&[(MANIFEST, &list), (SET, b"[method]\n")]), "it has no `data/a`");
    // Other bytes under the same name.
    check(
        archive(&[(MANIFEST, &list), ("data/a", b"2"), (SET, b"[method]\n")]),
        &format!(
            "`data/a` has sha256 {}, and its `aligner-pack.json` says {}",
            sha256(b"2"),
            sha256(b"1")
        ),
    );
    let set: &[u8] = b"\xff";
    let list = file("a", &sha256(set)).replace("\"bytes\": 0", "\"bytes\": 1");
    check(
        archive(&[(MANIFEST, list.as_bytes()), (SET, set)]),
        "its `plugin-set.toml` is not UTF-8",
    );
}

fn temporary(bytes: &[u8]) -> File {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Damages a pack in every byte; whatever opens holds the files that were packed.
#[test]
fn damage_never_panics() {
    let whole = packed();
    let files = open(&whole).unwrap();
    let mut refused = 0;
    for at in 0..whole.len() {
        assert!(open(&whole[..at]).is_err(), "cut at {at}");
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            match open(&bytes) {
                Ok(found) => assert_eq!(found, files, "byte {at}"),
                Err(_) => refused += 1,
            }
        }
    }
    // What a file was called before is nobody's promise.
    assert!(refused > whole.len() * 5 / 2, "{refused} of {}", 3 * whole.len());
}

#[test]
fn what_a_pack_cannot_hold_is_not_written() {
    let mut contents = Contents::default();
    for _ in 0..MAX_FILES {
        contents.add(DATA, "p", "p", Vec::new());
    }
    let mut out = Vec::new();
    let error = contents.write("", "s", "0.1", &mut out).unwrap_err();
    assert_eq!(error.to_string(), "it holds 1002 files, and a pack has at most 1000");
    assert!(out.is_empty());
    let long = " ".repeat((4 << 20) + 1);
    let error = Contents::default().write(&long, "s", "0.1", &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`plugin-set.toml` has 4194305 bytes, of which it may have 4194304"
    );
}
