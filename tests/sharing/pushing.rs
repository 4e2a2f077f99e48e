//! Components in a registry.

use aligner::digest::sha256;
use aligner::plugin_set::{Pin, PinnedBy, Source};
use aligner::source::{Fetcher, Patience};

use super::registry::Registry;
use super::server::{Server, respond};
use super::{Desk, another, component, lines_for_a_set};

#[test]
fn a_component_goes_through_a_registry_and_runs_without_it() {
    let desk = Desk::new();
    let registry = Registry::start(None);
    std::fs::write(desk.place.path("mine.wasm"), component()).unwrap();
    let source = registry.source("someone/length:1.0");
    let pushed = desk.aligner(&["plugin", "push", "mine.wasm", &source]).expect(0);
    let lines = lines_for_a_set(&pushed);

    let (manifest, config) = {
        let content = registry.content.lock().unwrap();
        let manifest = content.manifests["1.0"].clone();
        let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let config = content.blobs[parsed["config"]["digest"].as_str().unwrap()].clone();
        assert_eq!(content.blobs.len(), 2);
        (manifest, config)
    };
    assert_eq!(lines, format!("plugin = \"{source}@sha256:{}\"", sha256(&manifest)));
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    let digest = format!("sha256:{}", sha256(&component()));
    assert_eq!(manifest["layers"][0]["digest"], digest);
    assert_eq!(manifest["annotations"]["org.opencontainers.image.title"], "length");
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["layerDigests"][0], digest);

    // The same again changes nothing, and sends no component.
    let before = registry.server.asked().len();
    let again = desk.aligner(&["plugin", "push", "mine.wasm", &source]).expect(0);
    assert_eq!(lines_for_a_set(&again), lines);
    assert!(!registry.server.asked()[before..].iter().any(|asked| asked.starts_with("PATCH")));

    let pulled = desk.aligner(&["plugin", "pull", &source]).expect(0);
    assert_eq!(lines_for_a_set(&pulled), lines);
    desk.write_set("set.toml", &lines);
    std::fs::remove_dir_all(desk.place.path("cache")).unwrap();
    desk.run("set.toml", "run", &[]).expect(0);
    drop(registry);
    desk.run("set.toml", "again", &[]).expect(0);
    std::fs::remove_dir_all(desk.place.path("cache/fetched")).unwrap();
    desk.run("set.toml", "third", &[]).expect(3).says(&["cannot be reached", "hint: "]);
}

#[test]
fn a_tag_by_itself_pins_nothing() {
    let desk = Desk::new();
    let registry = Registry::start(None);
    let source = registry.source("length:1.0");
    desk.write_set("set.toml", &format!("plugin = \"{source}\""));
    desk.run("set.toml", "run", &[]).expect(2).says(&[
        "is fetched, and nothing says what it has to be",
        &format!("`aligner plugin pull {source}` prints"),
    ]);
    assert_eq!(registry.server.asked(), [""; 0]);
    // Its component's digest does.
    std::fs::write(desk.place.path("mine.wasm"), component()).unwrap();
    desk.aligner(&["plugin", "push", "mine.wasm", &source]).expect(0);
    let lines = |bytes: &[u8]| format!("plugin = \"{source}\"\nsha256 = \"{}\"", sha256(bytes));
    desk.write_set("set.toml", &lines(&component()));
    desk.run("set.toml", "run", &["--dry-run"]).expect(0);
    desk.write_set("set.toml", &lines(&another()));
    desk.run("set.toml", "run", &["--dry-run"]).expect(3).says(&[
        &sha256(&component()),
        &sha256(&another()),
        "the plugin set says",
    ]);
}

#[test]
fn a_registry_that_gives_something_else_is_not_believed() {
    let registry = Registry::start(None);
    let folder = tempfile::tempdir().unwrap();
    let fetcher = |name: &str| {
        let kept = Some(folder.path().join(name));
        Fetcher { kept, patience: Patience::default(), variable: |_| None }
    };
    let mine = aligner::plugin::Source::bytes("mine", component());
    let reference = registry.source("length:1").replace("oci:", "");
    let pushed = fetcher("a").push(&reference, &mine, &[]).unwrap();
    let open = |name: &str, text: &str, pin: Option<&Pin>| {
        let source: Source = format!("oci:{text}").parse().unwrap();
        fetcher(name).open(&source, pin, &mut |_| {})
    };
    let bytes = open("a", &pushed.reference, None).unwrap().component.as_bytes().to_vec();
    assert_eq!(bytes, component());

    let layer = format!("sha256:{}", sha256(&component()));
    registry.content.lock().unwrap().blobs.insert(layer.clone(), another());
    let error = open("b", &pushed.reference, None).unwrap_err().to_string();
    assert!(error.contains(&layer), "{error}");
    assert!(error.contains(&sha256(&another())), "{error}");

    let exact = format!("sha256:{}", pushed.manifest);
    registry.content.lock().unwrap().manifests.insert(exact.clone(), b"{}".to_vec());
    let error = open("c", &pushed.reference, None).unwrap_err().to_string();
    assert!(error.contains(&pushed.manifest), "{error}");
    assert!(error.contains(&sha256(b"{}")), "{error}");

    // What was fetched before is there whatever the registry says now, unless it was changed.
    open("a", &pushed.reference, None).unwrap();
    for entry in std::fs::read_dir(folder.path().join("a")).unwrap() {
        std::fs::write(entry.unwrap().path(), "{}").unwrap();
    }
    open("a", &pushed.reference, None).unwrap_err();

    let image = br#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"y","size":1},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"z","size":1}]}"#;
    registry.content.lock().unwrap().manifests.insert("image".into(), image.to_vec());
    let error = open("d", &registry.source("length:image")[4..], None).unwrap_err().to_string();
    assert!(error.contains("holds no component (application/wasm) but"), "{error}");
    let error = open("d", &registry.source("length:2")[4..], None).unwrap_err().to_string();
    assert!(error.contains("is not in the registry"), "{error}");
    let pin = Pin { sha256: sha256(&another()), manifest: None, by: PinnedBy::Run };
    let error = open("d", &registry.source("length:1")[4..], Some(&pin)).unwrap_err().to_string();
    assert!(error.contains(&sha256(&component())) && error.contains(&pin.sha256), "{error}");
}

#[test]
fn an_endless_manifest_and_a_mute_registry_end() {
    let fetcher = |seconds: f64| Fetcher {
        kept: None,
        patience: Patience {
            silence: std::time::Duration::from_secs_f64(seconds),
            ..Patience::default()
        },
        variable: |_| None,
    };
    let open = |server: &Server, seconds| {
        let source: Source = format!("oci:{}/x:1", server.address).parse().unwrap();
        fetcher(seconds).open(&source, None, &mut |_| {}).unwrap_err().to_string()
    };
    let drip = Server::start(|_, stream| {
        use std::io::Write;
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
        loop {
            stream.write_all(b" ")?;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    assert!(open(&drip, 0.4).contains("is not there after 0.8 s"), "{}", open(&drip, 0.4));
    let mute = Server::start(|_, _| {
        std::thread::sleep(std::time::Duration::from_secs(3));
        Ok(())
    });
    let error = open(&mute, 0.2);
    let said = ["cannot be reached", "is not there after 0.4 s"];
    assert!(said.iter().any(|said| error.contains(said)), "{error}");
}

#[test]
fn an_answer_without_an_end_is_cut() {
    use std::io::Write;
    let registry = |endless: &'static str, status: &'static str| {
        Server::start(move |request, stream| {
            if request.path.starts_with(endless) {
                write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n")?;
                loop {
                    stream.write_all(&[b' '; 1 << 16])?;
                }
            }
            let host = request.header("host").unwrap_or_default();
            let wants = format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            match request.path.as_str() {
                "/v2/" => respond(stream, "401 Unauthorized", &wants, b""),
                _ => respond(stream, "200 OK", "", br#"{"token":"a\nb"}"#),
            }
        })
    };
    let open = |server: &Server| {
        let source: Source = format!("oci:{}/x:1", server.address).parse().unwrap();
        let fetcher = Fetcher { kept: None, patience: Patience::default(), variable: |_| None };
        fetcher.open(&source, None, &mut |_| {}).unwrap_err().to_string()
    };
    let tokens = registry("/token", "200 OK");
    assert!(
        open(&tokens).contains("is answered with more than 1048576 bytes"),
        "{}",
        open(&tokens)
    );
    let wrong = registry("nothing", "200 OK");
    assert!(open(&wrong).contains("it has characters that no token has"), "{}", open(&wrong));

    let manifests = |status: &'static str| {
        Server::start(move |request, stream| {
            if request.path == "/v2/" {
                return respond(stream, "200 OK", "", b"{}");
            }
            write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 1 << 16])?;
            }
        })
    };
    let endless = open(&manifests("200 OK"));
    assert!(endless.contains("is answered with more than 1048576 bytes"), "{endless}");
    let failing = open(&manifests("500 Internal Server Error"));
    assert!(failing.contains("cannot be had"), "{failing}");
}

#[test]
fn a_token_opens_a_registry() {
    let registry = Registry::start(Some("Bearer abc.def"));
    let folder = tempfile::tempdir().unwrap();
    let inside = registry.server.address;
    // In front of it: says where tokens are, and gives one.
    let front = Server::start(move |request, stream| {
        if request.path.starts_with("/token?") {
            assert_eq!(request.path, "/token?scope=repository%3Alength%3Apull&service=here");
            return respond(stream, "200 OK", "", br#"{"access_token":"abc.def"}"#);
        }
        let host = request.header("host").unwrap_or_default();
        let wants =
            format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"here\"\r\n");
        match request.path.as_str() {
            "/v2/" => respond(stream, "401 Unauthorized", &wants, b""),
            _ if request.header("authorization") != Some("Bearer abc.def") => {
                respond(stream, "401 Unauthorized", "", b"")
            }
            // Another host: the token does not go there.
            path => {
                respond(stream, "307 Moved", &format!("location: http://{inside}{path}\r\n"), b"")
            }
        }
    });
    let source: Source = format!("oci:{}/length:1", front.address).parse().unwrap();
    let fetcher = Fetcher {
        kept: Some(folder.path().to_owned()),
        patience: Patience::default(),
        variable: |_| None,
    };
    let error = fetcher.open(&source, None, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("the registry wants a login"), "{error}");
    assert_eq!(front.asked().len(), 3);
    assert_eq!(registry.server.asked(), ["GET /v2/length/manifests/1"]);
}

#[test]
fn a_registry_with_a_login_lets_in_who_has_it() {
    let desk = Desk::new();
    // `me:secret`
    let registry = Registry::start(Some("Basic bWU6c2VjcmV0"));
    std::fs::write(desk.place.path("mine.wasm"), component()).unwrap();
    let source = registry.source("length:1");
    let push = ["plugin", "push", "mine.wasm", source.as_str()];
    desk.aligner(&push).expect(3).says(&["the registry wants a login", "ALIGNER_REGISTRY"]);
    let address = registry.server.address.to_string();
    let with = |host: &str| {
        let mut command = desk.command(&push);
        command.env("ALIGNER_REGISTRY", host);
        command.env("ALIGNER_REGISTRY_USER", "me").env("ALIGNER_REGISTRY_TOKEN", "secret");
        super::Said::of(command.output().unwrap())
    };
    with("ghcr.io").expect(3).says(&["the registry wants a login"]);
    let pushed = with(&address).expect(0);
    assert!(!pushed.stdout.contains("secret"));

    std::fs::create_dir_all(desk.place.path("home/.docker")).unwrap();
    let config = format!(r#"{{"auths":{{"{address}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    std::fs::write(desk.place.path("home/.docker/config.json"), config).unwrap();
    let pulled = desk.aligner(&["plugin", "pull", &source]).expect(0);
    assert_eq!(lines_for_a_set(&pulled), lines_for_a_set(&pushed));
}

#[test]
fn what_is_no_component_or_no_place_is_not_pushed() {
    let desk = Desk::new();
    let registry = Registry::start(None);
    std::fs::write(desk.place.path("mine.wasm"), component()).unwrap();
    std::fs::write(desk.place.path("text.wasm"), "text").unwrap();
    let push = |file: &str, to: &str| desk.aligner(&["plugin", "push", file, to]);
    push("text.wasm", &registry.source("x:1")).expect(3).says(&["is not WebAssembly"]);
    push("missing.wasm", &registry.source("x:1")).expect(3).says(&["cannot be read"]);
    let exact = registry.source(&format!("x@sha256:{}", "0".repeat(64)));
    for place in ["x.wasm", "https://example.org/x.wasm", &exact] {
        push("mine.wasm", place).expect(2).says(&["is no place in a registry"]);
    }
    push("mine.wasm", &registry.source("x")).expect(2).says(&["names neither tag nor digest"]);
    let module = crate::runtime::guests::path("judge").display().to_string();
    push(&module, &registry.source("x:1")).expect(3).says(&["core module", "aligner plugin build"]);
    assert_eq!(registry.server.asked(), [""; 0]);
}
