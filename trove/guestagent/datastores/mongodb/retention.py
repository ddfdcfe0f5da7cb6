"""How long the server keeps its oplog beyond its size.

The server is told while it runs and forgets it when it ends, so it is told again after each start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trove.guestagent.datastores.mongodb import connection

#: For an archive that is shipped every half minute.
_ARCHIVE_H = 1.0
#: For a copy, which is of no use without the oplog since its beginning.
_COPY_H = 72.0


class Retention:
    """What wants the oplog of one server kept."""

    def __init__(self, find_configured: Callable[[], float]) -> None:
        """Take what returns the hours that the tenant configured."""
        self._find_configured = find_configured
        self._lock = threading.Lock()
        self._has_archive = False
        self._copies = 0
        self._run: str | None = None

    def keep_for_archive(self, client: connection.Client, *, run: str | None = None) -> None:
        """Have the last hour kept; nothing when this run of the server knows."""
        with self._lock:
            if self._has_archive and run is not None and run == self._run:
                return
            self._has_archive = True
            self._tell(client)
            self._run = run

    def end_archive(self, client: connection.Client) -> None:
        """Have it kept as without an archive."""
        with self._lock:
            self._has_archive = False
            self._tell(client)

    def begin_copy(self, client: connection.Client) -> None:
        """Have all kept that is written from now on."""
        with self._lock:
            self._copies += 1
            self._tell(client)

    def end_copy(self, client: connection.Client) -> None:
        """Have it kept as before."""
        with self._lock:
            self._copies = max(0, self._copies - 1)
            self._tell(client)

    def _tell(self, client: connection.Client) -> None:
        hours = max(
            self._find_configured(),
            _ARCHIVE_H if self._has_archive else 0.0,
            _COPY_H if self._copies else 0.0,
        )
        client.admin.command({"replSetResizeOplog": 1, "minRetentionHours": float(hours)})
