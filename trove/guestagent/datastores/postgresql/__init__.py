"""The PostgreSQL family."""

from __future__ import annotations

from trove.datastores import postgresql as facts
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import accounts, logs, service


def make_postgresql(environment: base.Environment) -> base.Datastore:
    """Return PostgreSQL, composed for an instance."""
    server = service.PostgresqlService(environment)
    spec = facts.SPEC
    manager = spec.manager
    return base.Datastore(
        spec=spec,
        service=server,
        accounts=accounts.PostgresqlAccounts(spec, server.connector),
        root=accounts.PostgresqlRoot(spec, server.connector),
        tls=base.Unsupported(manager, "TLS"),
        config=base.Unsupported(manager, "configuration"),
        backup=base.Unsupported(manager, "backup"),
        replication=base.Unsupported(manager, "replication"),
        cluster=base.Unsupported(manager, "cluster"),
        logs=logs.make(server.log_files, environment),
        metrics=base.Unsupported(manager, "metrics"),
        queries=base.Unsupported(manager, "statistics of statements"),
        upgrade=base.Unsupported(manager, "upgrade"),
    )
