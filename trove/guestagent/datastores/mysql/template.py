"""The ready data directory that new instances are copied from.

Made once for an engine and a user; holds no account that anybody could log in with, so it is no
secret and no two instances share one.
"""

from __future__ import annotations

import pathlib
import re

from trove.common import exception
from trove.guestagent.datastores import programs
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, process, users

#: Small: the server makes its redo log as large as its configuration says at its first start.
_REDO_LOG_MIB = 8
_VERSION = re.compile(r"\b(\d+\.\d+\.\d+)\b")
#: What a server without a program for it is shipped with, below ``share``.
_SYSTEM_STATEMENTS = ("mysql_system_tables.sql", "mysql_system_tables_data.sql")


def find_server(dialect: dialects.Dialect, *, basedir: str | None) -> pathlib.Path:
    """Return the server program; raises GuestError that says how to get it."""
    return programs.find_server(dialect.server_program, basedir=basedir, package=dialect.package)


def find_basedir(program: pathlib.Path, *, basedir: str | None) -> str:
    """Return the directory the server finds its own files in."""
    return basedir or str(program.parent.parent)


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 10.11.19; raises GuestError."""
    return programs.server_version(program, "--no-defaults", "--version", pattern=_VERSION)


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

    def initialize(work: pathlib.Path) -> None:
        _initialize(dialect, program=program, work=work, user=user, basedir=basedir)

    programs.build_template(target, user=user, make=initialize)
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
        programs.run(argv, user=user, work=work)
        return
    system = b""
    if dialect.initialization is dialects.Initialization.PROGRAM:
        _run_init_program(dialect, option, user=user, work=work, basedir=basedir)
    else:
        share = pathlib.Path(base) / "share"
        parts = [(share / name).read_bytes() for name in _SYSTEM_STATEMENTS]
        system = b"".join((b"CREATE DATABASE mysql;\nUSE mysql;\n", *parts))
    programs.run(
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
    programs.run(argv, user=user, work=work)
