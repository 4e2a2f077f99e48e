//! A plugin file, before anything is known of it.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use super::error::{LoadFault, PluginError};
use super::inspect::{self, MAX_FILE_BYTES};
use crate::digest::sha256;

/// A plugin file.
#[derive(Clone, Debug)]
pub struct Source {
    pub(super) name: String,
    pub(super) bytes: Cow<'static, [u8]>,
    /// Whether it comes with the program.
    pub(super) trusted: bool,
}

impl Source {
    /// Returns a component that comes with the program. It is compiled in this process.
    pub fn embedded(name: impl Into<String>, bytes: &'static [u8]) -> Source {
        Source { name: name.into(), bytes: Cow::Borrowed(bytes), trusted: true }
    }

    /// Returns a plugin from elsewhere that is in memory already; `name` is shown in messages.
    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Source {
        Source { name: name.into(), bytes: Cow::Owned(bytes), trusted: false }
    }

    /// Reads a plugin file: a component, or a core module built against the contract.
    pub fn file(path: &Path) -> Result<Source, PluginError> {
        let name = path.display().to_string();
        let fault = |fault| PluginError::Load { source_name: name.clone(), fault };
        let unreadable = |error| fault(LoadFault::Unreadable(error));
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            // Reading from a pipe or a device could wait for ever.
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a file");
            return Err(unreadable(error));
        }
        if metadata.len() > MAX_FILE_BYTES as u64 {
            let bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
            return Err(fault(LoadFault::TooLarge { bytes }));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        Ok(Source::bytes(name, bytes))
    }

    /// Returns what is in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the size of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "an empty file is no plugin, and refused")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the SHA-256 of the bytes, in lower-case hexadecimal digits.
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    /// Returns the names of what it imports, sorted.
    pub fn imports(&self) -> Vec<String> {
        inspect::imports(&self.bytes)
    }

    /// Returns the release of the contract that it was built for, such as `0.1.0`, where it says one.
    pub fn contract(&self) -> Option<String> {
        inspect::contract(&self.bytes)
    }
}
