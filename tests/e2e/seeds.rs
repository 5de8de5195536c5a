//! What courses on containers let their readers type, with the outputs that they print: each must come out to the letter,
//! from `palan` and from the `docker` CLI alike.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options, Run};
use palan_test_support::image::{Image, ImageBuilder, TarBuilder, noise};
use palan_test_support::registry::Registry;
use palan_test_support::{free_port, requires, wait_until};
use serde_json::json;

use crate::images::{busybox, load};

/// A command line of Docker's and who runs it.
#[derive(Clone, Copy)]
struct Witness<'a> {
    name: &'static str,
    daemon: &'a Daemon,
}

impl Witness<'_> {
    /// Runs a command line, without the leading `docker`; words are split at blanks.
    #[track_caller]
    fn run(self, line: &str) -> Run {
        self.words(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[track_caller]
    fn words(self, words: &[&str]) -> Run {
        if self.name == "docker" { self.daemon.docker(words) } else { self.daemon.palan(words) }
    }

    /// Runs a command that must succeed and print exactly this, where `ID` stands for any id.
    #[track_caller]
    fn shows(self, line: &str, expected: &str) {
        let run = self.run(line).ok();
        assert_eq!(masked(&run.stdout), expected, "{} {line}\n{run}", self.name);
    }

    /// Runs a command that must fail with this code and say exactly this; `NAME` stands for the command line's own.
    #[track_caller]
    fn fails(self, line: &str, code: i32, expected: &str) {
        let run = self.run(line);
        assert_eq!(run.code, code, "{run}");
        assert_eq!(masked(&run.stderr), expected.replace("NAME", self.name), "{} {line}\n{run}", self.name);
    }
}

/// Both command lines; `docker` has to be installed.
fn both(daemon: &Daemon) -> [Witness<'_>; 2] {
    ["palan", "docker"].map(|name| Witness { name, daemon })
}

/// The text with every id, long or short, replaced by `ID`.
fn masked(text: &str) -> String {
    let is_word = |letter: char| letter.is_ascii_alphanumeric();
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|letter| !is_word(letter)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let is_id = matches!(word.len(), 12 | 64)
            && word.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        out.push_str(before);
        out.push_str(if is_id { "ID" } else { word });
        rest = after;
    }
    out + rest
}

/// A daemon whose images come from a registry that stands for Docker Hub.
fn hub() -> (Daemon, Registry) {
    let registry = Registry::start();
    let settings = format!(r#""registry-mirrors": ["{}"]"#, registry.url());
    (Daemon::start_with(Options { settings: Some(settings), ..Options::default() }), registry)
}

/// A web server behind an entry point, on an exposed port.
fn nginx() -> Image {
    let start = "#!/bin/sh\nexec \"$@\"\n";
    let serve = "trap 'exit 0' QUIT TERM; while :; do echo 'It works!' | nc -l -p 80 & wait $!; done";
    busybox()
        .layer(TarBuilder::new().file("docker-entrypoint.sh", 0o755, start).finish())
        .config("Entrypoint", json!(["/docker-entrypoint.sh"]))
        .config("Cmd", json!(["sh", "-c", serve]))
        .config("ExposedPorts", json!({"80/tcp": {}}))
        .config("StopSignal", json!("SIGQUIT"))
        .build()
}

/// The example of ENTRYPOINT with CMD.
fn cowsay() -> ImageBuilder {
    let program = "#!/bin/sh\nshift 2\necho \" _____\"\necho \"< $* >\"\necho \" -----\"\n";
    let add = "/bin/sh -c #(nop) ADD file:122ad323412c2e70b6b2b5d3c6dcf9b5d8c5 in / ";
    busybox()
        .layer(TarBuilder::new().file("usr/games/cowsay", 0o755, program).finish())
        .config("Entrypoint", json!(["/usr/games/cowsay", "-e", "%%"]))
        .config("Cmd", json!(["hello world"]))
        .history(json!([
            {"created": "2021-10-16T00:37:47Z", "created_by": add},
            {"created": "2021-10-16T00:37:47Z", "created_by": "/bin/sh -c #(nop)  CMD [\"bash\"]", "empty_layer": true},
            {"created": "2021-10-17T00:37:47Z", "created_by": "apt-get -y install cowsay", "comment": "by hand"},
            {"created": "2021-10-17T00:37:47Z", "empty_layer": true,
             "created_by": "/bin/sh -c #(nop)  ENTRYPOINT [\"/usr/games/cowsay\" \"-e\" \"%%\"]"},
        ]))
}

#[track_caller]
fn fetch(port: &str) -> String {
    let mut text = String::new();
    let served = wait_until(Duration::from_secs(30), || {
        text.clear();
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream.write_all(b"\n").ok();
        stream.read_to_string(&mut text).ok();
        !text.is_empty()
    });
    assert!(served, "nothing is served on port {port}");
    text
}

#[test]
fn pulling_an_image() {
    requires!(root);
    requires!(program "docker");
    let (daemon, registry) = hub();
    let layers = (0..5).fold(busybox(), |image, number| {
        image.layer(TarBuilder::new().file(&format!("part{number}"), 0o644, noise(4096, number)).finish())
    });
    registry.push("library/redis", "latest", &layers.build());
    for witness in both(&daemon) {
        let pulled = witness.run("pull redis").ok();
        let text = masked(&pulled.stdout);
        let head = "Using default tag: latest\nlatest: Pulling from library/redis\n";
        let tail = "Digest: sha256:ID\nStatus: Downloaded newer image for redis:latest\ndocker.io/library/redis:latest\n";
        assert!(text.starts_with(head) && text.ends_with(tail), "{pulled}");
        assert_eq!(text.matches("ID: Pull complete\n").count(), 6, "{pulled}");
        witness.shows(
            "pull redis",
            "Using default tag: latest\nlatest: Pulling from library/redis\nDigest: sha256:ID\n\
             Status: Image is up to date for redis:latest\ndocker.io/library/redis:latest\n",
        );
        witness.shows("pull -q redis", "docker.io/library/redis:latest\n");
        witness.run("rmi redis").ok();
    }
}

#[test]
fn running_pulls_first() {
    requires!(root);
    requires!(program "docker");
    let (daemon, registry) = hub();
    let hello = busybox().config("Cmd", json!(["echo", "Hello Classroom!"])).build();
    registry.push("library/hello", "latest", &hello);
    for witness in both(&daemon) {
        let run = witness.run("run --rm hello").ok();
        assert_eq!(run.stdout, "Hello Classroom!\n", "{run}");
        assert_eq!(
            masked(&run.stderr),
            "Unable to find image 'hello:latest' locally\nlatest: Pulling from library/hello\n\
             ID: Pulling fs layer\nID: Verifying Checksum\nID: Download complete\nID: Pull complete\n\
             Digest: sha256:ID\nStatus: Downloaded newer image for hello:latest\n",
            "{run}"
        );
        witness.shows("run --rm hello ls -a /root", ".\n..\n");
        witness.shows("run --rm hello ls -d /.dockerenv", "/.dockerenv\n");
        witness.shows(
            "rmi hello",
            "Untagged: hello:latest\nUntagged: hello@sha256:ID\nDeleted: sha256:ID\nDeleted: sha256:ID\n",
        );
    }
}

#[test]
fn several_names_and_the_list_of_images() {
    requires!(root);
    requires!(program "docker");
    let (daemon, registry) = hub();
    let image = nginx();
    registry.push("library/nginx", "latest", &image);
    registry.push("library/nginx", "1.15", &image);
    for witness in both(&daemon) {
        witness.run("pull nginx:1.15").ok();
        // Another name of an image that is here has no layers to tell of.
        witness.shows(
            "pull nginx",
            "Using default tag: latest\nlatest: Pulling from library/nginx\nDigest: sha256:ID\n\
             Status: Downloaded newer image for nginx:latest\ndocker.io/library/nginx:latest\n",
        );
        witness.shows("tag nginx:latest my-app:1.0", "");
        witness.run("tag nginx my-registry:8080/team/my-app").ok();
        let rows = witness.run("images").ok().stdout;
        let head = "REPOSITORY                     TAG       IMAGE ID       CREATED       SIZE\n";
        assert!(rows.starts_with(head), "{rows}");
        let names: Vec<String> = rows
            .lines()
            .skip(1)
            .map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(":"))
            .collect();
        let expected = ["my-app:1.0", "my-registry:8080/team/my-app:latest", "nginx:1.15", "nginx:latest"];
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
        for (line, rows) in [
            ("images my-app:1.0", "my-app:1.0\n"),
            ("image ls my-app", "my-app:1.0\n"),
            ("images nginx:1.15", "nginx:1.15\n"),
            ("image ls ubuntu", ""),
        ] {
            witness.shows(&format!("{line} --format {{{{.Repository}}}}:{{{{.Tag}}}}"), rows);
        }
        witness.shows("image ls ubuntu", "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
        witness.fails("tag nope x", 1, "Error response from daemon: No such image: nope:latest\n");
        witness.run("rmi my-registry:8080/team/my-app").ok();
        witness.shows(
            "rmi my-app:1.0 nginx:1.15 nginx",
            "Untagged: my-app:1.0\nUntagged: nginx:1.15\nUntagged: nginx:latest\nUntagged: nginx@sha256:ID\n\
             Deleted: sha256:ID\nDeleted: sha256:ID\nDeleted: sha256:ID\n",
        );
        witness.fails("image rm nginx", 1, "Error response from daemon: No such image: nginx:latest\n");
    }
}

#[test]
fn entry_point_and_command() {
    requires!(root);
    requires!(program "docker");
    let daemon = Daemon::start();
    load(&daemon, cowsay(), "mycowsay");
    for witness in both(&daemon) {
        witness.shows("run --name mytest --network none mycowsay", " _____\n< hello world >\n -----\n");
        witness.shows("run --rm --network none mycowsay salut", " _____\n< salut >\n -----\n");
        witness.shows("start -a mytest", " _____\n< hello world >\n -----\n");
        witness.shows("logs -n 3 mytest", " _____\n< hello world >\n -----\n");
        let command = "container ls -a --no-trunc --format {{.Names}}|{{.Command}}";
        witness.shows(command, "mytest|\"/usr/games/cowsay -e %% 'hello world'\"\n");
        witness.shows("rm mytest", "mytest\n");
    }
}

#[test]
fn the_history_of_an_image() {
    requires!(root);
    requires!(program "docker");
    let daemon = Daemon::start();
    load(&daemon, cowsay(), "mycowsay");
    let years = |text: &str| text.replace("3 years ago", "N years ago").replace("4 years ago", "N years ago");
    for witness in both(&daemon) {
        let history = witness.run("history mycowsay").ok().stdout;
        let rows: Vec<String> =
            masked(&years(&history)).lines().map(|row| row.trim_end().to_owned()).collect();
        assert_eq!(
            rows[0],
            "IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT"
        );
        assert!(rows[1].starts_with("ID   "), "{history}");
        assert!(rows[1].contains("   /bin/sh -c #(nop)  ENTRYPOINT [\"/usr/games/c…   0B"), "{history}");
        assert!(rows[2].starts_with("<missing>      ") && rows[2].ends_with("by hand"), "{history}");
        assert!(rows[3].contains("   /bin/sh -c #(nop)  CMD [\"bash\"]                 0B"), "{history}");
        assert!(rows[4].contains("   /bin/sh -c #(nop) ADD file:122ad323412c2e70b…   "), "{history}");
        assert_eq!(rows.len(), 5, "{history}");
    }
}

#[test]
fn a_web_server_on_a_random_port() {
    requires!(root);
    requires!(program "docker");
    let (daemon, registry) = hub();
    registry.push("library/nginx", "latest", &nginx());
    for witness in both(&daemon) {
        let id = witness.run("run -d -P --name web nginx").ok().line().to_owned();
        let port = witness.run(&format!("port {} 80", &id[..12])).ok().stdout;
        let port = port.lines().next().unwrap();
        let port = port.strip_prefix("0.0.0.0:").unwrap_or_else(|| panic!("{port}"));
        assert_eq!(fetch(port), "It works!\n");
        witness.shows("port web", &format!("80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}\n"));
        let ps = witness.run("ps").ok().stdout;
        let head = "CONTAINER ID   IMAGE     COMMAND                  CREATED                  STATUS                  PORTS";
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(ps.lines().next().unwrap()), words(&format!("{head} NAMES")));
        let row = ps.lines().nth(1).unwrap();
        let start = format!("{}   nginx     \"/docker-entrypoint.…\"   ", &id[..12]);
        assert!(row.starts_with(&start), "{ps}");
        let ports = format!("   0.0.0.0:{port}->80/tcp, [::]:{port}->80/tcp   web");
        assert!(row.ends_with(&ports), "{ps}");
        let address = ["inspect", "--format", "{{ .NetworkSettings.IPAddress }}", "web"];
        let address = witness.words(&address).ok().line().to_owned();
        let network = daemon.gateway().rsplit_once('.').unwrap().0;
        assert!(address.starts_with(&format!("{network}.")), "{address}");
        witness.shows("exec web hostname", "ID\n");
        let hostname = witness.run("exec web hostname").ok();
        assert_eq!(hostname.line(), &id[..12]);
        let top = witness.run("top web").ok().stdout;
        let head = "UID PID PPID C STIME TTY TIME CMD";
        assert_eq!(words(top.lines().next().unwrap()), words(head));
        witness.fails(
            "rm web",
            1,
            "Error response from daemon: cannot remove container \"web\": container is running: \
             stop the container before removing or force remove\n",
        );
        witness.shows("stop web", "web\n");
        witness.shows("ps -q", "");
        witness.shows("rm web", "web\n");
        witness.fails("rm web", 1, "Error response from daemon: No such container: web\n");
    }
}

#[test]
fn a_chosen_port_and_a_forced_removal() {
    requires!(root);
    requires!(program "docker");
    let (daemon, registry) = hub();
    registry.push("library/nginx", "latest", &nginx());
    for witness in both(&daemon) {
        let port = free_port().to_string();
        witness.shows(&format!("run -q -d --name my-nginx -p {port}:80 nginx"), "ID\n");
        assert_eq!(fetch(&port), "It works!\n");
        witness.fails(
            "run --name my-nginx nginx",
            125,
            "NAME: Error response from daemon: Conflict. The container name \"/my-nginx\" is already in use by \
             container \"ID\". You have to remove (or rename) that container to be able to reuse that name.\n\n\
             Run 'NAME run --help' for more information\n",
        );
        witness.shows("rm -f my-nginx", "my-nginx\n");
        witness.shows("ps -aq", "");
    }
}

#[test]
fn a_container_that_is_made_started_and_stopped() {
    requires!(root);
    requires!(program "docker");
    let daemon = crate::images::daemon();
    for witness in both(&daemon) {
        witness.shows("container create --name made --init --network none bb sleep 100", "ID\n");
        let row = "container ls -a --format {{.Names}}|{{.Image}}|{{.Command}}|{{.State}}";
        witness.shows(row, "made|bb|\"sleep 100\"|created\n");
        witness.shows("start made", "made\n");
        witness.shows(row, "made|bb|\"sleep 100\"|running\n");
        witness.shows("stop made", "made\n");
        witness.shows(row, "made|bb|\"sleep 100\"|exited\n");
        witness.fails("exec made ls", 1, "Error response from daemon: container ID is not running\n");
        witness.shows("restart made", "made\n");
        witness.shows("kill made", "made\n");
        witness.shows("wait made", "137\n");
        witness.shows("container rm made", "made\n");
        witness.run("run --name done --network none bb true").ok();
        witness.shows("container prune -f", "Deleted Containers:\nID\n\nTotal reclaimed space: 0B\n");
        for command in ["start", "stop", "kill", "restart", "rm", "logs", "top", "port", "wait", "attach"] {
            let run = witness.run(&format!("{command} nope"));
            let first = run.stderr.lines().next().unwrap_or_default().to_owned();
            assert_eq!(
                (first.as_str(), run.code),
                ("Error response from daemon: No such container: nope", 1)
            );
        }
        witness.fails("inspect nope", 1, "Error: No such object: nope\n");
    }
}

#[test]
fn data_outside_of_the_container() {
    requires!(root);
    requires!(program "docker");
    let daemon = Daemon::start();
    load(&daemon, busybox().file("app/readme", 0o644, "from the image"), "debian");
    for witness in both(&daemon) {
        // A volume need not be made before, and takes over what the image has there.
        witness.shows(
            "run -d --name devtest --network none --mount source=my-vol,target=/app debian sleep 100",
            "ID\n",
        );
        witness.shows("exec devtest cat /app/readme", "from the image");
        witness.shows("volume ls", "DRIVER    VOLUME NAME\nlocal     my-vol\n");
        witness.fails(
            "volume rm my-vol",
            1,
            "Error response from daemon: remove my-vol: volume is in use - [ID]\n",
        );
        witness.shows("rm -f devtest", "devtest\n");
        let read_only = "run --rm --network none --mount source=my-vol,target=/app,readonly debian";
        let written = witness.run(&format!("{read_only} touch /app/x"));
        written.fails(1, "Read-only file system");
        witness.shows("volume rm my-vol", "my-vol\n");
        witness.fails("volume rm my-vol", 1, "Error response from daemon: get my-vol: no such volume\n");
        // A bind mount hides what the image has there, and must have a source.
        let code = daemon.scratch().join(format!("code-{}", witness.name));
        std::fs::create_dir(&code).unwrap();
        std::fs::write(code.join("main.c"), "int").unwrap();
        let mount = format!("--mount type=bind,source={},target=/app", code.display());
        witness.shows(&format!("run -d -it --name devtest --network none {mount} debian:latest"), "ID\n");
        witness.shows("exec devtest ls /app", "main.c\n");
        witness.shows("rm -f devtest", "devtest\n");
        witness.fails(
            "run --mount type=bind,source=/nope,target=/app debian",
            125,
            "NAME: Error response from daemon: invalid mount config for type \"bind\": \
             bind source path does not exist: /nope\n\nRun 'NAME run --help' for more information\n",
        );
        witness.shows("volume ls -q", "");
        witness.shows("volume create my-vol", "my-vol\n");
        witness.shows("volume rm my-vol", "my-vol\n");
    }
}

#[test]
fn the_networks_that_are_there() {
    requires!(root);
    requires!(program "docker");
    let daemon = Daemon::start();
    for witness in both(&daemon) {
        witness.shows(
            "network ls",
            "NETWORK ID     NAME      DRIVER    SCOPE\n\
             ID   bridge    bridge    local\nID   host      host      local\nID   none      null      local\n",
        );
        let run = witness.run("network rm mine");
        assert!(run.code == 1 && run.stderr.contains("network mine not found"), "{run}");
    }
}

#[test]
fn events_of_images_and_sessions() {
    requires!(root);
    requires!(program "docker");
    let daemon = crate::images::daemon();
    for witness in both(&daemon) {
        let image = witness.words(&["inspect", "--format", "{{.Id}}", "bb"]).ok().line().to_owned();
        witness.run("tag bb second").ok();
        witness.run("rmi second").ok();
        witness.run("run -d --name runs --network none bb sleep 100").ok();
        witness.run("exec runs true").ok();
        witness.run("rm -f runs").ok();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
        let events = witness.run(&format!("events --since 1m --until {now}")).ok().stdout;
        assert!(events.contains(&format!("image untag {image} (name={image})\n")), "{events}");
        assert!(
            events.contains("container exec_create: true  ")
                && events.contains("container exec_start: true  ")
        );
    }
}

#[test]
fn an_output_that_takes_nothing_is_named() {
    requires!(root);
    let daemon = crate::images::daemon();
    for arguments in [["run", "--network=none", "bb", "ls"], ["container", "ls", "-a", "-q"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = daemon.command().args(arguments).stdout(full).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (text.as_str(), output.status.code()),
            ("write to stdout: No space left on device (os error 28)\n", Some(1))
        );
    }
}

/// A program is installed by hand, what changed is looked at, and an image made of it.
#[test]
fn an_image_made_by_hand() {
    requires!(root);
    requires!(program "docker");
    let daemon = Daemon::start();
    load(&daemon, busybox(), "ubuntu");
    for witness in both(&daemon) {
        let install = "mkdir -p /usr/games /var/log/apt; printf '#!/bin/sh\\necho \"< $* >\"\\n' > /usr/games/cowsay; \
                       chmod +x /usr/games/cowsay; echo installed > /var/log/apt/term.log; rm /etc/group; touch /etc/passwd";
        witness.words(&["run", "--name", "session", "--network", "none", "ubuntu", "sh", "-c", install]).ok();
        let container = witness.run("ps -aq --no-trunc").ok().line().to_owned();
        let changes = "C /etc\nD /etc/group\nC /etc/passwd\nA /usr\nA /usr/games\nA /usr/games/cowsay\nC /var\nA /var/log\n\
                       A /var/log/apt\nA /var/log/apt/term.log\n";
        witness.shows(&format!("diff {}", &container[..12]), changes);
        let image = witness.run(&format!("commit {}", &container[..12])).ok().line().to_owned();
        assert_eq!(masked(&image), "sha256:ID");
        let said = witness.run(&format!("run --rm --network none {image} /usr/games/cowsay bonjour")).ok();
        assert_eq!(said.line(), "< bonjour >");
        witness.shows(&format!("tag {image} cowsay"), "");
        witness.shows(&format!("commit {container} cowsay"), "sha256:ID\n");
        let said = witness.run("run --rm --network none cowsay /usr/games/cowsay encore").ok();
        assert_eq!(said.line(), "< encore >");
        // The first image has lost its name to the second, and keeps its line in the list.
        witness.shows("images -f dangling=true --format {{.Repository}}:{{.Tag}}", "<none>:<none>\n");
        let history = witness.run("history cowsay").ok();
        let lines: Vec<Vec<&str>> =
            history.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]);
        let ubuntu = witness.run("images -q ubuntu").ok().line().to_owned();
        assert_eq!((lines.len(), lines[2][0]), (3, ubuntu.as_str()), "{history}");
        witness.words(&["rm", "session"]).ok();
        witness.run("rmi cowsay").ok();
        witness.run("image prune -f").ok();
    }
}
