//! The `filters=` query parameter: `{"name":{"value":true}}`, and the old `{"name":["value"]}`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Filter names with their values, combined as each endpoint says (mostly: any value of a name, all names).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    values: BTreeMap<String, BTreeSet<String>>,
}

/// Why a filter parameter can't be used. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not the JSON of filters.
    #[error("invalid filter")]
    Malformed,
    /// A name that the endpoint does not know.
    #[error("invalid filter '{0}'")]
    UnknownName(String),
    /// A value that the name does not take.
    #[error("invalid filter '{name}={values}'", values = .values.join(","))]
    InvalidValue {
        /// The filter's name.
        name: String,
        /// What it was given.
        values: Vec<String>,
    },
}

impl Filters {
    /// No filter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the query parameter; an empty one is no filter.
    pub fn from_json(text: &str) -> Result<Self, FilterError> {
        let mut filters = Self::new();
        if text.is_empty() {
            return Ok(filters);
        }
        let Ok(Value::Object(map)) = serde_json::from_str(text) else { return Err(FilterError::Malformed) };
        for (name, values) in map {
            let entry = filters.values.entry(name).or_default();
            match values {
                Value::Object(values) if values.values().all(Value::is_boolean) => {
                    entry.extend(values.into_iter().map(|(value, _)| value));
                }
                Value::Array(values) => {
                    for value in values {
                        let Value::String(value) = value else { return Err(FilterError::Malformed) };
                        entry.insert(value);
                    }
                }
                _ => return Err(FilterError::Malformed),
            }
        }
        Ok(filters)
    }

    /// The query parameter; `None` when there is no filter.
    pub fn to_json(&self) -> Option<String> {
        if self.values.is_empty() {
            return None;
        }
        let map: BTreeMap<_, BTreeMap<_, _>> = self
            .values
            .iter()
            .map(|(name, values)| (name, values.iter().map(|v| (v, true)).collect()))
            .collect();
        serde_json::to_string(&map).ok()
    }

    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.values.entry(name.into()).or_default().insert(value.into());
    }

    /// Whether there is no filter at all.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether a name was given.
    pub fn contains(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The values of a name, sorted.
    pub fn get(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Every name with its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.values.iter().map(|(name, values)| (name.as_str(), values))
    }

    /// Fails for a name that is not among the accepted ones.
    pub fn validate(&self, accepted: &[&str]) -> Result<(), FilterError> {
        match self.values.keys().find(|name| !accepted.contains(&name.as_str())) {
            Some(name) => Err(FilterError::UnknownName(name.clone())),
            None => Ok(()),
        }
    }

    /// The truth value of a name: `1`/`true`/`0`/`false`, and nothing else.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.values.get(name) else { return Ok(None) };
        let is_true = values.contains("1") || values.contains("true");
        let is_false = values.contains("0") || values.contains("false");
        match (is_true, is_false) {
            (true, false) => Ok(Some(true)),
            (false, true) => Ok(Some(false)),
            _ => Err(FilterError::InvalidValue {
                name: name.to_owned(),
                values: values.iter().cloned().collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let new = Filters::from_json(r#"{"label":{"a=b":true,"c":true},"dangling":{"true":true}}"#).unwrap();
        let old = Filters::from_json(r#"{"label":["c","a=b"],"dangling":["true"]}"#).unwrap();
        assert_eq!(new, old);
        assert_eq!(new.get("label").collect::<Vec<_>>(), ["a=b", "c"]);
        assert_eq!(new.boolean("dangling"), Ok(Some(true)));
        assert_eq!(Filters::from_json(&new.to_json().unwrap()), Ok(new));
        assert_eq!(Filters::from_json("").unwrap().to_json(), None);
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["x", "[]", r#"{"a":"b"}"#, r#"{"a":[1]}"#, r#"{"a":{"b":"true"}}"#] {
            assert_eq!(Filters::from_json(text), Err(FilterError::Malformed), "{text}");
        }
        let filters = Filters::from_json(r#"{"nope":["1"],"dangling":["x"]}"#).unwrap();
        assert_eq!(filters.validate(&["dangling"]).unwrap_err().to_string(), "invalid filter 'nope'");
        assert_eq!(filters.boolean("dangling").unwrap_err().to_string(), "invalid filter 'dangling=x'");
    }
}
