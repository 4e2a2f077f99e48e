//! What a namespace holds: data, copied when it is assigned. Namespaces are the one thing in a template that changes,
//! so one that reached itself would be printed, compared and dropped without end.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// The name of the function, and of the filter, that what is assigned to an attribute goes through.
pub(super) const FUNCTION: &str = "aligner_held";

/// Items that a rendering may give to namespaces, all together. A conversation of a thousand messages of which each
/// is appended to a list takes 2.5 million.
const MOST_ITEMS: i64 = 4_000_000;

/// The name under which a rendering counts them.
const COUNT: &str = "aligner_held";

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_function(FUNCTION, hold);
    environment.add_filter(FUNCTION, hold);
}

/// Returns a value with all that it is made of, apart from anything that changes or is made as it is read.
fn hold(state: &mut State, value: &Value) -> Result<Value, Error> {
    if value.as_object().is_none() {
        return Ok(value.clone());
    }
    let mut left = state.get_temp(COUNT).and_then(|count| count.as_i64()).unwrap_or(MOST_ITEMS);
    let copy = copy(value, &mut left)?;
    state.set_temp(COUNT, Value::from(left));
    Ok(copy)
}

fn copy(value: &Value, left: &mut i64) -> Result<Value, Error> {
    *left -= 1;
    if *left < 0 {
        return Err(ErrorKind::OutOfFuel.into());
    }
    let Some(object) = value.as_object() else { return Ok(value.clone()) };
    if object.type_name().ends_with("::Namespace") {
        return Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot hold a namespace"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| copy(&item, left));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            let is_tuple = object.downcast_ref::<Tuple>().is_some();
            Ok(if is_tuple { Value::from(Tuple::new(items)) } else { Value::from(items) })
        }
        ValueKind::Map => {
            let entries = value.try_iter()?.map(|key| {
                let item = copy(&value.get_item(&key)?, left)?;
                Ok((copy(&key, left)?, item))
            });
            Ok(Value::from_pairs(entries.collect::<Result<Vec<_>, Error>>()?))
        }
        kind => {
            let what = format!("a namespace can hold data, not {kind}");
            Err(Error::new(ErrorKind::InvalidOperation, what))
        }
    }
}
