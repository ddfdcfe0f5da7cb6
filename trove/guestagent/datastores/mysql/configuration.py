"""The configuration of a server of the family: written, tried, and changed while it runs.

The text comes from :mod:`trove.datastores.mysql_configuration`. New values are tried by the server
program before anything is written, then the file is written, then the running server is told the
dynamic ones. What is refused anywhere leaves file and server as they were. The settings from before
are remembered until the end, so that a job that was interrupted is done again completely.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import pymysql.err
from oslo_log import log

from trove.common import exception
from trove.datastores import mysql_configuration
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.rpc import payloads

LOG = log.getLogger(__name__)

#: Errors after which the server was not asked: CR_SERVER_GONE_ERROR and its like.
_LOST = frozenset({2002, 2003, 2006, 2013})


def sizes(settings: base.Settings) -> mysql_configuration.Sizes:
    """Return the sizes for a flavor and a volume."""
    return mysql_configuration.sizes(settings.memory_mib, settings.volume_size_gib)


def render(template: str, settings: base.Settings, **places: object) -> str:
    """Return the text of the configuration file; ``places`` are paths and addresses."""
    return mysql_configuration.render(
        template,
        memory_mib=settings.memory_mib,
        volume_size_gib=settings.volume_size_gib,
        overrides=settings.overrides,
        server_id=settings.server_id,
        has_tls=settings.has_tls,
        **places,
    )


class ConfiguredServer(Protocol):
    """What is asked of the server's files and program."""

    def find_settings(self) -> base.Settings | None:
        """Return the settings, None before a database was made."""

    def find_former_settings(self) -> base.Settings | None:
        """Return the settings from before a change that has not ended yet."""

    def remember_former_settings(self, settings: base.Settings | None) -> None:
        """Remember the settings from before a change; None once it has ended."""

    def configure(self, settings: base.Settings) -> None:
        """Remember the settings and write the server's configuration from them."""

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""

    def try_configuration(self, text: str) -> None:
        """Raise ConfigurationRefused unless the server could start with a configuration."""

    def started_with(self) -> Mapping[str, str | int] | None:
        """Return the options that the running server read at its start, when they are known."""


class MysqlConfiguration(base.Configuration):
    """Configuration of a server of the family."""

    capabilities = frozenset({datastore_spec.Capability.CONFIGURATION})

    def __init__(
        self,
        dialect: dialects.Dialect,
        server: ConfiguredServer,
        connector: connection.Connector,
    ) -> None:
        """Take the collaborators."""
        self._dialect = dialect
        self._server = server
        self._connector = connector

    def configure(self, job: payloads.ConfigureJob, *, is_running: bool) -> bool:
        """Write the configuration and tell a running server; tell whether it must restart.

        Raises ConfigurationRefused, GuestError, OSError; everything is as it was then.
        """
        current = self._server.find_settings()
        if current is None:
            raise exception.GuestError(reason="there is no database on this instance yet")
        old = self._server.find_former_settings() or current
        new = dataclasses.replace(
            old,
            memory_mib=job.memory_mib,
            vcpus=job.vcpus,
            volume_size_gib=job.volume_size_gib,
            overrides=dict(job.overrides),
        )
        self._server.try_configuration(self._server.render_configuration(new))
        self._server.remember_former_settings(old)
        restart_required = False
        try:
            self._server.configure(new)
            if is_running and job.is_live:
                restart_required = self._tell(self._values(old), self._values(new))
        except (exception.GuestError, OSError):
            with contextlib.suppress(OSError):
                self._server.configure(old)
                self._server.remember_former_settings(None)
            raise
        self._server.remember_former_settings(None)
        return restart_required

    def _values(self, settings: base.Settings) -> dict[str, Any]:
        """Return what settings mean for the server's variables, typed as statements need them."""
        found: dict[str, Any] = dict(
            mysql_configuration.options(self._server.render_configuration(settings))
        )
        for name, value in settings.overrides.items():
            found[name] = ("ON" if value else "OFF") if isinstance(value, bool) else value
        return found

    def _tell(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Set the dynamic variables that differ; tell whether others wait for a restart."""
        started = self._server.started_with()
        with self._connector.session() as session:
            dynamic = {str(name) for (name,) in session.execute(self._dialect.dynamic_variables)}
            changed = sorted(
                name for name in old.keys() | new.keys() if old.get(name) != new.get(name)
            )
            self._set_all(session, [name for name in changed if name in dynamic], old, new)
        running = old if started is None else started
        waiting = sorted(
            name
            for name in running.keys() | new.keys()
            if name not in dynamic and str(running.get(name)) != str(new.get(name))
        )
        if waiting:
            LOG.info("values that wait for a restart: %s", ", ".join(waiting))
        return bool(waiting)

    def _set_all(
        self,
        session: connection.Session,
        names: list[str],
        old: Mapping[str, Any],
        new: Mapping[str, Any],
    ) -> None:
        """Set variables, all of them or none; raises ConfigurationRefused."""
        for number, name in enumerate(names):
            try:
                _set(session, name, new.get(name))
            except connection.ServerError as e:
                for done in reversed(names[:number]):
                    with contextlib.suppress(connection.ServerError):
                        _set(session, done, old.get(done))
                if isinstance(e, pymysql.err.OperationalError) and e.args[0] in _LOST:
                    raise
                reason = f"{name}: {connection.explain(e)}"
                raise exception.ConfigurationRefused(reason=reason) from None


def _set(session: connection.Session, name: str, value: object) -> None:
    """Set a variable for all sessions to come; without a value as the server is made."""
    variable = connection.Identifier(name)
    if value is None:
        session.execute("SET GLOBAL {variable} = DEFAULT", variable=variable)
    else:
        session.execute("SET GLOBAL {variable} = {value}", variable=variable, value=value)
