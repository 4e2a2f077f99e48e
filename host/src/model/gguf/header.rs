//! The header of a GGUF file, read without trusting one number of it.
//!
//! Every count and length is checked against the bytes that are there before anything is sized by
//! it, so a file that lies costs an error and no memory.

use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;

/// What stands before the tensors.
pub struct Header {
    values: BTreeMap<String, Value>,
    /// By the names of the file.
    pub tensors: BTreeMap<String, Info>,
}

/// The types of tensors that are read, with their numbers in files and their names.
const TYPES: [(u32, &str, GgmlDType); 13] = [
    (0, "F32", GgmlDType::F32),
    (1, "F16", GgmlDType::F16),
    (30, "BF16", GgmlDType::BF16),
    (8, "Q8_0", GgmlDType::Q8_0),
    (2, "Q4_0", GgmlDType::Q4_0),
    (3, "Q4_1", GgmlDType::Q4_1),
    (6, "Q5_0", GgmlDType::Q5_0),
    (7, "Q5_1", GgmlDType::Q5_1),
    (10, "Q2_K", GgmlDType::Q2K),
    (11, "Q3_K", GgmlDType::Q3K),
    (12, "Q4_K", GgmlDType::Q4K),
    (13, "Q5_K", GgmlDType::Q5K),
    (14, "Q6_K", GgmlDType::Q6K),
];

/// Those that files have besides, to be called by their names.
const UNREAD: [(u32, &str); 12] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Outermost dimension first, as in Hugging Face files.
    pub shape: Vec<usize>,
    /// How its numbers are written.
    pub dtype: GgmlDType,
    /// Its bytes within the file.
    pub bytes: std::ops::Range<usize>,
}

/// A setting; what nobody asks for is not kept.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Other,
}

impl Header {
    /// Reads the header of a whole file. Errors continue a sentence that begins with its path.
    pub fn read(file: &[u8]) -> Result<Header, String> {
        let mut reader = Reader { file, at: 0 };
        if file.get(..4) != Some(b"GGUF") {
            return Err("is not a GGUF file".to_owned());
        }
        reader.at = 4;
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(match version.swap_bytes() {
                2..=3 => {
                    "is a GGUF file for big-endian machines, which is not supported".to_owned()
                }
                _ => format!("is a GGUF file of version {version}, expected 2 or 3"),
            });
        }
        let tensor_count = reader.u64()?;
        let value_count = reader.u64()?;
        // The least that an entry takes: name length, type and one byte of value; name length,
        // dimensions, type and offset.
        let least = value_count.saturating_mul(13).saturating_add(tensor_count.saturating_mul(24));
        if least > file.len() as u64 {
            return Err(format!(
                "is truncated or broken: it promises {tensor_count} tensors and {value_count} \
                 settings in {} bytes",
                file.len()
            ));
        }

        let mut values = BTreeMap::new();
        for _ in 0..value_count {
            let name = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind).map_err(|error| format!("{error}, in `{name}`"))?;
            if values.insert(name.clone(), value).is_some() {
                return Err(format!("has two settings `{name}`"));
            }
        }
        let mut header = Header { values, tensors: BTreeMap::new() };
        let alignment = header.integer("general.alignment")?.unwrap_or(32);
        let alignment = match usize::try_from(alignment) {
            Ok(value) if value.is_power_of_two() && (8..=1 << 20).contains(&value) => value,
            _ => return Err(format!("has `general.alignment` = {alignment}")),
        };
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor()?);
        }
        let start = reader.at.next_multiple_of(alignment);
        for (name, shape, kind, offset) in infos {
            let info = info(&name, shape, kind, offset, start, alignment, file.len())?;
            if header.tensors.insert(name.clone(), info).is_some() {
                return Err(format!("has two tensors `{name}`"));
            }
        }
        Ok(header)
    }

    /// Returns a whole number, where the setting is there.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong(name, other, "a whole number")),
        }
    }

    /// Returns a size: a whole number from 1.
    pub fn size(&self, name: &str) -> Result<Option<usize>, String> {
        match self.integer(name)? {
            None => Ok(None),
            Some(value) => match usize::try_from(value) {
                Ok(size) if size > 0 => Ok(Some(size)),
                _ => Err(wrong(name, &Value::Integer(value), "a positive whole number")),
            },
        }
    }

    /// Returns a size that must be there.
    pub fn needed_size(&self, name: &str) -> Result<usize, String> {
        self.size(name)?.ok_or_else(|| format!("has no `{name}`"))
    }

    /// Returns the id of a token.
    pub fn token(&self, name: &str) -> Result<Option<u32>, String> {
        match self.integer(name)? {
            None => Ok(None),
            Some(value) => u32::try_from(value)
                .map(Some)
                .map_err(|_| wrong(name, &Value::Integer(value), "a token id")),
        }
    }

    /// Returns a number.
    pub fn number(&self, name: &str) -> Result<Option<f64>, String> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(Value::Integer(value)) => Ok(Some(*value as f64)),
            Some(other) => Err(wrong(name, other, "a number")),
        }
    }

    /// Returns a truth value.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong(name, other, "a truth value")),
        }
    }

    /// Returns a text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(name, other, "a text")),
        }
    }

    /// Returns a list of texts; empty where the setting is not there.
    pub fn texts(&self, name: &str) -> Result<&[String], String> {
        match self.values.get(name) {
            None => Ok(&[]),
            Some(Value::Texts(value)) => Ok(value),
            Some(other) => Err(wrong(name, other, "a list of texts")),
        }
    }

    /// Returns a list of whole numbers; empty where the setting is not there.
    pub fn integers(&self, name: &str) -> Result<&[i64], String> {
        match self.values.get(name) {
            None => Ok(&[]),
            Some(Value::Integers(value)) => Ok(value),
            Some(other) => Err(wrong(name, other, "a list of whole numbers")),
        }
    }

    /// Returns a list of numbers; empty where the setting is not there.
    pub fn numbers(&self, name: &str) -> Result<&[f32], String> {
        match self.values.get(name) {
            None => Ok(&[]),
            Some(Value::Floats(value)) => Ok(value),
            Some(other) => Err(wrong(name, other, "a list of numbers")),
        }
    }
}

fn wrong(name: &str, found: &Value, expected: &str) -> String {
    let found = match found {
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Text(_) => "a text".to_owned(),
        Value::Texts(_) | Value::Integers(_) | Value::Floats(_) | Value::Other => {
            "a list".to_owned()
        }
    };
    format!("has `{name}` = {found}, expected {expected}")
}

fn info(
    name: &str,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
    start: usize,
    alignment: usize,
    file: usize,
) -> Result<Info, String> {
    let known = TYPES.iter().find(|(number, ..)| *number == kind);
    let Some(&(_, _, dtype)) = known else {
        let unread = UNREAD.iter().find(|(number, _)| *number == kind);
        let found =
            unread.map_or(format!("the unknown GGML type {kind}"), |&(_, name)| name.into());
        let names: Vec<&str> = TYPES.iter().map(|&(_, name, _)| name).collect();
        let expected = names.join(", ");
        return Err(format!(
            "holds `{name}` in {found}, which is not supported; expected {expected}"
        ));
    };
    let row = shape.last().copied().unwrap_or(1);
    if row % dtype.block_size() != 0 {
        return Err(format!(
            "holds `{name}` {shape:?} as {dtype:?}, whose blocks of {} do not divide its rows",
            dtype.block_size()
        ));
    }
    let size = shape
        .iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side))
        .and_then(|elements| (elements / dtype.block_size()).checked_mul(dtype.type_size()));
    let from = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
    let to = size.zip(from).and_then(|(size, from)| from.checked_add(size));
    match (from, to) {
        (Some(from), Some(to)) if to <= file => {
            if !offset.is_multiple_of(alignment as u64) {
                return Err(format!("puts `{name}` at byte {offset}, which is not aligned"));
            }
            Ok(Info { shape, dtype, bytes: from..to })
        }
        _ => Err(format!(
            "is truncated or broken: `{name}` {shape:?} does not lie within its {file} bytes"
        )),
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.file.len());
        let end = end.ok_or_else(|| {
            format!("is truncated or broken: its header goes on after {} bytes", self.file.len())
        })?;
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("as many bytes as asked for"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err("holds a text that is not UTF-8".to_owned()),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Integer(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array().map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            10 => Value::Integer(i64::try_from(self.u64()?).map_err(|_| "holds a huge number")?),
            11 => Value::Integer(self.array().map(i64::from_le_bytes)?),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            other => return Err(format!("holds a setting of the unknown type {other}")),
        })
    }

    fn list(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        let count = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            // Each text takes at least its length.
            8 if count <= (self.file.len() - self.at) / 8 => {
                return (0..count).map(|_| self.text()).collect::<Result<_, _>>().map(Value::Texts);
            }
            8 => return self.take(usize::MAX).map(|_| Value::Other),
            other => return Err(format!("holds a list of the unsupported type {other}")),
        };
        let bytes = self.take(count.saturating_mul(width))?;
        let numbers = || bytes.as_chunks::<4>().0.iter();
        Ok(match kind {
            4 => Value::Integers(numbers().map(|&word| u32::from_le_bytes(word).into()).collect()),
            5 => Value::Integers(numbers().map(|&word| i32::from_le_bytes(word).into()).collect()),
            6 => Value::Floats(numbers().map(|&word| f32::from_le_bytes(word)).collect()),
            _ => Value::Other,
        })
    }

    /// Name, shape with the outermost dimension first, type, offset.
    fn tensor(&mut self) -> Result<(String, Vec<usize>, u32, u64), String> {
        let name = self.text()?;
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(format!("gives `{name}` {rank} dimensions, expected 1 to 4"));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        Ok((name, shape, self.u32()?, self.u64()?))
    }
}
