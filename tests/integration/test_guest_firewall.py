"""What the host firewall of a guest lets through, tried between two network namespaces."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from trove.guestagent.boot import firewall

GUEST_MANAGEMENT, BROKER, OTHER = "10.91.1.7", "10.91.1.2", "10.91.1.3"
GUEST_USER, CLIENT, METADATA = "10.91.2.7", "10.91.2.2", "169.254.169.254"
_NOBODY = 65534
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

#: Listens on all given (address, port), says so, and ends with its standard input.
_LISTEN = """
import json, socket, sys
kept = [socket.create_server(tuple(pair)) for pair in json.loads(sys.argv[1])]
print("ready", flush=True)
sys.stdin.read()
"""
#: Prints for each of the given (address, port) whether it can be connected to.
_CONNECT = """
import json, os, socket, sys
os.setuid(int(sys.argv[2]))
def reached(pair):
    with socket.socket() as probe:
        probe.settimeout(0.3)
        return probe.connect_ex(tuple(pair)) == 0
print(json.dumps([reached(pair) for pair in json.loads(sys.argv[1])]))
"""


def _run(*argv: str, stdin: str = "") -> str:
    return subprocess.run(
        argv, input=stdin, check=True, capture_output=True, text=True, env={"PATH": _PATH}
    ).stdout


class Spaces:
    """A guest and what is around it, joined by a management and a user network."""

    def __init__(self) -> None:
        """Make both namespaces, their interfaces and addresses."""
        self.guest, self.outside = (f"trove-{os.getpid()}-{name}" for name in ("in", "out"))
        for name in (self.guest, self.outside):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        self._join("management", [GUEST_MANAGEMENT], [BROKER, OTHER])
        self._join("user", [GUEST_USER], [CLIENT, METADATA])
        _run("ip", "-n", self.guest, "route", "add", METADATA, "dev", "user")

    def _join(self, name: str, inner: Sequence[str], outer: Sequence[str]) -> None:
        peer = ["peer", "name", name, "netns", self.outside]
        _run("ip", "-n", self.guest, "link", "add", name, "type", "veth", *peer)
        for space, addresses in ((self.guest, inner), (self.outside, outer)):
            for address in addresses:
                _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", name)
            _run("ip", "-n", space, "link", "set", name, "up")

    def close(self) -> None:
        """Remove both with all that is in them."""
        for name in (self.guest, self.outside):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def load(self, policy: firewall.Policy) -> None:
        """Put a guest's firewall up."""
        _run("ip", "netns", "exec", self.guest, "nft", "-f", "-", stdin=firewall.render(policy))

    def listen(self, space: str, *pairs: tuple[str, int]) -> subprocess.Popen[str]:
        """Have servers in a namespace, until their standard input is closed."""
        child = subprocess.Popen(
            ["ip", "netns", "exec", space, sys.executable, "-c", _LISTEN, json.dumps(pairs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    def reached(self, space: str, *pairs: tuple[str, int], user: int = 0) -> list[bool]:
        """Tell which of these can be connected to from a namespace."""
        script = (sys.executable, "-c", _CONNECT, json.dumps(pairs), str(user))
        answers: list[bool] = json.loads(_run("ip", "netns", "exec", space, *script))
        return answers


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(name, path=_PATH) for name in ("ip", "nft")):
        return False
    name = f"trove-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return made.returncode == 0


@pytest.fixture
def spaces() -> Iterator[Spaces]:
    if not _can_make_namespaces():
        pytest.skip("needs root, network namespaces, ip and nft")
    made = Spaces()
    children = []
    try:
        ports = (22, 3306, 5672)
        inner = [(address, port) for address in (GUEST_MANAGEMENT, GUEST_USER) for port in ports]
        outer = [(BROKER, 5672), (BROKER, 22), (OTHER, 5672), (CLIENT, 80), (METADATA, 80)]
        children = [made.listen(made.guest, *inner), made.listen(made.outside, *outer)]
        yield made
    finally:
        for child in children:
            child.communicate(timeout=10)
        made.close()


def test_a_guest_is_reached_and_reaches_as_it_should(spaces: Spaces) -> None:
    inner = [(GUEST_MANAGEMENT, 22), (GUEST_MANAGEMENT, 3306), (GUEST_USER, 22), (GUEST_USER, 3306)]
    # all is open before, or the test would prove nothing
    assert all(spaces.reached(spaces.outside, *inner))
    spaces.load(
        firewall.Policy(
            user_interface="user",
            management_interface="management",
            engine_ports=(3306, 3307),
            endpoints=((ipaddress.ip_address(BROKER), 5672),),
        )
    )
    assert spaces.reached(spaces.outside, *inner) == [False, False, False, True]
    outer = [(BROKER, 5672), (BROKER, 22), (OTHER, 5672), (CLIENT, 80), (METADATA, 80)]
    assert spaces.reached(spaces.guest, *outer) == [True, False, False, True, False]
    # the engine's user has no business with the control plane
    assert spaces.reached(spaces.guest, *outer, user=_NOBODY) == [False, False, False, True, False]


def test_a_guest_with_one_interface_reaches_the_broker_alone(spaces: Spaces) -> None:
    spaces.load(
        firewall.Policy(
            user_interface="management",
            management_interface=None,
            engine_ports=(3306, 3307),
            endpoints=((ipaddress.ip_address(BROKER), 5672),),
        )
    )
    inner = [(GUEST_MANAGEMENT, 22), (GUEST_MANAGEMENT, 3306)]
    assert spaces.reached(spaces.outside, *inner) == [False, True]
    outer = [(BROKER, 5672), (BROKER, 22), (OTHER, 5672)]
    assert spaces.reached(spaces.guest, *outer) == [True, False, False]
