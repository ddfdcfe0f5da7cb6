"""Who may connect to an instance of this machine: one nftables table an instance.

A table is replaced as a whole, so that there is no moment without rules. It refuses connections to
the engine's port of the instance's address from everywhere but the allowed networks and the address
itself, where its agent comes from; those that are open already included. Everything else passes.
What everybody may reach needs no table.

The name of a table says whose it is: a machine may run more than one service.

Where nftables cannot be used, one log line says why, and nobody is kept out.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Sequence

from oslo_log import log

from trove.common import exception
from trove.drivers import local_state

LOG = log.getLogger(__name__)

_TIMEOUT_S = 30
_TABLE = re.compile(r"^table inet trove_([0-9a-f]{8})_([0-9a-f]{32})$", re.MULTILINE)
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _render(table: str, address: str, ports: Sequence[int], networks: Sequence[str]) -> str:
    """Return what replaces a table."""
    family = "ip" if ipaddress.ip_address(address).version == 4 else "ip6"
    elements = ", ".join([address, *networks])
    engine = ", ".join(map(str, ports))
    kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
    return f"""
table {table} {{ }}
delete table {table}
table {table} {{
    set allowed {{ type {kind}; flags interval; auto-merge; elements = {{ {elements} }}; }}
    chain input {{
        type filter hook input priority filter; policy accept;
        {family} daddr {address} tcp dport {{ {engine} }} {family} saddr != @allowed \
            reject with tcp reset
    }}
}}
"""


class Firewall:
    """The tables of all instances whose state is kept in a directory."""

    def __init__(self, state_dir: pathlib.Path, *, enabled: bool = True) -> None:
        """Find out on first use what is possible, and say so once when nothing is."""
        self._owner = hashlib.sha256(bytes(state_dir.resolve())).hexdigest()[:8]
        self._enabled = enabled

    def _table(self, instance_id: str) -> str:
        return f"inet trove_{self._owner}_{instance_id.replace('-', '')}"

    @functools.cached_property
    def _program(self) -> str | None:
        """The program that changes rules, None when there is none or we may not use it."""
        if not self._enabled:
            LOG.info("access rules are stored but not enforced: [local] use_firewall is off")
            return None
        try:
            return _find_program()
        except exception.DriverError as e:
            LOG.warning("access rules are stored but not enforced: %s", e.kwargs["reason"])
            return None

    @property
    def is_possible(self) -> bool:
        """Tell whether rules are enforced."""
        return self._program is not None

    def allow(
        self, instance_id: str, address: str, ports: Sequence[int], cidrs: Sequence[str]
    ) -> None:
        """Let only these networks reach some ports of an address; raises DriverError."""
        version = ipaddress.ip_address(address).version
        networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
        same = [network for network in networks if network.version == version]
        if any(network.prefixlen == 0 for network in same):
            self.forget(instance_id)
        elif self._program is not None:
            text = _render(
                self._table(instance_id), address, ports, [str(network) for network in same]
            )
            _run([self._program, "-f", "-"], text)
            told = ", ".join(map(str, ports))
            LOG.info("%s port %s can be reached from %s", address, told, ", ".join(cidrs))

    def forget(self, instance_id: str) -> None:
        """Remove the table of an instance; nothing when there is none."""
        if self._program is not None:
            # declared first: without a table its removal would fail
            table = self._table(instance_id)
            _run([self._program, "-f", "-"], f"table {table} {{ }}\ndelete table {table}\n")

    def list_instances(self) -> frozenset[str]:
        """Return the ids, without dashes, of the instances that have a table."""
        if self._program is None:
            return frozenset()
        found = _TABLE.findall(_run([self._program, "list", "tables"]))
        return frozenset(instance for owner, instance in found if owner == self._owner)


def change(text: str) -> None:
    """Change the rules of this machine as a document of nft(8) says; raises DriverError."""
    _run([_find_program(), "-f", "-"], text)


def _find_program() -> str:
    """Return the program that changes rules; raises DriverError when we may not use it."""
    program = shutil.which("nft", path=_PATH)
    if program is None:
        raise local_state.LocalDriverError("there is no program nft (package nftables)")
    _run([program, "list", "tables"])
    return program


def _run(argv: Sequence[str], text: str = "") -> str:
    """Run nft and return what it wrote; raises DriverError with its own words."""
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise local_state.LocalDriverError(f"{argv[0]} cannot be run: {e}") from e
    if done.returncode:
        words = " ".join(done.stderr.split())[:300] or f"code {done.returncode}"
        raise local_state.LocalDriverError(f"{argv[0]} failed: {words}")
    return done.stdout
