//! Components by their address.

use std::io::Write;
use std::time::Duration;

use aligner::digest::sha256;
use aligner::plugin::MAX_FILE_BYTES;
use aligner::plugin_set::{Pin, PinnedBy, Source};
use aligner::source::{Fetcher, Patience};

use super::server::{Server, respond};
use super::{Desk, another, component, lines_for_a_set};

fn fetcher(folder: &tempfile::TempDir) -> Fetcher {
    let patience = Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(300),
        whole: Duration::from_secs(60),
    };
    let kept = Some(folder.path().join("fetched"));
    Fetcher { kept, patience, variable: |_| None }
}

fn pin(bytes: &[u8]) -> Pin {
    Pin { sha256: sha256(bytes), manifest: None, by: PinnedBy::Key }
}

/// Checks what becomes of an address.
#[track_caller]
fn refused(server: &Server, pin: Option<&Pin>, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let source: Source = server.url("length.wasm").parse().unwrap();
    let error = fetcher(&folder).open(&source, pin, &mut |_| {}).unwrap_err().to_string();
    for part in expected.iter().chain(&[server.url("length.wasm").as_str(), "hint: "]) {
        assert!(error.contains(part), "no {part:?} in:\n{error}");
    }
    let kept = std::fs::read_dir(folder.path().join("fetched")).map_or(0, |files| files.count());
    assert_eq!(kept, 0, "nothing is kept of what is refused");
}

#[test]
fn what_has_the_right_digest_is_fetched_once() {
    let server = Server::serving("200 OK", "", component());
    let folder = tempfile::tempdir().unwrap();
    let source: Source = server.url("length.wasm").parse().unwrap();
    let pin = pin(&component());
    for _ in 0..2 {
        let found = fetcher(&folder).open(&source, Some(&pin), &mut |_| {}).unwrap();
        assert_eq!(found.component.as_bytes(), component());
    }
    assert_eq!(server.asked(), ["GET /length.wasm"]);
    // Without a pin nobody knows whether it is still the same.
    fetcher(&folder).open(&source, None, &mut |_| {}).unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn what_was_changed_in_the_cache_is_fetched_again() {
    let server = Server::serving("200 OK", "", component());
    let folder = tempfile::tempdir().unwrap();
    let source: Source = server.url("length.wasm").parse().unwrap();
    let pin = pin(&component());
    fetcher(&folder).open(&source, Some(&pin), &mut |_| {}).unwrap();
    let file = folder.path().join("fetched").join(&pin.sha256);
    std::fs::write(&file, another()).unwrap();
    let found = fetcher(&folder).open(&source, Some(&pin), &mut |_| {}).unwrap();
    assert_eq!(found.component.as_bytes(), component());
    assert_eq!(server.asked().len(), 2);
    assert_eq!(std::fs::read(&file).unwrap(), component());
    // And with the server gone too, what is wrong is not used.
    std::fs::write(&file, another()).unwrap();
    drop(server);
    let error = fetcher(&folder).open(&source, Some(&pin), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("cannot be fetched"), "{error}");
}

#[test]
fn another_digest_is_refused_with_both() {
    let server = Server::serving("200 OK", "", another());
    let (found, wanted) = (sha256(&another()), sha256(&component()));
    let expected = format!("has sha256 {found}, and the plugin set says {wanted}");
    refused(&server, Some(&pin(&component())), &[&expected, "`sha256 = "]);
}

#[test]
fn what_a_server_refuses_is_named() {
    let check = |status, expected: &str, hint: &str| {
        refused(&Server::serving(status, "", b"no".to_vec()), None, &[expected, hint]);
    };
    check("404 Not Found", "the server answers 404 Not Found", "check the address");
    check("401 Unauthorized", "401 Unauthorized", "download the file and name its path");
    check("503 Service Unavailable", "503 Service Unavailable", "try again later");
    check("204 No Content", "204 No Content", "check the address");
    check("302 Found", "302 Found", "check the address");
}

#[test]
fn what_breaks_off_is_no_component() {
    let server = Server::start(|_, stream| {
        let bytes = component();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len())?;
        stream.write_all(&bytes[..bytes.len() / 2])
    });
    let half = component().len() / 2;
    let expected = format!("broke off after {half} of {} bytes", component().len());
    refused(&server, None, &[&expected, "try again later"]);
    refused(&server, Some(&pin(&component())), &["broke off after"]);
}

#[test]
fn what_has_no_end_is_cut() {
    let expected = format!("has more than {MAX_FILE_BYTES} bytes");
    // Without a length, and with one that says it at once.
    let endless = Server::start(|_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
        loop {
            stream.write_all(&[0; 1 << 16])?;
        }
    });
    refused(&endless, None, &[&expected]);
    let huge = Server::start(|_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 50)
    });
    refused(&huge, None, &[&expected]);
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let wait = || std::thread::sleep(Duration::from_secs(3));
    let mute = Server::start(move |_, _| {
        wait();
        Ok(())
    });
    refused(&mute, None, &["the server said nothing for 0.3 s"]);
    let slow = Server::start(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfour")?;
        wait();
        Ok(())
    });
    refused(&slow, None, &["broke off after 4 of 1000 bytes: the server said nothing for 0.3 s"]);
    let garbled = Server::start(|_, stream| stream.write_all(b"garbled\r\n\r\n"));
    refused(&garbled, None, &["cannot be fetched"]);
}

#[test]
fn a_server_may_send_elsewhere_but_not_anywhere() {
    let end = Server::serving("200 OK", "", component());
    let moved = |to: &str| {
        let headers = format!("location: {to}\r\n");
        Server::serving("302 Found", &headers, Vec::new())
    };
    let here = moved(&end.url("moved.wasm?key=secret"));
    let folder = tempfile::tempdir().unwrap();
    let source: Source = here.url("length.wasm").parse().unwrap();
    let found = fetcher(&folder).open(&source, None, &mut |_| {}).unwrap();
    assert_eq!(found.component.as_bytes(), component());
    assert_eq!(end.asked(), ["GET /moved.wasm?key=secret"]);

    let plain = "sends to `http://example.org/x.wasm`, which is plain `http:`";
    refused(&moved("http://example.org/x.wasm?key=secret"), None, &[plain]);
    refused(&moved("file:///etc/passwd"), None, &["which begins with `file:`"]);
    refused(&moved("http://me:pass@localhost/x"), None, &["has a user name or password in it"]);
    refused(&moved("http://["), None, &["to what is no address"]);
    let round = Server::start(|request, stream| {
        respond(stream, "301 Moved", &format!("location: {}x\r\n", request.path), b"")
    });
    refused(&round, None, &["sends elsewhere more than 5 times"]);
    assert_eq!(round.asked().len(), 6);
}

#[test]
fn a_long_download_is_told_of() {
    let server = Server::start(|_, stream| {
        let bytes = component();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len())?;
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        stream.write_all(first)?;
        std::thread::sleep(Duration::from_millis(2100));
        stream.write_all(rest)
    });
    let folder = tempfile::tempdir().unwrap();
    let source: Source = server.url("length.wasm").parse().unwrap();
    let mut heard = Vec::new();
    let patience = Patience::default();
    let fetcher = Fetcher { patience, ..fetcher(&folder) };
    fetcher.open(&source, None, &mut |state| heard.push(state)).unwrap();
    let last = heard.last().expect("it took more than two seconds");
    assert_eq!(last.what, "fetching length.wasm");
    assert_eq!((last.done, last.total), (component().len() as u64, Some(component().len() as u64)));
}

#[test]
fn a_plugin_set_by_address_runs_and_runs_again_without_a_network() {
    let desk = Desk::new();
    let server = Server::serving("200 OK", "", component());
    let url = server.url("length.wasm");
    desk.write_set("loose.toml", &format!("plugin = \"{url}\""));
    let way_out = format!("`aligner plugin pull {url}` prints the lines to write here");
    desk.run("loose.toml", "run", &[])
        .expect(2)
        .says(&["`plugin` in `[[filter]]` is fetched, and nothing says what", &way_out]);

    let pulled = desk.aligner(&["plugin", "pull", &url]).expect(0);
    let lines = lines_for_a_set(&pulled);
    assert_eq!(lines, format!("plugin = \"{url}\"\nsha256 = \"{}\"", sha256(&component())));
    desk.write_set("set.toml", &lines);
    desk.run("set.toml", "run", &[]).expect(0);
    let address = server.address;
    drop(server);
    desk.run("set.toml", "again", &[]).expect(0);
    let files = |run| {
        let mut files = desk.place.files(run);
        files.remove("final/adapter/README.md");
        files
    };
    assert!(files("run") == files("again"), "the same run, without a network");
    let json = String::from_utf8(files("run")["run.json"].clone()).unwrap();
    assert!(json.contains(&url) && json.contains(&sha256(&component())), "{json}");

    // What is gone on with is what was begun, though `run.json` holds no pin.
    desk.aligner(&["resume", "run"]).expect(0);
    std::fs::remove_dir_all(desk.place.path("cache/fetched")).unwrap();
    desk.aligner(&["resume", "run"]).expect(3).says(&[&url, "cannot be fetched"]);
    // Another component at the same address is refused, and nothing else is changed.
    let other = another();
    let _other = Server::at(address, move |_, stream| respond(stream, "200 OK", "", &other));
    let says = format!("and the run says {}", sha256(&component()));
    desk.aligner(&["resume", "run"]).expect(3).says(&[&sha256(&another()), &says]);
}

#[test]
fn an_address_that_is_none_is_refused_where_it_stands() {
    let desk = Desk::new();
    let check = |source: &str, expected: &str| {
        desk.write_set("set.toml", &format!("plugin = \"{source}\""));
        desk.run("set.toml", "run", &[]).expect(2).says(&[expected, "set.toml:"]);
        desk.aligner(&["plugin", "check", source]).expect(2).says(&[source, "hint: "]);
    };
    check("http://example.org/x.wasm", "is plain `http:`");
    check("https://me:secret@example.org/x.wasm", "has a user name or password in it");
    check("oci:x/y:1", "names no registry");
}

#[test]
fn verbs_that_look_at_plugins_take_addresses() {
    let desk = Desk::new();
    let server = Server::serving("200 OK", "", component());
    let url = server.url("length.wasm");
    let checked = desk.aligner(&["plugin", "check", &url]).expect(0);
    assert!(checked.stdout.contains(&sha256(&component())), "{}", checked.stdout);
    desk.aligner(&["plugin", "pull", &url, "--out", "mine.wasm"]).expect(0);
    assert_eq!(std::fs::read(desk.place.path("mine.wasm")).unwrap(), component());
    let no_plugin = Server::serving("200 OK", "", b"<html>".to_vec());
    desk.aligner(&["plugin", "pull", &no_plugin.url("x.wasm"), "--out", "x.wasm"])
        .expect(3)
        .says(&["is not WebAssembly but an HTML page", "behind `raw` or `download`"]);
    assert!(!desk.place.path("x.wasm").exists());
}
