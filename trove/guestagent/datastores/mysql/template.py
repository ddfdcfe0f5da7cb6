"""The ready data directory that new instances are copied from.

Made once for an engine and a user; holds no account that anybody could log in with, so it is no
secret and no two instances share one.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile

from trove.common import exception
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, process, users

#: Small: the server makes its redo log as large as its configuration says at its first start.
_REDO_LOG_MIB = 8
_TIMEOUT_S = 300
_VERSION = re.compile(r"\b(\d+\.\d+\.\d+)\b")
#: What a server without a program for it is shipped with, below ``share``.
_SYSTEM_STATEMENTS = ("mysql_system_tables.sql", "mysql_system_tables_data.sql")


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


def find_basedir(program: pathlib.Path, *, basedir: str | None) -> str:
    """Return the directory the server finds its own files in."""
    return basedir or str(program.parent.parent)


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 10.11.19; raises GuestError."""
    try:
        result = process.run([str(program), "--no-defaults", "--version"], timeout_s=30)
    except (OSError, TimeoutError) as e:
        raise exception.GuestError(reason=f"{program} cannot be run: {e}") from None
    found = _VERSION.search(result.output)
    if result.return_code != 0 or found is None:
        raise exception.GuestError(reason=f"{program} does not tell its version")
    return found.group(1)


def make(
    manager: str, *, target: pathlib.Path, user: users.SystemUser, basedir: str | None
) -> tuple[str, pathlib.Path]:
    """Make the template of a member of the family; returns version and server program."""
    dialect = find_dialect(manager, basedir=basedir)
    version = build(dialect, target=target, user=user, basedir=basedir)
    return version, find_server(dialect, basedir=basedir)


def find_dialect(manager: str, *, basedir: str | None) -> dialects.Dialect:
    """Return the member of the family that is installed; the usual one when none is."""
    usual = dialects.DIALECTS[manager]
    program = process.find_program(usual.server_program, basedir=basedir)
    if program is None:
        return usual
    return dialects.for_version(manager, server_version(program))


def build(
    dialect: dialects.Dialect, *, target: pathlib.Path, user: users.SystemUser, basedir: str | None
) -> str:
    """Make the data directory ``target``, owned by ``user``; returns the engine's version.

    It appears complete or not at all. An existing one is left as it is. Raises GuestError.
    """
    program = find_server(dialect, basedir=basedir)
    version = server_version(program)
    if target.exists():
        return version
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            filesystem.ensure_directory(work, mode=0o755, owner=user)
            _initialize(dialect, program=program, work=work, user=user, basedir=basedir)
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
    return version


def _initialize(
    dialect: dialects.Dialect,
    *,
    program: pathlib.Path,
    work: pathlib.Path,
    user: users.SystemUser,
    basedir: str | None,
) -> None:
    data = work / "data"
    if dialect.initialization is not dialects.Initialization.SERVER:
        # the server makes its own, and wants none there
        filesystem.ensure_directory(data, mode=0o700, owner=user)
    defaults = work / "my.cnf"
    base = find_basedir(program, basedir=basedir)
    lines = (
        "[mysqld]",
        f"basedir={base}",
        f"datadir={data}",
        f"tmpdir={work}",
        f"innodb-log-file-size={_REDO_LOG_MIB}M",
        "innodb-buffer-pool-size=32M",
        "skip-log-bin",
    )
    filesystem.write_file(defaults, "\n".join(lines) + "\n", mode=0o644)
    option = f"--defaults-file={defaults}"
    if dialect.initialization is dialects.Initialization.SERVER:
        statements = work / "init.sql"
        filesystem.write_file(statements, dialect.drop_accounts, mode=0o644)
        argv = [str(program), option, "--initialize-insecure", f"--init-file={statements}"]
        _run(argv, user=user, work=work)
        return
    system = b""
    if dialect.initialization is dialects.Initialization.PROGRAM:
        _run_init_program(dialect, option, user=user, work=work, basedir=basedir)
    else:
        share = pathlib.Path(base) / "share"
        parts = [(share / name).read_bytes() for name in _SYSTEM_STATEMENTS]
        system = b"".join((b"CREATE DATABASE mysql;\nUSE mysql;\n", *parts))
    _run(
        [str(program), option, "--bootstrap", "--skip-networking"],
        user=user,
        work=work,
        stdin=system + dialect.drop_accounts.encode(),
    )
    for name in ("multi-master.info", "ddl_recovery.log", "ddl_recovery-backup.log"):
        (data / name).unlink(missing_ok=True)


def _run_init_program(
    dialect: dialects.Dialect,
    option: str,
    *,
    user: users.SystemUser,
    work: pathlib.Path,
    basedir: str | None,
) -> None:
    init_program = process.find_program(dialect.init_program, basedir=basedir)
    if init_program is None:
        raise exception.GuestError(
            reason=f"the program {dialect.init_program} is missing: install {dialect.package}"
        )
    socket_user = f"--auth-root-socket-user={user.name}"
    argv = [str(init_program), option, socket_user, *dialect.init_arguments]
    _run(argv, user=user, work=work)


def _run(
    argv: list[str], *, user: users.SystemUser, work: pathlib.Path, stdin: bytes = b""
) -> None:
    try:
        result = process.run(argv, timeout_s=_TIMEOUT_S, user=user, stdin=stdin, directory=work)
    except TimeoutError as e:
        raise exception.GuestError(reason=str(e)) from None
    if result.return_code != 0:
        tail = " ".join(result.output.split()[-60:])
        raise exception.GuestError(
            reason=f"{pathlib.Path(argv[0]).name} failed with code {result.return_code}: {tail}"
        )
