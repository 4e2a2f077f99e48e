//! A table as Parquet: strings, lists of messages as `list<struct<role, content>>`, and numbers. Readers of
//! data sets take the types as they are, without a look at every row.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{
    SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter,
};
use parquet::schema::parser::parse_message_type;

use super::data::{Cell, Table};
use crate::record::Message;

/// Returns the file.
pub fn file(table: &Table) -> Result<Vec<u8>> {
    let columns = table.columns();
    let schema = Arc::new(parse_message_type(&schema(&columns, table))?);
    // Nothing that depends on who wrote it, or when.
    let properties = WriterProperties::builder()
        .set_created_by("aligner".into())
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (name, kind) in columns {
        let cells: Vec<Option<&Cell>> = table.column(name).collect();
        match kind {
            Cell::Text(_) => texts(next(&mut group)?, &cells)?,
            Cell::Messages(_) => {
                messages(next(&mut group)?, &cells, |message| message.speaker.as_str())?;
                messages(next(&mut group)?, &cells, |message| &message.content)?;
            }
            Cell::Integer(_) => {
                let number = |cell: &&Cell| match cell {
                    Cell::Integer(number) => *number as i32,
                    _ => 0,
                };
                let values: Vec<i32> = cells.iter().flatten().map(number).collect();
                let mut column = next(&mut group)?;
                column.typed::<Int32Type>().write_batch(&values, None, None)?;
                column.close()?;
            }
            Cell::Number(_) => {
                let number = |cell: &&Cell| match cell {
                    Cell::Number(number) => *number,
                    _ => 0.0,
                };
                let values: Vec<f64> = cells.iter().flatten().map(number).collect();
                let there: Vec<i16> = cells.iter().map(|cell| cell.is_some().into()).collect();
                let mut column = next(&mut group)?;
                column.typed::<DoubleType>().write_batch(&values, Some(&there), None)?;
                column.close()?;
            }
        }
    }
    group.close()?;
    writer.into_inner()
}

/// Returns the schema in Parquet's own words; numbers with a point may be absent.
fn schema(columns: &[(&'static str, &Cell)], table: &Table) -> String {
    let of = |(name, cell): &(&str, &Cell)| match cell {
        Cell::Text(_) => format!("required binary {name} (STRING);"),
        Cell::Messages(_) => format!(
            "required group {name} (LIST) {{ repeated group list {{ required group element {{ \
             required binary role (STRING); required binary content (STRING); }} }} }}"
        ),
        Cell::Integer(_) => format!("required int32 {name};"),
        Cell::Number(_) => format!("optional double {name};"),
    };
    format!(
        "message {} {{ {} }}",
        table.name.replace('-', "_"),
        columns.iter().map(of).collect::<String>()
    )
}

fn next<'a>(
    group: &'a mut SerializedRowGroupWriter<'_, Vec<u8>>,
) -> Result<SerializedColumnWriter<'a>> {
    group.next_column().map(|column| column.expect("the schema has as many"))
}

fn texts(mut column: SerializedColumnWriter<'_>, cells: &[Option<&Cell>]) -> Result<()> {
    let text = |cell: &&Cell| match cell {
        Cell::Text(text) => ByteArray::from(text.as_str()),
        _ => ByteArray::from(""),
    };
    let values: Vec<ByteArray> = cells.iter().flatten().map(text).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
    column.close()
}

/// Writes one part of each message of each row.
fn messages(
    mut column: SerializedColumnWriter<'_>,
    cells: &[Option<&Cell>],
    part: impl Fn(&Message) -> &str,
) -> Result<()> {
    let (mut values, mut there, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for cell in cells {
        let messages: &[Message] = match cell {
            Some(Cell::Messages(messages)) => messages,
            _ => &[],
        };
        if messages.is_empty() {
            there.push(0);
            again.push(0);
        }
        for (index, message) in messages.iter().enumerate() {
            values.push(ByteArray::from(part(message)));
            there.push(1);
            again.push(i16::from(index > 0));
        }
    }
    column.typed::<ByteArrayType>().write_batch(&values, Some(&there), Some(&again))?;
    column.close()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};
    use serde_json::{Map, Value};

    use super::super::data::{tables, tests::rows};
    use super::*;

    /// Returns a row without what is absent.
    fn object(row: &Row) -> Value {
        let cells = row.get_column_iter().filter(|(_, cell)| **cell != Field::Null);
        cells.map(|(name, cell)| (name.clone(), value(cell))).collect::<Map<_, _>>().into()
    }

    fn value(cell: &Field) -> Value {
        match cell {
            Field::Str(text) => text.as_str().into(),
            Field::Int(number) => (*number).into(),
            Field::Double(number) => (*number).into(),
            Field::ListInternal(list) => list.elements().iter().map(value).collect(),
            Field::Group(row) => object(row),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_table_reads_back() {
        let tables = tables(&rows());
        for table in &tables {
            let bytes = file(table).unwrap();
            assert_eq!(file(table).unwrap(), bytes, "the same each time");
            let mut kept = tempfile::tempfile().unwrap();
            kept.write_all(&bytes).unwrap();
            let reader = SerializedFileReader::new(kept).unwrap();
            let rows = reader.get_row_iter(None).unwrap();
            let found: Vec<Value> = rows.map(|row| object(&row.unwrap())).collect();
            let lines = String::from_utf8(table.jsonl()).unwrap();
            let wanted: Vec<Value> =
                lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(found, wanted);
        }
    }
}
