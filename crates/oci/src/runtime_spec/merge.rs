//! JSON in which a name may stand more than once in an object: as in Go's decoder what comes later holds, and objects are
//! merged member by member.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A value that was read so.
pub(super) struct Merged(pub(super) Value);

struct Merging;

impl<'de> Deserialize<'de> for Merged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Merging).map(Self)
    }
}

impl<'de> Visitor<'de> for Merging {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Merged(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Merged(value))) = members.next_entry::<String, Merged>()? {
            merge(object.entry(name).or_insert(Value::Null), value);
        }
        Ok(object.into())
    }
}

fn merge(into: &mut Value, later: Value) {
    match (into, later) {
        (Value::Object(into), Value::Object(later)) => {
            for (name, value) in later {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        // Go leaves a value alone where it finds null.
        (_, Value::Null) => {}
        (into, later) => *into = later,
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime_spec::{Resources, parse};

    #[test]
    fn a_name_in_two_cases_is_one_object() {
        let both =
            br#"{"cpu":{"shares":5,"quota":7},"CPU":{"Quota":8,"period":9},"PIDS":{"limit":3},"pids":null}"#;
        let resources: Resources = parse(both).unwrap();
        let cpu = resources.cpu.unwrap();
        assert_eq!((cpu.shares, cpu.quota, cpu.period), (Some(5), Some(8), Some(9)));
        assert_eq!(resources.pids.unwrap().limit, Some(3));
    }

    #[test]
    fn errors_have_their_field() {
        let error = parse::<Resources>(br#"{"CPU":{"shares":"x"}}"#).unwrap_err();
        assert!(error.to_string().contains("cpu.shares"), "{error}");
        parse::<Resources>(br#"{"CPU":{}} x"#).unwrap_err();
    }
}
