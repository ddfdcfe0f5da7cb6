"""The configuration of a running mongod: which values count at once, which at its next start."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from oslo_log import log
from pymongo import errors

from trove.common import exception
from trove.datastores import mongodb_configuration
from trove.guestagent.datastores import base
from trove.guestagent.datastores import configuration as careful
from trove.guestagent.datastores.mongodb import connection
from trove.rpc import payloads

LOG = log.getLogger(__name__)

#: Options of the file that the command ``profile`` changes: its argument for each.
_PROFILE: Mapping[str, str] = {
    "operationProfiling.slowOpThresholdMs": "slowms",
    "operationProfiling.slowOpSampleRate": "sampleRate",
}
_PARAMETER = "setParameter."
#: What the service changes itself, under a running server too.
_OWN = "net.tls."


class ConfiguredServer(careful.ConfiguredServer, Protocol):
    """What is asked of the server's files and program."""

    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""

    def try_configuration(self, settings: base.Settings, *, is_told: bool) -> None:
        """Raise ConfigurationRefused unless a server starts with the values of a group."""

    def started_with(self) -> Mapping[str, Any] | None:
        """Return the options that the running server read at its start, when they are known."""

    def usual_parameters(self) -> Mapping[str, Any]:
        """Return the values that parameters have when nobody sets them, as far as known."""


class MongodbConfiguration(careful.CarefulConfiguration):
    """Configuration of a mongod."""

    def __init__(self, server: ConfiguredServer, connector: connection.Connector) -> None:
        """Take the collaborators."""
        super().__init__(server)
        self._server = server
        self._connector = connector
        self._dynamic = frozenset(
            name if "." in name else _PARAMETER + name
            for name in mongodb_configuration.dynamic_names()
        )
        self._is_told = False

    def configure(self, job: payloads.ConfigureJob, *, is_running: bool) -> bool:
        """Write the configuration and tell a running server; tell whether it must restart."""
        self._is_told = is_running and job.is_live
        return super().configure(job, is_running=is_running)

    def check(self, settings: base.Settings) -> None:
        """Have a server start with what the running one will not be told."""
        self._server.try_configuration(settings, is_told=self._is_told)

    def _options(self, settings: base.Settings) -> dict[str, Any]:
        return mongodb_configuration.flatten(self._server.render_configuration(settings))

    def tell(self, old: base.Settings, new: base.Settings) -> bool:
        """Set the dynamic parameters that differ; tell whether anything waits for a restart."""
        before, after = self._options(old), self._options(new)
        usual = self._server.usual_parameters()
        changes: dict[str, tuple[Any, Any]] = {}
        waiting = set()
        for name in before.keys() | after.keys():
            if name not in self._dynamic or before.get(name) == after.get(name):
                continue
            fallback = usual.get(name.removeprefix(_PARAMETER))
            was, wanted = before.get(name, fallback), after.get(name, fallback)
            if wanted is None:
                waiting.add(name)
            else:
                changes[name] = (was, wanted)
        with self._connector.session() as client:
            _set_all(client, changes)
        running = self._server.started_with() or before
        waiting |= {
            name
            for name in running.keys() | after.keys()
            if name not in self._dynamic
            and not name.startswith(_OWN)
            and running.get(name) != after.get(name)
        }
        if waiting:
            LOG.info("values that wait for a restart: %s", ", ".join(sorted(waiting)))
        return bool(waiting)


def _set_all(client: connection.Client, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Set parameters, all of them or none; raises ConfigurationRefused."""
    done: list[str] = []
    for name, (_, wanted) in sorted(changes.items()):
        try:
            _set(client, name, wanted)
        except errors.OperationFailure as e:
            for set_already in reversed(done):
                was = changes[set_already][0]
                if was is not None:
                    with contextlib.suppress(errors.PyMongoError):
                        _set(client, set_already, was)
            reason = f"{name.removeprefix(_PARAMETER)}: {connection.explain(e)}"
            raise exception.ConfigurationRefused(reason=reason) from None
        done.append(name)


def _set(client: connection.Client, name: str, value: object) -> None:
    if name in _PROFILE:
        client.admin.command({"profile": 0, _PROFILE[name]: value})
    else:
        client.admin.command({"setParameter": 1, name.removeprefix(_PARAMETER): value})
