//! `RUN --mount` and `RUN --device`.

use crate::suggest;

/// A mount, as it is written: `key=value` parts whose values may contain variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMount {
    fields: Vec<String>,
}

/// The kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that later builds find again.
    Cache,
    /// A directory in memory.
    Tmpfs,
    /// A secret of the client.
    Secret,
    /// The client's ssh agent.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One; others get another.
    Private,
    /// One; others wait.
    Locked,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// What it is.
    pub kind: Kind,
    /// `from`: a stage or an image. None is the context, or nothing.
    pub from: Option<String>,
    /// `source`: a path there; the id of a secret.
    pub source: String,
    /// `target`: a path in the container.
    pub target: String,
    /// Writes are refused. Writes to what is not a cache are lost.
    pub read_only: bool,
    /// `size` of a tmpfs in bytes.
    pub size: Option<u64>,
    /// `id` of a cache, a secret or an agent.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Sharing,
    /// The build fails if the client has no such secret or agent.
    pub required: bool,
    /// `env`: the variable that gets the secret.
    pub env: Option<String>,
    /// `mode` of the file or directory.
    pub mode: Option<u32>,
    /// `uid` of the file or directory.
    pub uid: Option<u32>,
    /// `gid` of the file or directory.
    pub gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

impl RawMount {
    /// Cuts the value of `--mount`. Only `from` is looked at: the graph of stages needs it, so it can't have variables.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields = fields(text).map_err(|why| format!("failed to parse csv mounts: {why}"))?;
        let mount = Self { fields };
        match mount.from() {
            Some(from) if from.find('$').is_some_and(|index| index + 1 < from.len()) => {
                Err("'from' doesn't support variable expansion, define alias stage instead".to_owned())
            }
            _ => Ok(mount),
        }
    }

    /// The stage or image that it needs.
    pub fn from(&self) -> Option<&str> {
        let mut values = self.fields.iter().filter_map(|field| field.split_once('='));
        values
            .rfind(|(key, value)| key.eq_ignore_ascii_case("from") && !value.is_empty())
            .map(|(_, value)| value)
    }

    /// Expands the values and checks them against the mount's kind.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<Mount, String> {
        let mut draft = Draft::default();
        for field in &self.fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
                None => (field.to_lowercase(), None),
            };
            draft.set(&key, value.as_deref(), field)?;
        }
        draft.finish()
    }
}

/// A mount while its keys are read.
#[derive(Default)]
struct Draft {
    mount: Mount,
    read_only: Option<bool>,
    sharing: Option<Sharing>,
}

impl Draft {
    fn set(&mut self, key: &str, value: Option<&str>, field: &str) -> Result<(), String> {
        match (key, value) {
            ("readonly" | "ro", _) => {
                self.read_only = Some(boolean(key, value)?);
                return Ok(());
            }
            ("readwrite" | "rw", _) => {
                self.read_only = Some(!boolean(key, value)?);
                return Ok(());
            }
            ("required", _) => {
                self.only_for(key, &[Kind::Secret, Kind::Ssh])?;
                self.mount.required = boolean(key, value)?;
                return Ok(());
            }
            _ => {}
        }
        let Some(value) = value else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        let mount = &mut self.mount;
        match key {
            "type" => mount.kind = kind(value)?,
            "from" => mount.from = some(value),
            "source" | "src" => value.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
            "id" => mount.id = some(value),
            "env" => mount.env = Some(value.to_owned()),
            "sharing" => self.sharing = Some(sharing(value)?),
            "mode" => mount.mode = Some(number(key, value, 8)?),
            "uid" => mount.uid = Some(number(key, value, 10)?),
            "gid" => mount.gid = Some(number(key, value, 10)?),
            "size" => {
                self.only_for(key, &[Kind::Tmpfs])?;
                let size = palan_stdx::size::parse_memory(value);
                self.mount.size = Some(size.map_err(|_| format!("invalid value for {key}: {value}"))?);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'{}", suggest::hint(key, KEYS))),
        }
        Ok(())
    }

    fn only_for(&self, key: &str, kinds: &[Kind]) -> Result<(), String> {
        if kinds.contains(&self.mount.kind) {
            return Ok(());
        }
        Err(format!("unexpected key '{key}' for mount type '{}'", self.mount.kind.name()))
    }

    fn finish(self) -> Result<Mount, String> {
        let mut mount = self.mount;
        let kind = mount.kind;
        let has_file_info = matches!(kind, Kind::Secret | Kind::Ssh | Kind::Cache);
        for (key, is_set) in
            [("mode", mount.mode.is_some()), ("uid", mount.uid.is_some()), ("gid", mount.gid.is_some())]
        {
            if is_set && !has_file_info {
                return Err(format!("{key} not allowed for \"{}\" type mounts", kind.name()));
            }
        }
        mount.read_only = self.read_only.unwrap_or(!matches!(kind, Kind::Cache | Kind::Tmpfs));
        if kind == Kind::Secret {
            if mount.from.is_some() {
                return Err("secret mount should not have a from".to_owned());
            }
            if self.sharing.is_some() {
                return Err("secret mount should not define sharing".to_owned());
            }
            if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_none() {
                return Err("invalid secret mount. one of source, target required".to_owned());
            }
            if !mount.source.is_empty() && mount.id.is_some() {
                return Err("both source and id can't be set".to_owned());
            }
        }
        if kind == Kind::Ssh && !mount.source.is_empty() {
            return Err("ssh does not support source".to_owned());
        }
        if kind != Kind::Secret && mount.env.is_some() {
            return Err(format!("unexpected key 'env' for mount type '{}'", kind.name()));
        }
        if kind != Kind::Cache && self.sharing.is_some() {
            return Err(format!("invalid cache sharing set for {} mount", kind.name()));
        }
        mount.sharing = self.sharing.unwrap_or_default();
        Ok(mount)
    }
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

fn kind(value: &str) -> Result<Kind, String> {
    let kinds = [Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh];
    kinds.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(value)).ok_or_else(|| {
        format!("unsupported mount type {value:?}{}", suggest::hint(value, kinds.map(Kind::name)))
    })
}

fn sharing(value: &str) -> Result<Sharing, String> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => {
            let hint = suggest::hint(value, ["shared", "private", "locked"]);
            Err(format!("unsupported sharing value {value:?}{hint}"))
        }
    }
}

/// A key alone means true; else Go's words for booleans.
fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(format!("invalid value for {key}: {value}")),
    }
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, String> {
    let is_number = !value.is_empty() && value.chars().all(|digit| digit.is_digit(radix));
    is_number
        .then(|| u32::from_str_radix(value, radix).ok())
        .flatten()
        .ok_or_else(|| format!("invalid value {value} for {key}"))
}

fn some(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A device that a `RUN` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name in the Container Device Interface: `vendor.com/class=name`.
    pub name: String,
    /// The build fails if there is no such device.
    pub required: bool,
}

impl Device {
    /// Reads the value of `--device`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut name: Option<String> = None;
        let mut required = false;
        for field in fields(text).map_err(|why| format!("failed to parse csv devices: {why}"))? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", value) => required = boolean("required", value)?,
                ("name", Some(value)) => match &name {
                    Some(name) => return Err(format!("device name already set to {name}")),
                    None => name = Some(value.to_owned()),
                },
                _ if name.is_none() => name = Some(field),
                (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
                _ => {
                    let hint = suggest::hint(&key, ["name", "required"]);
                    return Err(format!("unexpected key '{key}' in '{field}'{hint}"));
                }
            }
        }
        match name {
            Some(name) if !name.is_empty() => Ok(Self { name, required }),
            _ => Err(format!("device {text:?} has no name")),
        }
    }
}

/// The fields of a line of comma-separated values.
fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("bare \" in non-quoted-field");
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        found.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(found),
            None => return Err("extraneous or missing \" in quoted-field"),
        }
    }
}

/// A field up to its closing quote, and what follows. Two quotes are one.
fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        RawMount::parse(text)?.resolve(&mut |value| Ok(value.replace("$dir", "/work")))
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        assert_eq!(mount(text).expect_err(text), message);
    }

    #[test]
    fn every_kind() {
        let bind = mount("source=a,target=/b,from=base").expect("a bind mount");
        let expected = Mount {
            from: Some("base".to_owned()),
            source: "a".to_owned(),
            target: "/b".to_owned(),
            read_only: true,
            ..Mount::default()
        };
        assert_eq!(bind, expected);
        assert!(!mount("dst=/b,rw").expect("a bind mount").read_only);
        assert!(!mount("type=bind,destination=/b,ro=false").expect("a bind mount").read_only);

        let cache =
            mount("type=cache,target=$dir,id=x,sharing=locked,mode=0700,uid=1,gid=2").expect("a cache");
        assert_eq!(
            (cache.kind, cache.target.as_str(), cache.sharing),
            (Kind::Cache, "/work", Sharing::Locked)
        );
        assert_eq!(
            (cache.mode, cache.uid, cache.gid, cache.read_only),
            (Some(0o700), Some(1), Some(2), false)
        );

        assert_eq!(mount("type=tmpfs,dst=/t,size=10m").expect("a tmpfs").size, Some(10 << 20));
        let secret = mount("TYPE=secret,id=key,env=KEY,required").expect("a secret");
        assert_eq!((secret.env.as_deref(), secret.required, secret.read_only), (Some("KEY"), true, true));
        assert!(!mount("type=ssh,required=false").expect("an agent").required);
    }

    #[test]
    fn mistakes_in_mounts() {
        check_error("type=cash", "unsupported mount type \"cash\" (did you mean cache?)");
        check_error("target", "invalid field 'target' must be a key=value pair");
        check_error("targt=/a", "unexpected key 'targt' in 'targt=/a' (did you mean target?)");
        check_error("required,type=secret", "unexpected key 'required' for mount type 'bind'");
        check_error("size=1", "unexpected key 'size' for mount type 'bind'");
        check_error("type=tmpfs,size=x", "invalid value for size: x");
        check_error("mode=0700,target=/a", "mode not allowed for \"bind\" type mounts");
        check_error("type=cache,mode=8", "invalid value 8 for mode");
        check_error("type=cache,uid=+1", "invalid value +1 for uid");
        check_error("type=cache,ro=maybe", "invalid value for ro: maybe");
        check_error("type=cache,sharing=share", "unsupported sharing value \"share\" (did you mean shared?)");
        check_error("type=bind,sharing=shared", "invalid cache sharing set for bind mount");
        check_error("type=secret", "invalid secret mount. one of source, target required");
        check_error("type=secret,id=a,src=b", "both source and id can't be set");
        check_error("type=secret,id=a,from=b", "secret mount should not have a from");
        check_error("type=secret,id=a,sharing=shared", "secret mount should not define sharing");
        check_error("type=ssh,src=a", "ssh does not support source");
        check_error("type=cache,env=a", "unexpected key 'env' for mount type 'cache'");
        check_error("from=$x", "'from' doesn't support variable expansion, define alias stage instead");
        check_error("a\"b", "failed to parse csv mounts: bare \" in non-quoted-field");
    }

    #[test]
    fn csv() {
        assert_eq!(
            fields("a,\"b,\"\"c\",,d"),
            Ok(vec!["a".into(), "b,\"c".into(), String::new(), "d".into()])
        );
        assert!(fields("\"a").is_err() && fields("\"a\"b").is_err());
    }

    #[test]
    fn devices() {
        let device = |text: &str| Device::parse(text).map(|device| (device.name, device.required));
        assert_eq!(device("vendor.com/gpu=0"), Ok(("vendor.com/gpu=0".to_owned(), false)));
        assert_eq!(device("vendor.com/gpu,required"), Ok(("vendor.com/gpu".to_owned(), true)));
        assert_eq!(device("name=vendor.com/gpu=0,required=true"), Ok(("vendor.com/gpu=0".to_owned(), true)));
        assert_eq!(device("a=b,name=c"), Err("device name already set to a=b".to_owned()));
        assert_eq!(
            device("a,requird=1"),
            Err("unexpected key 'requird' in 'requird=1' (did you mean required?)".to_owned())
        );
        assert!(device("").is_err() && device("required").is_err());
    }
}
