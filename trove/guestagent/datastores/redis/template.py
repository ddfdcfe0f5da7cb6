"""The programs of the family, and the data directory that new instances are copied from.

The server makes all its files itself: the directory is empty and holds no account.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re

from trove.common import exception
from trove.guestagent.datastores import programs
from trove.guestagent.datastores.redis import dialect as dialects
from trove.guestagent.system import filesystem, process, users

_TIMEOUT_S = 30.0
_VERSION = re.compile(r"\bv=(\d+\.\d+\.\d+)\b")
#: What a server built without TLS says to an option of TLS: Redis, Valkey.
_NO_TLS = ("Bad directive", "TLS support")


def find_server(dialect: dialects.Dialect, *, basedir: str | None) -> pathlib.Path:
    """Return the server program; raises GuestError that says how to get it."""
    return programs.find_server(dialect.server_program, basedir=basedir, package=dialect.package)


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 7.0.15; raises GuestError."""
    return programs.server_version(program, "--version", pattern=_VERSION)


def has_tls(program: pathlib.Path, *, user: users.SystemUser) -> bool:
    """Tell whether a server program was built with TLS; raises GuestError."""
    return _has_tls(program, program.stat().st_mtime_ns, user)


@functools.cache
def _has_tls(program: pathlib.Path, modified_ns: int, user: users.SystemUser) -> bool:
    """Start it with a certificate that is not there: it ends before it listens anywhere."""
    argv = [
        *(str(program), "--port", "0", "--tls-port", "1", "--tls-cert-file", os.devnull),
        *("--save", "", "--dir", "/"),
    ]
    try:
        result = process.run(argv, timeout_s=_TIMEOUT_S, user=user)
    except (OSError, TimeoutError) as e:
        raise exception.GuestError(reason=f"{program} cannot be run: {e}") from None
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
