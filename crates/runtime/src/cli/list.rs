//! `list`: the containers of a root, as a table or as JSON.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;

use palan_linux::path::RootDir;
use palan_stdx::fs;

use super::arguments::{Arguments, Flag, flag, option};
use super::manage::{self, ContainerState};
use super::state::{self, Existing};
use super::{Failure, Global, Outcome};

pub(super) const FLAGS: &[Flag] = &[option("format").short('f'), flag("quiet").short('q')];

pub(super) fn list(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(0)?;
    let mut containers = Vec::new();
    let mut owners = Owners::default();
    for id in state::all_ids(global)? {
        // A container that is deleted while we look is none.
        let Ok(existing) = Existing::load(global, &id) else { continue };
        let Ok(mut state) = manage::describe(&existing) else { continue };
        state.owner = owners.of(&existing);
        containers.push(state);
    }
    if arguments.has("quiet") {
        return super::print(
            &containers.iter().map(|container| format!("{}\n", container.id)).collect::<String>(),
        );
    }
    let text = match arguments.value("format").unwrap_or("table") {
        "table" => table(&containers),
        // Go's empty list.
        "json" if containers.is_empty() => "null\n".to_owned(),
        "json" => serde_json::to_string(&containers).map_err(|error| Failure::new(error.to_string()))? + "\n",
        _ => return Err(Failure::new("invalid format option")),
    };
    super::print(&text)
}

/// Names of the users that state directories belong to.
#[derive(Default)]
struct Owners {
    root: Option<RootDir>,
    /// The last one asked for; mostly it is the same again.
    last: Option<(u32, String)>,
}

impl Owners {
    fn of(&mut self, existing: &Existing) -> String {
        let Ok(found) = fs::metadata(&existing.home.path) else { return String::new() };
        let uid = found.uid();
        if let Some((last, name)) = &self.last
            && *last == uid
        {
            return name.clone();
        }
        if self.root.is_none() {
            self.root = RootDir::open("/").ok();
        }
        let name = self.root.as_ref().and_then(|root| crate::user::name_of(root, uid));
        let name = name.unwrap_or_else(|| format!("#{uid}"));
        self.last = Some((uid, name.clone()));
        name
    }
}

/// Every column is as wide as its widest cell and three spaces, and at least twelve.
fn table(containers: &[ContainerState]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = containers.iter().map(|container| {
        [
            container.id.clone(),
            container.pid.to_string(),
            container.status.to_owned(),
            container.bundle.to_string_lossy().into_owned(),
            container.created.clone(),
            container.owner.clone(),
        ]
    });
    let rows: Vec<[String; 6]> = [header].into_iter().chain(rows).collect();
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count() + 3).max();
        longest.unwrap_or(0).max(12)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths).take(row.len() - 1) {
            // Writing to a string does not fail.
            let _ = write!(text, "{cell:<width$}");
        }
        text.push_str(&row[row.len() - 1]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_wide_enough() {
        let container = ContainerState {
            id: "a-rather-long-id".to_owned(),
            pid: 7,
            status: "running",
            bundle: "/bundle".into(),
            created: "2026-01-02T03:04:05.6Z".to_owned(),
            owner: "root".to_owned(),
            ..ContainerState::default()
        };
        assert_eq!(
            table(&[container]),
            "ID                 PID         STATUS      BUNDLE      CREATED                  OWNER\n\
             a-rather-long-id   7           running     /bundle     2026-01-02T03:04:05.6Z   root\n"
        );
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }
}
