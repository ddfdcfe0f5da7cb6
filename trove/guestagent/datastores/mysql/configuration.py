"""The configuration of a server of the family: how it is tried, and what a running server is told.

The text comes from :mod:`trove.datastores.mysql_configuration`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import pymysql.err
from oslo_log import log

from trove.common import exception
from trove.datastores import mysql_configuration
from trove.guestagent.datastores import base
from trove.guestagent.datastores import configuration as careful
from trove.guestagent.datastores.mysql import audit, connection
from trove.guestagent.datastores.mysql import dialect as dialects

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


class ConfiguredServer(careful.ConfiguredServer, Protocol):
    """What is asked of the server's files and program."""

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""

    def try_configuration(self, text: str) -> None:
        """Raise ConfigurationRefused unless the server could start with a configuration."""

    def started_with(self) -> Mapping[str, str | int] | None:
        """Return the options that the running server read at its start, when they are known."""


class MysqlConfiguration(careful.CarefulConfiguration):
    """Configuration of a server of the family."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        server: ConfiguredServer,
        connector: connection.Connector,
    ) -> None:
        """Take the collaborators."""
        super().__init__(server)
        self._dialect = dialect
        self._server = server
        self._connector = connector

    def check(self, settings: base.Settings) -> None:
        """Have the server program read the configuration."""
        self._server.try_configuration(self._server.render_configuration(settings))

    def tell(self, old: base.Settings, new: base.Settings) -> bool:
        """Set the dynamic variables that differ."""
        return self._tell(self._values(old), self._values(new))

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
            dynamic = self._dynamic(session)
            changed = sorted(
                name for name in old.keys() | new.keys() if old.get(name) != new.get(name)
            )
            self._set_all(session, [name for name in changed if name in dynamic], old, new)
        running = old if started is None else started
        waiting = sorted(
            name
            for name in (running.keys() | new.keys()) - audit.OPTIONS
            if name not in dynamic and str(running.get(name)) != str(new.get(name))
        )
        if waiting:
            LOG.info("values that wait for a restart: %s", ", ".join(waiting))
        return bool(waiting)

    def _dynamic(self, session: connection.Session) -> set[str]:
        """Return the variables that can be set while the server runs."""
        if self._dialect.dynamic_variables is not None:
            return {str(name) for (name,) in session.execute(self._dialect.dynamic_variables)}
        rules = self._dialect.spec.parameters()
        return {name for name, rule in rules.items() if not rule.restart_required}

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
