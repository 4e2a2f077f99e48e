//! A plugin's configuration: a JSON object, checked key by key.

use std::fmt::Display;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::Error;

/// Reads a configuration. Refuses keys that the type does not have, and says at which key a value
/// is of the wrong type.
pub(crate) fn parse<C: DeserializeOwned>(text: &str) -> Result<C, Error> {
    let fail = |what: &dyn Display| Error::Config(what.to_string());
    match serde_json::from_str(text) {
        Ok(Value::Object(keys)) => C::deserialize(Object(keys)).map_err(|error| fail(&error)),
        Ok(_) => Err(fail(&"the configuration is not a JSON object")),
        Err(error) => Err(fail(&format_args!("the configuration is not JSON: {error}"))),
    }
}

/// The object at the top of a configuration.
struct Object(Map<String, Value>);

impl<'de> serde::Deserializer<'de> for Object {
    type Error = serde_json::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(unknown(key, known)),
            None => self.deserialize_map(visitor),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0.keys().next() {
            Some(key) => Err(unknown(key, &[])),
            None => visitor.visit_unit(),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Entries { rest: self.0.into_iter(), current: None })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The keys and values still to be read.
struct Entries {
    rest: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        self.current = self.rest.next();
        match &self.current {
            Some((key, _)) => seed.deserialize(Value::String(key.clone())).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        let (key, value) = self.current.take().unwrap_or_default();
        seed.deserialize(value)
            .map_err(|error| serde_json::Error::custom(format_args!("key `{key}`: {error}")))
    }
}

fn unknown(key: &str, known: &[&str]) -> serde_json::Error {
    let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
    serde_json::Error::custom(match known.as_slice() {
        [] => format!("unknown key `{key}`; this plugin has no configuration"),
        [only] => format!("unknown key `{key}`, expected {only}"),
        known => format!("unknown key `{key}`, expected one of {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default)]
    struct Settings {
        words: usize,
        mode: Mode,
    }

    impl Default for Settings {
        fn default() -> Self {
            Settings { words: 3, mode: Mode::Soft }
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        Soft,
        VeryHard,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Required {
        words: usize,
    }

    fn check(text: &str, expected: Settings) {
        assert_eq!(parse::<Settings>(text).unwrap(), expected, "{text}");
    }

    fn check_error<C: DeserializeOwned + std::fmt::Debug>(text: &str, expected: &str) {
        match parse::<C>(text) {
            Err(Error::Config(message)) => assert_eq!(message, expected, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn keys_that_are_absent_take_their_default() {
        check("{}", Settings::default());
        check(r#"{"words": 7}"#, Settings { words: 7, ..Settings::default() });
        check(r#"{"mode": "very-hard"}"#, Settings { mode: Mode::VeryHard, ..Settings::default() });
        assert_eq!(parse::<()>("{}"), Ok(()));
    }

    #[test]
    fn unknown_keys_name_the_known_ones() {
        check_error::<Settings>(
            r#"{"wrods": 7}"#,
            "unknown key `wrods`, expected one of `words`, `mode`",
        );
        check_error::<Required>(r#"{"words": 1, "x": 1}"#, "unknown key `x`, expected `words`");
        check_error::<()>(r#"{"x": 1}"#, "unknown key `x`; this plugin has no configuration");
    }

    #[test]
    fn wrong_values_name_their_key() {
        check_error::<Settings>(
            r#"{"words": "seven"}"#,
            "key `words`: invalid type: string \"seven\", expected usize",
        );
        check_error::<Settings>(
            r#"{"words": -1}"#,
            "key `words`: invalid value: integer `-1`, expected usize",
        );
        check_error::<Settings>(
            r#"{"mode": "hard"}"#,
            "key `mode`: unknown variant `hard`, expected `soft` or `very-hard`",
        );
        check_error::<Required>("{}", "missing field `words`");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        check_error::<Settings>("[]", "the configuration is not a JSON object");
        check_error::<Settings>("null", "the configuration is not a JSON object");
        check_error::<Settings>(
            "",
            "the configuration is not JSON: EOF while parsing a value at line 1 column 0",
        );
    }
}
