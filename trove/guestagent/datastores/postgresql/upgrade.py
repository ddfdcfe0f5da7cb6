"""Upgrades of PostgreSQL: from one major version to a later one by pg_upgrade.

Within a major version the new server runs on the data as they are. From one to another pg_upgrade
makes the data of the new one, with the programs of both; it is given a copy of the data to make
them from, so that the data themselves are not so much as opened and can be had again as the old
server left them. The copy shares blocks where the file system can, and what is made of it shares
its files; nothing is there twice for longer than until the end.

An image for upgrades has the programs of the versions before it too: those that
``[guestagent] former_basedirs`` names, or Debian's packages beside each other.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import tempfile

from oslo_log import log

from trove.common import exception
from trove.datastores import postgresql
from trove.guestagent.datastores import base
from trove.guestagent.datastores import upgrade as generic
from trove.guestagent.datastores.postgresql import connection, template
from trove.guestagent.system import filesystem, process

LOG = log.getLogger(__name__)

_MANAGER = "postgresql"
_PACKAGES = pathlib.Path("/usr/lib/postgresql")
#: Longest that pg_upgrade, and gathering statistics after it, may take.
_TIMEOUT_S = 6600.0
#: The first version whose pg_upgrade keeps the planner's statistics.
_FIRST_WITH_STATISTICS = 18
_DETAILS = re.compile(r"(/\S+\.(?:log|txt))\b")
#: Nobody but the engine's user reaches the socket that the servers listen on meanwhile.
_FILES = {
    "postgresql.conf": "logging_collector = off\n",
    "pg_hba.conf": "local all all trust\n",
    "pg_ident.conf": "",
}


class PostgresqlUpgrade(generic.MinorUpgrade):
    """Upgrades of PostgreSQL."""

    def __init__(self, environment: base.Environment, connector: connection.Connector) -> None:
        """Take where the server runs, and connections to it."""
        super().__init__(_MANAGER, find_version=lambda: template.server_version(self._program))
        self._environment = environment
        self._connector = connector
        self._kept = generic.Kept(environment.layout)
        #: What pg_upgrade makes the new data from; it shares files with them.
        self._source = environment.layout.mount_point / "data.source"

    @property
    def _program(self) -> pathlib.Path:
        return template.find_server(basedir=self._environment.basedir)

    def check(self, *, old: str, new: str) -> None:
        """Raise GuestError unless there is a way, and space, and nothing that is in the way."""
        super().check(old=old, new=new)
        if self.is_same_series(old, new):
            return
        self._kept.check_space()
        socket = self._environment.store.run_dir() / f".s.PGSQL.{self._environment.port}"
        if not socket.exists():
            # asked again before the start: it has answered while it ran
            return
        with self._connector.session() as session:
            ((prepared, tablespaces),) = session.execute(
                "SELECT (SELECT count(*) FROM pg_prepared_xacts),"
                " (SELECT count(*) FROM pg_tablespace WHERE spcname NOT LIKE 'pg@_%%' ESCAPE '@')"
            )
        if prepared:
            raise exception.GuestError(
                reason=f"{prepared} prepared transactions are open: commit or roll them back first"
            )
        if tablespaces:
            raise exception.GuestError(
                reason=f"there are {tablespaces} tablespaces of your own: move what is in them to"
                " pg_default and drop them first"
            )

    def begin(self, *, old: str, new: str) -> None:
        """Have the data of the new major version in place of the old ones, which are kept."""
        if self.is_same_series(old, new):
            return
        kept = self._kept
        if kept.is_there and (kept.data.exists() or kept.work.exists()):
            # complete when it was begun: only renames were left
            kept.swap()
            self._clear()
            return
        self._clear()
        kept.check_space()
        former = self._find_former(old)
        layout = self._environment.layout
        filesystem.copy_tree(kept.data, self._source, owner=layout.engine_user)
        self._make(former)
        kept.swap()
        self._clear()

    def _clear(self) -> None:
        self._kept.clear()
        filesystem.remove_tree(self._source)

    def _find_former(self, old: str) -> pathlib.Path:
        """Return where the programs of the old version are; raises GuestError."""
        candidates = [
            pathlib.Path(basedir)
            for version, basedir in self._environment.former_basedirs.items()
            if self.is_same_series(version, old)
        ]
        candidates.append(_PACKAGES / str(postgresql.major_version(old)))
        for basedir in candidates:
            if (basedir / "bin" / template.SERVER_PROGRAM).is_file():
                return basedir
        raise exception.GuestError(
            reason=f"the image has no programs of version {old}, which the data are of: have the"
            f" operator rebuild it with those of version {postgresql.major_version(old)} as well"
        )

    def _make(self, former: pathlib.Path) -> None:
        """Make the new data from the copy of the old ones."""
        kept, program = self._kept, self._program
        owner = self._environment.layout.engine_user
        filesystem.ensure_directory(kept.work, mode=0o700, owner=owner)
        self._run([str(program.with_name("initdb")), *template.initialize_arguments(kept.work)])
        for directory in (self._source, kept.work):
            for name, text in _FILES.items():
                filesystem.write_file(directory / name, text, mode=0o600, owner=owner)
        self._drop_own(former)
        # it leaves scripts behind, and a socket must have a short path
        work = pathlib.Path(tempfile.mkdtemp(prefix="trove-upgrade-"))
        try:
            filesystem.ensure_directory(work, mode=0o700, owner=owner)
            self._run(
                [
                    *(str(program.with_name("pg_upgrade")), "--link", "--no-sync"),
                    *("-b", str(former / "bin"), "-B", str(program.parent)),
                    *("-d", str(self._source), "-D", str(kept.work)),
                    *("-U", postgresql.AGENT_USER, "-s", str(work)),
                ],
                directory=work,
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)
        statements = template.own_statements(program, template.server_version(program))
        self._execute(program, kept.work, statements)
        # the agent writes its own elsewhere
        for name in _FILES:
            (kept.work / name).unlink(missing_ok=True)

    def _drop_own(self, former: pathlib.Path) -> None:
        """Remove the agent's own things from the copy: they are made anew.

        They were made before the server first ran, which has pg_upgrade take them for its own.
        """
        statements = [
            f"DROP EXTENSION IF EXISTS {template.STATISTICS}",
            f"DROP SCHEMA IF EXISTS {template.SCHEMA}, {template.POINTS_SCHEMA} CASCADE",
        ]
        self._execute(former / "bin" / template.SERVER_PROGRAM, self._source, statements)

    def _execute(self, program: pathlib.Path, data: pathlib.Path, statements: list[str]) -> None:
        """Run statements in the home database of data on which no server runs."""
        self._run(
            [
                *(str(program), "--single", "-D", str(data)),
                *("-c", "exit_on_error=on", postgresql.HOME_DATABASE),
            ],
            stdin="".join(f"{line}\n" for line in statements).encode(),
        )

    def _run(
        self, argv: list[str], *, stdin: bytes = b"", directory: pathlib.Path | None = None
    ) -> None:
        name = pathlib.Path(argv[0]).name
        try:
            result = process.run(
                argv,
                timeout_s=_TIMEOUT_S,
                user=self._environment.layout.engine_user,
                stdin=stdin,
                directory=directory,
            )
        except TimeoutError as e:
            raise exception.GuestError(reason=str(e)) from None
        if result.return_code != 0 or "ERROR:" in result.output:
            details = self._details(result.output)
            LOG.error("%s failed: %s\n%s", name, result.output, details)
            said = " ".join((details or result.output).split()[-60:])
            raise exception.GuestError(
                reason=f"{name} failed with code {result.return_code}: {said}"
            )

    def _details(self, output: str) -> str:
        """Return the problems in the file that pg_upgrade points to for the cause, if it does."""
        named = [pathlib.Path(path) for path in _DETAILS.findall(output)]
        # what it prints may hold names that tenants chose
        own = [path for path in named if path.is_relative_to(self._kept.work)]
        text = filesystem.read_tail(own[-1], max_bytes=4096) if own else ""
        problems = [line for line in text.splitlines() if "ERROR" in line or "FATAL" in line]
        return "\n".join(problems) or text

    def complete(self, *, old: str, new: str) -> None:
        """Have the planner know the tables, once the new version answers."""
        if not self.is_same_series(old, new):
            self._analyze(new)

    def _analyze(self, new: str) -> None:
        """Gather the statistics that pg_upgrade does not bring over."""
        environment = self._environment
        has_most = (postgresql.major_version(new) or 0) >= _FIRST_WITH_STATISTICS
        argv = [
            *(str(self._program.with_name("vacuumdb")), "--all", "--analyze-in-stages"),
            *(["--missing-stats-only"] if has_most else []),
            *("-w", "-h", str(environment.store.run_dir()), "-p", str(environment.port)),
            *("-U", postgresql.AGENT_USER),
        ]
        try:
            result = process.run(argv, timeout_s=_TIMEOUT_S)
        except TimeoutError as e:
            raise exception.GuestError(reason=str(e)) from None
        if result.return_code != 0:
            # queries are planned badly until autovacuum comes round; the data are all there
            LOG.warning("vacuumdb failed: %s", result.output)

    def revert(self, *, old: str, new: str) -> None:
        """Have the data again that were kept."""
        self._kept.put_back()
        self._clear()

    def commit(self) -> None:
        """Remove what was kept."""
        self._kept.discard()
        self._clear()
