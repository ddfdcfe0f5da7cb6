"""The configuration of a server of the family: how it is tried, and what a running server is told.

A second server is started for a moment, on the same options but without data, network and users.
It refuses what the first would refuse at its next start, and tells which value each option has
then, those that are no longer set among them. CONFIG SET takes all or nothing.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from oslo_log import log

from trove.common import exception
from trove.datastores import redis_configuration
from trove.datastores import spec as datastore_spec
from trove.guestagent import state
from trove.guestagent.datastores import base
from trove.guestagent.datastores import configuration as careful
from trove.guestagent.datastores.redis import connection
from trove.guestagent.system import filesystem, process

LOG = log.getLogger(__name__)

_TRIAL_TIMEOUT_S = 15.0
_LOOK_S = 0.01
_REFUSED = re.compile(r">>> (.+)", re.DOTALL)
#: Options that follow from the flavor and that no running server takes.
_STATIC_SIZES = frozenset({"io-threads"})


class ConfiguredServer(careful.ConfiguredServer, Protocol):
    """What is asked of the server's files and program."""

    @property
    def socket(self) -> pathlib.Path:
        """Where the server listens for the agent."""

    def options(self, settings: base.Settings) -> dict[str, str]:
        """Return what settings mean for the server, as the file says it; raises GuestError."""

    def find_server(self) -> pathlib.Path:
        """Return the server program; raises GuestError."""


class RedisConfiguration(careful.CarefulConfiguration):
    """Configuration of a server of the family."""

    def __init__(
        self,
        spec: datastore_spec.DatastoreSpec,
        server: ConfiguredServer,
        connector: connection.Connector,
        *,
        layout: state.Layout,
    ) -> None:
        """Take the collaborators."""
        super().__init__(server)
        self._spec = spec
        self._server = server
        self._connector = connector
        self._layout = layout
        self._lock = threading.Lock()
        self._tried: tuple[base.Settings, Mapping[str, str]] | None = None

    def check(self, settings: base.Settings) -> None:
        """Have a server start with the options."""
        self._tried = settings, self._try(settings)

    def tell(self, old: base.Settings, new: base.Settings) -> bool:
        """Set what differs from what the server would start with now."""
        if self._tried is None or self._tried[0] != new:
            self.check(new)
        assert self._tried is not None  # noqa: S101 (for the type checker)
        wanted = self._tried[1]
        rules = self._spec.parameters()
        static = {_spelled(name) for name, rule in rules.items() if rule.restart_required}
        static |= _STATIC_SIZES
        names = {_spelled(name) for name in rules} | set(redis_configuration.sized(0))
        with self._connector.session() as client:
            running = client.config_get("*")
            changed = {
                name: wanted[name]
                for name in sorted(names & wanted.keys())
                if running.get(name) != wanted[name]
            }
            dynamic = {name: changed[name] for name in changed if name not in static}
            if dynamic:
                self._set(client, dynamic)
        waiting = [name for name in changed if name in static]
        if waiting:
            LOG.info("values that wait for a restart: %s", ", ".join(waiting))
        return bool(waiting)

    @staticmethod
    def _set(client: connection.Client, values: dict[str, str]) -> None:
        """Set all values or none; raises ConfigurationRefused."""
        try:
            client.config_set(values)
        except connection.Lost:
            raise
        except connection.ServerError as e:
            raise exception.ConfigurationRefused(reason=connection.explain(e)) from None

    # -- the trial -----

    def _try(self, settings: base.Settings) -> Mapping[str, str]:
        """Return the values that a server has with these options; raises ConfigurationRefused."""
        socket = self._server.socket.with_name("trial.sock")
        options = {**self._server.options(settings), "port": "0", "appendonly": "no"}
        places = {
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            # nothing is written: it holds nothing, and is killed
            "dir": str(socket.parent),
        }
        text = redis_configuration.render(options, places, memory_mib=settings.memory_mib)
        configuration = self._layout.engine_dir / "trial.conf"
        log_file = self._layout.engine_dir / "trial.log"
        with self._lock:
            try:
                filesystem.write_file(configuration, text, mode=0o644)
                trial = process.spawn(
                    process.Command(
                        argv=(str(self._server.find_server()), str(configuration)),
                        marker=str(configuration),
                        user=self._layout.engine_user,
                        log=log_file,
                        directory=socket.parent,
                        environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                    )
                )
                try:
                    return self._ask(trial, socket, log_file)
                finally:
                    trial.signal(signal.SIGKILL)
                    trial.wait(_TRIAL_TIMEOUT_S)
                    trial.close()
            finally:
                for path in (configuration, log_file, socket):
                    path.unlink(missing_ok=True)

    def _ask(
        self, trial: process.Process, socket: pathlib.Path, log_file: pathlib.Path
    ) -> Mapping[str, str]:
        until_s = time.monotonic() + _TRIAL_TIMEOUT_S
        while not trial.wait(_LOOK_S):
            with contextlib.suppress(connection.Lost):
                client = connection.connect(socket, timeout_s=_TRIAL_TIMEOUT_S)
                try:
                    return client.config_get("*")
                except connection.Lost:
                    raise
                except connection.ServerError as e:
                    raise exception.GuestError(reason=connection.explain(e)) from None
                finally:
                    client.close()
            if time.monotonic() > until_s:
                raise exception.GuestError(
                    reason="a trial start of the database took too long: the machine is too busy"
                )
        said = filesystem.read_tail(log_file)
        refused = _REFUSED.search(said)
        words = " ".join((refused[1] if refused else said[-300:]).split())
        raise exception.ConfigurationRefused(
            reason=f"the database says {words[:300] or 'no reason'}"
        )


def _spelled(name: str) -> str:
    return name.replace("_", "-")
