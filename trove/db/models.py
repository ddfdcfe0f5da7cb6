"""The tables, as typed declarative models.

Times are stored as UTC without zone and handed out UTC-aware. Rows of instances stay after
deletion (``is_deleted``), so that late reports of their agents change nothing anybody sees.
Secrets are only ever stored wrapped (``*_wrapped``).
"""

from __future__ import annotations

import datetime
import enum
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql

from trove import states


class UtcDateTime(sa.types.TypeDecorator[datetime.datetime]):
    """A UTC-aware datetime with microseconds."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Use fractional seconds on MySQL and MariaDB."""
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(
        self, value: datetime.datetime | None, dialect: sa.Dialect
    ) -> datetime.datetime | None:
        """Store UTC without zone; refuses naive datetimes with ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime handed to the database")
        return value.astimezone(datetime.UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: datetime.datetime | None, dialect: sa.Dialect
    ) -> datetime.datetime | None:
        """Hand out UTC-aware."""
        return None if value is None else value.replace(tzinfo=datetime.UTC)


class EnumString(sa.types.TypeDecorator[Any]):
    """A StrEnum stored as its value; new members need no migration."""

    impl = sa.String(40)
    cache_ok = True

    def __init__(self, enum_class: type[enum.StrEnum]) -> None:
        """Take the StrEnum class."""
        super().__init__()
        self.enum_class = enum_class
        self._members = {member.value: member for member in enum_class}

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Store the value."""
        return None if value is None else str(self.enum_class(value).value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """Hand out the member."""
        return None if value is None else self._members.get(value) or self.enum_class(value)


def new_id() -> str:
    """Return a new lowercase dashed UUID."""
    return str(uuid.uuid4())


#: MySQL's JSON and LONGBLOB where they exist, TEXT and BLOB in SQLite.
Json = sa.JSON(none_as_null=True).with_variant(mysql.JSON(none_as_null=True), "mysql", "mariadb")
Bytes = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


class Base(orm.DeclarativeBase):
    """Base of all models."""

    # binary collation: ids and names compare the same on every backend, case included
    __table_args__: Any = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_bin",
    }
    type_annotation_map = {
        datetime.datetime: UtcDateTime,
        bytes: Bytes,
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class Datastore(Base):
    """A database engine that the service offers."""

    __tablename__ = "datastores"
    __table_args__ = (
        sa.UniqueConstraint("name", "tombstone", name="uq_datastores_name"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    #: Empty; the own id once it is removed, so that the name is free again. The row stays: others
    #: refer to it.
    tombstone: orm.Mapped[str] = orm.mapped_column(sa.String(36), default="")
    default_version_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]

    versions: orm.Mapped[list[DatastoreVersion]] = orm.relationship(
        back_populates="datastore", order_by="DatastoreVersion.name"
    )


class DatastoreVersion(Base):
    """A version of a datastore with the image that runs it."""

    __tablename__ = "datastore_versions"
    __table_args__ = (
        sa.UniqueConstraint(
            "datastore_id", "name", "version", "tombstone", name="uq_datastore_versions_name"
        ),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    datastore_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), sa.ForeignKey("datastores.id"))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(150))
    version: orm.Mapped[str] = orm.mapped_column(sa.String(150))
    #: As that of :class:`Datastore`; instances that were deleted refer to it for ever.
    tombstone: orm.Mapped[str] = orm.mapped_column(sa.String(36), default="")
    manager: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    image_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    image_tags: orm.Mapped[list[Any]] = orm.mapped_column(default=list)
    packages: orm.Mapped[list[Any]] = orm.mapped_column(default=list)
    active: orm.Mapped[bool] = orm.mapped_column(default=True)
    registry_ext: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    repl_strategy: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]

    datastore: orm.Mapped[Datastore] = orm.relationship(back_populates="versions")


class Instance(Base):
    """A database instance; what its agent reports is in :class:`InstanceHeartbeat`."""

    __tablename__ = "instances"
    __table_args__ = (
        # the page of one project's live instances, in the order of the list
        sa.Index("ix_instances_project_live_id", "project_id", "is_deleted", "id"),
        sa.Index("ix_instances_live_task", "is_deleted", "task"),
        sa.Index("ix_instances_configuration_due", "is_deleted", "is_configuration_due", "id"),
        # the operators' page of all projects' instances
        sa.Index("ix_instances_live_id", "is_deleted", "id"),
        # sorted pages, of one project and of all
        sa.Index("ix_instances_project_live_created", "project_id", "is_deleted", "created", "id"),
        sa.Index("ix_instances_project_live_updated", "project_id", "is_deleted", "updated", "id"),
        sa.Index("ix_instances_project_live_name", "project_id", "is_deleted", "name", "id"),
        sa.Index("ix_instances_live_created", "is_deleted", "created", "id"),
        sa.Index("ix_instances_live_updated", "is_deleted", "updated", "id"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    user_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    datastore_version_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id"), index=True
    )
    flavor_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    #: Memory of the flavor when it was chosen: what quota was charged.
    flavor_ram_mib: orm.Mapped[int]
    volume_size_gib: orm.Mapped[int | None]
    volume_type: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    availability_zone: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    region: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    access: orm.Mapped[dict[str, Any] | None]
    #: [{"address": str, "type": "private"|"public", "network": str}]
    addresses: orm.Mapped[list[Any]] = orm.mapped_column(default=list)
    #: Its name in the DNS, where instances have names.
    hostname: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    replica_of_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36), index=True)
    task: orm.Mapped[states.TaskStatus] = orm.mapped_column(EnumString(states.TaskStatus))
    server_status: orm.Mapped[states.ServerStatus] = orm.mapped_column(
        EnumString(states.ServerStatus), default=states.ServerStatus.NONE
    )
    server_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    volume_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    port_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: Key of the guest channel, wrapped for the purpose "instance-key:<id>"; NULL after deletion.
    key_wrapped: orm.Mapped[bytes | None]
    #: Key that replaces it as soon as it opened a message, see :mod:`trove.db.guest_keys`.
    next_key_wrapped: orm.Mapped[bytes | None]
    #: Counts the keys of the instance, and with them the accounts of its agent.
    key_generation: orm.Mapped[int] = orm.mapped_column(default=0)
    #: Whether the key is the one that the server was made with, good for first contact only.
    is_bootstrap_key: orm.Mapped[bool] = orm.mapped_column(default=False)
    fault_message: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    fault_details: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    fault_created: orm.Mapped[datetime.datetime | None]
    root_enabled: orm.Mapped[bool] = orm.mapped_column(default=False)
    configuration_id: orm.Mapped[str | None] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("configurations.id"), index=True
    )
    #: Digest of the values that the agent wrote last; whatever differs from the group's is due.
    configuration_digest: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    #: Whether the two may differ: set with every change, so that those few are found.
    is_configuration_due: orm.Mapped[bool] = orm.mapped_column(default=False)
    #: Server group policy: "affinity" and its like.
    locality: orm.Mapped[str | None] = orm.mapped_column(sa.String(32))
    #: Certificates, as :mod:`trove.db.tls` reads and writes them; NULL: none yet.
    ssl: orm.Mapped[dict[str, Any] | None]
    #: The backup that is being made of it: at most one, see :mod:`trove.db.backups`.
    running_backup_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    is_protected: orm.Mapped[bool] = orm.mapped_column(default=False)
    tags: orm.Mapped[list[Any]] = orm.mapped_column(default=list)
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]
    is_deleted: orm.Mapped[bool] = orm.mapped_column(default=False)
    deleted: orm.Mapped[datetime.datetime | None]

    version: orm.Mapped[DatastoreVersion] = orm.relationship()
    heartbeat: orm.Mapped[InstanceHeartbeat] = orm.relationship(
        back_populates="instance", uselist=False
    )


class InstanceTag(Base):
    """A tag of a live instance, to find it by; what is shown is :attr:`Instance.tags`."""

    __tablename__ = "instance_tags"

    tag: orm.Mapped[str] = orm.mapped_column(sa.String(60), primary_key=True)
    instance_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("instances.id"), primary_key=True, index=True
    )


class InstanceHeartbeat(Base):
    """The last report of an instance's agent; made together with the instance.

    A report is stored only if its (boot, sequence) is above the stored pair. ``received`` is the
    conductor's clock.
    """

    __tablename__ = "instance_heartbeats"

    instance_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("instances.id"), primary_key=True
    )
    boot: orm.Mapped[int] = orm.mapped_column(default=0)
    sequence: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)
    service_status: orm.Mapped[states.ServiceStatus] = orm.mapped_column(
        EnumString(states.ServiceStatus), default=states.ServiceStatus.NEW
    )
    received: orm.Mapped[datetime.datetime]
    engine_version: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    agent_version: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    disk_used_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    disk_total_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    job_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    job_progress_percent: orm.Mapped[int | None]
    job_done_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    job_total_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    message: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: The engine's figures, a JSON object by the names of :mod:`trove.datastores.metrics`.
    metrics: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: Certificate request of the last hello.
    csr_pem: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: The status before, while the change to ``service_status`` is not in the events yet.
    changed_from: orm.Mapped[states.ServiceStatus | None] = orm.mapped_column(
        EnumString(states.ServiceStatus), index=True
    )

    instance: orm.Mapped[Instance] = orm.relationship(back_populates="heartbeat")


class Operation(Base):
    """Long work, persisted; see :mod:`trove.db.operations` for the rules."""

    __tablename__ = "operations"
    __table_args__ = (
        sa.Index("ix_operations_due", "state", "wake_at"),
        sa.Index("ix_operations_resource", "resource_id", "created"),
        # the last successes of a kind: how long it takes
        sa.Index("ix_operations_kind", "kind", "state", "created"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    resource_id: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    #: At most one active operation holds a key; NULL once the operation has ended.
    lock_key: orm.Mapped[str | None] = orm.mapped_column(sa.String(100), unique=True)
    state: orm.Mapped[states.OperationState] = orm.mapped_column(
        EnumString(states.OperationState), default=states.OperationState.PENDING
    )
    #: Name of the step to run next (RUNNING) or to undo next (UNDOING).
    step: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    data: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    #: Secrets needed on the way (JSON), wrapped for "operation:<id>"; NULL once ended.
    secret_wrapped: orm.Mapped[bytes | None]
    #: Name of the only host whose processes may run it now; NULL: all but such hosts may.
    host: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: Token of the claim that is running it; a new one for each claim.
    owner: orm.Mapped[str | None] = orm.mapped_column(sa.String(150))
    lease_until: orm.Mapped[datetime.datetime | None]
    #: Counts events for the resource, so that none is lost between a look and a wait.
    signals: orm.Mapped[int] = orm.mapped_column(default=0)
    wake_on: orm.Mapped[str | None] = orm.mapped_column(sa.String(100))
    wake_at: orm.Mapped[datetime.datetime]
    deadline: orm.Mapped[datetime.datetime]
    #: Failed tries of the current step.
    attempts: orm.Mapped[int] = orm.mapped_column(default=0)
    #: "undo" or "supersede" once somebody asked for the end of it.
    cancel: orm.Mapped[str | None] = orm.mapped_column(sa.String(16))
    error: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    request_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    user_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: Per cent.
    progress: orm.Mapped[int] = orm.mapped_column(default=0)
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]


class OperationStep(Base):
    """Journal of what operations did; append-only."""

    __tablename__ = "operation_steps"
    __table_args__ = (
        sa.Index("ix_operation_steps_operation", "operation_id", "id"),
        Base.__table_args__,
    )

    id: orm.Mapped[int] = orm.mapped_column(
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    operation_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), sa.ForeignKey("operations.id"))
    step: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    #: started, done, waiting, retried, failed, undone, cancelled, ended.
    event: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    message: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: Where the time of the step went, once it is over; see :mod:`trove.db.operation_timings`.
    timings: orm.Mapped[dict[str, Any] | None]
    created: orm.Mapped[datetime.datetime]


class GuestJob(Base):
    """A job sent to an agent and its outcome; ``id`` makes it idempotent."""

    __tablename__ = "guest_jobs"

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    instance_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("instances.id"), index=True
    )
    operation_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36), index=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    #: NULL until the outcome is known.
    succeeded: orm.Mapped[bool | None]
    result: orm.Mapped[dict[str, Any] | None]
    error: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    error_code: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]


class RootHistory(Base):
    """Who enabled the superuser of an instance, and when it was disabled again."""

    __tablename__ = "root_history"

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    instance_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("instances.id"), index=True
    )
    user_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    enabled: orm.Mapped[datetime.datetime]
    disabled: orm.Mapped[datetime.datetime | None]


class Quota(Base):
    """A project's own limit for a resource; without a row the configured default holds."""

    __tablename__ = "quotas"

    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    resource: orm.Mapped[str] = orm.mapped_column(sa.String(32), primary_key=True)
    #: -1 is unlimited.
    limit: orm.Mapped[int]


class QuotaUsage(Base):
    """What a project uses of a resource; changed only by conditional updates."""

    __tablename__ = "quota_usages"

    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    resource: orm.Mapped[str] = orm.mapped_column(sa.String(32), primary_key=True)
    in_use: orm.Mapped[int] = orm.mapped_column(default=0)


class QuotaReservation(Base):
    """Units of a quota that are held for an operation under way; part of ``in_use`` already."""

    __tablename__ = "quota_reservations"

    operation_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True)
    resource: orm.Mapped[str] = orm.mapped_column(sa.String(32), primary_key=True)
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), index=True)
    delta: orm.Mapped[int]


class RateWindow(Base):
    """How many requests of a method a project's workers have taken of a minute's allowance."""

    __tablename__ = "rate_windows"
    __table_args__ = (sa.Index("ix_rate_windows_window", "window"), Base.__table_args__)

    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    method: orm.Mapped[str] = orm.mapped_column(sa.String(16), primary_key=True)
    #: Minutes since the epoch.
    window: orm.Mapped[int] = orm.mapped_column(sa.BigInteger())
    taken: orm.Mapped[int] = orm.mapped_column(default=0)


class ServiceCounter(Base):
    """What the processes of the service counted, all together."""

    __tablename__ = "service_counters"

    name: orm.Mapped[str] = orm.mapped_column(sa.String(64), primary_key=True)
    #: Tells kinds apart; may be empty.
    label: orm.Mapped[str] = orm.mapped_column(sa.String(64), primary_key=True)
    value: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)


class Lease(Base):
    """Who does something that only one process at a time should do."""

    __tablename__ = "leases"

    name: orm.Mapped[str] = orm.mapped_column(sa.String(64), primary_key=True)
    owner: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    until: orm.Mapped[datetime.datetime]


class VerifierHost(Base):
    """A host that proves backups, as it told of itself last."""

    __tablename__ = "verifier_hosts"

    name: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    #: Counts what it told: one that goes on is known by it, whatever its clock says.
    beats: orm.Mapped[int] = orm.mapped_column(sa.BigInteger())
    seen: orm.Mapped[datetime.datetime]
    #: Most proofs at a time.
    at_once: orm.Mapped[int]
    #: Versions of the engines that are installed, by datastore manager.
    engines: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)


class VersionFlavor(Base):
    """A flavor that a datastore version may be used with; without any row, all may."""

    __tablename__ = "datastore_version_flavors"

    datastore_version_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id"), primary_key=True
    )
    flavor_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)


class VersionVolumeType(Base):
    """A volume type that a datastore version may be used with; without any row, all may."""

    __tablename__ = "datastore_version_volume_types"

    datastore_version_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id"), primary_key=True
    )
    volume_type: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)


class Configuration(Base):
    """A configuration group: values of engine parameters for instances of one version."""

    __tablename__ = "configurations"
    __table_args__ = (
        sa.Index("ix_configurations_project_live_id", "project_id", "is_deleted", "id"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    description: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    datastore_version_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id"), index=True
    )
    #: Parameter -> value.
    values: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    #: Of the values, as agents are sent it with them; NULL when there are none.
    digest: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]
    is_deleted: orm.Mapped[bool] = orm.mapped_column(default=False)
    deleted: orm.Mapped[datetime.datetime | None]


class ConfigurationParameter(Base):
    """What an operator changed of the parameters that a datastore's rules give to a version.

    A row takes the place of the rule of the same name; a row with ``is_deleted`` hides it.
    """

    __tablename__ = "configuration_parameters"

    datastore_version_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id"), primary_key=True
    )
    name: orm.Mapped[str] = orm.mapped_column(sa.String(128), primary_key=True)
    #: "integer", "string", "boolean" or "float".
    data_type: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    restart_required: orm.Mapped[bool] = orm.mapped_column(default=False)
    #: Limits as text: integers may be larger than any column.
    minimum: orm.Mapped[str | None] = orm.mapped_column(sa.String(40))
    maximum: orm.Mapped[str | None] = orm.mapped_column(sa.String(40))
    is_deleted: orm.Mapped[bool] = orm.mapped_column(default=False)
    deleted: orm.Mapped[datetime.datetime | None]


class Module(Base):
    """Something that is applied to instances besides their engine; contents are wrapped."""

    __tablename__ = "modules"
    __table_args__ = (
        sa.Index("ix_modules_project_live", "project_id", "is_deleted"),
        # those that every new instance gets
        sa.Index("ix_modules_auto_live", "auto_apply", "is_deleted"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    #: NULL: for all projects.
    project_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: Hash of name, project, datastore and version, which no two may share; NULL after deletion.
    identity: orm.Mapped[str | None] = orm.mapped_column(sa.String(64), unique=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    type: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    description: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: Wrapped for the purpose "module:<id>".
    contents_wrapped: orm.Mapped[bytes]
    #: Of the contents, as clients know them.
    md5: orm.Mapped[str] = orm.mapped_column(sa.String(32))
    datastore_id: orm.Mapped[str | None] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastores.id")
    )
    datastore_version_id: orm.Mapped[str | None] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id")
    )
    auto_apply: orm.Mapped[bool] = orm.mapped_column(default=False)
    visible: orm.Mapped[bool] = orm.mapped_column(default=True)
    live_update: orm.Mapped[bool] = orm.mapped_column(default=False)
    priority_apply: orm.Mapped[bool] = orm.mapped_column(default=False)
    is_admin: orm.Mapped[bool] = orm.mapped_column(default=False)
    apply_order: orm.Mapped[int] = orm.mapped_column(default=5)
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]
    is_deleted: orm.Mapped[bool] = orm.mapped_column(default=False)
    deleted: orm.Mapped[datetime.datetime | None]


class InstanceModule(Base):
    """A module that is applied to an instance, as of which contents."""

    __tablename__ = "instance_modules"

    instance_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("instances.id"), primary_key=True
    )
    module_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("modules.id"), primary_key=True, index=True
    )
    #: Of the contents that were applied.
    md5: orm.Mapped[str] = orm.mapped_column(sa.String(32))
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]


class BackupStrategy(Base):
    """Where a project's backups, or those of one instance, are stored by default."""

    __tablename__ = "backup_strategies"

    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    #: Empty: for the whole project.
    instance_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default="")
    swift_container: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]


class Backup(Base):
    """A backup: what is stored where, of which instance, made when.

    Its objects are ``<container>/<prefix>...`` of the account of a project (``account_id``). The
    row outlives its instance, and is removed after its objects.
    """

    __tablename__ = "backups"
    __table_args__ = (
        # the list of a project and of all, newest change first
        sa.Index("ix_backups_project_updated", "project_id", "is_deleted", "updated", "id"),
        sa.Index("ix_backups_live_updated", "is_deleted", "updated", "id"),
        # those of an instance: what runs, what an increment builds on, what retention looks at
        sa.Index("ix_backups_instance", "instance_id", "is_deleted", "created"),
        sa.Index("ix_backups_parent", "parent_id"),
        sa.Index("ix_backups_due", "is_deleted", "expires"),
        # what an archive is needed for
        sa.Index("ix_backups_archive", "archive_epoch"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    user_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: None for one that was registered from storage. No foreign key: it outlives the instance.
    instance_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    description: orm.Mapped[str | None] = orm.mapped_column(sa.String(1024))
    status: orm.Mapped[states.BackupStatus] = orm.mapped_column(EnumString(states.BackupStatus))
    kind: orm.Mapped[states.BackupKind] = orm.mapped_column(EnumString(states.BackupKind))
    #: The backup that this one is an increment of.
    parent_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    #: The schedule that asked for it.
    schedule_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    #: Taken when its instance was deleted, or to go back to while one is restored in place.
    purpose: orm.Mapped[states.BackupPurpose] = orm.mapped_column(
        EnumString(states.BackupPurpose), default=states.BackupPurpose.MANUAL
    )
    datastore_version_id: orm.Mapped[str] = orm.mapped_column(
        sa.String(36), sa.ForeignKey("datastore_versions.id")
    )
    manager: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    engine_version: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    #: "swift", "s3", "filesystem", "cinder".
    storage_driver: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    account_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    container: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    prefix: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: What clients see of where it is: a URL, or the id of a snapshot.
    location: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: Who has the volume that a snapshot is of, once the instance has another one.
    volume_owner: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    #: What it takes in the storage, and of the engine's data.
    stored_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    data_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    #: Size of the volume that it was made from, GiB: none smaller takes it.
    volume_size_gib: orm.Mapped[int | None]
    manifest_sha256: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    #: Data key, wrapped for the purpose "backup:<id>".
    key_wrapped: orm.Mapped[bytes | None]
    #: What the engine said of it (positions), as its agent reported.
    facts: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    #: Where the archive of the log goes on from here.
    archive_epoch: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    archive_sequence: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger())
    #: By the engine's clock: everything committed before ``began`` is in it.
    began: orm.Mapped[datetime.datetime | None]
    completed: orm.Mapped[datetime.datetime | None]
    #: Removed then; None: kept until somebody deletes it.
    expires: orm.Mapped[datetime.datetime | None]
    verification: orm.Mapped[states.Verification | None] = orm.mapped_column(
        EnumString(states.Verification)
    )
    verified: orm.Mapped[datetime.datetime | None]
    verification_details: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    fault: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]
    is_deleted: orm.Mapped[bool] = orm.mapped_column(default=False)
    deleted: orm.Mapped[datetime.datetime | None]


class LogArchive(Base):
    """The archive of an engine's log: pieces ``first_sequence`` .. ``next_sequence`` - 1.

    A gap ends an epoch; the next has another key and prefix.
    """

    __tablename__ = "log_archives"
    __table_args__ = (
        sa.Index("ix_log_archives_instance", "instance_id", "state"),
        sa.Index("ix_log_archives_state", "state", "as_of"),
        Base.__table_args__,
    )

    epoch: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    instance_id: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    state: orm.Mapped[states.ArchiveStatus] = orm.mapped_column(EnumString(states.ArchiveStatus))
    storage_driver: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    account_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    container: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    prefix: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    #: Wrapped for the purpose "archive:<epoch>".
    key_wrapped: orm.Mapped[bytes | None]
    #: Pieces before it are removed: no backup needs them.
    first_sequence: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)
    next_sequence: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)
    #: By the guest's clock: what was committed in between is in the pieces.
    since: orm.Mapped[datetime.datetime | None]
    as_of: orm.Mapped[datetime.datetime | None]
    pending_bytes: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)
    stored_bytes: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)
    problem: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    #: Told of as late, and not as caught up since.
    is_late: orm.Mapped[bool] = orm.mapped_column(default=False)
    #: When its agent last told of it, by the conductor's clock.
    reported: orm.Mapped[datetime.datetime | None]
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]


class BackupSchedule(Base):
    """When backups of an instance are made, and how long they are kept; or a project's default."""

    __tablename__ = "backup_schedules"
    __table_args__ = (
        sa.UniqueConstraint("project_id", "instance_id", "name", name="uq_backup_schedules_name"),
        sa.Index("ix_backup_schedules_due", "is_enabled", "next_run"),
        sa.Index("ix_backup_schedules_instance", "instance_id"),
        Base.__table_args__,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True, default=new_id)
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    user_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    #: Empty: the default of the project, for its instances without schedules of their own.
    instance_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), default="")
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    cron: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    timezone: orm.Mapped[str] = orm.mapped_column(sa.String(64), default="UTC")
    #: A backup begins at a moment of its own of this many seconds behind the expression's time.
    window_s: orm.Mapped[int] = orm.mapped_column(default=0)
    #: Every n-th backup is a full one, the others are increments; 1: all are.
    full_every: orm.Mapped[int] = orm.mapped_column(default=1)
    #: {"count", "days", "daily", "weekly", "monthly", "yearly"}: what any of them keeps is kept.
    retention: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    is_enabled: orm.Mapped[bool] = orm.mapped_column(default=True)
    next_run: orm.Mapped[datetime.datetime | None]
    last_run: orm.Mapped[datetime.datetime | None]
    last_backup_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    #: Why the last run made no backup.
    problem: orm.Mapped[str | None] = orm.mapped_column(sa.Text())
    created: orm.Mapped[datetime.datetime]
    updated: orm.Mapped[datetime.datetime]


class BackupRun(Base):
    """A backup that a schedule has to make of an instance, from when it is due until it is begun.

    Who removes the row makes the backup, in the same transaction.
    """

    __tablename__ = "backup_runs"
    __table_args__ = (sa.Index("ix_backup_runs_due", "next_try"), Base.__table_args__)

    schedule_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True)
    instance_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True)
    #: The time of the schedule's expression.
    planned: orm.Mapped[datetime.datetime]
    next_try: orm.Mapped[datetime.datetime]
    #: Given up then, and told.
    deadline: orm.Mapped[datetime.datetime]


class EventSequence(Base):
    """The number of the last event of a project; its row lock puts events in order of commit."""

    __tablename__ = "event_sequences"

    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    last: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), default=0)


class Event(Base):
    """Something that happened to a resource of a project; append-only, numbered without gaps."""

    __tablename__ = "events"
    __table_args__ = (
        sa.Index("ix_events_resource", "resource_id", "sequence"),
        sa.Index("ix_events_created", "created"),
        Base.__table_args__,
    )

    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(255), primary_key=True)
    sequence: orm.Mapped[int] = orm.mapped_column(sa.BigInteger(), primary_key=True)
    #: Like "instance.create.succeeded".
    type: orm.Mapped[str] = orm.mapped_column(sa.String(100))
    resource_type: orm.Mapped[str] = orm.mapped_column(sa.String(32))
    resource_id: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    #: What to show besides: plain values, never a secret.
    payload: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    request_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    user_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    created: orm.Mapped[datetime.datetime]


class Notification(Base):
    """A notification to send: written with what it tells of, removed once it was sent.

    Who holds the lease on the first row sends; the others wait.
    """

    __tablename__ = "notifications"

    id: orm.Mapped[int] = orm.mapped_column(
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    event_type: orm.Mapped[str] = orm.mapped_column(sa.String(100))
    #: "info" or "error".
    priority: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    payload: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    owner: orm.Mapped[str | None] = orm.mapped_column(sa.String(36))
    lease_until: orm.Mapped[datetime.datetime | None]
    created: orm.Mapped[datetime.datetime]
