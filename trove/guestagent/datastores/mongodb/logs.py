"""The logs of MongoDB: what mongod says, and the slow queries among it.

mongod writes one log, of a JSON object a line, slow queries and all. It is the operator's. The
agent copies the slow queries of tenants out of it into a log of their own while that is enabled:
it follows the file through its rotations, and remembers how far it is.
"""

from __future__ import annotations

import json
import os
import pathlib
import threading
from typing import Any

from trove.datastores import mongodb
from trove.guestagent import state
from trove.guestagent.datastores import base
from trove.guestagent.datastores import logs as composed
from trove.guestagent.datastores.mongodb import connection
from trove.guestagent.logs import part, stream
from trove.guestagent.system import filesystem

#: The id of the message "Slow query" (https://www.mongodb.com/docs/manual/reference/log-messages/).
_SLOW_QUERY = 51803
_SLOW_QUERY_BYTES = b'"id":51803,'
#: As the agent's connections are called: what it asks is nobody else's business.
_OWN_NAME = "trove-guestagent"
_DOCUMENT = "slow_queries"


class SlowQueries:
    """Copies slow queries from the server's log to one of their own; safe for several threads."""

    def __init__(
        self,
        source: pathlib.Path,
        pieces: pathlib.Path,
        target: pathlib.Path,
        *,
        store: state.Store,
    ) -> None:
        """Take the server's log, the directory of what was cut off it, and the tenant's log.

        How far the server's log was read is remembered in ``store``.
        """
        self._source = source
        self._pieces = pieces
        self._target = target
        self._store = store
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Copy what the server says from now on."""
        with self._lock:
            files = self._files()
            if files:
                status = files[-1].stat()
                self._remember(status.st_ino, status.st_size)
            else:
                self._remember(0, 0)

    def pump(self) -> None:
        """Copy what the server said since the last time; raises OSError."""
        with self._lock:
            known = self._store.find(_DOCUMENT) or {}
            inode, offset = int(known.get("inode", 0)), int(known.get("offset", 0))
            files = self._files()
            numbers = [path.stat().st_ino for path in files]
            # what was cut off and dropped meanwhile is lost
            first = numbers.index(inode) if inode in numbers else len(files) - 1
            for path, number in list(zip(files, numbers, strict=True))[max(0, first) :]:
                self._copy(path, number, offset if number == inode else 0)

    def _files(self) -> list[pathlib.Path]:
        """Return the pieces of the server's log that are kept, oldest first, and the log."""
        found: list[pathlib.Path] = []
        if self._pieces.is_dir():
            found = sorted(path for path in self._pieces.iterdir() if path.name.isdigit())
        return [*found, self._source] if self._source.exists() else found

    def _copy(self, path: pathlib.Path, inode: int, offset: int) -> None:
        """Copy the slow queries among the whole lines of a file from an offset on."""
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                offset = 0
            file.seek(offset)
            start, found = offset, []
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                if _is_slow_query(line):
                    found.append(line)
        if found:
            self._append(b"".join(found))
        if offset != start:
            self._remember(inode, offset)

    def _append(self, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._target, flags, 0o600), "ab") as target:
            target.write(content)

    def _remember(self, inode: int, offset: int) -> None:
        self._store.save(_DOCUMENT, {"inode": inode, "offset": offset})


def _is_slow_query(line: bytes) -> bool:
    """Tell whether a line is a slow query of a tenant's; what they send may look like one."""
    if _SLOW_QUERY_BYTES not in line:
        return False
    try:
        entry: dict[str, Any] = json.loads(line)
        return entry["id"] == _SLOW_QUERY and entry["attr"].get("appName") != _OWN_NAME
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


class MongodbLogFiles:
    """Where the logs of an instance are."""

    def __init__(self, environment: base.Environment, connector: connection.Connector) -> None:
        """Take the instance and what connects to its server."""
        self._layout = environment.layout
        self._connector = connector
        self._directory = self._layout.volume_agent_dir / "logs"
        active = self._directory / f"{mongodb.SLOW_QUERY_LOG}.log"
        self.slow_queries = SlowQueries(
            self._layout.log,
            self._layout.agent_dir / "logs" / mongodb.ERROR_LOG,
            active,
            store=environment.store,
        )
        self.stream = stream.Stream(
            active,
            self._directory / mongodb.SLOW_QUERY_LOG,
            # opened for every few lines
            reopen=lambda: None,
        )

    def ensure_directories(self) -> None:
        """Have the agent's directory for logs on the volume."""
        self._layout.make_volume_agent_dir()
        filesystem.ensure_directory(self._directory, mode=0o700)

    def ensure_error_log(self) -> None:
        """Have the file that the server writes to, its own: it opens it anew itself."""
        filesystem.ensure_log(self._layout.log, owner=self._layout.engine_user)

    def switch(self, name: str, enabled: bool) -> None:
        """Copy slow queries or not."""
        if enabled:
            self.ensure_directories()
            self.slow_queries.begin()

    def pump(self) -> None:
        """Copy the slow queries of the last moments, if they are wanted."""
        if not self.stream.lock.acquire(blocking=False):
            # it is being published: the next time
            return
        try:
            if self.stream.record.enabled:
                self.slow_queries.pump()
        finally:
            self.stream.lock.release()

    def reopen_errors(self) -> None:
        """Have the server write its log to a new file."""
        with self._connector.session() as client:
            client.admin.command("logRotate", "server")


def make(files: MongodbLogFiles, environment: base.Environment) -> part.StreamLogs:
    """Return the logs of an instance, put together."""
    return composed.compose(
        environment,
        switched={mongodb.SLOW_QUERY_LOG: files.stream},
        switch=files.switch,
        error_log=mongodb.ERROR_LOG,
        reopen_errors=files.reopen_errors,
        make_error_log=files.ensure_error_log,
        # before the server's log is cut
        collect=files.pump,
    )
