//! docker-py, the Python client of the Engine API, against Palan.

use palan_test_support::daemon::finish;
use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

const SCRIPT: &str = r#"
import docker, time
client = docker.from_env()
assert client.ping()
assert client.version()["Os"] == "linux"
client.info()
image = client.images.get("bb")
assert "bb:latest" in image.tags
assert client.containers.run("bb", ["echo", "hello"], network_mode="none", remove=True) == b"hello\n"
try:
    client.containers.run("bb", ["sh", "-c", "echo bad >&2; exit 3"], network_mode="none", remove=True)
    raise SystemExit("no error for exit code 3")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and b"bad" in error.stderr, error
container = client.containers.run("bb", ["sh", "-c", "echo one; echo two >&2; sleep 100"], name="py", detach=True,
                                  labels={"k": "v"}, environment={"A": "1"}, mem_limit="64m", ports={"80/tcp": None})
container.reload()
assert container.status == "running", container.status
assert container.labels == {"k": "v"}
assert container.attrs["HostConfig"]["Memory"] == 64 << 20
assert container.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
code, output = container.exec_run(["sh", "-c", "echo $A; exit 2"])
assert (code, output) == (2, b"1\n"), (code, output)
code, output = container.exec_run("sh -c 'echo out; echo err >&2'", demux=True)
assert output == (b"out\n", b"err\n"), output
while len(container.logs().splitlines()) < 2: time.sleep(.05)
assert sorted(container.logs().splitlines()) == [b"one", b"two"]
assert container.logs(stderr=False) == b"one\n"
assert next(iter(container.logs(stream=True, follow=True)))
stats = container.stats(stream=False)
assert stats["memory_stats"]["limit"] == 64 << 20, stats["memory_stats"]
assert [c.name for c in client.containers.list(filters={"label": "k=v"})] == ["py"]
assert container.top()["Processes"]
container.pause(); container.reload(); assert container.status == "paused"
container.unpause()
container.rename("renamed"); container.reload(); assert container.name == "renamed"
container.stop(timeout=0)
assert container.wait()["StatusCode"] == 137
container.start(); container.restart(timeout=0); container.kill()
container.remove(force=True)
try:
    client.containers.get("renamed")
    raise SystemExit("a removed container is still there")
except docker.errors.NotFound:
    pass
try:
    client.images.get("nosuchimage-here")
    raise SystemExit("an image that is not there")
except docker.errors.ImageNotFound:
    pass
sock = client.api.create_container("bb", ["cat"], stdin_open=True, host_config=client.api.create_host_config(network_mode="none"))
attached = client.api.attach_socket(sock["Id"], params={"stdin": 1, "stdout": 1, "stream": 1})
client.api.start(sock["Id"])
attached._sock.sendall(b"through the socket\n")
data = b""
while len(data) < 8 + 19:
    part = attached._sock.recv(100)
    assert part, data
    data += part
assert data == b"\x01\0\0\0\0\0\0\x13through the socket\n", data
attached._sock.close()
client.api.remove_container(sock["Id"], force=True)
# The client says at the start of a session whether it wants frames, not whether there is a terminal.
keeper = client.api.create_container("bb", ["sleep", "100"], name="keeper", host_config=client.api.create_host_config())
client.api.start(keeper["Id"])
session = client.api.exec_create(keeper["Id"], ["echo", "framed"], tty=True)
assert client.api.exec_start(session["Id"], demux=True) == (b"framed\r\n", None)
# A link is removed by its path, and nothing else is.
linked = client.api.create_container("bb", ["true"], name="linked",
                                     host_config=client.api.create_host_config(links={"keeper": "friend"}))
assert client.api.inspect_container(linked["Id"])["HostConfig"]["Links"] == ["/keeper:/linked/friend"]
client.api.remove_container("linked/friend", link=True)
assert not client.api.inspect_container("linked")["HostConfig"]["Links"]
try:
    client.api.remove_container("linked/friend", link=True)
    raise SystemExit("a link that is gone was removed")
except docker.errors.NotFound:
    pass
client.api.remove_container(linked["Id"])
client.api.remove_container(keeper["Id"], force=True)
# An option that no driver of Docker's knows is kept and shown.
net = client.networks.create("opts")
endpoint = client.api.create_endpoint_config(driver_opt={"com.example.setting": "yes"})
opted = client.api.create_container("bb", ["true"], networking_config={"EndpointsConfig": {"opts": endpoint}},
                                    host_config=client.api.create_host_config(network_mode="opts"))
shown = client.api.inspect_container(opted["Id"])["NetworkSettings"]["Networks"]["opts"]["DriverOpts"]
assert shown == {"com.example.setting": "yes"}, shown
client.api.remove_container(opted["Id"])
net.remove()
try:
    client.images.load(b"no archive")
    raise SystemExit("no archive was loaded")
except docker.errors.ImageLoadError as error:
    assert "cannot read the image archive" in str(error), error
assert client.plugins.list() == []
try:
    client.plugins.get("vieux/sshfs:latest")
    raise SystemExit("a plugin that is not there")
except docker.errors.NotFound as error:
    assert "plugin \"vieux/sshfs:latest\" not found" in str(error), error
try:
    client.swarm.init()
    raise SystemExit("a swarm was made")
except docker.errors.APIError as error:
    assert error.status_code == 503, error
events = client.events(since=0, until=int(time.time()) + 1, decode=True)
actions = [e["Action"] for e in events if e["Type"] == "container"]
for action in ["create", "start", "die", "destroy", "pause", "unpause", "rename"]:
    assert action in actions, (action, actions)
print("docker-py is content")
"#;

#[test]
#[expect(clippy::disallowed_methods, reason = "an outside client, run as its users do")]
fn the_high_level_client() {
    requires!(root);
    let python = std::env::var_os("PALAN_TEST_PYTHON");
    requires!(python.is_some(), "needs docker-py: run by `cargo xtask test`");
    let daemon = daemon();
    assert_eq!(BUSYBOX, "bb");
    let mut command = std::process::Command::new(python.unwrap_or_default());
    command.args(["-c", SCRIPT]).env("DOCKER_HOST", daemon.host());
    assert_eq!(finish(&mut command, None).ok().line(), "docker-py is content");
}
