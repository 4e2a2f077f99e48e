//! Why a pack could not be opened.

use std::io;
use std::path::PathBuf;

use super::{COMPONENTS, DATA, FORMAT, MANIFEST, MAX_FILES, SET};

/// Why a pack, or a file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("packed plugin set `{}` cannot be used: {fault}", path.display())]
pub struct PackError {
    /// The pack.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

impl PackError {
    /// Returns the way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self.fault {
            Fault::Io(ref error) if error.kind() == io::ErrorKind::NotFound => {
                "put the file back where it was"
            }
            Fault::Newer { .. } => "upgrade aligner to open it",
            Fault::Io(_) => return None,
            Fault::NoArchive => "`aligner plugin pack SET.toml` makes one",
            Fault::Cut | Fault::Digest { .. } => "get the file again from where it came from",
            _ => "a pack is used as `aligner plugin pack` wrote it; pack the plugin set again",
        };
        Some(hint.to_owned())
    }
}

/// What is wrong with a pack.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// What the system says.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as a zip archive does.
    #[error("it is no zip archive")]
    NoArchive,
    /// Its end is not there, or is not the end.
    #[error("it is cut short, or something was added to its end")]
    Cut,
    /// Over [`MAX_FILES`].
    #[error("it holds {files} files, and a pack has at most {MAX_FILES}")]
    TooMany {
        /// As the archive says.
        files: usize,
    },
    /// Over [`MAX_FILE_BYTES`](super::MAX_FILE_BYTES), or what a text may have.
    #[error("`{name}` has {bytes} bytes, of which it may have {most}")]
    TooLarge {
        /// The file.
        name: String,
        /// As the archive says.
        bytes: u64,
        /// As a pack has it.
        most: u64,
    },
    /// A path out of the pack, an absolute one, or anything else that no pack holds.
    #[error(
        "it holds `{name}`, and a pack holds `{MANIFEST}`, `{SET}`, and files of lower-case names in \
         `{COMPONENTS}` and `{DATA}`"
    )]
    Name {
        /// Safe to show.
        name: String,
    },
    /// The same name again.
    #[error("it holds `{name}` twice")]
    Twice {
        /// The file.
        name: String,
    },
    /// A file that could be longer than the archive.
    #[error("`{name}` is compressed, and a pack holds its files as they are")]
    Compressed {
        /// The file.
        name: String,
    },
    /// A symbolic link.
    #[error("`{name}` is a symbolic link")]
    Link {
        /// The file.
        name: String,
    },
    /// A zip archive of another kind.
    #[error("it is not as `aligner plugin pack` writes it: {0}")]
    Foreign(String),
    /// A file that must be there.
    #[error("it has no `{name}`")]
    Missing {
        /// The file.
        name: String,
    },
    /// A file that nobody packed.
    #[error("it holds `{name}`, which its `{MANIFEST}` does not list")]
    Unlisted {
        /// The file.
        name: String,
    },
    /// The list of its files cannot be read.
    #[error("its `{MANIFEST}` is damaged: {0}")]
    Manifest(String),
    /// A format of a later version.
    #[error("it has pack format {found}, and this aligner reads up to {FORMAT}")]
    Newer {
        /// As its manifest says.
        found: u64,
    },
    /// A file is not the one that was packed.
    #[error("`{name}` has sha256 {found}, and its `{MANIFEST}` says {listed}")]
    Digest {
        /// The file.
        name: String,
        /// Of the file that is there.
        found: String,
        /// Of the file that was packed.
        listed: String,
    },
    /// The plugin set is no text.
    #[error("its `{SET}` is not UTF-8")]
    NotUtf8,
}
