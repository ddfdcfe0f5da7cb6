"""The PostgreSQL family."""

from __future__ import annotations

from trove.datastores import postgresql as facts
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import (
    accounts,
    archive,
    backup,
    configuration,
    logs,
    metrics,
    queries,
    service,
    tls,
    upgrade,
)


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
        tls=tls.PostgresqlTls(server, server.connector),
        config=configuration.PostgresqlConfiguration(server, server.connector),
        backup=backup.PostgresqlBackup(environment, server.connector),
        archive=archive.PostgresqlArchive(
            environment, server.connector, own_transactions=server.own_transactions
        ),
        replication=base.Unsupported(manager, "replication"),
        cluster=base.Unsupported(manager, "cluster"),
        logs=logs.make(server.log_files, environment),
        metrics=metrics.PostgresqlMetrics(server.connector),
        queries=queries.PostgresqlQueries(server.connector),
        upgrade=upgrade.PostgresqlUpgrade(environment, server.connector),
    )
