//! `--mount` (long form) and `--volume` (short form).

use std::path::Path;

use palan_docker_api::types::{BindOptions, Driver, Mount, TmpfsOptions, VolumeOptions};

use super::parse_bytes;
use crate::flags::parse_bool;

/// Parses one `--mount`, a line of comma-separated values.
pub(crate) fn parse_mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { kind: "volume".to_owned(), ..Mount::default() };
    for field in split_csv(text)? {
        apply(&mut mount, &field)?;
    }
    validate(&mount)?;
    Ok(mount)
}

fn apply(mount: &mut Mount, field: &str) -> Result<(), String> {
    let (key, value) = match field.split_once('=') {
        Some((key, value)) => (key.to_lowercase(), Some(value)),
        None => (field.to_lowercase(), None),
    };
    let flag = |value: Option<&str>| match value {
        None => Ok(true),
        Some(value) => parse_bool(value).map_err(|_| format!("invalid value for {key}: {value}")),
    };
    match key.as_str() {
        "readonly" | "ro" => return flag(value).map(|on| mount.read_only = on),
        "volume-nocopy" => return flag(value).map(|on| volume(mount).no_copy = on),
        "bind-nonrecursive" => return flag(value).map(|on| bind(mount).non_recursive = on),
        "bind-create-src" => return flag(value).map(|on| bind(mount).create_mountpoint = on),
        _ => {}
    }
    let value = value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
    let owned = value.to_owned();
    let invalid = || format!("invalid value for {key}: {value}");
    match key.as_str() {
        "type" => mount.kind = value.to_lowercase(),
        "source" | "src" => mount.source = owned,
        "target" | "dst" | "destination" => mount.target = owned,
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => bind(mount).propagation = value.to_lowercase(),
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => bind(mount).non_recursive = true,
            "writable" => bind(mount).read_only_non_recursive = true,
            "readonly" => bind(mount).read_only_force_recursive = true,
            _ => {
                let choice = "(must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")";
                return Err(format!("{} {choice}", invalid()));
            }
        },
        "volume-subpath" => volume(mount).subpath = owned,
        "volume-label" => insert(&mut volume(mount).labels, value),
        "volume-driver" => driver(mount).name = owned,
        "volume-opt" => insert(&mut driver(mount).options, value),
        "image-subpath" => mount.image_options.get_or_insert_default().subpath = owned,
        "tmpfs-size" => tmpfs(mount).size_bytes = parse_bytes(value).map_err(|_| invalid())?,
        "tmpfs-mode" => tmpfs(mount).mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?,
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn bind(mount: &mut Mount) -> &mut BindOptions {
    mount.bind_options.get_or_insert_default()
}

fn volume(mount: &mut Mount) -> &mut VolumeOptions {
    mount.volume_options.get_or_insert_default()
}

fn driver(mount: &mut Mount) -> &mut Driver {
    volume(mount).driver_config.get_or_insert_default()
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

fn insert(map: &mut palan_docker_api::types::StringMap, text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if !name.is_empty() {
        map.insert(name.to_owned(), value.to_owned());
    }
}

fn validate(mount: &Mount) -> Result<(), String> {
    let kind = mount.kind.as_str();
    if kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let mixed = [
        ("bind", mount.bind_options.is_some()),
        ("volume", mount.volume_options.is_some()),
        ("image", mount.image_options.is_some()),
        ("tmpfs", mount.tmpfs_options.is_some()),
    ];
    if let Some((options, _)) = mixed.iter().find(|(options, set)| *set && *options != kind) {
        return Err(format!("cannot mix '{options}-*' options with mount type '{kind}'"));
    }
    let Some(bind) = &mount.bind_options else { return Ok(()) };
    let requires = |recursive: &str, other: &str| {
        format!("option 'bind-recursive={recursive}' requires '{other}' to be specified in conjunction")
    };
    match bind {
        BindOptions { read_only_non_recursive: true, .. } if !mount.read_only => {
            Err(requires("writable", "readonly"))
        }
        BindOptions { read_only_force_recursive: true, .. } if !mount.read_only => {
            Err(requires("readonly", "readonly"))
        }
        BindOptions { read_only_force_recursive: true, propagation, .. } if propagation != "rprivate" => {
            Err(requires("readonly", "bind-propagation=rprivate"))
        }
        _ => Ok(()),
    }
}

/// The fields of one line of comma-separated values; a field in double quotes may hold commas.
pub(crate) fn split_csv(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    Some((_, '"')) if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some((index, '"')) => break Some(index + 1),
                    Some((_, c)) => field.push(c),
                    None => break None,
                }
            };
            let after = end.and_then(|end| quoted.get(end..)).unwrap_or("x");
            if !after.is_empty() && !after.starts_with(',') {
                let column = text.len() - if end.is_some() { after.len() } else { 0 } + 1;
                return Err(format!(
                    "parse error on line 1, column {column}: extraneous or missing \" in quoted-field"
                ));
            }
            fields.push(field);
            rest = after;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (field, after) = rest.split_at(end);
            if let Some(quote) = field.find('"') {
                let column = text.len() - rest.len() + quote + 1;
                return Err(format!("parse error on line 1, column {column}: bare \" in non-quoted-field"));
            }
            fields.push(field.to_owned());
            rest = after;
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// What a `--volume` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A path of the container: an anonymous volume.
    Anonymous(String),
    /// `source:target[:options]`, as the daemon takes it.
    Bind(String),
}

/// Parses one `--volume`; a source that starts with `.` is relative to `working_directory`.
pub(crate) fn parse_volume(text: &str, working_directory: &Path) -> Result<Volume, String> {
    match text.len() {
        0 => return Err("invalid empty volume spec".to_owned()),
        1 | 2 => return Ok(Volume::Anonymous(text.to_owned())),
        _ => {}
    }
    let sections = sections(text);
    let failure = |why: &str| Err(format!("invalid spec: {text}: {why}"));
    if sections.iter().any(|section| section.is_empty()) {
        return failure("empty section between colons");
    }
    if sections.len() > 3 {
        return failure("too many colons");
    }
    if sections.len() == 1 {
        return Ok(Volume::Anonymous(text.to_owned()));
    }
    let source = sections[0];
    if !source.starts_with('.') {
        return Ok(Volume::Bind(text.to_owned()));
    }
    let rest = &text[source.len()..];
    Ok(Volume::Bind(format!("{}{rest}", clean(&working_directory.join(source)))))
}

/// Splits at colons, except behind a single letter, which Docker's clients take for a Windows drive.
fn sections(text: &str) -> Vec<&str> {
    let mut sections = Vec::new();
    let mut start = 0;
    for (index, _) in text.match_indices(':') {
        let section = &text[start..index];
        if section.chars().count() == 1 && section.chars().all(char::is_alphabetic) {
            continue;
        }
        sections.push(section);
        start = index + 1;
    }
    sections.push(&text[start..]);
    sections
}

/// Removes `.` and `..` from an absolute path by name, as Go's `filepath.Abs` does.
fn clean(path: &Path) -> String {
    let mut names: Vec<&str> = Vec::new();
    let text = path.to_string_lossy();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// Makes a relative source of a bind mount absolute.
pub(crate) fn absolute_source(mount: &mut Mount, working_directory: &Path) {
    if mount.kind == "bind" && mount.source.starts_with('.') {
        mount.source = clean(&working_directory.join(&mount.source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse_mount(text).map_or_else(|error| error, |mount| format!("{mount:?}"))
    }

    #[test]
    fn mounts_are_read() {
        let mount = parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave").unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str(), mount.target.as_str()), ("bind", "/a", "/b"));
        assert!(mount.read_only);
        assert_eq!(mount.bind_options.unwrap().propagation, "rslave");
        let mount = parse_mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        assert_eq!(
            mount.tmpfs_options.unwrap(),
            TmpfsOptions { size_bytes: 1 << 20, mode: 0o1770, options: vec![] }
        );
        let mount = parse_mount("target=/v,source=data,\"volume-opt=o=a,b\",volume-nocopy").unwrap();
        assert_eq!(mount.kind, "volume");
        let options = mount.volume_options.unwrap();
        assert!(options.no_copy);
        assert_eq!(options.driver_config.unwrap().options["o"], "a,b");
        assert!(!parse_mount("dst=/v,readonly=0").unwrap().read_only);
    }

    #[test]
    fn error_texts_are_dockers() {
        assert_eq!(error(""), "EOF");
        assert_eq!(error("a"), "invalid field 'a' must be a key=value pair");
        assert_eq!(error("type=bind"), "target is required");
        assert_eq!(error("type=bind,src=/a,dst=/b,ro=foo"), "invalid value for ro: foo");
        assert_eq!(error("type=bind,src=/a,dst=/b,readonly="), "invalid value for readonly: ");
        assert_eq!(error("type=bind,src=/a,dst=/b,foo=bar"), "unexpected key 'foo' in 'foo=bar'");
        assert_eq!(error("type=tmpfs,target=/a,tmpfs-size=x"), "invalid value for tmpfs-size: x");
        assert_eq!(error("type=tmpfs,target=/a,tmpfs-mode=9"), "invalid value for tmpfs-mode: 9");
        assert_eq!(
            error("type=bind,src=/a,dst=/b,volume-nocopy"),
            "cannot mix 'volume-*' options with mount type 'bind'"
        );
        assert_eq!(
            error("type=bind,src=/a,dst=/b,bind-recursive=foo"),
            "invalid value for bind-recursive: foo (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
        );
        assert_eq!(
            error("type=bind,src=/a,dst=/b,bind-recursive=readonly,readonly"),
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        );
        assert_eq!(
            error("type=bind,\"src=/a"),
            "parse error on line 1, column 18: extraneous or missing \" in quoted-field"
        );
        assert_eq!(error("ty\"pe=bind"), "parse error on line 1, column 3: bare \" in non-quoted-field");
    }

    #[test]
    fn volumes_are_read() {
        let check = |text: &str, expected: Result<Volume, &str>| {
            assert_eq!(parse_volume(text, Path::new("/home/me")), expected.map_err(str::to_owned), "{text}");
        };
        let bind = |text: &str| Ok(Volume::Bind(text.to_owned()));
        check("/data", Ok(Volume::Anonymous("/data".to_owned())));
        check("/a:/b:ro", bind("/a:/b:ro"));
        check("name:/b", bind("name:/b"));
        check("./x/../y:/b:ro", bind("/home/me/y:/b:ro"));
        check(".:/b", bind("/home/me:/b"));
        check("", Err("invalid empty volume spec"));
        check("/a:", Err("invalid spec: /a:: empty section between colons"));
        check("/a:/b:ro:zz", Err("invalid spec: /a:/b:ro:zz: too many colons"));
        check("/a:/b:c:d", bind("/a:/b:c:d"));
    }

    #[test]
    fn no_text_makes_the_parsers_panic() {
        let pieces = [
            "",
            ",",
            "\"",
            "\"\"",
            "=",
            ":",
            "type=",
            "bind",
            "volume",
            "image",
            "tmpfs",
            "src=",
            "dst=/",
            "ro",
            "é",
            "volume-opt=o=",
            "tmpfs-size=",
            "99999999999999999999g",
            "tmpfs-mode=",
            "8",
            "bind-recursive=",
            "readonly",
            "C:",
            "/",
            "..",
            "\u{0}",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let index = usize::try_from(state % pieces.len() as u64).expect("small");
                text.push_str(pieces[index]);
            }
            if let Ok(mount) = parse_mount(&text) {
                assert!(!mount.target.is_empty() && !mount.kind.is_empty(), "{text:?}");
            }
            if let Ok(Volume::Bind(bind)) = parse_volume(&text, Path::new("/home")) {
                assert!(bind.contains(':'), "{text:?}");
            }
        }
    }
}
