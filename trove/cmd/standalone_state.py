"""The directory of a trove-standalone: made once, then kept as it is.

Everything of the service lies here, secrets in files for their owner alone: configuration, SQLite
database, authority, users, the clients' ``clouds.yaml``, the private broker, the instances. What a
person changes in ``trove.conf`` stays; only the port is written into it again.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import hashlib
import json
import os
import pathlib
import re
import socket
from typing import Any

import bcrypt
import yaml

from trove.api import embedded
from trove.cmd import standalone_broker
from trove.common import crypto, exception
from trove.drivers import local_state
from trove.drivers.secrets import local as local_secrets

HOST = "127.0.0.1"
DEFAULT_PORT = 8779
#: Name in clouds.yaml, user, project and roles.
_USERS = (("trove", "demo", "demo", "member"), ("trove-admin", "admin", "admin", "admin,member"))
#: The passwords are random and long, so that guessing is hopeless at any cost of a hash.
_BCRYPT_ROUNDS = 4
_BROKER_PROGRAM = pathlib.Path(standalone_broker.SERVER_PROGRAM)


class StandaloneError(exception.TroveError):
    """Something stands in the way; the message says what to do."""

    msg_fmt = "{reason}"
    code = "trove.standalone"


def default_state_dir() -> pathlib.Path:
    """Return where state lies unless told otherwise: the machine's for root, else the user's."""
    if os.geteuid() == 0:
        return pathlib.Path("/var/lib/trove-standalone")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data) / "trove-standalone"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneState:
    """Where everything lies."""

    root: pathlib.Path

    @property
    def marker(self) -> pathlib.Path:
        """What shows that the directory is ours; holds the port and the clients' passwords."""
        return self.root / "standalone.json"

    @property
    def config_file(self) -> pathlib.Path:
        """Configuration of all processes."""
        return self.root / "trove.conf"

    @property
    def clouds_file(self) -> pathlib.Path:
        """What clients are pointed to by OS_CLIENT_CONFIG_FILE."""
        return self.root / "clouds.yaml"

    @property
    def ca_file(self) -> pathlib.Path:
        """Certificate of the authority that signs the instances' certificates."""
        return self.root / "ca.pem"

    @property
    def log_dir(self) -> pathlib.Path:
        """Logs, one file a process."""
        return self.root / "log"

    @property
    def run_dir(self) -> pathlib.Path:
        """What the supervisor and its processes are right now."""
        return self.root / "run"

    @property
    def broker_ready(self) -> pathlib.Path:
        """What is there while the broker can be used."""
        return self.run_dir / "broker.ready"

    @property
    def broker_dir(self) -> pathlib.Path:
        """The private broker's own state."""
        return self.root / "broker"

    def exists(self) -> bool:
        """Tell whether a service was set up here."""
        return self.marker.exists()

    def port(self) -> int:
        """Return the port of the API."""
        return int(self._remembered()["port"])

    def endpoint(self) -> str:
        """Return the URL of the API."""
        return f"http://{HOST}:{self.port()}"

    def _remembered(self) -> dict[str, Any]:
        return local_state.read_json(self.marker) or {}

    def prepare(self, *, port: int | None, now: datetime.datetime) -> None:
        """Make what is missing, for ``port`` or the one used before; raises StandaloneError."""
        check_programs()
        with local_state.told(self.root):
            self._make_directories()
            values = self._remembered()
            values["port"] = port or values.get("port") or DEFAULT_PORT
            for _, user, _, _ in _USERS:
                values.setdefault(f"password_{user}", crypto.generate_password())
            local_state.replace(self.marker, json.dumps(values))
            if not (self.root / "ca-key.pem").exists():
                local_secrets.generate_ca(self.ca_file, self.root / "ca-key.pem", now=now)
            self._write_configuration(values["port"])
            self._write_users(values)

    def _make_directories(self) -> None:
        if self.root.is_dir() and not self.exists() and any(self.root.iterdir()):
            raise StandaloneError(
                reason=f"{self.root} holds other things: name an empty directory by --state-dir"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            # engines run as users of their own, which must get through to their data
            if self.root.stat().st_mode & 0o777 == 0o700 or not self.exists():
                self.root.chmod(0o711)
            for directory in (self.root, *self.root.parents):
                if not directory.stat().st_mode & 0o001:
                    raise StandaloneError(
                        reason=f"{directory} is closed to other users, and the databases do not run"
                        f" as root: run 'chmod o+x {directory}' or choose another --state-dir"
                    )
        elif not self.exists():
            self.root.chmod(0o700)
        for directory in (self.log_dir, self.run_dir, self.broker_dir):
            directory.mkdir(mode=0o700, exist_ok=True)

    def _write_configuration(self, port: int) -> None:
        if self.config_file.exists():
            text = self.config_file.read_text(encoding="utf-8")
            changed = re.sub(r"(?m)^bind_port\s*=.*$", f"bind_port = {port}", text, count=1)
            if changed != text:
                local_state.replace(self.config_file, changed)
            return
        access = standalone_broker.PrivateBroker(self.broker_dir).access
        sections: dict[str, dict[str, object]] = {
            "DEFAULT": {
                "transport_url": access.control_url,
                "log_rotation_type": "size",
                "max_logfile_size_mb": 20,
                "max_logfile_count": 3,
            },
            "database": {"connection": f"sqlite:///{self.root / 'trove.db'}"},
            "api": {
                "bind_host": HOST,
                "bind_port": port,
                "auth_strategy": "http_basic",
                "http_basic_auth_user_file": self.root / "htpasswd",
                "embedded_services": True,
            },
            "guest": {
                "transport_url": access.guest_url,
                "key_encryption_keys": crypto.encode_key(crypto.generate_key()),
            },
            "taskmanager": {
                f"{kind}_driver": "local"
                for kind in ("compute", "volume", "network", "image", "secrets")
            },
            "storage": {
                "driver": "filesystem",
                "filesystem_directory": self.root / "objects",
            },
            "local": {"state_dir": self.root, "address_pool": self._address_pool()},
            "tls": {
                "ca_certificate_file": self.ca_file,
                "ca_key_file": self.root / "ca-key.pem",
            },
        }
        lines = ["# Written by trove-standalone once; changes made here stay."]
        for section, options in sections.items():
            lines.append(f"\n[{section}]")
            # $ stands for another option's value in oslo.config
            lines += [f"{k} = {str(v).replace('$', '$$')}" for k, v in options.items()]
        local_state.replace(self.config_file, "\n".join(lines) + "\n")

    def _address_pool(self) -> str:
        """Return a pool that other standalone services of this machine hardly share."""
        digest = hashlib.sha256(os.fsencode(self.root)).digest()
        return f"127.{64 + digest[0] % 128}.0.0/16"

    def _write_users(self, values: dict[str, Any]) -> None:
        clouds = {
            cloud: {
                "auth_type": "password",
                "auth": {
                    "auth_url": f"http://{HOST}:{values['port']}/{embedded.IDENTITY}/v3",
                    "username": user,
                    "password": values[f"password_{user}"],
                    "project_name": project,
                    "user_domain_id": "default",
                    "project_domain_id": "default",
                },
                "region_name": "RegionOne",
            }
            for cloud, user, project, _ in _USERS
        }
        local_state.replace(self.clouds_file, yaml.safe_dump({"clouds": clouds}))
        htpasswd = self.root / "htpasswd"
        if htpasswd.exists():
            return
        lines = []
        for _, user, project, roles in _USERS:
            hashed = bcrypt.hashpw(
                values[f"password_{user}"].encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)
            )
            lines.append(f"{user}:{hashed.decode()}:{project}:{roles}\n")
        local_state.replace(htpasswd, "".join(lines))


def check_programs() -> None:
    """Raise StandaloneError when the broker is not installed."""
    if not _BROKER_PROGRAM.exists():
        raise StandaloneError(
            reason="RabbitMQ is not installed: run 'apt-get install --no-install-recommends"
            " rabbitmq-server' as root and try again"
        )


def check_port(port: int) -> None:
    """Raise StandaloneError when somebody else listens on the API's port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                reason = f"port {port} of {HOST} is taken: choose another one by --port"
            else:
                reason = f"port {port} cannot be used ({e.strerror}): choose another by --port"
            raise StandaloneError(reason=reason) from e
