"""The logs of the Redis family: slow commands, what the server says, the agent's own.

The server keeps its slow commands in memory only. While the log is enabled the agent takes them
from there every few seconds and appends them to a file on the volume; entries that the server drops
in between (it keeps ``slowlog-max-len``) are lost, which their numbers show.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence

from oslo_log import log

from trove.common import exception
from trove.datastores import redis as facts
from trove.guestagent.datastores import base, logs
from trove.guestagent.datastores.redis import connection
from trove.guestagent.datastores.redis.service import RedisService
from trove.guestagent.logs import part, stream

LOG = log.getLogger(__name__)

#: Most entries that are taken at once: as many as a server may be told to keep.
_MOST_ENTRIES = 4096
_DOCUMENT = "slow_log"


class SlowLog:
    """Slow commands, from the server's memory into a file."""

    def __init__(self, server: RedisService, environment: base.Environment) -> None:
        """Take the server and the instance."""
        self._store = environment.store
        self._connector = server.connector
        #: Whether it was said that the server does not answer.
        self._is_unreachable = False
        pieces = server.logs_dir
        self.path = pieces / f"{facts.SLOW_QUERY_LOG}.log"
        # opened anew for each line
        self.stream = stream.Stream(self.path, pieces / facts.SLOW_QUERY_LOG, reopen=lambda: None)

    def switch(self, enabled: bool) -> None:
        """Begin with what is slow from now on, or end; raises GuestError."""
        if enabled:
            with self._connector.session() as client:
                self._remember(client, client.slow_commands(1))

    def collect(self) -> None:
        """Take what is new; raises OSError."""
        # one that is being published is fed the next time
        if not self.stream.lock.acquire(blocking=False):
            return
        try:
            self._collect()
            self._is_unreachable = False
        except exception.GuestError as e:
            if not self._is_unreachable:
                LOG.info("slow commands are taken from the server later: %s", e)
            self._is_unreachable = True
        finally:
            self.stream.lock.release()

    def _collect(self) -> None:
        record = self.stream.record
        if not record.enabled or record.switching:
            return
        with self._connector.session() as client:
            known = self._store.find(_DOCUMENT) or {}
            run = _run_of(client)
            last = int(known.get("last", -1)) if known.get("run") == run else -1
            newest = client.slow_commands(1)
            if not newest or newest[0].id <= last:
                return
            count = min(_MOST_ENTRIES, newest[0].id - last)
            entries = [entry for entry in client.slow_commands(count) if entry.id > last]
        self._append("".join(_line(entry) for entry in reversed(entries)))
        self._store.save(_DOCUMENT, {"run": run, "last": max(entry.id for entry in entries)})

    def _remember(
        self, client: connection.Client, newest: Sequence[connection.SlowCommand]
    ) -> None:
        last = newest[0].id if newest else -1
        self._store.save(_DOCUMENT, {"run": _run_of(client), "last": last})

    def _append(self, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        with open(descriptor, "ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))


def _run_of(client: connection.Client) -> str:
    """Return what identifies this start of the server: numbers of entries begin anew with it."""
    return client.info("server")["run_id"]


def _line(entry: connection.SlowCommand) -> str:
    """Return an entry as a line; control characters are escaped."""
    when = datetime.datetime.fromtimestamp(entry.started_s, datetime.UTC)
    command = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(entry.arguments)
    )
    return (
        f"{when:%Y-%m-%dT%H:%M:%SZ} id={entry.id} duration_us={entry.duration_us}"
        f" client={entry.client} {command}\n"
    )


def make(server: RedisService, environment: base.Environment) -> part.StreamLogs:
    """Return the logs of an instance, put together."""
    slow = SlowLog(server, environment)
    switches = {facts.SLOW_QUERY_LOG: slow.switch}
    return logs.compose(
        environment,
        switched={facts.SLOW_QUERY_LOG: slow.stream},
        switch=lambda name, enabled: switches[name](enabled),
        error_log=facts.ERROR_LOG,
        reopen_errors=lambda: None,
        make_error_log=server.ensure_error_log,
        collect=slow.collect,
    )
