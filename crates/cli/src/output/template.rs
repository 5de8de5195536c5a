//! Go templates with Docker's functions, over values that came as JSON.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gotmpl::{MissingKey, Template, TemplateError, Value};

use super::json::Ordered;

/// The key under which a list's row carries its labels for `{{.Label "name"}}`; no field of Docker's starts so.
pub(crate) const LABELS: &str = "\0labels";

/// The key that marks a list's row: Docker escapes `<`, `>` and `&` in `{{json .}}` of a row and nowhere else.
pub(crate) const ROW: &str = "\0row";

/// What is wrong with a template or its use, in Docker's words.
pub(crate) fn describe(source: &str, error: &TemplateError) -> String {
    let executing = |key: &str, why: &str| {
        let column = source.find(&format!(".{key}")).unwrap_or(0);
        format!("template: :1:{column}: executing \"\" at <.{key}>: {why}")
    };
    let text = match error {
        TemplateError::MissingKey { key } => executing(key, &format!("map has no entry for key {key:?}")),
        TemplateError::Exec(why) if why.starts_with("can't evaluate field ") => {
            let key = why.split_whitespace().nth(3).unwrap_or_default();
            executing(key, why)
        }
        TemplateError::Parse { line, message, .. } | TemplateError::Lex { line, message, .. } => {
            format!("template: :{line}: {message}")
        }
        TemplateError::UndefinedFunction(name) => format!("template: :1: function {name:?} not defined"),
        other => other.to_string(),
    };
    format!("template parsing error: {text}")
}

/// Replaces `\t` and `\n` as written in a shell's quotes, and drops the blanks around a format.
pub(crate) fn unescape(source: &str) -> String {
    source.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n")
}

/// A parsed template.
pub(crate) struct Parsed(Template);

/// Parses a template for rows or inspected objects.
pub(crate) fn parse(source: &str, missing: MissingKey, order: Arc<Order>) -> Result<Parsed, TemplateError> {
    let source = source.replace(".Label ", "label . ");
    let template = Template::new("").missing_key(missing);
    let template = text_functions(template)
        .func("json", move |args| {
            let value = args.first().cloned().unwrap_or(Value::Nil);
            let is_row = |value: &Value| matches!(value, Value::Map(map) if map.contains_key(ROW));
            let row =
                is_row(&value) || matches!(&value, Value::List(list) if list.first().is_some_and(is_row));
            let mut text = String::new();
            order.restore(&value).write(&mut text, row);
            Ok(Value::from(text))
        })
        .func("label", |args| {
            let (Some(Value::Map(row)), Some(name)) = (args.first(), args.get(1).and_then(Value::as_str))
            else {
                return Ok(Value::from(""));
            };
            let labels = row.get(LABELS).cloned().unwrap_or(Value::Nil);
            Ok(labels.field(name).cloned().unwrap_or_else(|| Value::from("")))
        });
    Ok(Parsed(template.parse(&source)?))
}

/// Parses a template for the head of a table: the fields are their titles, and functions leave them alone.
pub(crate) fn parse_header(source: &str) -> Result<Parsed, TemplateError> {
    let source = source.replace(".Label ", "label ");
    let mut template = text_functions(Template::new(""));
    for name in ["json", "title", "lower", "upper", "truncate"] {
        template = template.func(name, |args| Ok(args.first().cloned().unwrap_or(Value::Nil)));
    }
    template = template.func("label", |args| {
        let name = args.first().and_then(Value::as_str).unwrap_or_default();
        let last = name.rsplit('.').next().unwrap_or_default();
        Ok(Value::from(last.replace(['-', '_'], " ")))
    });
    Ok(Parsed(template.parse(&source)?))
}

impl Parsed {
    /// Executes the template.
    pub(crate) fn execute(&self, data: &Value) -> Result<String, TemplateError> {
        self.0.execute_to_string(data)
    }
}

fn text_functions(template: Template) -> Template {
    fn text(args: &[Value], index: usize) -> Result<&str, TemplateError> {
        args.get(index)
            .and_then(Value::as_str)
            .ok_or_else(|| TemplateError::Exec(format!("argument {} must be a string", index + 1)))
    }
    fn count(args: &[Value], index: usize) -> usize {
        args.get(index).and_then(Value::as_int).and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }
    template
        .func("split", |args| {
            let parts: Vec<Value> = text(args, 0)?.split(text(args, 1)?).map(Value::from).collect();
            Ok(Value::from(parts))
        })
        .func("join", |args| {
            let Some(Value::List(parts)) = args.first() else {
                return if matches!(args.first(), Some(Value::Nil)) {
                    Ok(Value::from(""))
                } else {
                    Err(TemplateError::Exec("join needs a list".to_owned()))
                };
            };
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            Ok(Value::from(parts.join(text(args, 1)?)))
        })
        .func("title", |args| {
            let mut titled = String::new();
            let mut boundary = true;
            for c in text(args, 0)?.chars() {
                if boundary {
                    titled.extend(c.to_uppercase());
                } else {
                    titled.push(c);
                }
                boundary = !(c.is_alphanumeric() || c == '_' || c == '\'');
            }
            Ok(Value::from(titled))
        })
        .func("lower", |args| Ok(Value::from(text(args, 0)?.to_lowercase())))
        .func("upper", |args| Ok(Value::from(text(args, 0)?.to_uppercase())))
        .func("pad", |args| {
            let source = text(args, 0)?;
            if source.is_empty() {
                return Ok(Value::from(""));
            }
            Ok(Value::from(format!("{}{source}{}", " ".repeat(count(args, 1)), " ".repeat(count(args, 2)))))
        })
        .func("truncate", |args| {
            let source = text(args, 0)?;
            let end = source.char_indices().nth(count(args, 1)).map_or(source.len(), |(end, _)| end);
            Ok(Value::from(&source[..end]))
        })
}

/// Remembers for objects in a template's data which order their JSON had: the template engine sorts keys, as Go does for
/// maps, but `{{json .State}}` must print them as the daemon did.
#[derive(Debug, Default)]
pub(crate) struct Order(HashMap<usize, Ordered>);

impl Order {
    /// Converts a JSON value to template data. `complete` may add fields to an object that the daemon left out.
    pub(crate) fn convert(
        &mut self,
        value: &Ordered,
        path: &mut Vec<String>,
        complete: &Complete<'_>,
    ) -> Value {
        match value {
            Ordered::Null => complete.null(path),
            Ordered::Bool(value) => Value::Bool(*value),
            Ordered::Int(value) => Value::Int(*value),
            Ordered::Uint(value) => Value::Uint(*value),
            Ordered::Float(value) => Value::Float(*value),
            Ordered::String(text) => Value::from(text.as_str()),
            Ordered::List(values) => {
                path.push("[]".to_owned());
                let list: Vec<Value> =
                    values.iter().map(|value| self.convert(value, path, complete)).collect();
                path.pop();
                Value::from(list)
            }
            Ordered::Map(members) if members.is_empty() && is_set(path) => Value::from("{}"),
            Ordered::Map(members) => {
                let mut map: BTreeMap<Arc<str>, Value> = BTreeMap::new();
                for (key, value) in members {
                    path.push(key.clone());
                    map.insert(Arc::from(key.as_str()), self.convert(value, path, complete));
                    path.pop();
                }
                complete.missing(path, &mut map);
                let map = Arc::new(map);
                self.0.insert(Arc::as_ptr(&map).addr(), value.clone());
                Value::Map(map)
            }
        }
    }

    /// The JSON of template data, in its original order where it had one.
    fn restore(&self, value: &Value) -> Ordered {
        match value {
            Value::Nil | Value::Function(_) => Ordered::Null,
            Value::Bool(value) => Ordered::Bool(*value),
            Value::Int(value) => Ordered::Int(*value),
            Value::Uint(value) => Ordered::Uint(*value),
            Value::Float(value) => Ordered::Float(*value),
            Value::String(text) => Ordered::String(text.to_string()),
            Value::List(values) => Ordered::List(values.iter().map(|value| self.restore(value)).collect()),
            Value::Map(map) => self.0.get(&Arc::as_ptr(map).addr()).cloned().unwrap_or_else(|| {
                let members = map.iter().filter(|(key, _)| !key.starts_with('\0'));
                Ordered::Map(members.map(|(key, value)| (key.to_string(), self.restore(value))).collect())
            }),
        }
    }
}

/// Whether the value at the path belongs to a Go `map[string]struct{}`, whose values print as `{}`.
fn is_set(path: &[String]) -> bool {
    matches!(path, [.., set, _] if matches!(set.as_str(), "ExposedPorts" | "Volumes"))
}

/// Knows what Docker's client types hold where the JSON holds nothing, so that `{{.Config.Healthcheck}}` is a value and
/// `{{.Config.Helthcheck}}` an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Complete<'a> {
    /// Path of an object with its optional fields and what they are when absent.
    pub(crate) optional: &'a [(&'a str, &'a [(&'a str, Zero)])],
    /// Names of fields that are maps, and print as `map[]` when null.
    pub(crate) maps: &'a [&'a str],
    /// Names of fields that are pointers, and print as `<nil>` when null.
    pub(crate) pointers: &'a [&'a str],
}

/// Go's zero values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    Pointer,
    Text,
    Number,
    Flag,
    List,
    Map,
}

impl Complete<'_> {
    /// Adds nothing: for data of our own making.
    pub(crate) const NONE: Complete<'static> = Complete { optional: &[], maps: &[], pointers: &[] };

    fn null(&self, path: &[String]) -> Value {
        let name = path.last().map_or("", String::as_str);
        if self.maps.contains(&name) {
            Zero::Map.value()
        } else if self.pointers.contains(&name) || path.is_empty() {
            Value::Nil
        } else {
            Zero::List.value()
        }
    }

    fn missing(&self, path: &[String], map: &mut BTreeMap<Arc<str>, Value>) {
        let path = path.join(".");
        let fields =
            self.optional.iter().filter(|(object, _)| *object == path).flat_map(|(_, fields)| *fields);
        for (name, zero) in fields {
            map.entry(Arc::from(*name)).or_insert_with(|| zero.value());
        }
    }
}

impl Zero {
    fn value(self) -> Value {
        match self {
            Self::Pointer => Value::Nil,
            Self::Text => Value::from(""),
            Self::Number => Value::Int(0),
            Self::Flag => Value::Bool(false),
            Self::List => Value::from(Vec::new()),
            Self::Map => Value::from(BTreeMap::<String, Value>::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, source: &str, expected: &str) {
        let mut order = Order::default();
        let data = order.convert(&Ordered::parse(json).unwrap(), &mut Vec::new(), &Complete::NONE);
        let parsed = parse(source, MissingKey::Error, Arc::new(order));
        let result = parsed.and_then(|parsed| parsed.execute(&data));
        assert_eq!(result.unwrap_or_else(|error| describe(source, &error)), expected, "{source}");
    }

    #[test]
    fn dockers_functions_work() {
        let json = r#"{"Name":"/web","List":["a","b"],"State":{"Z":1,"A":"<x>"},"Big":4294967296}"#;
        check(json, "{{.Name}}", "/web");
        check(json, "{{json .State}}", r#"{"Z":1,"A":"<x>"}"#);
        check(json, "{{json .}}", json);
        check(json, "{{range $k, $v := .State}}{{$k}}={{$v}} {{end}}", "A=<x> Z=1 ");
        check(json, "{{join .List \",\"}} {{upper .Name}} {{title \"ab cd\"}}", "a,b /WEB Ab Cd");
        check(
            json,
            "{{index (split .Name \"/\") 1}}|{{pad .Name 1 2}}|{{truncate .Name 3}}",
            "web| /web  |/we",
        );
        check(json, "{{println .Big}}", "4294967296\n");
        check(json, "{{lower \"ABC\"}}", "abc");
        check(
            json,
            "{{.Nope}}",
            "template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"",
        );
    }

    #[test]
    fn absent_fields_have_gos_zero_values() {
        let complete = Complete {
            optional: &[("State", &[("Health", Zero::Pointer)]), ("", &[("Ids", Zero::List)])],
            maps: &["Labels"],
            pointers: &["Init"],
        };
        let mut order = Order::default();
        let json = Ordered::parse(r#"{"State":{},"Labels":null,"Binds":null,"Init":null}"#).unwrap();
        let data = order.convert(&json, &mut Vec::new(), &complete);
        let parsed =
            parse("{{.State.Health}} {{.Ids}} {{.Labels}} {{.Binds}}", MissingKey::Error, Arc::new(order));
        assert_eq!(parsed.unwrap().execute(&data).unwrap(), "<no value> [] map[] []");
    }
}
