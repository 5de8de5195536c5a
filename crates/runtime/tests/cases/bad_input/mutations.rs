//! All that can be wrong with one value of a JSON document.

use std::fmt;

use serde_json::{Value, json};

/// Where a value is: the names and numbers on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Number(usize),
}

impl Place {
    fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// The object or list that it is in, unless that is the whole document.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, parent) = self.0.split_last()?;
        (!parent.is_empty()).then(|| Self(parent.to_vec()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Name(name) if index == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Number(number) => write!(f, "[{number}]")?,
            }
        }
        Ok(())
    }
}

/// Every value in a document, objects and lists included.
pub(super) fn places(document: &Value) -> Vec<Place> {
    let mut found = Vec::new();
    collect(document, &Place(Vec::new()), &mut found);
    found
}

fn collect(value: &Value, place: &Place, found: &mut Vec<Place>) {
    if !place.0.is_empty() {
        found.push(place.clone());
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                collect(member, &place.then(Step::Name(name.clone())), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &place.then(Step::Number(index)), found);
            }
        }
        _ => {}
    }
}

/// What takes a value's place.
#[derive(Debug)]
pub(super) struct Mutation {
    pub(super) name: &'static str,
    /// Nothing: the value is taken out.
    replacement: Option<Value>,
}

/// Stands for a number that no JSON value of this program can hold.
const HUGE: &str = "@huge@";

/// `word` is what takes the place of any text.
pub(super) fn mutations(word: &str) -> Vec<Mutation> {
    let replacements = [
        ("null", json!(null)),
        ("text", json!(word)),
        ("empty text", json!("")),
        ("NUL", json!("a\0b")),
        ("upwards", json!("../../x")),
        ("number", json!(7)),
        ("negative", json!(-1)),
        ("2^32-1", json!(u32::MAX)),
        ("2^32", json!(1_u64 << 32)),
        ("2^63", json!(1_u64 << 63)),
        ("2^64", json!(18_446_744_073_709_551_616_f64)),
        ("fraction", json!(1.5)),
        ("1e400", json!(HUGE)),
        ("bool", json!(true)),
        ("list", json!([])),
        ("list of text", json!([word])),
        ("object", json!({})),
    ];
    let replaced = replacements.into_iter().map(|(name, value)| Mutation { name, replacement: Some(value) });
    [Mutation { name: "missing", replacement: None }].into_iter().chain(replaced).collect()
}

/// The document as text, with the value at `place` changed.
pub(super) fn mutate(document: &Value, place: &Place, mutation: &Mutation) -> String {
    let mut document = document.clone();
    let (last, way) = place.0.split_last().unwrap();
    let mut target = &mut document;
    for step in way {
        target = match step {
            Step::Name(name) => &mut target[name.as_str()],
            Step::Number(number) => &mut target[*number],
        };
    }
    match (target, last, &mutation.replacement) {
        (Value::Object(members), Step::Name(name), Some(value)) => {
            drop(members.insert(name.clone(), value.clone()))
        }
        (Value::Object(members), Step::Name(name), None) => drop(members.remove(name)),
        (Value::Array(items), Step::Number(number), Some(value)) => items[*number] = value.clone(),
        (Value::Array(items), Step::Number(number), None) => drop(items.remove(*number)),
        (other, ..) => panic!("{place}: {other}"),
    }
    document.to_string().replace(&format!("{HUGE:?}"), "1e400")
}
