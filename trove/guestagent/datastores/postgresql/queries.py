"""The statements that cost most, from ``pg_stat_statements``.

The server replaces the literals of a query by ``$1`` and so on. Other statements are not counted:
until 16 they would be kept as they came, with passwords. What the agent does is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

from psycopg2 import errors

from trove.common import exception
from trove.datastores import postgresql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection, template
from trove.rpc import payloads

MOST = 200
_MOST_TEXT_CHARS = 2000
_ORDER: Mapping[str, LiteralString] = {
    "calls": "s.calls",
    "total_seconds": "s.total_exec_time",
    "mean_seconds": "s.mean_exec_time",
    "max_seconds": "s.max_exec_time",
    "rows": "s.rows",
}
_QUERY: LiteralString = (
    "SELECT left(s.query, %s), d.datname, r.rolname, s.calls, s.total_exec_time / 1000,"
    " s.mean_exec_time / 1000, s.max_exec_time / 1000, s.rows"
    " FROM {schema}.pg_stat_statements AS s LEFT JOIN pg_database AS d ON d.oid = s.dbid"
    " LEFT JOIN pg_roles AS r ON r.oid = s.userid"
    " WHERE r.rolname IS DISTINCT FROM %s AND s.toplevel ORDER BY "
)
_SINCE: LiteralString = (
    "SELECT to_char(stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"')"
    " FROM {schema}.pg_stat_statements_info"
)


class PostgresqlQueries(base.Queries):
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
        schema = connection.name(template.SCHEMA)
        with self._connector.session() as session:
            try:
                rows = session.execute(
                    f"{_QUERY}{column} DESC, s.calls DESC LIMIT %s",
                    _MOST_TEXT_CHARS,
                    postgresql.AGENT_USER,
                    max(1, min(request.limit, MOST)),
                    schema=schema,
                )
                ((since,),) = session.execute(_SINCE, schema=schema)
            except (errors.UndefinedTable, errors.ObjectNotInPrerequisiteState):
                raise exception.GuestError(
                    reason="this build of PostgreSQL has no pg_stat_statements"
                ) from None
        return payloads.TopQueries(
            queries=tuple(
                payloads.TopQuery(
                    text=str(text),
                    database=None if database is None else str(database),
                    user=None if user is None else str(user),
                    calls=int(calls),
                    total_seconds=float(total),
                    mean_seconds=float(mean),
                    max_seconds=float(longest),
                    rows=int(count),
                )
                for text, database, user, calls, total, mean, longest, count in rows
            ),
            since=None if since is None else str(since),
        )
