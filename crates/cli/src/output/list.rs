//! Lists of objects as tables, JSON lines or through a template: what `--format` means to `ps`, `images`, `stats`, ….

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{MissingKey, Value};

use super::table;
use super::template::{self, LABELS, Order, ROW};
use crate::error::{CliError, Kind, Result};

/// A field of a row and the title of its column.
pub(crate) type Column = (&'static str, &'static str);

/// One object of a list.
pub(crate) trait Row {
    /// The text of a field; every column's name is asked for.
    fn field(&self, name: &str) -> String;

    /// The labels of the object.
    fn labels(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }
}

/// A format as it will be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    table: bool,
    source: String,
}

impl Format {
    /// Resolves what the user asked for: nothing or `table` for the default, `table …`, `json`, or a template.
    pub(crate) fn new(asked: &str, default: &str) -> Self {
        match asked {
            "" | "table" => Self { table: true, source: default.to_owned() },
            "json" => Self { table: false, source: "{{json .}}".to_owned() },
            _ => match asked.strip_prefix("table") {
                Some(source) => Self { table: true, source: template::unescape(source) },
                None => Self { table: false, source: template::unescape(asked) },
            },
        }
    }

    /// A template that is no table.
    pub(crate) fn plain(source: &str) -> Self {
        Self { table: false, source: source.to_owned() }
    }

    /// Fails for a template that can't be used, before anything is asked of the daemon.
    pub(crate) fn check(self) -> Result<Self> {
        let order = Arc::new(Order::default());
        match template::parse(&self.source, MissingKey::Error, order) {
            Ok(_) => Ok(self),
            Err(error) => Err(CliError::new(template::describe(&self.source, &error))),
        }
    }

    /// Whether the format shows the field.
    pub(crate) fn uses(&self, field: &str) -> bool {
        self.everything() || self.source.contains(&format!(".{field}"))
    }

    fn everything(&self) -> bool {
        self.source.contains("json .}}") || self.source.contains("json . ") || self.source.contains("{{.}}")
    }
}

/// Renders a list; a table has its head even without rows.
pub(crate) fn render(format: &Format, columns: &[Column], rows: &[impl Row]) -> Result<String> {
    let source = &format.source;
    let failed =
        |error: &gotmpl::TemplateError| CliError::of(Kind::General, template::describe(source, error));
    let parsed =
        template::parse(source, MissingKey::Error, Arc::new(Order::default())).map_err(|e| failed(&e))?;
    let mut text = String::new();
    if format.table {
        let titles: BTreeMap<String, Value> =
            columns.iter().map(|(name, title)| ((*name).to_owned(), Value::from(*title))).collect();
        let header = template::parse_header(source).map_err(|e| failed(&e))?;
        text.push_str(&header.execute(&Value::from(titles)).map_err(|e| failed(&e))?);
        text.push('\n');
    }
    let wanted: Vec<&Column> = columns.iter().filter(|(name, _)| format.uses(name)).collect();
    let with_labels = source.contains(".Label ");
    for row in rows {
        let mut fields: BTreeMap<Arc<str>, Value> =
            wanted.iter().map(|(name, _)| (Arc::from(*name), value(name, row.field(name)))).collect();
        fields.insert(Arc::from(ROW), Value::Nil);
        if with_labels {
            let labels: BTreeMap<String, Value> =
                row.labels().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
            fields.insert(Arc::from(LABELS), Value::from(labels));
        }
        text.push_str(&parsed.execute(&Value::from(fields)).map_err(|e| failed(&e))?);
        text.push('\n');
    }
    // The one field that may be nil prints so.
    let text = text.replace("<no value>", "<nil>");
    Ok(if format.table { table::align(&text, table::LIST) } else { text })
}

/// Rows as a value within another one, with all their fields.
pub(crate) fn records(columns: &[Column], rows: &[impl Row]) -> Value {
    let record = |row: &_| {
        let fields = columns.iter().map(|(name, _)| ((*name).to_owned(), value(name, Row::field(row, name))));
        let mark = (ROW.to_owned(), Value::Nil);
        Value::from(fields.chain([mark]).collect::<BTreeMap<String, Value>>())
    };
    Value::from(rows.iter().map(record).collect::<Vec<Value>>())
}

/// Applies a template to one value, as it is: without a line end.
pub(crate) fn render_value(format: &Format, value: &Value) -> Result<String> {
    let failed = |error: &gotmpl::TemplateError| {
        CliError::of(Kind::General, template::describe(&format.source, error))
    };
    let parsed = template::parse(&format.source, MissingKey::Error, Arc::new(Order::default()));
    parsed.and_then(|parsed| parsed.execute(value)).map_err(|error| failed(&error))
}

/// All fields are texts, but for a platform that isn't known.
fn value(name: &str, text: String) -> Value {
    if name == "Platform" && text.is_empty() { Value::Nil } else { Value::from(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        fn field(&self, name: &str) -> String {
            if name == "ID" { self.0.to_owned() } else { self.1.to_owned() }
        }

        fn labels(&self) -> Vec<(&str, &str)> {
            vec![("com.example.some-name", "value")]
        }
    }

    const COLUMNS: &[Column] = &[("ID", "CONTAINER ID"), ("Ports", "PORTS")];

    fn check(asked: &str, expected: &str) {
        let format = Format::new(asked, "{{.ID}}\t{{.Ports}}");
        let rows = [Pair("abc", "80->80"), Pair("abcdef", "")];
        let text = render(&format, COLUMNS, &rows).unwrap_or_else(|error| error.message);
        assert_eq!(text, expected, "{asked}");
    }

    #[test]
    fn formats_mean_what_they_mean_to_docker() {
        check("", "CONTAINER ID   PORTS\nabc            80->80\nabcdef         \n");
        check(
            "table {{.Ports}}\\t{{upper .ID}}",
            "PORTS     CONTAINER ID\n80->80    ABC\n          ABCDEF\n",
        );
        check("json", "{\"ID\":\"abc\",\"Ports\":\"80-\\u003e80\"}\n{\"ID\":\"abcdef\",\"Ports\":\"\"}\n");
        check("{{json .Ports}}", "\"80->80\"\n\"\"\n");
        check("{{.ID}}: {{.Label \"com.example.some-name\"}}", "abc: value\nabcdef: value\n");
        check("table {{.Label \"com.example.some-name\"}}", "some name\nvalue\nvalue\n");
        check(
            "{{.Nope}}",
            "template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"",
        );
        let format = Format::new("", "{{.ID}}\t{{.Ports}}");
        assert_eq!(render(&format, COLUMNS, &[] as &[Pair]).unwrap(), "CONTAINER ID   PORTS\n");
    }
}
