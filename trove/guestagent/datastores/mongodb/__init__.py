"""MongoDB, composed for an instance."""

from __future__ import annotations

from trove.datastores import mongodb
from trove.guestagent.datastores import base, upgrade

# before anything that imports PyMongo
from trove.guestagent.datastores.mongodb import driver  # isort: skip
from trove.guestagent.datastores.mongodb import (
    accounts,
    archive,
    backup,
    configuration,
    logs,
    metrics,
    retention,
    service,
    template,
    tls,
)

__all__ = ["driver", "make_mongodb"]


def make_mongodb(environment: base.Environment) -> base.Datastore:
    """Return MongoDB, composed for an instance."""
    server = service.MongodbService(environment)
    kept = retention.Retention(server.configured_retention_h)
    return base.Datastore(
        spec=mongodb.SPEC,
        service=server,
        accounts=accounts.MongodbAccounts(server.connector),
        root=accounts.MongodbRoot(server.connector),
        tls=tls.MongodbTls(server, server.connector),
        config=configuration.MongodbConfiguration(server, server.connector),
        backup=backup.MongodbBackup(server, environment, kept),
        archive=archive.MongodbArchive(server.connector, kept),
        replication=base.Unsupported("mongodb", "replication"),
        cluster=base.Unsupported("mongodb", "cluster"),
        logs=logs.make(server.log_files, environment),
        metrics=metrics.MongodbMetrics(server.connector),
        queries=base.Unsupported("mongodb", "statistics of statements"),
        upgrade=upgrade.MinorUpgrade(
            "mongodb",
            find_version=lambda: template.server_version(
                template.find_server(basedir=environment.basedir)
            ),
        ),
    )
