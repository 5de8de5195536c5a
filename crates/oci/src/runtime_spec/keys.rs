//! Names of members in another case.
//!
//! Go takes `pagesize` for `pageSize`, so runc does, and there are bundles that rely on it (runc's own tests write some). Here the names
//! are brought into the specification's case before they are read, in one pass over the text: the ordinary text costs a look at
//! each name and no copy.

use std::borrow::Cow;

/// Every name that a structure of the specification has, sorted.
const KNOWN: &[&str] = &[
    "access",
    "action",
    "additionalGids",
    "allow",
    "ambient",
    "annotations",
    "apparmorProfile",
    "architectures",
    "args",
    "blockIO",
    "bounding",
    "burst",
    "capabilities",
    "cgroupsPath",
    "checkBeforeUpdate",
    "class",
    "classID",
    "closID",
    "consoleSize",
    "containerID",
    "cpu",
    "cpus",
    "createContainer",
    "createRuntime",
    "cwd",
    "deadline",
    "defaultAction",
    "defaultErrnoRet",
    "destination",
    "devices",
    "disableOOMKiller",
    "domain",
    "domainname",
    "effective",
    "enableMonitoring",
    "env",
    "errnoRet",
    "execCPUAffinity",
    "fileMode",
    "final",
    "flags",
    "gid",
    "gidMappings",
    "hard",
    "hcaHandles",
    "hcaObjects",
    "height",
    "hooks",
    "hostID",
    "hostname",
    "hugepageLimits",
    "idle",
    "index",
    "inheritable",
    "initial",
    "intelRdt",
    "ioPriority",
    "kernel",
    "kernelTCP",
    "l3CacheSchema",
    "leafWeight",
    "limit",
    "linux",
    "listenerMetadata",
    "listenerPath",
    "major",
    "maskedPaths",
    "memBwSchema",
    "memory",
    "memoryPolicy",
    "mems",
    "minor",
    "mode",
    "mountLabel",
    "mounts",
    "name",
    "names",
    "namespaces",
    "nanosecs",
    "netDevices",
    "network",
    "nice",
    "noNewPrivileges",
    "nodes",
    "ociVersion",
    "oomScoreAdj",
    "op",
    "options",
    "pageSize",
    "path",
    "period",
    "permitted",
    "personality",
    "pids",
    "policy",
    "poststart",
    "poststop",
    "prestart",
    "priorities",
    "priority",
    "process",
    "quota",
    "rate",
    "rdma",
    "readonly",
    "readonlyPaths",
    "realtimePeriod",
    "realtimeRuntime",
    "reservation",
    "resources",
    "rlimits",
    "root",
    "rootfsPropagation",
    "runtime",
    "scheduler",
    "schemata",
    "seccomp",
    "secs",
    "selinuxLabel",
    "shares",
    "size",
    "soft",
    "source",
    "startContainer",
    "swap",
    "swappiness",
    "syscalls",
    "sysctl",
    "terminal",
    "throttleReadBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteBpsDevice",
    "throttleWriteIOPSDevice",
    "timeOffsets",
    "timeout",
    "type",
    "uid",
    "uidMappings",
    "umask",
    "unified",
    "useHierarchy",
    "user",
    "username",
    "value",
    "valueTwo",
    "weight",
    "weightDevice",
    "width",
];

/// Objects whose names are the user's.
const FREE: [&str; 6] = ["annotations", "netDevices", "rdma", "sysctl", "timeOffsets", "unified"];

/// The JSON text with the names that differ from known ones only by case in the specification's case. What is no JSON is
/// left for the reader to refuse.
pub(super) fn in_the_specifications_case(json: &[u8]) -> Cow<'_, [u8]> {
    let mut text = Cow::Borrowed(json);
    // For each open object or array: whether the names in it are the user's.
    let mut open: Vec<bool> = Vec::new();
    // Whether the last name announces an object of that kind.
    let mut announced = false;
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'{' => open.push(std::mem::take(&mut announced)),
            b'[' => open.push(false),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let Some(end) = end_of_string(json, at) else { break };
                let name = at..end;
                at = end + 1;
                let after = json[at..].iter().find(|byte| !byte.is_ascii_whitespace());
                if after != Some(&b':') || open.last().copied().unwrap_or(false) {
                    continue;
                }
                let known = known(&json[name.clone()]);
                announced = known.is_some_and(|known| FREE.contains(&known));
                if let Some(known) = known.filter(|known| known.as_bytes() != &json[name.clone()]) {
                    text.to_mut()[name].copy_from_slice(known.as_bytes());
                }
            }
            _ => {}
        }
    }
    text
}

/// Where the string that starts at `start`, after its quotation mark, has its last one.
fn end_of_string(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match json.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn known(name: &[u8]) -> Option<&'static str> {
    match KNOWN.binary_search_by(|known| known.as_bytes().cmp(name)) {
        Ok(index) => Some(KNOWN[index]),
        Err(_) => KNOWN.iter().copied().find(|known| known.as_bytes().eq_ignore_ascii_case(name)),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::{Deserializer, Error as _, Visitor, value::Error};
    use serde::forward_to_deserialize_any;

    use super::*;
    use crate::runtime_spec as spec;

    fn folded(json: &str) -> String {
        String::from_utf8(in_the_specifications_case(json.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn names_are_the_specifications() {
        let other = r#"{"OCIVersion":"1.0","Process":{"Args":["Cwd",":"],"cwd" : "/"},"LINUX":{"resources":{"hugepageLimits":[{"pagesize":"2MB"}]}}}"#;
        let json = r#"{"ociVersion":"1.0","process":{"args":["Cwd",":"],"cwd" : "/"},"linux":{"resources":{"hugepageLimits":[{"pageSize":"2MB"}]}}}"#;
        assert_eq!(folded(other), json);
        assert!(matches!(in_the_specifications_case(json.as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn names_of_users_are_theirs() {
        for json in [
            r#"{"annotations":{"Process":"a \" \\","TYPE":""},"unknown":{"x":1}}"#,
            r#"{"linux":{"sysctl":{"Kernel":"1"},"resources":{"unified":{"Memory":"1"}}}}"#,
            r#"{"linux":{"netDevices":{"Memory":{"name":"x"}}}}"#,
        ] {
            assert_eq!(folded(json), json);
        }
        let json = folded(r#"{"linux":{"netDevices":{"Memory":{"Name":"x"}},"Devices":[]}}"#);
        assert_eq!(json, r#"{"linux":{"netDevices":{"Memory":{"name":"x"}},"devices":[]}}"#);
    }

    #[test]
    fn what_is_no_json_stays() {
        for json in ["", "{", "\"", "\"\\", "]}", "{\"Process", "{\"Process\"", "{\"Process\" ", "null"] {
            assert_eq!(folded(json), json);
        }
    }

    /// Fails with the names of the structure that it is asked for.
    struct Probe;

    impl<'de> Deserializer<'de> for Probe {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(Error::custom("no structure"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Error> {
            Err(Error::custom(fields.join(",")))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    macro_rules! fields_of {
        ($($structure:ident)*) => {
            [$(spec::$structure::deserialize(Probe).unwrap_err().to_string()),*]
        };
    }

    #[test]
    fn every_name_is_known() {
        assert!(KNOWN.is_sorted());
        let all = fields_of![
            Spec Process ConsoleSize User Capabilities Rlimit Scheduler IoPriority ExecCpuAffinity Root Mount Hooks Hook
            Linux IdMapping Namespace Device NetDevice Personality IntelRdt MemoryPolicy TimeOffset Resources DeviceRule
            Memory Cpu Pids BlockIo WeightDevice ThrottleDevice HugepageLimit NetworkResources InterfacePriority RdmaLimit
            Seccomp SeccompSyscall SeccompArg
        ];
        for name in all.iter().flat_map(|fields| fields.split(',')) {
            assert!(KNOWN.binary_search(&name).is_ok(), "{name}");
        }
    }
}
