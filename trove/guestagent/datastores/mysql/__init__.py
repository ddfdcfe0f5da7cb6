"""The MySQL family: one composition, told apart by a dialect."""

from __future__ import annotations

from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import (
    accounts,
    archive,
    backup,
    configuration,
    logical,
    logs,
    metrics,
    queries,
    service,
    template,
    tls,
    upgrade,
)
from trove.guestagent.datastores.mysql import dialect as dialects


def make_mariadb(environment: base.Environment) -> base.Datastore:
    """Return MariaDB, composed for an instance."""
    return _make(dialects.MARIADB, environment)


def make_mysql(environment: base.Environment) -> base.Datastore:
    """Return MySQL, composed for an instance, as its version has it."""
    return _make(template.find_dialect("mysql", basedir=environment.basedir), environment)


def _make(dialect: dialects.Dialect, environment: base.Environment) -> base.Datastore:
    server = service.MysqlService(dialect, environment)
    manager = dialect.spec.manager
    return base.Datastore(
        spec=dialect.spec,
        service=server,
        accounts=accounts.MysqlAccounts(dialect, server.connector, demand=server.demand_of_clients),
        root=accounts.MysqlRoot(dialect, server.connector, demand=server.demand_of_clients),
        tls=_make_tls(dialect, server),
        config=configuration.MysqlConfiguration(dialect, server, server.connector),
        backup=_make_backup(dialect, server, environment),
        archive=_make_archive(dialect, server, environment),
        replication=base.Unsupported(manager, "replication"),
        cluster=base.Unsupported(manager, "cluster"),
        logs=logs.make(server.log_files, environment),
        metrics=metrics.MysqlMetrics(server.kept),
        queries=queries.MysqlQueries(server.connector),
        upgrade=upgrade.make(dialect, environment),
    )


def _make_tls(
    dialect: dialects.Dialect, server: service.MysqlService
) -> base.Tls | base.Unsupported:
    if dialect.reload_tls is None:
        return base.Unsupported(dialect.spec.manager, "TLS in this version")
    return tls.MysqlTls(
        dialect,
        server.connector,
        store=server.tls_store,
        rewrite_configuration=server.rewrite_configuration,
    )


def _make_backup(
    dialect: dialects.Dialect, server: service.MysqlService, environment: base.Environment
) -> base.Backup:
    if dialect.backup is None:
        return logical.MysqlBackup(
            dialect,
            environment,
            connector=server.connector,
            find_settings=server.find_settings,
            make_data=server.make_new_data,
            explain_exit=server.explain_exit,
        )
    return backup.MariadbBackup(
        dialect,
        dialect.backup,
        environment,
        connector=server.connector,
        configuration=server.configuration_file,
        socket=server.socket,
        find_settings=server.find_settings,
        explain_exit=server.explain_exit,
    )


def _make_archive(
    dialect: dialects.Dialect, server: service.MysqlService, environment: base.Environment
) -> base.Archive:
    return archive.BinlogArchive(
        dialect,
        connector=server.connector,
        kept=server.kept,
        data_dir=environment.layout.data_dir,
        store=environment.store,
        rewrite_configuration=server.rewrite_configuration,
    )
