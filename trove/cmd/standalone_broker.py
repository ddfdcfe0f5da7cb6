"""A private RabbitMQ node, for trove-standalone and for tests.

Everything of the node lives in one state directory: data, configuration, Erlang cookie, accounts
and the ports, which are chosen once and kept, so that URLs handed to agents stay true over
restarts. The node, its port mapper and its distribution listen on loopback only, and the
environment of the machine's own RabbitMQ is not looked at. Works as root and as ordinary user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.parse
from typing import Any

import amqp
import psutil
from oslo_log import log

from trove.common import crypto, exception
from trove.drivers.broker import passwords

LOG = log.getLogger(__name__)

#: Not the packages' /usr/sbin/rabbitmq-server, which insists on root or the user rabbitmq.
SERVER_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
EPMD_PROGRAM = "epmd"
GUEST_VHOST = "guests"
#: Below the range that the kernel takes ports of outgoing connections from.
_PORT_RANGE = range(20000, 32000)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAccess:
    """What does not change over restarts: where the node listens and who may log in.

    The account ``trove`` reaches the virtual host ``/``, the account ``agents`` the virtual host
    ``guests``, and neither the other's.
    """

    host: str
    port: int
    dist_port: int
    epmd_port: int
    control_password: str = dataclasses.field(repr=False)
    guest_password: str = dataclasses.field(repr=False)

    @property
    def control_url(self) -> str:
        """URL for ``[DEFAULT] transport_url``."""
        return f"rabbit://trove:{self.control_password}@{self.host}:{self.port}/"

    @property
    def guest_url(self) -> str:
        """URL for ``[guest] transport_url``."""
        return f"rabbit://agents:{self.guest_password}@{self.host}:{self.port}/{GUEST_VHOST}"


def find_free_port(host: str, *, taken: frozenset[int] = frozenset()) -> int:
    """Return a TCP port on which nothing listens now; raises OSError when there is none."""
    for port in random.sample(_PORT_RANGE, 200):
        if port in taken:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return port
    raise OSError(f"no free port on {host}")


def _write_private(path: pathlib.Path, text: str) -> None:
    """Replace a file readable by its owner alone, atomically."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    new.replace(path)


class PrivateBroker:
    """Start, watch, stop and restart the node of one state directory.

    ``start`` returns once both accounts can log in. What an earlier process left running in the
    same state directory is ended first. Not for use by several threads at once.
    """

    def __init__(
        self,
        state_dir: pathlib.Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        dist_port: int | None = None,
        epmd_port: int | None = None,
        server_program: str = SERVER_PROGRAM,
    ) -> None:
        """Take the state directory (made if missing); ports not given are kept or chosen."""
        self._dir = state_dir
        self._server_program = server_program
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.access = self._load_access(host, port=port, dist_port=dist_port, epmd_port=epmd_port)

    @property
    def control_url(self) -> str:
        """URL for ``[DEFAULT] transport_url``."""
        return self.access.control_url

    @property
    def guest_url(self) -> str:
        """URL for ``[guest] transport_url``."""
        return self.access.guest_url

    @property
    def log_file(self) -> pathlib.Path:
        """Where node and port mapper write."""
        return self._dir / "rabbitmq.log"

    def start(self, *, timeout_s: float = 90.0) -> None:
        """Start the node and wait until it can be used.

        Raises ConfigurationError when RabbitMQ is not installed, ServiceUnavailable when the node
        ends or is not ready in time.
        """
        if self.is_running():
            return
        if not pathlib.Path(self._server_program).exists():
            raise exception.ConfigurationError(
                reason=f"{self._server_program} does not exist; install the package rabbitmq-server"
            )
        if not self._is_alive("epmd"):
            end_processes(self._dir)
        self._write_configuration()
        if not self._is_alive("epmd"):
            self._spawn("epmd", self._epmd_argv())
        self._spawn("node", [self._server_program])
        self._wait_ready(timeout_s)
        LOG.info("RabbitMQ is ready on %s port %d", self.access.host, self.access.port)

    def is_running(self) -> bool:
        """Tell whether the node's process lives."""
        return self._is_alive("node")

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """End node and port mapper, cleanly if they let us; does nothing when they do not run."""
        self._end("node", signal.SIGTERM, timeout_s)
        self._end("epmd", signal.SIGTERM, timeout_s)
        (self._dir / "processes.json").unlink(missing_ok=True)

    def kill(self) -> None:
        """End the node as a crash of the machine would: no process of it gets a last word."""
        self._end("node", signal.SIGKILL, 10.0)

    def restart(self, *, timeout_s: float = 90.0) -> None:
        """Stop the node if it runs and start it on the same ports with the same data."""
        self._end("node", signal.SIGTERM, 30.0)
        self.start(timeout_s=timeout_s)

    def __enter__(self) -> PrivateBroker:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop."""
        self.stop()

    # -- files -----

    def _load_access(
        self, host: str, *, port: int | None, dist_port: int | None, epmd_port: int | None
    ) -> BrokerAccess:
        path = self._dir / "access.json"
        kept: dict[str, Any] = {}
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
        kept["host"] = host
        for name, wanted in (("port", port), ("dist_port", dist_port), ("epmd_port", epmd_port)):
            if wanted is not None:
                kept[name] = wanted
            elif name not in kept:
                taken = frozenset(kept[key] for key in kept if key.endswith("port"))
                kept[name] = find_free_port(host, taken=taken)
        for name in ("control_password", "guest_password"):
            kept.setdefault(name, crypto.generate_password())
        _write_private(path, json.dumps(kept))
        return BrokerAccess(**kept)

    def _write_configuration(self) -> None:
        access = self.access
        accounts = (
            ("trove", access.control_password, "/"),
            ("agents", access.guest_password, GUEST_VHOST),
        )
        definitions = {
            "vhosts": [{"name": vhost} for _, _, vhost in accounts],
            "users": [
                {
                    "name": name,
                    "password_hash": passwords.password_hash(password),
                    "hashing_algorithm": passwords.HASHING_ALGORITHM,
                    "tags": "",
                }
                for name, password, _ in accounts
            ],
            "permissions": [
                {"user": name, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}
                for name, _, vhost in accounts
            ],
        }
        _write_private(self._dir / "definitions.json", json.dumps(definitions))
        # as Erlang's terms: of the other format the node would make them first, for a second
        groups = ",\n ".join(f"{{{name}, [{text}]}}" for name, text in self._settings().items())
        _write_private(self._dir / "rabbitmq.config", f"[{groups}].\n")
        (self._dir / "advanced.config").write_text("[].\n", encoding="utf-8")
        (self._dir / "enabled_plugins").write_text("[].\n", encoding="utf-8")
        cookie = self._dir / ".erlang.cookie"
        if not cookie.exists():
            _write_private(cookie, crypto.generate_password())
            cookie.chmod(0o400)

    def _settings(self) -> dict[str, str]:
        """Return the settings of the node's applications, by their names."""
        access = self.access
        return {
            "rabbit": (
                f'{{tcp_listeners, [{{"{access.host}", {access.port}}}]}}, '
                # in the node's working directory, whose path may have any letters
                '{load_definitions, "definitions.json"}, '
                "{loopback_users, []}, "
                '{vm_memory_high_watermark, {absolute, "512MB"}}, '
                '{disk_free_limit, "50MB"}, '
                "{log, [{file, [{file, false}]}, {console, [{enabled, true}, {level, warning}]}]}"
            )
        }

    def _environment(self) -> dict[str, str]:
        """Return the whole environment: RabbitMQ also reads names without prefix, such as LOGS."""
        access, base = self.access, self._dir
        return {
            "PATH": _PATH,
            "LC_ALL": "C.UTF-8",
            "HOME": str(base),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(access.epmd_port),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"trove-{access.port}@localhost",
            "RABBITMQ_DIST_PORT": str(access.dist_port),
            "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
            "RABBITMQ_LOG_BASE": str(base),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.config"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(base / "config"),
            "RABBITMQ_SCHEMA_DIR": str(base / "schema"),
            # schedulers that do not spin while idle: the node shares a small machine; with two of
            # them it boots in half the time that one takes
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -start_epmd false"
            ),
            "RABBITMQ_SERVER_START_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _epmd_argv(self) -> list[str]:
        return [EPMD_PROGRAM, "-address", "127.0.0.1", "-port", str(self.access.epmd_port)]

    # -- processes -----

    def _is_alive(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def _spawn(self, name: str, argv: list[str]) -> None:
        """Start a process in a session of its own, so that a Ctrl-C is not also sent to it."""
        with self.log_file.open("ab") as stream:
            self._processes[name] = subprocess.Popen(
                argv,
                env=self._environment(),
                cwd=self._dir,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = {
            key: [process.pid, psutil.Process(process.pid).create_time()]
            for key, process in self._processes.items()
            if process.poll() is None
        }
        _write_private(self._dir / "processes.json", json.dumps(started))

    def _end(self, name: str, first_signal: signal.Signals, timeout_s: float) -> None:
        """End a process and everything in its group."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        # the node's shell passes SIGTERM on and waits; SIGKILL must reach the whole group
        if process.poll() is None and first_signal is signal.SIGTERM:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
        members = _group(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10.0)
        # grandchildren are not ours to wait for: see that their ports are free again
        psutil.wait_procs(members, timeout=10.0)

    def _wait_ready(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        node = self._processes["node"]
        while not self._can_log_in():
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(0.1)
            if node.poll() is not None or time.monotonic() > end:
                self.stop()
                raise exception.ServiceUnavailable(
                    reason=f"RabbitMQ did not start within {timeout_s} s; see {self.log_file}"
                )

    def _can_log_in(self) -> bool:
        return all(_accepts(url) for url in (self.control_url, self.guest_url))


def node_pids(state_dir: pathlib.Path) -> list[int]:
    """Return the processes of the node that runs in a state directory; none when it is down."""
    path = state_dir / "processes.json"
    if not path.exists():
        return []
    started = json.loads(path.read_text(encoding="utf-8"))
    if "node" not in started:
        return []
    return [member.pid for member in _members(*started["node"])]


def end_processes(state_dir: pathlib.Path) -> None:
    """End what a process that was killed left running in a state directory."""
    path = state_dir / "processes.json"
    if not path.exists():
        return
    for pid, created in json.loads(path.read_text(encoding="utf-8")).values():
        members = _members(pid, created)
        if not members:
            continue
        LOG.warning("ending a left-over process group of RabbitMQ, %d", pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        psutil.wait_procs(members, timeout=10.0)
    path.unlink(missing_ok=True)


def _members(group_id: int, created: float) -> list[psutil.Process]:
    """Return the processes of a group whose leader was made at a time.

    The leader may be gone while its group lives; a number used again is of a later session.
    """
    return [
        member
        for member in _group(group_id)
        if member.is_running() and member.create_time() >= created - 0.01
    ]


def _accepts(url: str) -> bool:
    """Tell whether the broker takes a login with this URL now."""
    parts = urllib.parse.urlsplit(url)
    connection = amqp.Connection(
        host=f"{parts.hostname}:{parts.port}",
        userid=parts.username,
        password=parts.password,
        virtual_host=parts.path[1:] or "/",
        connect_timeout=5,
    )
    try:
        connection.connect()
    except (OSError, amqp.AMQPError):
        return False
    connection.close()
    return True


def _group(group_id: int) -> list[psutil.Process]:
    """Return the processes of a process group."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group_id:
                members.append(process)
    return members
