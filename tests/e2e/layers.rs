//! Layers that are not self-contained: what stacks of them show must be what applying them one after the other by the OCI
//! specification gives, name by name with all metadata. The oracle is a model of a file system in Python, which makes the
//! archives with `tarfile` too: it shares no code and no idea with the product.

use std::path::Path;

use palan_test_support::daemon::{Daemon, Run, finish};
use palan_test_support::requires;

/// `make DIRECTORY SEED COUNT` writes `N.tar` (an archive for `load`) and `N.json` (what it must show);
/// `check DIRECTORY` compares `N.export.tar` with that.
const ORACLE: &str = r#"
import hashlib, io, json, os, random, sys, tarfile

class Inode:
    def __init__(self, kind, **facts):
        self.kind, self.facts, self.children, self.names = kind, facts, {} if kind == "dir" else None, 0

    def show(self):
        facts = dict(self.facts, kind=self.kind)
        return facts

class Model:
    """A tree; `layer` is what the current layer wrote."""
    def __init__(self):
        self.root, self.written = Inode("dir", mode=0o755, uid=0, gid=0, mtime=None, xattrs={}), set()
        self.followed = set()

    def resolve(self, parts, make):
        """The directory at these names, symlinks followed, missing ones made."""
        here, path, todo, links = self.root, [], list(parts), 0
        stack = [self.root]
        while todo:
            name = todo.pop(0)
            if name == "..":
                if path: path.pop(); stack.pop()
                continue
            child = stack[-1].children.get(name)
            if child is not None and child.kind == "symlink":
                links += 1
                self.followed.add(id(child))
                if links > 20: return None
                target = child.facts["link"]
                if target.startswith("/"): path, stack = [], [self.root]
                todo = [p for p in target.split("/") if p not in ("", ".")] + todo
                continue
            if child is None:
                if not make: return None
                child = Inode("dir", mode=0o755, uid=0, gid=0, mtime=None, xattrs={})
                stack[-1].children[name] = child
                self.touch(path)
            elif child.kind != "dir": return None
            path.append(name); stack.append(child)
        return stack[-1], path

    def begin(self):
        self.written, self.explicit, self.new, self.followed = set(), {}, set(), set()

    def touch(self, path):
        at = self.root
        for name in path:
            at = at.children[name]
        at.facts["mtime"] = None

    def mark(self, path):
        for end in range(1, len(path) + 1):
            self.written.add("/".join(path[:end]))

    def put(self, parts, inode):
        found = self.resolve(parts[:-1], True)
        if found is None: return False
        directory, path = found
        name, full = parts[-1], path + [parts[-1]]
        old = directory.children.get(name)
        if old is not None and old.kind == "dir" and inode.kind == "dir":
            old.facts = inode.facts
            inode = old
        else:
            directory.children[name] = inode
        self.touch(path)
        self.mark(full)
        self.new.add(id(inode))
        if inode.kind == "dir": self.explicit["/".join(full)] = (inode, inode.facts["mtime"])
        return True

    def hide(self, directory, name, path):
        """A whiteout: what lower layers have there goes."""
        key = "/".join(path + [name])
        child = directory.children.get(name)
        if child is None: return
        if key not in self.written:
            del directory.children[name]
            self.touch(path)
        elif child.kind == "dir":
            self.opaque(child, path + [name])

    def opaque(self, directory, path):
        for name in list(directory.children):
            key = "/".join(path + [name])
            if key not in self.written:
                del directory.children[name]
                self.touch(path)
            elif directory.children[name].kind == "dir":
                self.opaque(directory.children[name], path + [name])

    def end(self):
        for inode, mtime in self.explicit.values():
            inode.facts["mtime"] = mtime

    def walk(self, at=None, path=""):
        for name, child in sorted((at or self.root).children.items()):
            full = f"{path}/{name}" if path else name
            yield full, child
            if child.kind == "dir": yield from self.walk(child, full)

NAMES = ["a", "b", "c"]
# What Docker 20.10 can apply: no name twice in a layer, nothing replaced that the same layer wrote, no parent left out.
PLAIN = "plain" in sys.argv

def facts(r):
    return dict(mode=r.choice([0o644, 0o600, 0o755, 0o4755, 0o1777, 0o711]), uid=r.choice([0, 1000, 3000000]),
                gid=r.choice([0, 5]), mtime=r.randrange(1, 2**31),
                xattrs=r.choice([{}, {}, {}, {"user.note": f"v{r.randrange(9)}"}]))

class Writer:
    def __init__(self):
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, path, kind, f=None, content=b"", link="", device=(0, 0)):
        f = f or dict(mode=0o644, uid=0, gid=0, mtime=1, xattrs={})
        t = tarfile.TarInfo("/".join(path))
        t.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE,
                  "char": tarfile.CHRTYPE, "hard": tarfile.LNKTYPE}[kind]
        t.mode, t.uid, t.gid, t.mtime, t.linkname, t.size = f["mode"], f["uid"], f["gid"], f["mtime"], link, len(content)
        t.devmajor, t.devminor = device
        t.pax_headers = {f"SCHILY.xattr.{k}": v for k, v in f["xattrs"].items()}
        self.tar.addfile(t, io.BytesIO(content))

    def finish(self):
        self.tar.close()
        return self.out.getvalue()

def one_layer(r, model, bottom):
    w = Writer()
    model.begin()
    if bottom or r.random() < 0.6:
        # With it a layer can stand alone.
        f = facts(r)
        model.put(["t"], Inode("dir", **f)); w.add(["t"], "dir", f)
    aliased, names = False, {"t"}
    for _ in range(r.randrange(3, 14) * (8 if PLAIN else 1)):
        parts = ["t"] + [r.choice(NAMES) for _ in range(r.choice([1, 1, 2, 2, 3]))]
        what = r.choice(["file", "file", "dir", "dir", "dir", "symlink", "fifo", "char", "hard", "whiteout", "whiteout", "opaque"])
        found = model.resolve(parts[:-1], False)
        # A second name for what is written, and what it hides, is more than any program that makes layers writes.
        through_link = found is not None and found[1] != parts[:-1]
        if through_link and parts[-1] in found[0].children: continue
        # Nor does one write through a link and then replace it.
        old = found and found[0].children.get(parts[-1])
        if old and id(old) in model.followed: continue
        if PLAIN:
            if found is None: continue
            key = "/".join(found[1] + parts[-1:])
            if key in model.written or any(w.startswith(key + "/") for w in model.written): continue
            if "/".join(parts) in names: continue
            names.add("/".join(parts))
        if what in ("whiteout", "opaque"):
            if bottom: continue
            if what == "opaque":
                found = model.resolve(parts, False)
                if found is None or found[1] != parts or aliased: continue
                directory, path = found
                if PLAIN and "/".join(path) in model.written: continue
                # What the layer only implies has no metadata of its own to keep.
                if "/".join(path) in model.written and "/".join(path) not in model.explicit: continue
                w.add(parts + [".wh..wh..opq"], "file")
                model.opaque(directory, path)
                if "/".join(path) not in model.explicit: pass
            else:
                if found is None or found[1] != parts[:-1] or aliased: continue
                directory, path = found
                key = "/".join(path + [parts[-1]])
                if parts[-1] not in directory.children: continue
                child = directory.children[parts[-1]]
                if key in model.written and child.kind == "dir" and key not in model.explicit: continue
                w.add(parts[:-1] + [".wh." + parts[-1]], "file")
                model.hide(directory, parts[-1], path)
            continue
        # A name below something that is no directory: tar programs differ, so there is none.
        if found is None and not can_make(model, parts[:-1]): continue
        aliased = aliased or through_link or has_link(model, parts[:-1])
        if what == "hard":
            targets = [(p, i) for p, i in model.walk() if i.kind == "file"]
            if not targets: continue
            target, inode = r.choice(targets)
            count = sum(1 for _, i in model.walk() if i is inode)
            if count > 1 and id(inode) not in model.new: continue
            if found and parts[-1] in found[0].children and found[0].children[parts[-1]] is inode: continue
            own = found and "/".join(found[1] + [parts[-1]])
            if own and (target == own or target.startswith(own + "/")): continue
            w.add(parts, "hard", inode.facts, link=target)
            model.put(parts, inode)
            continue
        f = facts(r)
        if what == "symlink":
            f["mode"], f["xattrs"] = 0o777, {}
            link = r.choice(["a", "b", "../a", "/t/b", "c/a", "nowhere"])
            w.add(parts, "symlink", f, link=link)
            model.put(parts, Inode("symlink", **dict(f, link=link)))
        elif what == "file":
            content = r.randbytes(r.randrange(0, 700))
            w.add(parts, "file", f, content)
            model.put(parts, Inode("file", **dict(f, content=hashlib.sha256(content).hexdigest())))
        elif what == "char":
            f["xattrs"] = {}
            w.add(parts, "char", f, device=(1, 3))
            model.put(parts, Inode("char", **dict(f, device=[1, 3])))
        else:
            if what == "fifo": f["xattrs"] = {}
            w.add(parts, what, f)
            model.put(parts, Inode(what, **f))
    model.end()
    return w.finish()

def has_link(model, parts):
    at = model.root
    for name in parts:
        at = at.children.get(name) if at.kind == "dir" else None
        if at is None: return False
        if at.kind == "symlink": return True
    return False

def can_make(model, parts):
    """Whether a parent that is missing can be made: nothing but directories, or links to some, on the way."""
    for end in range(1, len(parts) + 1):
        found = model.resolve(parts[:end - 1], False)
        if found is None: return False
        child = found[0].children.get(parts[end - 1])
        if child is None: return True
        if child.kind == "symlink":
            if model.resolve(parts[:end], False) is None: return False
        elif child.kind != "dir": return False
    return True

def expected(model):
    groups, shown = {}, {}
    for path, inode in model.walk():
        groups.setdefault(id(inode), path)
        shown[path] = dict(inode.show(), first=groups[id(inode)])
    return shown

def archive(path, layers, name):
    digests = [hashlib.sha256(l).hexdigest() for l in layers]
    config = json.dumps({"architecture": sys.argv[5] if len(sys.argv) > 5 else "amd64", "os": "linux", "config": {"Cmd": ["x"]},
                         "rootfs": {"type": "layers", "diff_ids": ["sha256:" + d for d in digests]}}).encode()
    files = {f"{i}.tar": l for i, l in enumerate(layers)}
    files["config.json"] = config
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": [name],
                                          "Layers": [f"{i}.tar" for i in range(len(layers))]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            t = tarfile.TarInfo(name); t.size = len(content)
            tar.addfile(t, io.BytesIO(content))

def observed(path):
    shown = {}
    with tarfile.open(path) as tar:
        for t in tar:
            name = t.name.rstrip("/")
            if name != "t" and not name.startswith("t/"): continue
            if t.islnk():
                shown[name] = dict(shown[t.linkname])
                continue
            kind = "file" if t.isfile() else "dir" if t.isdir() else "symlink" if t.issym() else "fifo" if t.isfifo() else "char"
            own = dict(kind=kind, mode=t.mode & 0o7777, uid=t.uid, gid=t.gid, mtime=int(t.mtime), first=name,
                       xattrs={k[len("SCHILY.xattr."):]: v for k, v in t.pax_headers.items() if k.startswith("SCHILY.xattr.")})
            if kind == "file": own["content"] = hashlib.sha256(tar.extractfile(t).read()).hexdigest()
            if kind == "symlink": own["link"] = t.linkname
            if kind == "char": own["device"] = [t.devmajor, t.devminor]
            shown[name] = own
    return shown

def make(directory, seed, count):
    for number in range(count):
        r, model = random.Random(seed * 1000 + number), Model()
        layers = [one_layer(r, model, n == 0) for n in range(r.randrange(2, 6))]
        archive(f"{directory}/{number}.tar", layers, f"stack:{number}")
        with open(f"{directory}/{number}.json", "w") as out: json.dump(expected(model), out)

def check(directory):
    wrong, names = 0, 0
    for file in sorted(os.listdir(directory)):
        if not file.endswith(".json"): continue
        number = file[:-5]
        want, got = json.load(open(f"{directory}/{file}")), observed(f"{directory}/{number}.export.tar")
        names += len(want)
        for path in sorted(set(want) | set(got)):
            one, other = want.get(path), got.get(path)
            if one and other and one["mtime"] is None: other = dict(other, mtime=None)
            # Docker 20.10 exports no attributes but capabilities.
            if PLAIN and one and other: one, other = dict(one, xattrs={}), dict(other, xattrs={})
            if one != other:
                wrong += 1
                print(f"stack {number}: {path}\n  expected {one}\n  shown    {other}")
    print(f"{names} names, {wrong} wrong")

if sys.argv[1] == "make": make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else: check(sys.argv[2])
"#;

#[expect(clippy::disallowed_methods, reason = "the oracle is another program")]
fn oracle(arguments: &[&str]) -> Run {
    let mut python = std::process::Command::new("python3");
    finish(python.args(["-c", ORACLE]).args(arguments), None).ok()
}

/// How an engine is called.
type Engine<'a> = dyn Fn(&[&str]) -> Run + 'a;

/// Loads each stack, and exports what a container of it sees. Returns what could not be loaded.
fn through(run: &Engine, directory: &Path, count: usize) -> Vec<String> {
    let mut refused = Vec::new();
    for number in 0..count {
        let archive = directory.join(format!("{number}.tar")).display().to_string();
        let loaded = run(&["load", "-q", "-i", &archive]);
        if loaded.code != 0 {
            refused.push(format!("stack {number}: {}", loaded.stderr));
            continue;
        }
        run(&["create", "--name", "look", "--network", "none", &format!("stack:{number}")]).ok();
        let export = directory.join(format!("{number}.export.tar")).display().to_string();
        run(&["export", "-o", &export, "look"]).ok();
        run(&["rm", "look"]).ok();
        run(&["rmi", &format!("stack:{number}")]).ok();
    }
    refused
}

/// A directory with stacks and what they must show, and the seed that they come from.
fn stacks(daemon: &Daemon, count: usize, kind: &str) -> (std::path::PathBuf, String) {
    let seed = std::env::var("PALAN_TEST_SEED").unwrap_or_else(|_| "20".to_owned());
    let directory = daemon.scratch().join("stacks");
    std::fs::create_dir(&directory).unwrap();
    let architecture = palan_test_support::image::host_architecture();
    oracle(&["make", &directory.display().to_string(), &seed, &count.to_string(), architecture, kind]);
    (directory, seed)
}

#[test]
fn stacks_of_any_layers_show_what_the_specification_says() {
    requires!(root);
    requires!(program "python3");
    const COUNT: usize = 60;
    let daemon = Daemon::start();
    let (directory, seed) = stacks(&daemon, COUNT, "any");
    assert_eq!(through(&|arguments| daemon.palan(arguments), &directory, COUNT), [""; 0]);
    let verdict = oracle(&["check", &directory.display().to_string()]);
    assert!(verdict.line().ends_with(", 0 wrong"), "seed {seed}\n{verdict}");
}

/// Docker and Palan show the same for what Docker can apply. Its `vfs` driver applies a layer over what is below, as the specification
/// has it and as Docker 29 does; `overlay2` applies it alone, so that it refuses links through lower layers.
#[test]
fn docker_shows_the_same() {
    requires!(root);
    requires!(program "python3");
    requires!(program "dockerd");
    requires!(program "docker");
    const COUNT: usize = 40;
    let daemon = Daemon::start();
    let docker = crate::docker_daemon::Docker::start(&daemon, "vfs");
    let (directory, seed) = stacks(&daemon, COUNT, "plain");
    let place = directory.display().to_string();
    let engines: [&Engine; 2] = [&|arguments| docker.run(arguments), &|arguments| daemon.palan(arguments)];
    for run in engines {
        assert_eq!(through(run, &directory, COUNT), [""; 0]);
        let verdict = oracle(&["check", &place, "plain"]);
        assert!(verdict.line().ends_with(", 0 wrong"), "seed {seed}\n{verdict}");
        let names: usize = verdict.line().split(' ').next().unwrap().parse().unwrap();
        assert!(names > COUNT * 5, "too little to compare: {names}");
    }
}
