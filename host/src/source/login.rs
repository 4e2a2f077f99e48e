//! Who somebody is to a registry.
//!
//! A name and a token go to the registry that they are meant for and to no other: a plugin set may name any
//! registry.

use std::ffi::OsString;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

/// How to log in, for hints.
pub(super) const WAY_OUT: &str = "log in with `docker login`, or set ALIGNER_REGISTRY to the registry's host, \
                                  ALIGNER_REGISTRY_USER and ALIGNER_REGISTRY_TOKEN";

/// Returns the login for a registry: of `ALIGNER_REGISTRY_USER` and `ALIGNER_REGISTRY_TOKEN` where
/// `ALIGNER_REGISTRY` is this registry, else of Docker's `config.json`, else none.
pub(super) fn of(registry: &str, variable: fn(&str) -> Option<OsString>) -> RegistryAuth {
    let text = |name| variable(name)?.into_string().ok().filter(|text| !text.is_empty());
    let hub = |name: &str| ["docker.io", "index.docker.io"].contains(&name);
    let is_meant = |named: &str| named == registry || hub(named) && hub(registry);
    if text("ALIGNER_REGISTRY").is_some_and(|named| is_meant(&named))
        && let Some(token) = text("ALIGNER_REGISTRY_TOKEN")
    {
        return match text("ALIGNER_REGISTRY_USER") {
            Some(user) => RegistryAuth::Basic(user, token),
            None => RegistryAuth::Bearer(token),
        };
    }
    let folder = text("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
    let file = folder.and_then(|folder| std::fs::read(folder.join("config.json")).ok());
    let config = file.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    config.and_then(|config| of_docker(registry, &config)).unwrap_or(RegistryAuth::Anonymous)
}

/// Returns the login that Docker's configuration has for a registry, where it stands there in plain.
fn of_docker(registry: &str, config: &Value) -> Option<RegistryAuth> {
    let hub = ["docker.io", "index.docker.io"].contains(&registry);
    let names = [registry, if hub { "https://index.docker.io/v1/" } else { registry }];
    let login = names.iter().find_map(|name| config["auths"][name]["auth"].as_str())?;
    let login = String::from_utf8(STANDARD.decode(login).ok()?).ok()?;
    let (user, token) = login.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), token.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_login_goes_to_its_registry_alone() {
        fn variables(name: &str) -> Option<OsString> {
            let value = match name {
                "ALIGNER_REGISTRY" => "ghcr.io",
                "ALIGNER_REGISTRY_USER" => "me",
                "ALIGNER_REGISTRY_TOKEN" => "secret",
                "DOCKER_CONFIG" => "/nowhere",
                _ => return None,
            };
            Some(value.into())
        }
        let me = RegistryAuth::Basic("me".into(), "secret".into());
        assert!(of("ghcr.io", variables) == me);
        assert!(of("example.org", variables) == RegistryAuth::Anonymous);
        assert!(of("ghcr.io.example.org", variables) == RegistryAuth::Anonymous);
        assert!(of("ghcr.io", |_| None) == RegistryAuth::Anonymous);
    }

    #[test]
    fn docker_s_plain_logins_are_read() {
        // `me:secret`, and something that is no login.
        let config = json!({ "auths": {
            "localhost:5000": { "auth": "bWU6c2VjcmV0" },
            "https://index.docker.io/v1/": { "auth": "bWU6c2VjcmV0" },
            "broken": { "auth": "!" },
            "helped": {},
        }});
        let me = Some(RegistryAuth::Basic("me".into(), "secret".into()));
        assert!(of_docker("localhost:5000", &config) == me);
        assert!(of_docker("index.docker.io", &config) == me);
        for name in ["broken", "helped", "example.org"] {
            assert!(of_docker(name, &config).is_none(), "{name}");
        }
        assert!(of_docker("x", &json!([])).is_none());
    }
}
