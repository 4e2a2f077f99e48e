//! An OCI registry in memory: as much of the distribution specification as pushing and pulling need.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use aligner::digest::sha256;

use super::server::{Request, Server, respond};

#[derive(Default)]
pub struct Content {
    /// By digest; manifests by tag too.
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifests: BTreeMap<String, Vec<u8>>,
    uploads: Vec<Vec<u8>>,
}

/// A registry, with the login that it wants, if any.
pub struct Registry {
    pub server: Server,
    pub content: Arc<Mutex<Content>>,
}

impl Registry {
    /// Starts a registry that lets everybody in, or only who sends this `authorization`.
    pub fn start(login: Option<&'static str>) -> Registry {
        let content = Arc::new(Mutex::new(Content::default()));
        let inside = content.clone();
        let server = Server::start(move |request, stream| {
            if login.is_some() && request.header("authorization") != login {
                let wants = "www-authenticate: Basic realm=\"test\"\r\n";
                return respond(stream, "401 Unauthorized", wants, b"{\"errors\":[]}");
            }
            answer(&mut inside.lock().unwrap(), request, stream)
        });
        Registry { server, content }
    }

    /// Returns a source in it.
    pub fn source(&self, name: &str) -> String {
        format!("oci:{}/{name}", self.server.address)
    }
}

fn answer(content: &mut Content, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let missing = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#;
    let last = path.rsplit('/').next().unwrap_or("");
    let method = request.method.as_str();
    if path == "/v2/" {
        return respond(stream, "200 OK", "", b"{}");
    }
    if path.contains("/blobs/uploads/") {
        return upload(content, request, path, query, stream);
    }
    let found = if path.contains("/manifests/") {
        if method == "PUT" {
            let digest = format!("sha256:{}", sha256(&request.body));
            content.manifests.insert(last.to_owned(), request.body.clone());
            content.manifests.insert(digest.clone(), request.body.clone());
            let headers = format!("location: {path}\r\ndocker-content-digest: {digest}\r\n");
            return respond(stream, "201 Created", &headers, b"");
        }
        content.manifests.get(last)
    } else {
        content.blobs.get(last)
    };
    match found {
        Some(bytes) if method == "HEAD" => {
            let headers =
                format!("content-type: application/octet-stream\r\nx-size: {}\r\n", bytes.len());
            respond(stream, "200 OK", &headers, b"")
        }
        Some(bytes) => {
            let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
            respond(stream, "200 OK", kind, bytes)
        }
        None => respond(stream, "404 Not Found", "", missing),
    }
}

/// An upload in pieces: `POST` opens it, `PATCH` adds to it, `PUT` closes it under its digest.
fn upload(
    content: &mut Content,
    request: &Request,
    path: &str,
    query: &str,
    stream: &mut TcpStream,
) -> std::io::Result<()> {
    if request.method == "POST" {
        content.uploads.push(Vec::new());
        let location = format!("{}{}", path, content.uploads.len() - 1);
        return respond(stream, "202 Accepted", &format!("location: {location}\r\n"), b"");
    }
    let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    content.uploads[number].extend_from_slice(&request.body);
    if request.method == "PATCH" {
        let end = content.uploads[number].len() - 1;
        let headers = format!("location: {path}\r\nrange: 0-{end}\r\n");
        return respond(stream, "202 Accepted", &headers, b"");
    }
    let digest = query.strip_prefix("digest=").unwrap().replace("%3A", ":");
    let bytes = std::mem::take(&mut content.uploads[number]);
    assert_eq!(digest, format!("sha256:{}", sha256(&bytes)));
    let headers = format!("location: {}/{digest}\r\n", path.split("/uploads").next().unwrap());
    content.blobs.insert(digest, bytes);
    respond(stream, "201 Created", &headers, b"")
}
