"""Copies of a running MariaDB server, as mariabackup streams them.

An increment is of pages that changed since a position of the redo log (LSN). Whether that position
is one of this very server's past, no tool tells: the agent gives each data directory a history of
its own, in a file that no copy has, so that a restored one begins another.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import binlog, connection, mbstream, template
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, pipes, process, users

#: Of the facts of a backup.
FORMAT = 1
_HISTORY = ".trove-history"
_INFO = "xtrabackup_info"
_CHECKPOINTS = "xtrabackup_checkpoints"
_REQUIRED = (_INFO, _CHECKPOINTS, "ibdata1", "ib_logfile0")
REQUIRED_OF_INCREMENT = (_INFO, _CHECKPOINTS)
OK = "completed OK!"
#: Longest that the tool may give nothing: it waits for statements that change tables.
_STALL_S = 900.0
#: Longest that it may take to end once its stream has.
_END_S = 60.0
_BINLOG = re.compile(
    r"^binlog_pos = filename '([^']+)', position '(\d+)'(?:, GTID of the last change '([^']*)')?$",
    re.MULTILINE,
)
_COMPLAINT = re.compile(r"error|fatal|failed|cannot|can't|denied|no space", re.IGNORECASE)
_PREFIX = re.compile(r"^(\[\d+\] )?(\d{4}-\d\d-\d\d +[\d:]+ )?(\d+ )?")
#: Files of the data directory that are not copied.
_NOT_COPIED = re.compile(r"(mysql-bin|relay-bin)\.|ib_logfile|ibtmp|ib_buffer_pool|undo_.*_trunc")


def find_program(program: tuple[str, str], *, basedir: str | None) -> str:
    """Return the path of a program; raises GuestError that says with what package it comes."""
    name, package = program
    found = process.find_program(name, basedir=basedir)
    if found is None:
        raise exception.ProgramMissing(
            reason=f"the program {name} is missing: install {package}, or rebuild the image with it"
        )
    return str(found)


def explain(name: str, said: str) -> str:
    """Return what a tool complained about, from what it said."""
    if "try increasing innodb_log_file_size" in said:
        return (
            "more was written during the backup than the redo log holds: make the backup at a"
            " quieter time, without a limit of its rate, or resize the instance to a larger flavor"
        )
    lines = [_PREFIX.sub("", line).strip() for line in said.splitlines()]
    lines = [line for line in lines if line]
    complaints = [line for line in lines if _COMPLAINT.search(line)] or lines
    if not complaints:
        return f"{name} did not say why"
    return f"{name} says: {' / '.join(complaints[-2:])[:400]}"


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Put errors of the system in words."""
    try:
        yield
    except TimeoutError as e:
        raise exception.GuestError(reason=str(e)) from None
    except OSError as e:
        raise exception.GuestError(reason=filesystem.explain(e, doing)) from None


class CopyStream(base.Stream):
    """The stream of a tool that copies the server."""

    def __init__(
        self,
        program: pipes.Program,
        *,
        data_dir: pathlib.Path,
        remove: Callable[[], None],
        facts: Mapping[str, Any],
        required: tuple[str, ...],
    ) -> None:
        """Take a running program, what removes its files, and what is known of the copy."""
        self._program = program
        self._name = program.name
        self._data_dir = data_dir
        self._remove = remove
        self._facts = dict(facts)
        self._required = required
        self._follower = mbstream.Follower(kept=(_INFO, _CHECKPOINTS))
        self._bytes = 0
        self._has_ended = False
        self._is_closed = False

    def read(self, most: int) -> bytes:
        """Return what the tool wrote next."""
        with explained("reading from the backup program"):
            data = self._program.read(most)
        self._follower.feed(data)
        self._bytes += len(data)
        self._has_ended = not data
        return data

    def finish(self) -> dict[str, Any]:
        """Check exit code, last words and the end of the stream; return the facts."""
        if self._is_closed or not self._has_ended:
            raise exception.GuestError(reason=f"what {self._name} writes was not read to its end")
        with explained("waiting for the backup program"):
            return_code = self._program.wait(_END_S)
        said = self._program.said()
        if return_code != 0 or not said.rstrip().endswith(OK):
            raise exception.GuestError(
                reason=f"the backup failed with code {return_code}: {explain(self._name, said)}"
            )
        self._follower.finish(required=self._required)
        return {**self._facts, **self._positions(), "data_bytes": self._bytes}

    def _positions(self) -> dict[str, Any]:
        """Return what the tool tells of the copy, in files of the stream."""
        info = self._follower.files[_INFO].decode("utf-8", "replace")
        text = self._follower.files[_CHECKPOINTS].decode("ascii", "replace")
        values = dict(re.findall(r"^(\w+) = (\S*)$", text, re.MULTILINE))
        found_log = _BINLOG.search(info)
        try:
            found = {name: int(values[name]) for name in ("from_lsn", "to_lsn", "last_lsn")}
        except (KeyError, ValueError):
            raise exception.GuestError(reason="the backup does not tell its position") from None
        if found["from_lsn"] != self._facts.get("parent_lsn", 0):
            raise exception.GuestError(reason="the backup begins at another position than asked")
        if found_log is None:
            raise exception.GuestError(reason="the backup does not tell its place in the log")
        place = {
            "file": found_log[1],
            "position": int(found_log[2]),
            "digest": self._digest(found_log[1]),
        }
        return {**found, "binlog": place, "gtid": found_log[3] or "", "consistent_s": time.time()}

    def _digest(self, file: str) -> str | None:
        """Return what tells a file of the log from others of its name; None when it is gone."""
        try:
            with open(self._data_dir / file, "rb") as stream:
                return binlog.read_head(stream).digest
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """End the program and remove its files."""
        self._is_closed = True
        self._program.close()
        self._remove()


class Copier:
    """Copies the running server."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        programs: dialects.BackupPrograms,
        environment: base.Environment,
        *,
        connector: connection.Connector,
        configuration: pathlib.Path,
        socket: pathlib.Path,
    ) -> None:
        """Take the server: its configuration file and its socket."""
        self._dialect = dialect
        self._programs = programs
        self._environment = environment
        self._layout = environment.layout
        self._connector = connector
        self._configuration = configuration
        self._socket = socket

    @property
    def _user(self) -> users.SystemUser:
        return self._layout.engine_user

    def estimate_bytes(self) -> int:
        """Return how large the files are that a full copy is made of."""
        total = 0
        pending = [os.fspath(self._layout.data_dir)]
        with explained("measuring the data"):
            while pending:
                with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):
                            if entry.is_dir(follow_symlinks=False):
                                pending.append(entry.path)
                            elif not _NOT_COPIED.match(entry.name):
                                total += entry.stat(follow_symlinks=False).st_size
        return total

    def open_full(self) -> CopyStream:
        """Begin to copy all of it."""
        return self._open({"kind": "full"}, _REQUIRED, [])

    def open_increment(self, parent: Mapping[str, Any]) -> CopyStream:
        """Begin to copy what changed since a backup of these facts."""
        lsn = self._check_parent(parent)
        # nothing may have been written since: what there is of files varies
        return self._open(
            {"kind": "increment", "parent_lsn": lsn},
            REQUIRED_OF_INCREMENT,
            [f"--incremental-lsn={lsn}"],
        )

    def _check_parent(self, parent: Mapping[str, Any]) -> int:
        """Return the position that a parent ends at; raises GuestError."""
        version = self._version()
        if parent.get("history") != self._history():
            reason = "the parent is a backup of another database, or of this one before a restore"
        elif parent.get("engine_version") != version:
            reason = f"the parent is a backup of {parent.get('engine_version')}, this is {version}"
        elif not isinstance(parent.get("to_lsn"), int):
            reason = "the parent does not tell its position"
        elif parent["to_lsn"] > self._current_lsn():
            reason = "the parent is a backup of a later state of the database"
        else:
            return int(parent["to_lsn"])
        raise exception.GuestError(reason=f"{reason}: make a full backup")

    def _current_lsn(self) -> int:
        with self._connector.session() as session:
            rows = session.execute("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'")
        return int(rows[0][1])

    def _version(self) -> str:
        program = template.find_server(self._dialect, basedir=self._environment.basedir)
        return template.server_version(program)

    def _history(self) -> str:
        """Return what identifies the data directory; makes it when there is none."""
        path = self._layout.data_dir / _HISTORY
        with explained("reading the history of the data"):
            with contextlib.suppress(FileNotFoundError):
                return path.read_text(encoding="ascii")
            history = str(uuid.uuid4())
            filesystem.write_file(path, history, mode=0o600, owner=self._user)
            return history

    def _open(
        self, facts: Mapping[str, Any], required: tuple[str, ...], arguments: list[str]
    ) -> CopyStream:
        program = find_program(self._programs.backup, basedir=self._environment.basedir)
        about = {
            "format": FORMAT,
            "manager": self._dialect.spec.manager,
            "engine_version": self._version(),
            "history": self._history(),
            "began_s": time.time(),
            **facts,
        }
        name = f"backup-{secrets.token_hex(4)}"
        options = self._layout.secret_dir / f"{name}.cnf"
        messages = self._layout.agent_dir / f"{name}.log"

        def remove() -> None:
            options.unlink(missing_ok=True)
            messages.unlink(missing_ok=True)

        argv = [program, f"--defaults-file={options}", "--backup", "--stream=mbstream", *arguments]
        try:
            with explained("beginning the backup"):
                self._write_options(options)
                running = pipes.Program(
                    argv,
                    stall_s=_STALL_S,
                    user=self._user,
                    messages=messages,
                    directory=self._layout.temporary_dir,
                )
        except BaseException:
            remove()
            raise
        return CopyStream(
            running,
            data_dir=self._layout.data_dir,
            remove=remove,
            facts=about,
            required=required,
        )

    def _write_options(self, path: pathlib.Path) -> None:
        """Write what the tool is to connect with; the rest it reads where the server does."""
        # letters and digits only: see crypto.generate_password
        password = self._environment.store.password(mysql.AGENT_USER)
        lines = (
            "[mariabackup]",
            f"user={mysql.AGENT_USER}",
            f"password={password}",
            f"socket={self._socket}",
            f"!include {self._configuration}",
        )
        filesystem.write_file(path, "\n".join(lines) + "\n", mode=0o600, owner=self._user)
