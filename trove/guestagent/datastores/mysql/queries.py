"""The statements that cost most, from the performance schema's statement digests.

Digests are normalised by the server: a literal is a ``?`` there, comments are gone. The server
starts with room for some hundred different statements (:mod:`trove.datastores.mysql_configuration`)
and counts those that find none in one row without a text. The agent's own account is taken out by
its init file.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection
from trove.rpc import payloads

#: Has what the agent does counted nowhere; a line of the init file of a server that counts.
UNCOUNTED = (
    "INSERT IGNORE INTO performance_schema.setup_actors (HOST, USER, ROLE, ENABLED, HISTORY)"
    " VALUES ('localhost', '{user}', '%', 'NO', 'NO')"
)

#: What statements have no room of their own are shown as.
OTHERS = "(all others)"

MOST = 200
_MOST_TEXT_CHARS = 2000
#: Figure -> column; times are picoseconds.
_ORDER: Mapping[str, str] = {
    "calls": "COUNT_STAR",
    "total_seconds": "SUM_TIMER_WAIT",
    "mean_seconds": "AVG_TIMER_WAIT",
    "max_seconds": "MAX_TIMER_WAIT",
    "rows": "ROWS_TOTAL",
}
_SELECT = (
    "SELECT SCHEMA_NAME, DIGEST_TEXT, COUNT_STAR, SUM_TIMER_WAIT, AVG_TIMER_WAIT, MAX_TIMER_WAIT,"
    " SUM_ROWS_SENT + SUM_ROWS_AFFECTED AS ROWS_TOTAL"
    " FROM performance_schema.events_statements_summary_by_digest"
    " WHERE COUNT_STAR > 0 ORDER BY {order} DESC, COUNT_STAR DESC LIMIT {{limit}}"
)
_UPTIME = "SHOW GLOBAL STATUS LIKE 'Uptime'"


class MysqlQueries(base.Queries):
    """Statistics of the statements of a server."""

    def __init__(self, connector: connection.Connector) -> None:
        """Take what connects to the server."""
        self._connector = connector

    def top(self, request: payloads.TopQueriesRequest) -> payloads.TopQueries:
        """Return the statements that cost most; raises GuestError."""
        column = _ORDER.get(request.order_by)
        if column is None:
            raise exception.GuestError(
                reason=f"statements are in order of one of {', '.join(_ORDER)}"
            )
        limit = max(1, min(request.limit, MOST))
        with self._connector.session() as session:
            if not int(session.execute("SELECT @@GLOBAL.performance_schema")[0][0]):
                raise exception.GuestError(
                    reason="this database runs without its performance schema, which counts"
                    " statements: restart the instance, or resize it to 4 GiB of memory or more"
                )
            rows = session.execute(_SELECT.format(order=column), limit=limit)
            uptime_s = int(session.execute(_UPTIME)[0][1])
        began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=uptime_s)
        return payloads.TopQueries(
            queries=tuple(_query(row) for row in rows),
            since=began.replace(microsecond=0).isoformat(),
        )


def _query(row: tuple[Any, ...]) -> payloads.TopQuery:
    schema, text, calls, total, mean, longest, count = row
    return payloads.TopQuery(
        text=OTHERS if text is None else str(text).strip()[:_MOST_TEXT_CHARS],
        database=None if schema is None else str(schema),
        calls=int(calls),
        total_seconds=float(total) / 1e12,
        mean_seconds=float(mean) / 1e12,
        max_seconds=float(longest) / 1e12,
        rows=int(count),
    )
