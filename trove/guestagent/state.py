"""What the agent remembers across its own restarts, and where everything lies.

Two roots: the state directory (the agent's and the engine's small files) and the mount point of
the data volume. Everything secret is mode 0600 in a directory of mode 0700.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

from oslo_log import log

from trove.common import crypto, exception
from trove.guestagent.system import filesystem, users

LOG = log.getLogger(__name__)

#: Longest path of a UNIX socket (sun_path of unix(7), without the final NUL).
_MAX_SOCKET_PATH_BYTES = 107
_LONGEST_SOCKET_NAME = "mongodb-27017.sock"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things lie. The engine's user owns what it writes, the agent's user the rest."""

    state_dir: pathlib.Path
    mount_point: pathlib.Path
    engine_user: users.SystemUser

    @property
    def agent_dir(self) -> pathlib.Path:
        """The agent's own files; nobody else may look in."""
        return self.state_dir / "agent"

    @property
    def jobs_dir(self) -> pathlib.Path:
        """The journal of jobs."""
        return self.agent_dir / "jobs"

    @property
    def engine_dir(self) -> pathlib.Path:
        """Configuration of the engine."""
        return self.state_dir / "engine"

    @property
    def tls_dir(self) -> pathlib.Path:
        """Key and certificates of the engine, readable by its user only."""
        return self.engine_dir / "tls"

    @property
    def secret_dir(self) -> pathlib.Path:
        """Files that the engine reads once at its start, readable by its user only."""
        return self.engine_dir / "secret"

    @property
    def data_dir(self) -> pathlib.Path:
        """The engine's data directory."""
        return self.mount_point / "data"

    @property
    def former_data_dir(self) -> pathlib.Path:
        """The data directory as it was before an upgrade that is under way."""
        return self.mount_point / "data.before"

    @property
    def replaced_data_dir(self) -> pathlib.Path:
        """The data directory that a restored one is in the place of, until that is final."""
        return self.mount_point / "data.former"

    @property
    def temporary_dir(self) -> pathlib.Path:
        """Temporary files of the engine, on the volume."""
        return self.mount_point / "tmp"

    @property
    def exchange_dir(self) -> pathlib.Path:
        """The only directory that SQL may read and write files in."""
        return self.mount_point / "files"

    @property
    def engine_logs_dir(self) -> pathlib.Path:
        """Where the engine writes the logs that can be switched on."""
        return self.mount_point / "logs"

    @property
    def volume_agent_dir(self) -> pathlib.Path:
        """The agent's own files that outlive the server; nobody else may look in."""
        return self.mount_point / "agent"

    @property
    def log(self) -> pathlib.Path:
        """What the engine says."""
        return self.state_dir / "engine.log"

    @property
    def pid_file(self) -> pathlib.Path:
        """Which process the engine is."""
        return self.agent_dir / "engine.pid"

    def make_state(self) -> None:
        """Make the directories below the state directory."""
        user = self.engine_user
        # the engine's user must pass through the state directory to reach its own files
        filesystem.ensure_passable(self.state_dir)
        filesystem.ensure_directory(self.agent_dir, mode=0o700)
        filesystem.ensure_directory(self.jobs_dir, mode=0o700)
        filesystem.ensure_directory(self.engine_dir, mode=0o755)
        filesystem.ensure_directory(self.tls_dir, mode=0o700, owner=user)
        filesystem.ensure_directory(self.secret_dir, mode=0o700, owner=user)

    def make_volume(self) -> None:
        """Make the directories on the data volume, the data directory excepted."""
        user = self.engine_user
        filesystem.ensure_directory(self.temporary_dir, mode=0o750, owner=user)
        filesystem.ensure_directory(self.exchange_dir, mode=0o750, owner=user)

    def make_volume_agent_dir(self) -> None:
        """Make the agent's directory on the data volume."""
        filesystem.ensure_directory(self.volume_agent_dir, mode=0o700)


class Store:
    """Small JSON documents and secrets in the agent's directory, each replaced as a whole."""

    def __init__(self, layout: Layout) -> None:
        """Use the agent's directory of a layout whose directories were made."""
        self._layout = layout

    def find(self, name: str) -> dict[str, Any] | None:
        """Return a document, None when it was never written."""
        try:
            text = (self._layout.agent_dir / f"{name}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        document = json.loads(text)
        if not isinstance(document, dict):
            raise exception.ConfigurationError(
                reason=f"{name}.json in the agent's state is damaged: restore it or rebuild"
                " the instance"
            )
        return document

    def save(self, name: str, document: dict[str, Any]) -> None:
        """Replace a document; durable when this returns."""
        filesystem.write_file(
            self._layout.agent_dir / f"{name}.json", json.dumps(document), mode=0o600
        )

    def count_boot(self, *, first: int = 1) -> int:
        """Count one more start of the agent and return the number, from ``first`` on."""
        boot = max(int((self.find("boot") or {}).get("boot", 0)) + 1, first)
        try:
            self.save("boot", {"boot": boot})
        except OSError:
            # on a full disk an agent that reports so is better than none
            LOG.warning("the count of starts was not remembered", exc_info=True)
        return boot

    def password(self, name: str) -> str:
        """Return a password of this instance's own, made at the first call."""
        path = self._layout.agent_dir / f"{name}.password"
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            filesystem.write_file(path, crypto.generate_password(), mode=0o600)
            return path.read_text(encoding="ascii")

    def run_dir(self) -> pathlib.Path:
        """Return the directory of the engine's socket, owned by its user; makes it when missing.

        It lies in the state directory unless the path of a socket there would be too long for the
        kernel; then in a private directory of the system's, remembered for the next start.
        """
        user = self._layout.engine_user
        near = self._layout.engine_dir / "run"
        if len(bytes(near / _LONGEST_SOCKET_NAME)) <= _MAX_SOCKET_PATH_BYTES:
            return filesystem.ensure_directory(near, mode=0o755, owner=user)
        remembered = (self.find("run_dir") or {}).get("path")
        if remembered is not None and pathlib.Path(remembered).is_dir():
            return filesystem.ensure_directory(pathlib.Path(remembered), mode=0o700, owner=user)
        made = pathlib.Path(tempfile.mkdtemp(prefix="trove-", dir="/tmp"))
        self.save("run_dir", {"path": str(made)})
        return filesystem.ensure_directory(made, mode=0o700, owner=user)
