"""The programs of the family, and the data directory that new instances are copied from.

The server makes all its files itself: the directory is empty and holds no account.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re

from trove.common import exception
from trove.guestagent.datastores.redis import dialect as dialects
from trove.guestagent.system import filesystem, process, users

_TIMEOUT_S = 30.0
_VERSION = re.compile(r"\bv=(\d+\.\d+\.\d+)\b")
#: What a server built without TLS says to an option of TLS: Redis, Valkey.
_NO_TLS = ("Bad directive", "TLS support")


def find_server(dialect: dialects.Dialect, *, basedir: str | None) -> pathlib.Path:
    """Return the server program; raises GuestError that says how to get it."""
    program = process.find_program(dialect.server_program, basedir=basedir)
    if program is None:
        raise exception.GuestError(
            reason=f"the program {dialect.server_program} is missing in"
            f" {basedir or 'the system'}: install the package {dialect.package}, or rebuild the"
            " image"
        )
    return program


def _run(
    program: pathlib.Path, *arguments: str, user: users.SystemUser | None = None
) -> process.Result:
    try:
        return process.run([str(program), *arguments], timeout_s=_TIMEOUT_S, user=user)
    except (OSError, TimeoutError) as e:
        raise exception.GuestError(reason=f"{program} cannot be run: {e}") from None


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 7.0.15; raises GuestError."""
    result = _run(program, "--version")
    found = _VERSION.search(result.output)
    if result.return_code != 0 or found is None:
        raise exception.GuestError(reason=f"{program} does not tell its version")
    return found.group(1)


def has_tls(program: pathlib.Path, *, user: users.SystemUser) -> bool:
    """Tell whether a server program was built with TLS; raises GuestError."""
    return _has_tls(program, program.stat().st_mtime_ns, user)


@functools.cache
def _has_tls(program: pathlib.Path, modified_ns: int, user: users.SystemUser) -> bool:
    """Start it with a certificate that is not there: it ends before it listens anywhere."""
    result = _run(
        program,
        *("--port", "0", "--tls-port", "1", "--tls-cert-file", os.devnull),
        *("--save", "", "--dir", "/"),
        user=user,
    )
    return not any(words in result.output for words in _NO_TLS)


def make(
    manager: str, *, target: pathlib.Path, user: users.SystemUser, basedir: str | None
) -> tuple[str, pathlib.Path]:
    """Make the template of a member of the family; returns version and server program."""
    program = find_server(dialects.DIALECTS[manager], basedir=basedir)
    version = server_version(program)
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.ensure_directory(target, mode=0o700, owner=user)
        except OSError as e:
            raise exception.GuestError(
                reason=filesystem.explain(e, "making the template of the data directory")
            ) from None
    return version, program
