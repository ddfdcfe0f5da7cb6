"""The ready data directory that new instances are copied from.

Made once for a version and a user; its only account that may log in is the agent's own, which has
no password and is let in by the local socket alone. So it is no secret, and no two instances share
one. What the agent needs in a database of its own is in it already.
"""

from __future__ import annotations

import pathlib
import re

from trove.datastores import postgresql, postgresql_configuration
from trove.guestagent.datastores import programs
from trove.guestagent.system import users

SERVER_PROGRAM = "postgres"
INIT_PROGRAM = "initdb"
#: Where the agent keeps what is its own, in the home database.
SCHEMA = "trove"
STATISTICS = "pg_stat_statements"
#: Where the function is by which tenants name points to restore to, in the home database.
POINTS_SCHEMA = "trove_points"

#: Debian's packages keep each version in a directory of its own.
_PACKAGES = pathlib.Path("/usr/lib/postgresql")
#: What initdb and a server alone print, with code 0 too.
_ERROR = "ERROR:"
_VERSION = re.compile(r"\b(\d+\.\d+)\b")
#: What lets its members run programs, and read and write files, on the instance. Until 16 whoever
#: may make roles may grant them; superusers they may not grant. Nobody is a member, nobody becomes
#: one, and the roles themselves cannot log in.
_DANGEROUS_ROLES = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")
_FIRST_WITH_ADMIN_OPTION = 16


def find_server(*, basedir: str | None) -> pathlib.Path:
    """Return the server program; raises GuestError that says how to get it."""
    where = basedir or _newest_package()
    return programs.find_server(SERVER_PROGRAM, basedir=where, package="postgresql")


def _newest_package() -> str | None:
    found = [path for path in _PACKAGES.glob("[0-9]*") if path.name.isdigit()]
    return str(max(found, key=lambda path: int(path.name))) if found else None


def find_basedir(program: pathlib.Path) -> pathlib.Path:
    """Return the directory that a version is installed in."""
    return program.parent.parent


def server_version(program: pathlib.Path) -> str:
    """Return the version of a server program, such as 15.18; raises GuestError."""
    return programs.server_version(program, "--version", pattern=_VERSION)


def has_statistics(program: pathlib.Path) -> bool:
    """Tell whether the library with the statistics of statements is installed."""
    lib = find_basedir(program) / "lib"
    return any((each / f"{STATISTICS}.so").is_file() for each in (lib, lib / "postgresql"))


def make(
    manager: str, *, target: pathlib.Path, user: users.SystemUser, basedir: str | None
) -> tuple[str, pathlib.Path]:
    """Make the template; returns version and server program. Raises GuestError."""
    program = find_server(basedir=basedir)
    return build(program, target=target, user=user), program


def build(program: pathlib.Path, *, target: pathlib.Path, user: users.SystemUser) -> str:
    """Make the data directory ``target``, owned by ``user``; returns the engine's version.

    It appears complete or not at all. An existing one is left as it is. Raises GuestError.
    """
    version = server_version(program)

    def initialize(work: pathlib.Path) -> None:
        _initialize(program, work=work, user=user, version=version)

    programs.build_template(target, user=user, make=initialize)
    return version


def initialize_arguments(data: pathlib.Path) -> list[str]:
    """Return the arguments of initdb: every version's data must be alike for an upgrade."""
    return [
        *("-D", str(data), "-U", postgresql.AGENT_USER, "-A", "peer"),
        *("--data-checksums", "--no-instructions", "--no-sync"),
        # in order of code points: no update of a library makes an index wrong
        *("-E", "UTF8", "--locale=C.UTF-8"),
        f"--wal-segsize={postgresql_configuration.WAL_SEGMENT_MIB}",
    ]


def _initialize(
    program: pathlib.Path, *, work: pathlib.Path, user: users.SystemUser, version: str
) -> None:
    data = work / "data"
    init_program = program.with_name(INIT_PROGRAM)
    programs.run(
        [str(init_program), *initialize_arguments(data)], user=user, work=work, error=_ERROR
    )
    programs.run(
        # without -j every line is a statement
        [
            *(str(program), "--single", "-D", str(data)),
            *("-c", "exit_on_error=on", postgresql.HOME_DATABASE),
        ],
        user=user,
        work=work,
        stdin="".join(f"{line}\n" for line in own_statements(program, version)).encode(),
        error=_ERROR,
    )
    # the agent writes these itself, elsewhere
    for name in ("pg_hba.conf", "pg_ident.conf", "postgresql.conf"):
        (data / name).unlink()


def own_statements(program: pathlib.Path, version: str) -> list[str]:
    """Return what makes the agent's own things in the home database, each without an end."""
    home = postgresql.HOME_DATABASE
    statements = [
        f"REVOKE ALL ON DATABASE {home}, template1 FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {home} TO PUBLIC",
        f"CREATE SCHEMA {SCHEMA}",
        f"CREATE TABLE {SCHEMA}.ping (id integer PRIMARY KEY, at timestamptz) WITH (fillfactor=10)",
        f"INSERT INTO {SCHEMA}.ping VALUES (1, now())",  # noqa: S608 (a constant)
        # whoever can log in can name a point to restore to; that takes a transaction's number, so
        # that the archive of the log knows that there is something new
        f"CREATE SCHEMA {POINTS_SCHEMA}",
        f"GRANT USAGE ON SCHEMA {POINTS_SCHEMA} TO PUBLIC",
        f"CREATE FUNCTION {POINTS_SCHEMA}.mark(name text) RETURNS pg_lsn LANGUAGE sql STRICT"
        " SECURITY DEFINER SET search_path = pg_catalog"
        " AS 'SELECT pg_current_xact_id(); SELECT pg_create_restore_point(name)'",
    ]
    if has_statistics(program):
        statements.append(f"CREATE EXTENSION {STATISTICS} SCHEMA {SCHEMA}")
    if (postgresql.major_version(version) or 0) < _FIRST_WITH_ADMIN_OPTION:
        names = ", ".join(f"'{name}'" for name in _DANGEROUS_ROLES)
        # a constant
        statements.append(f"UPDATE pg_authid SET rolsuper = true WHERE rolname IN ({names})")  # noqa: S608
    return statements
