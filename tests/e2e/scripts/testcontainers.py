"""What the documentation of testcontainers shows, with the image bb."""

import time
import urllib.request
import warnings

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

warnings.simplefilter("ignore")

SERVER = "sh -c 'mkdir /w; echo page > /w/index.html; echo ready; exec httpd -f -p 80 -h /w'"


def fetch(address):
    """What is served there, which may begin to listen a moment after it is ready."""
    end = time.monotonic() + 20
    while True:
        try:
            return urllib.request.urlopen(address).read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


with DockerContainer("bb").with_command(SERVER).with_exposed_ports(80).with_env("A", "1") as server:
    wait_for_logs(server, "ready")
    address = f"http://{server.get_container_host_ip()}:{server.get_exposed_port(80)}/"
    assert fetch(address) == b"page\n"
    code, output = server.exec("sh -c 'echo $A'")
    assert (code, output) == (0, b"1\n"), (code, output)
with Network() as network:
    with DockerContainer("bb").with_command("sleep 100").with_network(network).with_network_aliases("one"):
        with DockerContainer("bb").with_command("ping -c 1 one").with_network(network) as other:
            wait_for_logs(other, "1 packets received")
print("testcontainers is content")
