"""The first schema.

Revision ID: 0001
Revises:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_ENUM = sa.String(40)
_JSON = sa.JSON().with_variant(mysql.JSON(), "mysql", "mariadb")
_BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLE: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Make all tables."""
    _backup_runs()
    _backup_schedules()
    _backup_strategies()
    _datastores()
    _event_sequences()
    _events()
    _notifications()
    _operations()
    _quota_reservations()
    _quota_usages()
    _quotas()
    _rate_windows()
    _service_counters()
    _leases()
    _verifier_hosts()
    _datastore_versions()
    _operation_steps()
    _configuration_parameters()
    _configurations()
    _datastore_version_flavors()
    _datastore_version_volume_types()
    _modules()
    _instances()
    _backups()
    _guest_jobs()
    _log_archives()
    _instance_heartbeats()
    _instance_modules()
    _instance_tags()
    _root_history()


def _backup_strategies() -> None:
    op.create_table(
        "backup_strategies",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("swift_container", sa.String(length=255), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "instance_id"),
        **_TABLE,
    )


def _backups() -> None:
    op.create_table(
        "backups",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("instance_id", sa.String(length=36), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.String(length=1024), nullable=True),
        sa.Column("status", _ENUM, nullable=False),
        sa.Column("kind", _ENUM, nullable=False),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("schedule_id", sa.String(length=36), nullable=True),
        sa.Column("purpose", _ENUM, nullable=False),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("manager", sa.String(length=64), nullable=False),
        sa.Column("engine_version", sa.String(length=64), nullable=True),
        sa.Column("storage_driver", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=255), nullable=True),
        sa.Column("container", sa.String(length=255), nullable=True),
        sa.Column("prefix", sa.String(length=255), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("volume_owner", sa.String(length=36), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("data_bytes", sa.BigInteger(), nullable=True),
        sa.Column("volume_size_gib", sa.Integer(), nullable=True),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=True),
        sa.Column("key_wrapped", _BYTES, nullable=True),
        sa.Column("facts", _JSON, nullable=False),
        sa.Column("archive_epoch", sa.String(length=36), nullable=True),
        sa.Column("archive_sequence", sa.BigInteger(), nullable=True),
        sa.Column("began", _TIME, nullable=True),
        sa.Column("completed", _TIME, nullable=True),
        sa.Column("expires", _TIME, nullable=True),
        sa.Column("verification", _ENUM, nullable=True),
        sa.Column("verified", _TIME, nullable=True),
        sa.Column("verification_details", _JSON, nullable=False),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("deleted", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )
    op.create_index("ix_backups_archive", "backups", ["archive_epoch"], unique=False)
    op.create_index("ix_backups_due", "backups", ["is_deleted", "expires"], unique=False)
    op.create_index(
        "ix_backups_instance", "backups", ["instance_id", "is_deleted", "created"], unique=False
    )
    op.create_index(
        "ix_backups_live_updated", "backups", ["is_deleted", "updated", "id"], unique=False
    )
    op.create_index("ix_backups_parent", "backups", ["parent_id"], unique=False)
    op.create_index(
        "ix_backups_project_updated",
        "backups",
        ["project_id", "is_deleted", "updated", "id"],
        unique=False,
    )


def _log_archives() -> None:
    op.create_table(
        "log_archives",
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("state", _ENUM, nullable=False),
        sa.Column("storage_driver", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=255), nullable=False),
        sa.Column("container", sa.String(length=255), nullable=False),
        sa.Column("prefix", sa.String(length=255), nullable=False),
        sa.Column("key_wrapped", _BYTES, nullable=True),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), nullable=False),
        sa.Column("since", _TIME, nullable=True),
        sa.Column("as_of", _TIME, nullable=True),
        sa.Column("pending_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("is_late", sa.Boolean(), nullable=False),
        sa.Column("reported", _TIME, nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("epoch"),
        **_TABLE,
    )
    op.create_index(
        "ix_log_archives_instance", "log_archives", ["instance_id", "state"], unique=False
    )
    op.create_index("ix_log_archives_state", "log_archives", ["state", "as_of"], unique=False)


def _backup_schedules() -> None:
    op.create_table(
        "backup_schedules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("cron", sa.String(length=255), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("window_s", sa.Integer(), nullable=False),
        sa.Column("full_every", sa.Integer(), nullable=False),
        sa.Column("retention", _JSON, nullable=False),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("next_run", _TIME, nullable=True),
        sa.Column("last_run", _TIME, nullable=True),
        sa.Column("last_backup_id", sa.String(length=36), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "instance_id", "name", name="uq_backup_schedules_name"),
        **_TABLE,
    )
    op.create_index(
        "ix_backup_schedules_due", "backup_schedules", ["is_enabled", "next_run"], unique=False
    )
    op.create_index(
        "ix_backup_schedules_instance", "backup_schedules", ["instance_id"], unique=False
    )


def _backup_runs() -> None:
    op.create_table(
        "backup_runs",
        sa.Column("schedule_id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("planned", _TIME, nullable=False),
        sa.Column("next_try", _TIME, nullable=False),
        sa.Column("deadline", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", "instance_id"),
        **_TABLE,
    )
    op.create_index("ix_backup_runs_due", "backup_runs", ["next_try"], unique=False)


def _datastores() -> None:
    op.create_table(
        "datastores",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("tombstone", sa.String(length=36), nullable=False),
        sa.Column("default_version_id", sa.String(length=36), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "tombstone", name="uq_datastores_name"),
        **_TABLE,
    )


def _event_sequences() -> None:
    op.create_table(
        "event_sequences",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id"),
        **_TABLE,
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("resource_type", sa.String(length=32), nullable=False),
        sa.Column("resource_id", sa.String(length=255), nullable=False),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "sequence"),
        **_TABLE,
    )
    op.create_index("ix_events_created", "events", ["created"], unique=False)
    op.create_index("ix_events_resource", "events", ["resource_id", "sequence"], unique=False)


def _notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("event_type", sa.String(length=100), nullable=False),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("owner", sa.String(length=36), nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )


def _operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.String(length=36), nullable=False),
        sa.Column("lock_key", sa.String(length=100), nullable=True),
        sa.Column("state", _ENUM, nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("secret_wrapped", _BYTES, nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("owner", sa.String(length=150), nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("signals", sa.Integer(), nullable=False),
        sa.Column("wake_on", sa.String(length=100), nullable=True),
        sa.Column("wake_at", _TIME, nullable=False),
        sa.Column("deadline", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cancel", sa.String(length=16), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("lock_key"),
        **_TABLE,
    )
    op.create_index("ix_operations_due", "operations", ["state", "wake_at"], unique=False)
    op.create_index(
        "ix_operations_resource", "operations", ["resource_id", "created"], unique=False
    )
    op.create_index("ix_operations_kind", "operations", ["kind", "state", "created"], unique=False)


def _quota_reservations() -> None:
    op.create_table(
        "quota_reservations",
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("delta", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("operation_id", "resource"),
        **_TABLE,
    )
    op.create_index(
        op.f("ix_quota_reservations_project_id"), "quota_reservations", ["project_id"], unique=False
    )


def _quota_usages() -> None:
    op.create_table(
        "quota_usages",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("in_use", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource"),
        **_TABLE,
    )


def _quotas() -> None:
    op.create_table(
        "quotas",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource"),
        **_TABLE,
    )


def _rate_windows() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("window", sa.BigInteger(), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "method"),
        **_TABLE,
    )
    op.create_index("ix_rate_windows_window", "rate_windows", ["window"], unique=False)


def _service_counters() -> None:
    op.create_table(
        "service_counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label"),
        **_TABLE,
    )


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=36), nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **_TABLE,
    )


def _verifier_hosts() -> None:
    op.create_table(
        "verifier_hosts",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.Column("seen", _TIME, nullable=False),
        sa.Column("at_once", sa.Integer(), nullable=False),
        sa.Column("engines", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **_TABLE,
    )


def _datastore_versions() -> None:
    op.create_table(
        "datastore_versions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("datastore_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("version", sa.String(length=150), nullable=False),
        sa.Column("tombstone", sa.String(length=36), nullable=False),
        sa.Column("manager", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=True),
        sa.Column("image_tags", _JSON, nullable=False),
        sa.Column("packages", _JSON, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("registry_ext", sa.String(length=255), nullable=True),
        sa.Column("repl_strategy", sa.String(length=255), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["datastore_id"], ["datastores.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "datastore_id", "name", "version", "tombstone", name="uq_datastore_versions_name"
        ),
        **_TABLE,
    )


def _operation_steps() -> None:
    op.create_table(
        "operation_steps",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("timings", _JSON, nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["operation_id"], ["operations.id"]),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )
    op.create_index(
        "ix_operation_steps_operation", "operation_steps", ["operation_id", "id"], unique=False
    )


def _configuration_parameters() -> None:
    op.create_table(
        "configuration_parameters",
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("data_type", sa.String(length=16), nullable=False),
        sa.Column("restart_required", sa.Boolean(), nullable=False),
        sa.Column("minimum", sa.String(length=40), nullable=True),
        sa.Column("maximum", sa.String(length=40), nullable=True),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("deleted", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("datastore_version_id", "name"),
        **_TABLE,
    )


def _configurations() -> None:
    op.create_table(
        "configurations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("values", _JSON, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("deleted", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )
    op.create_index(
        op.f("ix_configurations_datastore_version_id"),
        "configurations",
        ["datastore_version_id"],
        unique=False,
    )
    op.create_index(
        "ix_configurations_project_live_id",
        "configurations",
        ["project_id", "is_deleted", "id"],
        unique=False,
    )


def _datastore_version_flavors() -> None:
    op.create_table(
        "datastore_version_flavors",
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("flavor_id", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("datastore_version_id", "flavor_id"),
        **_TABLE,
    )


def _datastore_version_volume_types() -> None:
    op.create_table(
        "datastore_version_volume_types",
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("volume_type", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("datastore_version_id", "volume_type"),
        **_TABLE,
    )


def _modules() -> None:
    op.create_table(
        "modules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=True),
        sa.Column("identity", sa.String(length=64), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("contents_wrapped", _BYTES, nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("datastore_id", sa.String(length=36), nullable=True),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=True),
        sa.Column("auto_apply", sa.Boolean(), nullable=False),
        sa.Column("visible", sa.Boolean(), nullable=False),
        sa.Column("live_update", sa.Boolean(), nullable=False),
        sa.Column("priority_apply", sa.Boolean(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("apply_order", sa.Integer(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("deleted", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["datastore_id"], ["datastores.id"]),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("identity"),
        **_TABLE,
    )
    op.create_index(
        "ix_modules_project_live", "modules", ["project_id", "is_deleted"], unique=False
    )
    op.create_index("ix_modules_auto_live", "modules", ["auto_apply", "is_deleted"], unique=False)


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("flavor_id", sa.String(length=255), nullable=False),
        sa.Column("flavor_ram_mib", sa.Integer(), nullable=False),
        sa.Column("volume_size_gib", sa.Integer(), nullable=True),
        sa.Column("volume_type", sa.String(length=255), nullable=True),
        sa.Column("availability_zone", sa.String(length=255), nullable=True),
        sa.Column("region", sa.String(length=255), nullable=True),
        sa.Column("access", _JSON, nullable=True),
        sa.Column("addresses", _JSON, nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=True),
        sa.Column("replica_of_id", sa.String(length=36), nullable=True),
        sa.Column("task", _ENUM, nullable=False),
        sa.Column("server_status", _ENUM, nullable=False),
        sa.Column("server_id", sa.String(length=255), nullable=True),
        sa.Column("volume_id", sa.String(length=255), nullable=True),
        sa.Column("port_id", sa.String(length=255), nullable=True),
        sa.Column("key_wrapped", _BYTES, nullable=True),
        sa.Column("next_key_wrapped", _BYTES, nullable=True),
        sa.Column("key_generation", sa.Integer(), nullable=False),
        sa.Column("is_bootstrap_key", sa.Boolean(), nullable=False),
        sa.Column("fault_message", sa.Text(), nullable=True),
        sa.Column("fault_details", sa.Text(), nullable=True),
        sa.Column("fault_created", _TIME, nullable=True),
        sa.Column("root_enabled", sa.Boolean(), nullable=False),
        sa.Column("configuration_id", sa.String(length=36), nullable=True),
        sa.Column("configuration_digest", sa.String(length=64), nullable=True),
        sa.Column("is_configuration_due", sa.Boolean(), nullable=False),
        sa.Column("locality", sa.String(length=32), nullable=True),
        sa.Column("ssl", _JSON, nullable=True),
        sa.Column("running_backup_id", sa.String(length=36), nullable=True),
        sa.Column("is_protected", sa.Boolean(), nullable=False),
        sa.Column("tags", _JSON, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("deleted", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["configuration_id"], ["configurations.id"]),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )
    op.create_index(
        "ix_instances_configuration_due",
        "instances",
        ["is_deleted", "is_configuration_due", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_instances_configuration_id"), "instances", ["configuration_id"], unique=False
    )
    op.create_index(
        op.f("ix_instances_datastore_version_id"),
        "instances",
        ["datastore_version_id"],
        unique=False,
    )
    op.create_index(
        "ix_instances_live_created", "instances", ["is_deleted", "created", "id"], unique=False
    )
    op.create_index("ix_instances_live_id", "instances", ["is_deleted", "id"], unique=False)
    op.create_index("ix_instances_live_task", "instances", ["is_deleted", "task"], unique=False)
    op.create_index(
        "ix_instances_live_updated", "instances", ["is_deleted", "updated", "id"], unique=False
    )
    for column in ("created", "name", "updated"):
        op.create_index(
            f"ix_instances_project_live_{column}",
            "instances",
            ["project_id", "is_deleted", column, "id"],
            unique=False,
        )
    op.create_index(
        "ix_instances_project_live_id",
        "instances",
        ["project_id", "is_deleted", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_instances_replica_of_id"), "instances", ["replica_of_id"], unique=False
    )


def _guest_jobs() -> None:
    op.create_table(
        "guest_jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("operation_id", sa.String(length=36), nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("succeeded", sa.Boolean(), nullable=True),
        sa.Column("result", _JSON, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"]),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )
    op.create_index(op.f("ix_guest_jobs_instance_id"), "guest_jobs", ["instance_id"], unique=False)
    op.create_index(
        op.f("ix_guest_jobs_operation_id"), "guest_jobs", ["operation_id"], unique=False
    )


def _instance_heartbeats() -> None:
    op.create_table(
        "instance_heartbeats",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("boot", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("service_status", _ENUM, nullable=False),
        sa.Column("received", _TIME, nullable=False),
        sa.Column("engine_version", sa.String(length=64), nullable=True),
        sa.Column("agent_version", sa.String(length=64), nullable=True),
        sa.Column("disk_used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("disk_total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("job_progress_percent", sa.Integer(), nullable=True),
        sa.Column("job_done_bytes", sa.BigInteger(), nullable=True),
        sa.Column("job_total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=True),
        sa.Column("csr_pem", sa.Text(), nullable=True),
        sa.Column("changed_from", _ENUM, nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"]),
        sa.PrimaryKeyConstraint("instance_id"),
        **_TABLE,
    )
    op.create_index(
        op.f("ix_instance_heartbeats_changed_from"),
        "instance_heartbeats",
        ["changed_from"],
        unique=False,
    )


def _instance_modules() -> None:
    op.create_table(
        "instance_modules",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("module_id", sa.String(length=36), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"]),
        sa.ForeignKeyConstraint(["module_id"], ["modules.id"]),
        sa.PrimaryKeyConstraint("instance_id", "module_id"),
        **_TABLE,
    )
    op.create_index(
        op.f("ix_instance_modules_module_id"), "instance_modules", ["module_id"], unique=False
    )


def _instance_tags() -> None:
    op.create_table(
        "instance_tags",
        sa.Column("tag", sa.String(length=60), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"]),
        sa.PrimaryKeyConstraint("tag", "instance_id"),
        **_TABLE,
    )
    op.create_index(
        op.f("ix_instance_tags_instance_id"), "instance_tags", ["instance_id"], unique=False
    )


def _root_history() -> None:
    op.create_table(
        "root_history",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("enabled", _TIME, nullable=False),
        sa.Column("disabled", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"]),
        sa.PrimaryKeyConstraint("id"),
        **_TABLE,
    )
    op.create_index(
        op.f("ix_root_history_instance_id"), "root_history", ["instance_id"], unique=False
    )
