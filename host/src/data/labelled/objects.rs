//! The objects of a file as bytes: a line each, or the items of one JSON list.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{DataError, LONGEST_LINE, RowProblem, open};

/// Bytes that are read at once, about.
const CHUNK_BYTES: usize = 8 << 20;

/// The objects of a file that is being read.
pub struct Objects {
    name: String,
    reader: Box<dyn BufRead + Send>,
    /// Of what is read next, from 1.
    line: usize,
    /// Whether it is one list; `None` before the first byte.
    is_list: Option<bool>,
    /// Of a list, whether its bracket was passed by.
    ended: bool,
    /// Objects of a list so far.
    items: usize,
    bytes_read: Arc<AtomicU64>,
}

/// A file that says how much of it was read, whatever unpacks it.
struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Objects {
    /// Opens a file, under gzip where its name ends in `.gz`.
    pub fn open(path: &Path, name: &str) -> Result<Objects, DataError> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let file = Counted { file: open(path, name)?, bytes_read: bytes_read.clone() };
        let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
        let reader: Box<dyn BufRead + Send> = match is_gzip {
            true => {
                Box::new(BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(file)))
            }
            false => Box::new(BufReader::with_capacity(1 << 18, file)),
        };
        Ok(Objects {
            name: name.to_owned(),
            reader,
            line: 1,
            is_list: None,
            ended: false,
            items: 0,
            bytes_read,
        })
    }

    /// Returns how many bytes of the file were read so far, as they lie on the disk.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Reads up to `most` objects, each with its line, or its number where they are those of a list, which may
    /// stand in one line; fewer where they are long, none at the end.
    pub fn take(&mut self, most: usize) -> Result<Vec<(usize, Vec<u8>)>, DataError> {
        let is_list = match self.is_list {
            Some(is_list) => is_list,
            None => {
                let begins = self.begins_with_bracket()?;
                *self.is_list.insert(begins)
            }
        };
        let (mut objects, mut bytes) = (Vec::new(), 0);
        while objects.len() < most && bytes < CHUNK_BYTES {
            let next = if is_list { self.item()? } else { self.full_line()? };
            let Some(next) = next else { break };
            bytes += next.1.len();
            objects.push(next);
        }
        Ok(objects)
    }

    fn failed(&self, error: io::Error) -> DataError {
        DataError::Read { name: self.name.clone(), error }
    }

    fn wrong(&self, problem: RowProblem) -> DataError {
        DataError::Row { name: self.name.clone(), line: self.line, problem }
    }

    /// Passes by what stands before the first object; returns whether a list begins there, and passes by its bracket.
    fn begins_with_bracket(&mut self) -> Result<bool, DataError> {
        let is_marked = loop {
            match self.reader.fill_buf() {
                Ok(buffer) => break buffer.starts_with(b"\xef\xbb\xbf"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Such as that it is no gzip, which is said once.
                Err(error) => return Err(self.failed(error)),
            }
        };
        // A byte order mark says nothing of UTF-8.
        if is_marked {
            self.reader.consume(3);
        }
        let begins = self.peek()? == Some(b'[');
        if begins {
            self.reader.consume(1);
        }
        Ok(begins)
    }

    /// Returns the next byte that is no white space, and does not pass by it.
    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let buffer = self.reader.fill_buf();
            let buffer = match buffer {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            if buffer.is_empty() {
                return Ok(None);
            }
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.line += buffer[..blank].iter().filter(|&&byte| byte == b'\n').count();
            let next = buffer.get(blank).copied();
            self.reader.consume(blank);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Returns the next line that is not blank.
    fn full_line(&mut self) -> Result<Option<(usize, Vec<u8>)>, DataError> {
        loop {
            let mut line = Vec::new();
            let mut bounded = Read::take(&mut self.reader, LONGEST_LINE as u64 + 1);
            let read = bounded.read_until(b'\n', &mut line);
            if read.map_err(|error| self.failed(error))? == 0 {
                return Ok(None);
            }
            if line.len() > LONGEST_LINE {
                return Err(self.wrong(RowProblem::TooLong));
            }
            let number = self.line;
            self.line += 1;
            if !line.trim_ascii().is_empty() {
                return Ok(Some((number, line)));
            }
        }
    }

    /// Returns the next object of a list.
    fn item(&mut self) -> Result<Option<(usize, Vec<u8>)>, DataError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.peek()? {
                Some(b',') => self.reader.consume(1),
                Some(b'{') => break,
                Some(b']') => {
                    self.reader.consume(1);
                    return match self.peek()? {
                        None => {
                            // Nothing more is looked for: there is no end to come to again.
                            self.ended = true;
                            Ok(None)
                        }
                        Some(_) => {
                            let message = "something stands behind the list".to_owned();
                            Err(self.wrong(RowProblem::NotJson(message)))
                        }
                    };
                }
                None => {
                    let message = "the list has no end".to_owned();
                    return Err(self.wrong(RowProblem::NotJson(message)));
                }
                Some(_) => return Err(self.wrong(RowProblem::NotAnObject)),
            }
        }
        self.items += 1;
        let (mut object, mut depth) = (Vec::new(), 0_usize);
        let (mut in_text, mut escaped) = (false, false);
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            if buffer.is_empty() || object.len() > LONGEST_LINE {
                let cut = RowProblem::NotJson("the object has no end".to_owned());
                let problem = if buffer.is_empty() { cut } else { RowProblem::TooLong };
                return Err(self.wrong(problem));
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in buffer {
                used += 1;
                self.line += usize::from(byte == b'\n');
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    b'{' if !in_text => depth += 1,
                    b'}' if !in_text => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    ended = true;
                    break;
                }
            }
            object.extend_from_slice(&buffer[..used]);
            self.reader.consume(used);
            if ended {
                return Ok(Some((self.items, object)));
            }
        }
    }
}
