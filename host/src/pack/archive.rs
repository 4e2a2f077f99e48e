//! The file that a pack is: a zip archive of the plainest kind.
//!
//! Files lie one after the other in the order of their names, as they are, and the directory follows.
//! There is one way to write a given list of files and nothing else is read: no compression that could
//! make a small file a large one, no links, no comments, no gaps, no two files in the same bytes. Any
//! tool for zip archives opens it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::{Fault, MAX_FILE_BYTES, MAX_FILES, shown};

/// The longest name in bytes.
const MAX_NAME: usize = 128;

const LOCAL: usize = 30;
const CENTRAL: usize = 46;
const END: usize = 22;
/// A file that its owner writes and everybody reads, as Unix has it.
const REGULAR: u32 = 0o100_644;

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub bytes: u32,
    checksum: u32,
    /// Where its header lies.
    offset: u32,
}

impl Entry {
    /// What both of its headers hold.
    fn shared(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(CENTRAL + self.name.len());
        // The version that is needed: 1.0. No flags, stored, on the first day that zip archives know.
        for number in [10u16, 0, 0, 0, 0x21] {
            header.extend(number.to_le_bytes());
        }
        for number in [self.checksum, self.bytes, self.bytes] {
            header.extend(number.to_le_bytes());
        }
        header.extend((self.name.len() as u16).to_le_bytes());
        header.extend(0u16.to_le_bytes());
        header
    }

    /// The header before its bytes.
    fn local(&self) -> Vec<u8> {
        [b"PK\x03\x04", &self.shared()[..], self.name.as_bytes()].concat()
    }

    /// Its header in the directory.
    fn central(&self) -> Vec<u8> {
        let mut header = [b"PK\x01\x02\x0a\x03", &self.shared()[..], &[0; 6]].concat();
        header.extend((REGULAR << 16).to_le_bytes());
        header.extend(self.offset.to_le_bytes());
        header.extend(self.name.as_bytes());
        header
    }
}

/// The end of an archive, which says where its directory lies.
fn end(count: usize, size: usize, offset: u32) -> Vec<u8> {
    let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
    end.extend((count as u16).to_le_bytes().repeat(2));
    end.extend((size as u32).to_le_bytes());
    end.extend(offset.to_le_bytes());
    end.extend(0u16.to_le_bytes());
    end
}

/// Writes files as an archive. They are sorted by name, at most [`MAX_FILES`], and each at most
/// [`MAX_FILE_BYTES`] long; equal files give equal bytes.
pub(super) fn write<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (mut offset, mut directory, mut count) = (0u32, Vec::new(), 0);
    for (name, bytes) in files {
        let mut checksum = flate2::Crc::new();
        checksum.update(bytes);
        let entry = Entry {
            name: name.to_owned(),
            bytes: bytes.len() as u32,
            checksum: checksum.sum(),
            offset,
        };
        out.write_all(&entry.local())?;
        out.write_all(bytes)?;
        let next = u64::from(offset) + (LOCAL + name.len() + bytes.len()) as u64;
        offset = u32::try_from(next).map_err(|_| io::Error::other("it would be over 4 GiB"))?;
        directory.extend(entry.central());
        count += 1;
    }
    out.write_all(&directory)?;
    out.write_all(&end(count, directory.len(), offset))
}

/// An archive that is open, and whose directory has been read.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    entries: Vec<Entry>,
}

impl Archive {
    /// Reads the directory of an archive: names, sizes and places, all of which are checked.
    pub fn open(file: File) -> Result<Archive, Fault> {
        let length = file.metadata()?.len();
        let mut begins = [0; 4];
        if length < END as u64 {
            return Err(Fault::NoArchive);
        }
        file.read_exact_at(&mut begins, 0)?;
        if begins != *b"PK\x03\x04" {
            return Err(Fault::NoArchive);
        }
        let mut last = [0; END];
        file.read_exact_at(&mut last, length - END as u64)?;
        let (count, size, offset) = (u16_at(&last, 8), u32_at(&last, 12), u32_at(&last, 16));
        let whole = u64::from(offset) + u64::from(size) + END as u64 == length;
        if !whole || last[..] != end(count.into(), size as usize, offset) {
            return Err(Fault::Cut);
        }
        if usize::from(count) > MAX_FILES {
            return Err(Fault::TooMany { files: count.into() });
        }
        if size as usize > MAX_FILES * (CENTRAL + MAX_NAME) {
            return Err(Fault::Foreign("its directory is too large".into()));
        }
        let mut directory = vec![0; size as usize];
        file.read_exact_at(&mut directory, offset.into())?;
        let entries = entries(&directory, count, offset)?;
        for entry in &entries {
            let mut header = vec![0; LOCAL + entry.name.len()];
            file.read_exact_at(&mut header, entry.offset.into())?;
            if header != entry.local() {
                return Err(foreign(&entry.name, "is not what the directory says"));
            }
        }
        Ok(Archive { file, entries })
    }

    /// Returns the files, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Reads a file; `None` where there is none of that name.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let Some(entry) = self.entries.iter().find(|entry| entry.name == name) else {
            return Ok(None);
        };
        let mut bytes = vec![0; entry.bytes as usize];
        let begin = u64::from(entry.offset) + (LOCAL + entry.name.len()) as u64;
        self.file.read_exact_at(&mut bytes, begin)?;
        Ok(Some(bytes))
    }
}

/// Reads `count` entries of a directory that begins at `end`, where the files before it must end.
fn entries(directory: &[u8], count: u16, end: u32) -> Result<Vec<Entry>, Fault> {
    let (mut entries, mut rest, mut offset) = (Vec::<Entry>::new(), directory, 0u64);
    for _ in 0..count {
        let Some((header, after)) = rest.split_at_checked(CENTRAL) else {
            return Err(Fault::Cut);
        };
        if header[..4] != *b"PK\x01\x02" {
            return Err(Fault::Foreign("its directory is no list of files".into()));
        }
        let (length, extra, comment) =
            (u16_at(header, 28).into(), u16_at(header, 30).into(), u16_at(header, 32).into());
        let Some((name, after)) = after.split_at_checked(length) else { return Err(Fault::Cut) };
        // What stands after the name may not stand there, which is found below.
        rest = after.get(extra..).and_then(|after| after.get(comment..)).ok_or(Fault::Cut)?;
        let name = file_name(name)?;
        let entry = Entry {
            bytes: u32_at(header, 24),
            checksum: u32_at(header, 16),
            offset: u32::try_from(offset).map_err(|_| Fault::Cut)?,
            name,
        };
        check(&entry, header, entries.last())?;
        if [header, entry.name.as_bytes()].concat() != entry.central() {
            return Err(foreign(&entry.name, "has a header of another kind"));
        }
        offset += (LOCAL + length) as u64 + u64::from(entry.bytes);
        entries.push(entry);
    }
    match rest.is_empty() && offset == u64::from(end) {
        true => Ok(entries),
        false => Err(Fault::Foreign("its files do not fill it".into())),
    }
}

/// Says what is wrong with an entry where that has a name of its own.
fn check(entry: &Entry, header: &[u8], before: Option<&Entry>) -> Result<(), Fault> {
    let name = || entry.name.clone();
    let unix_type = (u32_at(header, 38) >> 16) & 0o170_000;
    if u16_at(header, 8) & 1 != 0 {
        return Err(foreign(&entry.name, "is encrypted"));
    }
    if u16_at(header, 10) != 0 || u32_at(header, 20) != entry.bytes {
        return Err(Fault::Compressed { name: name() });
    }
    if unix_type == 0o120_000 {
        return Err(Fault::Link { name: name() });
    }
    if u64::from(entry.bytes) > MAX_FILE_BYTES {
        let (bytes, most) = (entry.bytes.into(), MAX_FILE_BYTES);
        return Err(Fault::TooLarge { name: name(), bytes, most });
    }
    match before {
        Some(before) if before.name == entry.name => Err(Fault::Twice { name: name() }),
        Some(before) if before.name > entry.name => {
            Err(foreign(&entry.name, "is not in the order of names"))
        }
        _ => Ok(()),
    }
}

/// Returns a name where a pack may hold a file of that name: no path leads out of it, and none of them
/// means something else in a terminal or on another system.
fn file_name(bytes: &[u8]) -> Result<String, Fault> {
    let text = String::from_utf8_lossy(bytes);
    match bytes.len() <= MAX_NAME && is_name(&text) {
        true => Ok(text.into_owned()),
        false => Err(Fault::Name { name: shown(&text) }),
    }
}

fn is_name(name: &str) -> bool {
    let plain = |file: &str| {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        file.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && file.chars().all(letter)
    };
    name == super::MANIFEST
        || name == super::SET
        || [super::COMPONENTS, super::DATA]
            .iter()
            .any(|folder| name.strip_prefix(folder).is_some_and(plain))
}

fn foreign(name: &str, what: &str) -> Fault {
    Fault::Foreign(format!("`{name}` {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
