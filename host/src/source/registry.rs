//! Components in OCI registries, in the layout that other tools for components have too: a manifest whose
//! configuration is an `application/vnd.wasm.config.v0+json` and whose one layer is the component
//! (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>).
//!
//! `reqwest` and `oci-client` are asynchronous; nothing of that leaves this module.

mod session;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use oci_client::{Reference, RegistryOperation};
use serde_json::json;
use wasmparser::{Encoding, Parser, Payload};

use super::kept::Kept;
use super::{Fault, Fetcher, Report, Watch, check, check_size, login};
use crate::digest::sha256;
use crate::plugin_set::Pin;
use crate::shown::chain;
use session::Session;

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const LAYER_TYPE: &str = "application/wasm";
/// The same under the name that it had before there was a layout.
const OLD_LAYER_TYPE: &str = "application/vnd.wasm.content.layer.v1+wasm";

/// A component out of a registry.
pub(super) struct Pulled {
    /// The component.
    pub bytes: Vec<u8>,
    /// SHA-256 of its manifest.
    pub manifest: String,
}

/// What is in a registry now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// SHA-256 of the manifest.
    pub manifest: String,
    /// `REGISTRY/NAME:TAG@sha256:…`
    pub reference: String,
}

/// Fetches the component that a reference names. What the reference says by a digest has that digest, and
/// is not fetched again.
pub(super) fn pull(
    reference: &str,
    pin: Option<&Pin>,
    fetcher: &Fetcher,
    kept: &Kept,
    report: Report<'_>,
) -> Result<Pulled, Fault> {
    let mut parsed = parse(reference)?;
    // A tag may have moved since it was locked; what it stood for has not.
    if parsed.digest().is_none()
        && let Some(digest) = pin.and_then(|pin| pin.manifest.as_ref())
    {
        parsed = parsed.clone_with_digest(format!("sha256:{digest}"));
    }
    let exact = parsed.digest().and_then(Pin::digits);
    let manifest = exact.as_ref().and_then(|digest| kept.get(digest));
    block_on(fetcher.patience.whole, async {
        let mut session = None;
        let manifest = match manifest {
            Some(bytes) => bytes,
            None => {
                let opened = Session::open(&parsed, fetcher, RegistryOperation::Pull).await?;
                session.insert(opened).manifest().await?
            }
        };
        let digest = sha256(&manifest);
        if let Some(exact) = exact.filter(|exact| *exact != digest) {
            return Err(Fault::new(
                format!("has a manifest with sha256 {digest}, and {exact} was asked for"),
                "the registry gives something else than what was asked for; do not use it",
            ));
        }
        let layer = component(&manifest)?;
        let wanted = Pin::digits(&layer.digest).unwrap_or_default();
        if let Some(pin) = pin {
            check(&wanted, pin)?;
        }
        kept.put(&digest, &manifest);
        let bytes = match kept.get(&wanted) {
            Some(bytes) => bytes,
            None => {
                let session = match session {
                    Some(session) => session,
                    None => Session::open(&parsed, fetcher, RegistryOperation::Pull).await?,
                };
                blob(&session, parsed.repository(), &layer, &wanted, report).await?
            }
        };
        Ok(Pulled { bytes, manifest: digest })
    })
}

/// Fetches a layer, which has to have its digest.
async fn blob(
    session: &Session,
    repository: &str,
    layer: &OciDescriptor,
    wanted: &str,
    report: Report<'_>,
) -> Result<Vec<u8>, Fault> {
    let mut answer = session.layer(&layer.digest).await?;
    let (what, total) = (repository.to_owned(), u64::try_from(layer.size).ok());
    let mut watch = Watch { report, what, total, begun: Instant::now() };
    let mut bytes = Vec::new();
    loop {
        let chunk = answer.chunk().await.map_err(|error| {
            let why = format!("broke off after {} bytes: {}", bytes.len(), chain(&error));
            Fault::new(why, "try again later")
        })?;
        let Some(chunk) = chunk else { break };
        check_size(bytes.len() as u64 + chunk.len() as u64)?;
        bytes.extend_from_slice(&chunk);
        watch.note(bytes.len());
    }
    let found = sha256(&bytes);
    match found == wanted {
        true => Ok(bytes),
        false => Err(Fault::new(
            format!("gives a layer with sha256 {found}, and its manifest says sha256:{wanted}"),
            "try again later; if it stays so, do not use it",
        )),
    }
}

/// Returns the layer of a manifest that is the component.
fn component(manifest: &[u8]) -> Result<OciDescriptor, Fault> {
    let hint = "`aligner plugin push` and other tools for components write one";
    let manifest: OciImageManifest = serde_json::from_slice(manifest).map_err(|error| {
        Fault::new(format!("is no component: its manifest is another one ({error})"), hint)
    })?;
    let is_component =
        |layer: &&OciDescriptor| [LAYER_TYPE, OLD_LAYER_TYPE].contains(&layer.media_type.as_str());
    let mut layers = manifest.layers.iter().filter(is_component);
    match (layers.next(), layers.next()) {
        (Some(layer), None) if Pin::digits(&layer.digest).is_some() => {
            check_size(u64::try_from(layer.size).unwrap_or(0))?;
            // It comes from the registry, and from no other address that a manifest may name.
            Ok(OciDescriptor { urls: None, ..layer.clone() })
        }
        (Some(_), None) => Err(Fault::new("names its component by no sha256", hint)),
        (Some(_), Some(_)) => Err(Fault::new("holds several components", hint)),
        (None, _) => {
            let types = manifest.layers.iter().map(|layer| format!("`{}`", layer.media_type));
            let types = types.take(3).collect::<Vec<_>>().join(", ");
            Err(Fault::new(format!("holds no component ({LAYER_TYPE}) but {types}"), hint))
        }
    }
}

/// Puts a component under a tag.
pub(super) fn push(
    reference: &str,
    component: &[u8],
    annotations: &[(&str, &str)],
    fetcher: &Fetcher,
) -> Result<Pushed, Fault> {
    let reference = parse(reference)?;
    let config = config(component)?;
    let manifest = manifest(component, &config, annotations);
    let digest = |bytes: &[u8]| format!("sha256:{}", sha256(bytes));
    let pushed = Pushed {
        manifest: sha256(&manifest),
        reference: format!("{}@{}", reference.whole(), digest(&manifest)),
    };
    block_on(fetcher.patience.whole, async {
        let session = Session::open(&reference, fetcher, RegistryOperation::Push).await?;
        let client = session.pusher().await?;
        for blob in [component, &config] {
            let there = client.blob_exists(&reference, &digest(blob)).await;
            if !there.map_err(|error| failed(&error))? {
                let sent = client.push_blob(&reference, blob.to_vec(), &digest(blob)).await;
                sent.map_err(|error| failed(&error))?;
            }
        }
        let kind = OCI_IMAGE_MEDIA_TYPE.parse().expect("a media type is a header");
        let sent = client.push_manifest_raw(&reference, manifest, kind).await;
        sent.map_err(|error| failed(&error))?;
        Ok(pushed)
    })
}

fn manifest(component: &[u8], config: &[u8], annotations: &[(&str, &str)]) -> Vec<u8> {
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": kind,
            "digest": format!("sha256:{}", sha256(bytes)),
            "size": bytes.len(),
        })
    };
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE_MEDIA_TYPE,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": [descriptor(LAYER_TYPE, component)],
        "annotations": annotations,
    });
    serde_json::to_vec(&manifest).expect("JSON serialises")
}

/// Returns the configuration of the layout. Equal components have equal ones: the time at which it was
/// created, which has to be there, is always the same.
fn config(component: &[u8]) -> Result<Vec<u8>, Fault> {
    let (imports, exports) = names(component)?;
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [format!("sha256:{}", sha256(component))],
        "component": { "exports": exports, "imports": imports },
    });
    Ok(serde_json::to_vec(&config).expect("JSON serialises"))
}

/// Returns what a component imports and what it exports.
fn names(component: &[u8]) -> Result<(Vec<String>, Vec<String>), Fault> {
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0_usize);
    let wrong = |error: wasmparser::BinaryReaderError| {
        Fault::new(format!("cannot be read: {error}"), "`aligner plugin check FILE` says more")
    };
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(wrong)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(Fault::new(
                    "is to be a component, and the file is a core module, which other tools cannot use",
                    "`aligner plugin build` makes a component",
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(wrong)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(wrong)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

fn parse(reference: &str) -> Result<Reference, Fault> {
    reference.parse().map_err(|error| {
        Fault::new(format!("is no OCI reference: {error}"), "write `oci:REGISTRY/NAME:TAG`")
    })
}

/// Does asynchronous work on this thread, within a time.
fn block_on<T>(within: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Fault::new(format!("cannot be fetched: {error}"), "close other programs and try again")
    })?;
    let done = runtime.block_on(async { tokio::time::timeout(within, work).await });
    // A name that is still looked up is not waited for.
    runtime.shutdown_background();
    done.map_err(|_| slow(within))?
}

fn slow(within: Duration) -> Fault {
    let seconds = within.as_secs_f64();
    Fault::new(format!("is not there after {seconds} s"), "try again later, or on a faster line")
}

/// Says what a registry had to say.
fn failed(error: &OciDistributionError) -> Fault {
    use OciDistributionError as E;
    let is = |wanted: &[OciErrorCode]| match error {
        E::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| wanted.contains(&error.code))
        }
        _ => false,
    };
    let missing = [
        OciErrorCode::ManifestUnknown,
        OciErrorCode::NameUnknown,
        OciErrorCode::BlobUnknown,
        OciErrorCode::NotFound,
    ];
    let denied = [OciErrorCode::Unauthorized, OciErrorCode::Denied];
    let status = match error {
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => Some(401),
        E::ServerError { code, .. } => Some(*code),
        E::ImageManifestNotFoundError(_) => Some(404),
        E::RequestError(error) => error.status().map(|status| status.as_u16()),
        _ => None,
    };
    match error {
        _ if matches!(status, Some(401 | 403)) || is(&denied) => {
            Fault::new("is refused: the registry wants a login", login::WAY_OUT)
        }
        _ if status == Some(404) || is(&missing) => {
            Fault::new("is not in the registry", "check name, tag and digest")
        }
        E::RequestError(error) => Fault::new(
            format!("cannot be reached: {}", chain(error)),
            "check registry and network; plain `http:` is spoken to registries on this machine alone",
        ),
        E::DigestError(error) => Fault::new(
            format!("has another digest than it should: {error}"),
            "the registry gives something else than what was asked for; do not use it",
        ),
        error => Fault::new(
            format!("cannot be had: {}", chain(error)),
            "check registry, name and tag; what is there may be no component",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_holds_one_component() {
        let check = |layers: &str, expected: Result<&str, &str>| {
            let manifest = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"d","size":1}},"layers":[{layers}]}}"#
            );
            let found = component(manifest.as_bytes());
            match expected {
                Ok(digest) => assert_eq!(found.unwrap().digest, digest),
                Err(message) => {
                    let error = found.unwrap_err();
                    assert!(error.message.contains(message), "{error:?}");
                }
            }
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        let layer = |kind: &str, size: u64| {
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
        };
        check(&layer(LAYER_TYPE, 9), Ok(&digest));
        check(&layer(OLD_LAYER_TYPE, 9), Ok(&digest));
        check(&format!("{},{}", layer("text/plain", 1), layer(LAYER_TYPE, 9)), Ok(&digest));
        check("", Err("holds no component"));
        check(&layer("text/plain", 1), Err("but `text/plain`"));
        let two = format!("{0},{0}", layer(LAYER_TYPE, 9));
        check(&two, Err("holds several components"));
        check(&layer(LAYER_TYPE, 1 << 40), Err("bytes, and no plugin has"));
        check(&layer(LAYER_TYPE, 9).replace(&digest, "md5:0"), Err("by no sha256"));
        assert!(component(b"{}").unwrap_err().message.contains("its manifest is another one"));
    }

    #[test]
    fn equal_components_have_equal_manifests() {
        let bytes = aligner_embed::component("length").unwrap();
        let made = || manifest(bytes, &config(bytes).unwrap(), &[("b", "2"), ("a", "1")]);
        assert_eq!(made(), made());
        let found: serde_json::Value = serde_json::from_slice(&config(bytes).unwrap()).unwrap();
        let exports = found["component"]["exports"].as_array().unwrap();
        let is_filter = |name: &serde_json::Value| {
            name.as_str().is_some_and(|name| name.starts_with("aligner:plugin/filter@"))
        };
        assert!(exports.iter().any(is_filter), "{exports:?}");
        assert_eq!(component(&made()).unwrap().digest, format!("sha256:{}", sha256(bytes)));
        let module = wat::parse_str("(module)").unwrap();
        assert!(config(&module).unwrap_err().message.contains("core module"));
        assert!(config(b"no wasm").unwrap_err().message.contains("cannot be read"));
    }
}
