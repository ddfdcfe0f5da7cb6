"""The programs of an engine, and the ready data directory that they make.

A template appears complete or not at all: new instances are copied from it.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from collections.abc import Callable

from trove.common import exception
from trove.guestagent.system import filesystem, process, users

_VERSION_TIMEOUT_S = 30
_BUILD_TIMEOUT_S = 300


def find_server(name: str, *, basedir: str | None, package: str) -> pathlib.Path:
    """Return the server program of this name; raises GuestError that says how to get it."""
    program = process.find_program(name, basedir=basedir)
    if program is None:
        raise exception.GuestError(
            reason=f"the program {name} is missing in {basedir or 'the system'}: install the"
            f" package {package}, or rebuild the image"
        )
    return program


def server_version(program: pathlib.Path, *arguments: str, pattern: re.Pattern[str]) -> str:
    """Return the version that a program tells, group 1 of ``pattern``; raises GuestError."""
    try:
        result = process.run([str(program), *arguments], timeout_s=_VERSION_TIMEOUT_S)
    except (OSError, TimeoutError) as e:
        raise exception.GuestError(reason=f"{program} cannot be run: {e}") from None
    found = pattern.search(result.output)
    if result.return_code != 0 or found is None:
        raise exception.GuestError(reason=f"{program} does not tell its version")
    return found[1]


def build_template(
    target: pathlib.Path, *, user: users.SystemUser, make: Callable[[pathlib.Path], None]
) -> None:
    """Have the data directory ``target``; one that is there is left as it is. Raises GuestError.

    ``make`` is given a directory of the user's, in which it makes ``data``.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            filesystem.ensure_directory(work, mode=0o755, owner=user)
            make(work)
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


def run(
    argv: list[str],
    *,
    user: users.SystemUser,
    work: pathlib.Path,
    stdin: bytes = b"",
    error: str | None = None,
) -> None:
    """Run a program that helps to make a template; raises GuestError.

    It has failed as well when it prints ``error``.
    """
    try:
        result = process.run(
            argv, timeout_s=_BUILD_TIMEOUT_S, user=user, stdin=stdin, directory=work
        )
    except TimeoutError as e:
        raise exception.GuestError(reason=str(e)) from None
    if result.return_code != 0 or (error is not None and error in result.output):
        tail = " ".join(result.output.split()[-60:])
        raise exception.GuestError(
            reason=f"{pathlib.Path(argv[0]).name} failed with code {result.return_code}: {tail}"
        )
