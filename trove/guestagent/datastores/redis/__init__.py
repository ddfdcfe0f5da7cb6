"""The Redis family: one composition, told apart by a dialect."""

from __future__ import annotations

from trove.guestagent.datastores import base, upgrade
from trove.guestagent.datastores.redis import (
    accounts,
    backup,
    configuration,
    logs,
    metrics,
    service,
    template,
    tls,
)
from trove.guestagent.datastores.redis import dialect as dialects


def make_redis(environment: base.Environment) -> base.Datastore:
    """Return Redis, composed for an instance."""
    return _make(dialects.REDIS, environment)


def make_valkey(environment: base.Environment) -> base.Datastore:
    """Return Valkey, composed for an instance."""
    return _make(dialects.VALKEY, environment)


def _make(dialect: dialects.Dialect, environment: base.Environment) -> base.Datastore:
    server = service.RedisService(dialect, environment)
    spec = dialect.spec
    return base.Datastore(
        spec=spec,
        service=server,
        accounts=accounts.RedisAccounts(spec, server.users),
        root=accounts.RedisRoot(spec, server.users),
        tls=tls.RedisTls(server, server.connector),
        config=configuration.RedisConfiguration(
            spec, server, server.connector, layout=environment.layout
        ),
        backup=backup.RedisBackup(dialect, server, environment),
        archive=base.Unsupported(spec.manager, "point in time recovery"),
        replication=base.Unsupported(spec.manager, "replication"),
        cluster=base.Unsupported(spec.manager, "cluster"),
        logs=logs.make(server, environment),
        metrics=metrics.RedisMetrics(server.connector),
        queries=base.Unsupported(spec.manager, "statistics of statements"),
        upgrade=upgrade.CopyingUpgrade(
            spec.manager,
            find_version=lambda: template.server_version(
                template.find_server(dialect, basedir=environment.basedir)
            ),
            layout=environment.layout,
        ),
    )
