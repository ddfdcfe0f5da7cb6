"""Upgrades of a server of the MySQL family.

Within a series (10.11.x) the new server runs on the data as they are, and the old one could go on
with them. From one series to a later one the server changes its own files at its first start, which
the old one cannot read any more: a copy is kept until the new one has proved itself. In both cases
the server's upgrade program brings the system's tables up to date once it answers.
"""

from __future__ import annotations

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent.datastores import base
from trove.guestagent.datastores import upgrade as generic
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.datastores.mysql import template
from trove.guestagent.system import filesystem, process

#: Longest the upgrade program may look at the tables.
_TIMEOUT_S = 3600.0


def make(dialect: dialects.Dialect, environment: base.Environment) -> base.Upgrade:
    """Return the upgrades of a member: a MySQL server brings its system's tables up to date itself.

    Of MySQL only upgrades within a series are offered.
    """
    if dialect.spec.manager == "mariadb":
        return MariadbUpgrade(dialect, environment)
    return generic.MinorUpgrade(
        dialect.spec.manager, find_version=lambda: _find_version(dialect, environment)
    )


def _find_version(dialect: dialects.Dialect, environment: base.Environment) -> str:
    basedir = environment.basedir
    return template.server_version(template.find_server(dialect, basedir=basedir))


class MariadbUpgrade(generic.CopyingUpgrade):
    """Upgrades of MariaDB."""

    def __init__(self, dialect: dialects.Dialect, environment: base.Environment) -> None:
        """Take the member of the family and where it runs."""
        self._environment = environment
        super().__init__(
            dialect.spec.manager,
            find_version=lambda: _find_version(dialect, environment),
            layout=environment.layout,
        )

    def complete(self, *, old: str, new: str) -> None:
        """Run the upgrade program; what is up to date already, it leaves as it is."""
        environment = self._environment
        program = process.find_program("mariadb-upgrade", basedir=environment.basedir)
        if program is None:
            raise exception.GuestError(
                reason="the program mariadb-upgrade is missing: rebuild the image with the"
                " clients of the server"
            )
        layout = environment.layout
        socket = environment.store.run_dir() / "engine.sock"
        # letters and digits only: see crypto.generate_password
        password = environment.store.password("os_admin")
        options = layout.secret_dir / "upgrade.cnf"
        lines = ("[client]", f"user={mysql.AGENT_USER}", f"password={password}", f"socket={socket}")
        filesystem.write_file(
            options, "\n".join(lines) + "\n", mode=0o600, owner=layout.engine_user
        )
        try:
            # as the user that the files belong to: it leaves one beside them
            result = process.run(
                [str(program), f"--defaults-file={options}"],
                timeout_s=_TIMEOUT_S,
                user=layout.engine_user,
            )
        except TimeoutError as e:
            raise exception.GuestError(reason=str(e)) from None
        finally:
            options.unlink(missing_ok=True)
        if result.return_code != 0:
            said = " ".join(result.output.split()[-40:])
            raise exception.GuestError(
                reason=f"mariadb-upgrade failed with code {result.return_code}: {said}"
            )
