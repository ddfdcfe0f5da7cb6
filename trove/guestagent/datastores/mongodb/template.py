"""The ready data directory that new instances are copied from.

Made once for an engine and a user. It holds no account and belongs to no replica set: the server
that made it was no member of one, and each instance begins its own set with a key of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from trove.common import exception
from trove.datastores import mongodb_configuration
from trove.guestagent.datastores import programs
from trove.guestagent.system import filesystem, process, users

PACKAGE = "mongodb-org-server"
_PROGRAM = "mongod"
#: Both on data that may be large.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 600.0
_LOOK_S = 0.02
#: Messages that follow one that says more.
_SAY_NOTHING = frozenset(
    {
        "Fatal assertion",
        "Got signal",
        "Writing fatal message",
        "\n\n***aborting after fassert() failure\n\n",
    }
)
_OF_OPTIONS = ("Unrecognized option", "Error parsing", "BadValue", "Invalid")
_VERSION = re.compile(r"db version v(\d+\.\d+\.\d+)")


def find_server(*, basedir: str | None) -> pathlib.Path:
    """Return the server program; raises GuestError that says how to get it."""
    return programs.find_server(_PROGRAM, basedir=basedir, package=PACKAGE)


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 6.0.27; raises GuestError."""
    return programs.server_version(program, "--version", pattern=_VERSION)


def make(
    manager: str, *, target: pathlib.Path, user: users.SystemUser, basedir: str | None
) -> tuple[str, pathlib.Path]:
    """Make the data directory ``target``, owned by ``user``; returns version and server program.

    It appears complete or not at all. An existing one is left as it is. Raises GuestError.
    """
    program = find_server(basedir=basedir)
    version = server_version(program)

    def initialize(work: pathlib.Path) -> None:
        # the path of a socket must be short, wherever the target is
        with tempfile.TemporaryDirectory(prefix="trove-", dir="/tmp") as name:
            run = filesystem.ensure_directory(pathlib.Path(name), mode=0o755, owner=user)
            _initialize(program, work=work, run=run, user=user)

    programs.build_template(target, user=user, make=initialize)
    return version, program


def _initialize(
    program: pathlib.Path, *, work: pathlib.Path, run: pathlib.Path, user: users.SystemUser
) -> None:
    """Have a server make its files, alone on a socket, and end cleanly."""
    name = "storage.wiredTiger.engineConfig.configString"
    options = {
        name: mongodb_configuration.sized_options(512, 1)[name],
        "storage.wiredTiger.engineConfig.cacheSizeGB": 0.25,
    }
    data = filesystem.ensure_directory(work / "data", mode=0o700, owner=user)
    run_once(program, options, {}, data=data, run=run, user=user)
    (data / "mongod.lock").unlink(missing_ok=True)


def run_once(
    program: pathlib.Path,
    options: Mapping[str, Any],
    server_parameters: Mapping[str, Any],
    *,
    data: pathlib.Path,
    run: pathlib.Path,
    user: users.SystemUser,
) -> None:
    """Start a server on ``data``, listening on a socket in ``run`` alone, and end it cleanly.

    Raises GuestError with what it said when it does not start.
    """
    with alone(program, options, server_parameters, data=data, run=run, user=user):
        pass


def _data_argument(data: pathlib.Path) -> str:
    return f"--dbpath={data}"


def end_former(data: pathlib.Path) -> None:
    """End a server that an earlier agent left alone on ``data``; raises GuestError."""
    if not process.end_by_argument(_data_argument(data), timeout_s=_STOP_TIMEOUT_S):
        raise exception.GuestError(reason="a server of an earlier attempt does not end")


@contextlib.contextmanager
def alone(
    program: pathlib.Path,
    options: Mapping[str, Any],
    server_parameters: Mapping[str, Any],
    *,
    data: pathlib.Path,
    run: pathlib.Path,
    user: users.SystemUser,
) -> Iterator[pathlib.Path]:
    """Have a server on ``data`` that listens on a socket in ``run`` alone; gives the socket.

    It knows no accounts and belongs to no set. It is ended cleanly; after an exception, at once.
    Raises GuestError with what it said when it does not start or end.
    """
    listening = run / "engine.sock"
    configuration = run / "mongod.conf"
    options = {
        **options,
        "net.bindIp": str(listening),
        "net.unixDomainSocket.enabled": False,
    }
    server_parameters = {**server_parameters, "diagnosticDataCollectionEnabled": False}
    text = mongodb_configuration.render(options, server_parameters)
    filesystem.write_file(configuration, text, mode=0o644)
    log = run / "mongod.log"
    filesystem.ensure_log(log, owner=user)
    marker = f"--config={configuration}"
    command = process.Command(
        argv=(str(program), marker, _data_argument(data)),
        marker=marker,
        user=user,
        log=log,
        directory=data,
        environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    server = process.spawn(command)
    try:
        _await_listening(server, listening, log)
        yield listening
        server.signal(signal.SIGTERM)
        if not server.wait(_STOP_TIMEOUT_S) or server.return_code != 0:
            raise exception.GuestError(reason=f"the server did not end cleanly: {last_words(log)}")
    finally:
        if not server.has_ended():
            server.signal(signal.SIGKILL)
            server.wait(_STOP_TIMEOUT_S)
        server.close()


def _await_listening(server: process.Process, path: pathlib.Path, log: pathlib.Path) -> None:
    pause = threading.Event()
    for _ in range(int(_START_TIMEOUT_S / _LOOK_S)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                if server.has_ended():
                    break
            else:
                return
        pause.wait(_LOOK_S)
    raise exception.GuestError(reason=f"the server did not start: {last_words(log)}")


def last_words(log: pathlib.Path) -> str:
    """Return the last error in a log of the server, else its last line."""
    lines = filesystem.read_tail(log).strip().splitlines()
    return (errors_of("\n".join(lines)) or lines or ["nothing"])[-1][:300]


def errors_of(log: str) -> list[str]:
    """Return the errors in what a server logged, oldest first.

    Its log is a JSON object a line; what it says of its options is plain text.
    """
    found = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            if line.startswith(_OF_OPTIONS):
                found.append(line)
            continue
        if not isinstance(entry, dict) or entry.get("s") not in ("E", "F"):
            continue
        error = (entry.get("attr") or {}).get("error")
        if isinstance(error, dict):
            error = error.get("errmsg")
        message = str(entry.get("msg", ""))
        if message not in _SAY_NOTHING:
            found.append(f"{message}: {error}" if error else message)
    return found
