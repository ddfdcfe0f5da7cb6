"""The configuration of a server: how it is tried, and what a running server is told.

The text comes from :mod:`trove.datastores.postgresql_configuration`. A running server reads the
file again and takes what is dynamic; ``ALTER SYSTEM`` is not used, so that there is one file that
counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from oslo_log import log

from trove.common import exception
from trove.datastores import postgresql_configuration
from trove.guestagent.datastores import base
from trove.guestagent.datastores import configuration as careful
from trove.guestagent.datastores.postgresql import connection

LOG = log.getLogger(__name__)

_QUOTED = re.compile(r'"([a-z_.]+)"')


class ConfiguredServer(careful.ConfiguredServer, Protocol):
    """What is asked of the server's files and of its program."""

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""

    def try_configuration(self, settings: base.Settings) -> None:
        """Raise ConfigurationRefused unless the server could start with settings."""

    def started_with(self) -> Mapping[str, str | int] | None:
        """Return the values that the running server read at its start, when they are known."""


class PostgresqlConfiguration(careful.CarefulConfiguration):
    """Configuration of a server."""

    def __init__(self, server: ConfiguredServer, connector: connection.Connector) -> None:
        """Take the collaborators."""
        super().__init__(server)
        self._server = server
        self._connector = connector

    def check(self, settings: base.Settings) -> None:
        """Have the server program read the configuration."""
        self._server.try_configuration(settings)

    def tell(self, old: base.Settings, new: base.Settings) -> bool:
        """Have the server look at its file, then read it; tell whether something waits."""
        with self._connector.session() as session:
            static = {
                str(name)
                for (name,) in session.execute(
                    "SELECT lower(name) FROM pg_settings WHERE context = 'postmaster'"
                )
            }
            # of these it says only that they cannot be changed now
            for name, error in session.execute(
                "SELECT coalesce(lower(name), ''), error FROM pg_file_settings"
                " WHERE error IS NOT NULL"
            ):
                # what is no longer in the file is named in the words alone
                if name not in static and not (set(_QUOTED.findall(str(error))) & static):
                    reason = f"{name}: {error}" if name else str(error)
                    raise exception.ConfigurationRefused(reason=reason)
        self._connector.reload()
        started = self._server.started_with()
        running = self._values(old) if started is None else started
        wanted = self._values(new)
        waiting = sorted(name for name in static if str(running.get(name)) != str(wanted.get(name)))
        if waiting:
            LOG.info("values that wait for a restart: %s", ", ".join(waiting))
        return bool(waiting)

    def _values(self, settings: base.Settings) -> Mapping[str, str | int]:
        return postgresql_configuration.options(self._server.render_configuration(settings))
