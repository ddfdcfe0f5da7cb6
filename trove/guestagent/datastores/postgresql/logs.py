"""The logs of PostgreSQL: the server writes one stream, the agent sorts it.

All messages go, as JSON, to one file in a directory of the server's on the volume. The agent reads
what is new every few seconds and before it is asked, and appends a line for each message to the log
that it belongs to: statements to ``general``, statements that took long to ``slow_query``, all else
to the errors. Of the server's file about a mebibyte is kept: then it is renamed, the server begins
another, and the old one is removed once it is read to its end. An agent that dies in between may
sort some messages twice, and loses none.

What the agent itself asks is not in it. Statements of tenants that hold passwords are in the
general log while that is on.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.datastores import postgresql
from trove.guestagent.datastores import base, logs
from trove.guestagent.datastores.postgresql import connection
from trove.guestagent.logs import part, stream
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

_MIB = 1024 * 1024
_ROTATE_BYTES = _MIB
_CHUNK_BYTES = 256 * 1024
#: Longer messages are left out.
_MAX_LINE_BYTES = 4 * _MIB
#: Sessions whose last statement is remembered, to tell of it how long it took.
_REMEMBERED = 1000
_STATEMENT = ("statement: ", "execute ", "fastpath function call: ")
_DURATION = "duration: "


class LogFiles:
    """Where the logs of an instance are, and how the server's stream becomes them."""

    def __init__(
        self,
        environment: base.Environment,
        connector: connection.Connector,
        *,
        apply: Callable[[], None],
    ) -> None:
        """Take the instance, what connects to its server, and what has it know of a switch."""
        self._apply = apply
        self._layout = environment.layout
        self._connector = connector
        self._lock = threading.Lock()
        self._statements: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        self.streams = {
            name: self._make_stream(name)
            for name in (postgresql.GENERAL_LOG, postgresql.SLOW_QUERY_LOG)
        }

    # -- places -----

    @property
    def _directory(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "logs"

    @property
    def _source(self) -> pathlib.Path:
        return self._layout.engine_logs_dir / "postgresql.json"

    @property
    def _former_source(self) -> pathlib.Path:
        return self._layout.engine_logs_dir / "postgresql.json.old"

    @property
    def _position_file(self) -> pathlib.Path:
        return self._directory / "position.json"

    def _make_stream(self, name: str) -> stream.Stream:
        # the agent is the writer and opens the file for each batch
        return stream.Stream(
            self._layout.volume_agent_dir / "logs" / f"{name}.log",
            self._layout.volume_agent_dir / "logs" / name,
            reopen=lambda: None,
        )

    def ensure_directories(self) -> None:
        """Have the directories that a running server needs, and the agent's own."""
        owner = self._layout.engine_user
        self._layout.make_volume_agent_dir()
        filesystem.ensure_directory(self._layout.engine_logs_dir, mode=0o750, owner=owner)
        filesystem.ensure_directory(self._directory, mode=0o700)

    # -- switching -----

    def is_enabled(self, name: str) -> bool:
        """Tell whether a log is written."""
        return self.streams[name].record.enabled

    def switch(self, name: str, enabled: bool) -> None:
        """Have the running server write a log or not; raises GuestError."""
        self.ensure_directories()
        self._apply()

    def make_error_log(self) -> None:
        """Have the file of the errors, which the agent appends to."""
        self._layout.log.touch(mode=0o600)

    # -- sorting -----

    def collect_errors(self) -> str:
        """Sort what is new and return the errors among it: the server has ended."""
        found: list[str] = []
        with contextlib.suppress(OSError, exception.TroveError):
            self.collect(found.append)
        return "".join(found)

    def collect(self, on_error: Callable[[str], object] = lambda line: None) -> None:
        """Sort what is new; raises OSError."""
        if not self._directory.is_dir():
            return
        with self._lock:
            if self._former_source.exists():
                self._read(self._former_source, on_error)
                if self._source.exists():
                    # the server has let go of it: what it wrote last is there
                    self._read(self._former_source, on_error)
                    self._former_source.unlink()
                    self._save(None, 0)
                else:
                    self._ask_for_another()
                    return
            read_bytes = self._read(self._source, on_error)
            if read_bytes >= _ROTATE_BYTES:
                self._source.rename(self._former_source)
                self._ask_for_another()

    def _ask_for_another(self) -> None:
        try:
            with self._connector.session() as session:
                session.execute("SELECT pg_rotate_logfile()")
        except exception.GuestError as e:
            # one that does not run opens its file when it starts
            LOG.info("the server's log is begun anew later: %s", e)

    def _position(self) -> tuple[int | None, int]:
        try:
            kept = json.loads(self._position_file.read_text(encoding="ascii"))
            return int(kept["inode"]), int(kept["offset"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None, 0

    def _save(self, inode: int | None, offset: int) -> None:
        text = json.dumps({"inode": inode, "offset": offset})
        filesystem.write_file(self._position_file, text, mode=0o600)

    def _read(self, path: pathlib.Path, on_error: Callable[[str], object]) -> int:
        """Sort what is new of a file; returns up to where it was read."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return 0
        with open(descriptor, "rb") as source:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise exception.GuestError(reason=f"{path.name} is no regular file")
            inode, start = self._position()
            offset = start if inode == status.st_ino and start <= status.st_size else 0
            source.seek(offset)
            for lines, end in _whole_lines(source, offset):
                self._sort(lines, on_error)
                self._save(status.st_ino, end)
                offset = end
        return offset

    def _sort(self, lines: list[bytes], on_error: Callable[[str], object]) -> None:
        sorted_lines: dict[str, list[str]] = {}
        for line in lines:
            name, text = self._classify(line)
            if name is not None:
                sorted_lines.setdefault(name, []).append(text)
        for name, texts in sorted_lines.items():
            if name == postgresql.ERROR_LOG:
                for text in texts:
                    on_error(text)
            self._append(name, "".join(texts))

    def _append(self, name: str, text: str) -> None:
        path = self._layout.log
        if name in self.streams:
            path = self._directory / f"{name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "ab") as target:
            target.write(text.encode("utf-8", "replace"))

    def _classify(self, line: bytes) -> tuple[str | None, str]:
        """Return the log that a message belongs to, None for no log, and its text."""
        try:
            record: dict[str, Any] = json.loads(line)
            message = str(record["message"])
        except (ValueError, KeyError, TypeError):
            return postgresql.ERROR_LOG, line.decode("utf-8", "replace") + "\n"
        severity = str(record.get("error_severity", ""))
        if severity != "LOG" or "dbname" not in record:
            return postgresql.ERROR_LOG, _text(record, severity, message)
        session = str(record.get("session_id", ""))
        if message.startswith(_STATEMENT):
            self._statements[session] = record
            self._statements.move_to_end(session)
            while len(self._statements) > _REMEMBERED:
                self._statements.popitem(last=False)
            return postgresql.GENERAL_LOG, _text(record, "", message)
        if message.startswith(_DURATION):
            if message.endswith(" ms"):
                # the statement itself was told when it began
                told = self._statements.get(session, {})
                message = f"{message}  {told.get('message', '')}".rstrip()
                record = {**record, **{word: told[word] for word in ("detail",) if word in told}}
            return postgresql.SLOW_QUERY_LOG, _text(record, "", message)
        return postgresql.ERROR_LOG, _text(record, severity, message)


def _whole_lines(source: Any, offset: int) -> Iterator[tuple[list[bytes], int]]:
    """Return batches of whole lines, and the offset behind each batch."""
    rest = b""
    is_skipping = False
    while chunk := source.read(_CHUNK_BYTES):
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        if lines and is_skipping:
            is_skipping = False
            lines[0] = b"a message was too long"
        if len(rest) > _MAX_LINE_BYTES:
            is_skipping, rest = True, b""
        if lines:
            yield [line for line in lines if line], offset - len(rest)


def _text(record: dict[str, Any], severity: str, message: str) -> str:
    """Return a message as a line, what belongs to it indented below."""
    who = f" {record['user']}@{record.get('dbname', '')}" if "user" in record else ""
    head = f"{record.get('timestamp', '')} [{record.get('pid', '')}]{who}"
    lines = [f"{head} {severity}: {message}" if severity else f"{head} {message}"]
    lines += [
        f"{word.upper()}: {record[word]}"
        for word in ("detail", "hint", "context", "internal_query")
        if word in record
    ]
    return (
        "\n".join(line.replace("\n", "\n\t") for line in lines[:1])
        + "".join("\n\t" + line.replace("\n", "\n\t") for line in lines[1:])
        + "\n"
    )


def make(files: LogFiles, environment: base.Environment) -> part.StreamLogs:
    """Return the logs of an instance, put together."""
    return logs.compose(
        environment,
        switched=files.streams,
        switch=files.switch,
        error_log=postgresql.ERROR_LOG,
        reopen_errors=lambda: None,
        make_error_log=files.make_error_log,
        collect=files.collect,
    )
