"""The ready data directory that new instances are copied from.

Made once for an engine and a user. It holds no account and belongs to no replica set: the server
that made it was no member of one, and each instance begins its own set with a key of its own.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from trove.common import exception
from trove.datastores import mongodb_configuration
from trove.guestagent.system import filesystem, process, users

PACKAGE = "mongodb-org-server"
_PROGRAM = "mongod"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
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
    program = process.find_program(_PROGRAM, basedir=basedir)
    if program is None:
        raise exception.GuestError(
            reason=f"the program {_PROGRAM} is missing in {basedir or 'the system'}: install the"
            f" package {PACKAGE}, or rebuild the image"
        )
    return program


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 6.0.27; raises GuestError."""
    try:
        result = process.run([str(program), "--version"], timeout_s=30)
    except (OSError, TimeoutError) as e:
        raise exception.GuestError(reason=f"{program} cannot be run: {e}") from None
    found = _VERSION.search(result.output)
    if result.return_code != 0 or found is None:
        raise exception.GuestError(reason=f"{program} does not tell its version")
    return found.group(1)


def make(
    manager: str, *, target: pathlib.Path, user: users.SystemUser, basedir: str | None
) -> tuple[str, pathlib.Path]:
    """Make the data directory ``target``, owned by ``user``; returns version and server program.

    It appears complete or not at all. An existing one is left as it is. Raises GuestError.
    """
    program = find_server(basedir=basedir)
    version = server_version(program)
    if target.exists():
        return version, program
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # the path of a socket must be short, wherever the target is
        with tempfile.TemporaryDirectory(prefix="trove-", dir="/tmp") as run:
            work = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                filesystem.ensure_directory(work, mode=0o755, owner=user)
                filesystem.ensure_directory(pathlib.Path(run), mode=0o755, owner=user)
                _initialize(program, work=work, run=pathlib.Path(run), user=user)
                filesystem.sync_file_system(work)
                try:
                    os.rename(work / "data", target)
                except OSError:
                    # somebody else may have finished first; theirs is as good
                    if not target.exists():
                        raise
                filesystem.sync_directory(target.parent)
            finally:
                filesystem.remove_tree(work)
    except OSError as e:
        raise exception.GuestError(
            reason=filesystem.explain(e, "building the template of the data directory")
        ) from None
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
    listening = run / "engine.sock"
    configuration = run / "mongod.conf"
    options = {
        **options,
        "storage.dbPath": str(data),
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
        argv=(str(program), marker),
        marker=marker,
        user=user,
        log=log,
        directory=data,
        environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    server = process.spawn(command)
    try:
        _await_listening(server, listening, log)
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
