"""The logs of MongoDB: what mongod says, and the slow queries among it.

mongod writes one log, of a JSON object a line, slow queries and all. It is the operator's. The
agent copies the slow queries of tenants out of it into a log of their own while that is enabled:
it follows the file through its rotations, and remembers how far it is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import threading
from typing import Any, BinaryIO

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
#: Most that is read at once.
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """How far a file was read."""

    inode: int
    offset: int


class SlowQueries:
    """Copies slow queries from the server's log to one of their own; safe for several threads."""

    def __init__(self, source: pathlib.Path, target: pathlib.Path, store: state.Store) -> None:
        """Take the server's log, the tenant's, and where to remember the place."""
        self._source = source
        self._target = target
        self._store = store
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Copy what the server says from now on."""
        with self._lock:
            self._close()
            try:
                status = self._source.stat()
            except FileNotFoundError:
                place = None
            else:
                place = _Place(inode=status.st_ino, offset=status.st_size)
            self._remember(place)

    def end(self) -> None:
        """Copy nothing more."""
        with self._lock:
            self._close()

    def pump(self) -> None:
        """Copy what the server said since the last time; raises OSError."""
        with self._lock:
            if self._file is None:
                self._open()
            while self._file is not None:
                found, is_at_end = self._read(self._file)
                if found:
                    self._append(found)
                    self._remember(self._place(self._file))
                if is_at_end and not self._move_on(self._file):
                    return

    def _open(self) -> None:
        """Open the server's log where it was left, or at the beginning of another file."""
        try:
            self._file = self._source.open("rb")
        except FileNotFoundError:
            return
        known = self._store.find(_DOCUMENT) or {}
        place = self._place(self._file)
        if known.get("inode") == place.inode:
            self._file.seek(int(known["offset"]))

    def _move_on(self, file: BinaryIO) -> bool:
        """Go on with the file that has taken this one's place, once the server writes to it."""
        try:
            status = self._source.stat()
        except FileNotFoundError:
            return False
        if status.st_ino == os.fstat(file.fileno()).st_ino:
            if status.st_size < file.tell():
                file.seek(0)
            return False
        if status.st_size == 0:
            return False
        self._close()
        self._file = self._source.open("rb")
        return True

    @staticmethod
    def _read(file: BinaryIO) -> tuple[bytes, bool]:
        """Return the slow queries among the next whole lines, and whether these are the last."""
        start = file.tell()
        content = file.read(_CHUNK_BYTES)
        is_at_end = len(content) < _CHUNK_BYTES
        whole = content[: content.rfind(b"\n") + 1]
        if whole or is_at_end:
            file.seek(start + len(whole))
        lines = [line for line in whole.splitlines(keepends=True) if _is_slow_query(line)]
        return b"".join(lines), is_at_end

    def _append(self, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._target, flags, 0o600), "ab") as target:
            target.write(content)

    @staticmethod
    def _place(file: BinaryIO) -> _Place:
        return _Place(inode=os.fstat(file.fileno()).st_ino, offset=file.tell())

    def _remember(self, place: _Place | None) -> None:
        self._store.save(_DOCUMENT, {} if place is None else dataclasses.asdict(place))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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
        self.slow_queries = SlowQueries(self._layout.log, active, environment.store)
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
        else:
            self.slow_queries.end()

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
