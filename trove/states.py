"""The states of an instance and what clients see of them.

Enums and pure functions only: no I/O, no clock. A persisted change of state is a
compare-and-swap made elsewhere; :data:`TASK_TRANSITIONS` says which are allowed, and the two
display functions turn a row into the words of the v1.0 API.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping


class TaskStatus(enum.StrEnum):
    """What the control plane is doing with an instance."""

    NONE = "NONE"
    BUILDING = "BUILDING"
    REBOOTING = "REBOOTING"
    RESIZING = "RESIZING"
    DELETING = "DELETING"
    MIGRATING = "MIGRATING"
    RESTART_REQUIRED = "RESTART_REQUIRED"
    PROMOTING = "PROMOTING"
    EJECTING = "EJECTING"
    DETACHING = "DETACHING"
    UPDATING = "UPDATING"
    UPGRADING = "UPGRADING"
    BUILDING_ERROR_DNS = "BUILDING_ERROR_DNS"
    BUILDING_ERROR_SERVER = "BUILDING_ERROR_SERVER"
    BUILDING_ERROR_VOLUME = "BUILDING_ERROR_VOLUME"
    BUILDING_ERROR_SEC_GROUP = "BUILDING_ERROR_SEC_GROUP"
    BUILDING_ERROR_REPLICA = "BUILDING_ERROR_REPLICA"
    BUILDING_ERROR_TIMEOUT_GA = "BUILDING_ERROR_TIMEOUT_GA"
    BUILDING_ERROR_PORT = "BUILDING_ERROR_PORT"
    PROMOTION_ERROR = "PROMOTION_ERROR"
    EJECTION_ERROR = "EJECTION_ERROR"
    UPGRADING_ERROR = "UPGRADING_ERROR"
    UPDATING_ERROR_ACCESS = "UPDATING_ERROR_ACCESS"

    @property
    def is_error(self) -> bool:
        """Tell whether an operation ended here without reaching its aim."""
        return "_ERROR" in self.value


#: How a task is described in administrators' views.
TASK_DESCRIPTIONS: Mapping[TaskStatus, str] = {
    TaskStatus.NONE: "No tasks for the instance.",
    TaskStatus.DELETING: "Deleting the instance.",
    TaskStatus.REBOOTING: "Rebooting the instance.",
    TaskStatus.RESIZING: "Resizing the instance.",
    TaskStatus.BUILDING: "The instance is building.",
    TaskStatus.MIGRATING: "Migrating the instance.",
    TaskStatus.RESTART_REQUIRED: "Instance requires a restart.",
    TaskStatus.PROMOTING: "Promoting the instance to replica source.",
    TaskStatus.EJECTING: "Ejecting the replica source.",
    TaskStatus.DETACHING: "Detaching the instance from replica source.",
    TaskStatus.UPDATING: "Updating the instance.",
    TaskStatus.UPGRADING: "Upgrading the instance.",
    TaskStatus.BUILDING_ERROR_DNS: "Build error: DNS.",
    TaskStatus.BUILDING_ERROR_SERVER: "Build error: Server.",
    TaskStatus.BUILDING_ERROR_VOLUME: "Build error: Volume.",
    TaskStatus.BUILDING_ERROR_SEC_GROUP: "Build error: Secgroup or rule.",
    TaskStatus.BUILDING_ERROR_REPLICA: "Build error: Replica.",
    TaskStatus.BUILDING_ERROR_TIMEOUT_GA: "Build error: guestagent timeout.",
    TaskStatus.BUILDING_ERROR_PORT: "Build error: Port.",
    TaskStatus.PROMOTION_ERROR: "Promotion error.",
    TaskStatus.EJECTION_ERROR: "Ejection error.",
    TaskStatus.UPGRADING_ERROR: "Upgrade error.",
    TaskStatus.UPDATING_ERROR_ACCESS: "Update error: Access.",
}


class ServerStatus(enum.StrEnum):
    """The compute server as the reconciler last saw it; NONE before it was made."""

    NONE = "NONE"
    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    ERROR = "ERROR"
    REBOOT = "REBOOT"
    RESIZE = "RESIZE"
    VERIFY_RESIZE = "VERIFY_RESIZE"
    SHUTOFF = "SHUTOFF"
    MISSING = "MISSING"
    UNKNOWN = "UNKNOWN"


class ServiceStatus(enum.StrEnum):
    """The database service as its guest agent last reported it."""

    NEW = "NEW"
    BUILDING = "BUILDING"
    INSTANCE_READY = "INSTANCE_READY"
    RUNNING = "RUNNING"
    HEALTHY = "HEALTHY"
    BLOCKED = "BLOCKED"
    PAUSED = "PAUSED"
    SHUTDOWN = "SHUTDOWN"
    CRASHED = "CRASHED"
    FAILED = "FAILED"
    DELETED = "DELETED"
    UNKNOWN = "UNKNOWN"
    RESTART_REQUIRED = "RESTART_REQUIRED"
    RESTARTING = "RESTARTING"
    PROMOTING = "PROMOTING"
    EJECTING = "EJECTING"
    UPGRADING = "UPGRADING"
    FAILED_TIMEOUT_GUESTAGENT = "FAILED_TIMEOUT_GUESTAGENT"

    @property
    def is_running(self) -> bool:
        """Tell whether databases and users can be managed now."""
        return self in (ServiceStatus.RUNNING, ServiceStatus.HEALTHY)

    @property
    def description(self) -> str:
        """The status in words, for operators."""
        return _SERVICE_DESCRIPTIONS.get(self, self.value.replace("_", " ").lower())

    @property
    def allows_action(self) -> bool:
        """Tell whether restart, resize and their like may start now."""
        return self in _ACTION_ALLOWED


_SERVICE_DESCRIPTIONS: Mapping[ServiceStatus, str] = {
    ServiceStatus.FAILED: "failed to spawn",
    ServiceStatus.FAILED_TIMEOUT_GUESTAGENT: "guestagent error",
    ServiceStatus.PROMOTING: "promoting replica",
    ServiceStatus.EJECTING: "ejecting replica source",
}

_ACTION_ALLOWED = frozenset(
    {
        ServiceStatus.RUNNING,
        ServiceStatus.BLOCKED,
        ServiceStatus.SHUTDOWN,
        ServiceStatus.CRASHED,
        ServiceStatus.RESTART_REQUIRED,
        ServiceStatus.HEALTHY,
    }
)


class BackupStatus(enum.StrEnum):
    """Where a backup stands, in the words of the API."""

    NEW = "NEW"
    BUILDING = "BUILDING"
    SAVING = "SAVING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DELETE_FAILED = "DELETE_FAILED"
    RESTORED = "RESTORED"

    @property
    def is_running(self) -> bool:
        """Tell whether it is being made."""
        return self in (BackupStatus.NEW, BackupStatus.BUILDING, BackupStatus.SAVING)

    @property
    def is_restorable(self) -> bool:
        """Tell whether a database can be made from it."""
        return self in (BackupStatus.COMPLETED, BackupStatus.RESTORED)


class BackupKind(enum.StrEnum):
    """What a backup holds."""

    FULL = "full"
    INCREMENT = "incremental"
    SNAPSHOT = "snapshot"


class BackupPurpose(enum.StrEnum):
    """What a backup was made for."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    #: The last one of an instance that was deleted.
    FINAL = "final"
    #: Of a database that another one was restored in place of.
    SAFETY = "safety"


class Verification(enum.StrEnum):
    """What came of restoring a backup to prove it."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"


class ArchiveStatus(enum.StrEnum):
    """Where an epoch of a log's archive stands."""

    ACTIVE = "active"
    #: Pieces are kept, none is added.
    CLOSED = "closed"
    #: As closed; the log went on, but has a gap.
    LOST = "lost"


class OperationState(enum.StrEnum):
    """Where a persisted operation stands; see :mod:`trove.db.operations`."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    UNDOING = "UNDOING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_active(self) -> bool:
        """Tell whether somebody still has to work on the operation."""
        return self in (OperationState.PENDING, OperationState.RUNNING, OperationState.UNDOING)


_IDLE = frozenset({TaskStatus.NONE, TaskStatus.RESTART_REQUIRED})
_ERRORS = frozenset(task for task in TaskStatus if task.is_error)

#: From which tasks each task may be entered. DELETING may be entered from every state.
TASK_TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.NONE: frozenset(TaskStatus) - {TaskStatus.DELETING},
    TaskStatus.BUILDING: _IDLE | _ERRORS,
    TaskStatus.REBOOTING: _IDLE,
    TaskStatus.RESIZING: _IDLE,
    TaskStatus.MIGRATING: _IDLE,
    TaskStatus.RESTART_REQUIRED: frozenset(
        {
            TaskStatus.NONE,
            TaskStatus.UPDATING,
            TaskStatus.REBOOTING,
            TaskStatus.RESIZING,
            TaskStatus.MIGRATING,
        }
    ),
    TaskStatus.PROMOTING: _IDLE,
    TaskStatus.EJECTING: _IDLE | _ERRORS,
    TaskStatus.DETACHING: _IDLE,
    TaskStatus.UPDATING: _IDLE | {TaskStatus.UPDATING_ERROR_ACCESS},
    TaskStatus.UPGRADING: _IDLE,
    TaskStatus.DELETING: frozenset(TaskStatus),
    TaskStatus.BUILDING_ERROR_DNS: frozenset({TaskStatus.BUILDING}),
    TaskStatus.BUILDING_ERROR_SERVER: frozenset({TaskStatus.BUILDING}),
    TaskStatus.BUILDING_ERROR_VOLUME: frozenset({TaskStatus.BUILDING}),
    TaskStatus.BUILDING_ERROR_SEC_GROUP: frozenset({TaskStatus.BUILDING}),
    TaskStatus.BUILDING_ERROR_REPLICA: frozenset({TaskStatus.BUILDING}),
    TaskStatus.BUILDING_ERROR_TIMEOUT_GA: frozenset({TaskStatus.BUILDING}),
    TaskStatus.BUILDING_ERROR_PORT: frozenset({TaskStatus.BUILDING}),
    TaskStatus.PROMOTION_ERROR: frozenset({TaskStatus.PROMOTING}),
    TaskStatus.EJECTION_ERROR: frozenset({TaskStatus.EJECTING}),
    TaskStatus.UPGRADING_ERROR: frozenset({TaskStatus.UPGRADING}),
    TaskStatus.UPDATING_ERROR_ACCESS: frozenset({TaskStatus.UPDATING}),
}

_TASK_WORDS: Mapping[TaskStatus, str] = {
    TaskStatus.BUILDING: "BUILD",
    TaskStatus.REBOOTING: "REBOOT",
    TaskStatus.RESIZING: "RESIZE",
    TaskStatus.UPGRADING: "UPGRADE",
    TaskStatus.RESTART_REQUIRED: "RESTART_REQUIRED",
    TaskStatus.PROMOTING: "PROMOTE",
    TaskStatus.EJECTING: "EJECT",
    TaskStatus.DETACHING: "DETACH",
    TaskStatus.DELETING: "SHUTDOWN",
}

_SERVER_WORDS: Mapping[ServerStatus, str] = {
    ServerStatus.ACTIVE: "ACTIVE",
    ServerStatus.BUILD: "BUILD",
    ServerStatus.ERROR: "ERROR",
    ServerStatus.REBOOT: "REBOOT",
    ServerStatus.RESIZE: "RESIZE",
    ServerStatus.VERIFY_RESIZE: "RESIZE",
    ServerStatus.MISSING: "SHUTDOWN",
    ServerStatus.NONE: "SHUTDOWN",
}

_SERVICE_WORDS: Mapping[ServiceStatus, str] = {
    ServiceStatus.RUNNING: "ACTIVE",
    ServiceStatus.BLOCKED: "BLOCKED",
    ServiceStatus.PAUSED: "SHUTDOWN",
    ServiceStatus.SHUTDOWN: "SHUTDOWN",
    ServiceStatus.DELETED: "DELETED",
    ServiceStatus.CRASHED: "SHUTDOWN",
    ServiceStatus.FAILED: "FAILED",
    ServiceStatus.BUILDING: "BUILD",
    ServiceStatus.PROMOTING: "PROMOTE",
    ServiceStatus.EJECTING: "EJECT",
    ServiceStatus.UNKNOWN: "ERROR",
    ServiceStatus.NEW: "NEW",
    ServiceStatus.FAILED_TIMEOUT_GUESTAGENT: "ERROR",
    ServiceStatus.INSTANCE_READY: "BUILD",
    ServiceStatus.RESTART_REQUIRED: "RESTART_REQUIRED",
    ServiceStatus.HEALTHY: "HEALTHY",
    ServiceStatus.UPGRADING: "RESTARTING",
    ServiceStatus.RESTARTING: "RESTARTING",
}


def can_change(current: TaskStatus, wanted: TaskStatus) -> bool:
    """Tell whether the transition table allows ``current`` -> ``wanted``."""
    return current in TASK_TRANSITIONS[wanted]


def api_status(
    task: TaskStatus,
    server: ServerStatus,
    *,
    is_deleted: bool = False,
    is_backing_up: bool = False,
) -> str:
    """Return the word of the API's ``status`` key."""
    if is_deleted:
        return "SHUTDOWN"
    if task.is_error:
        return "ERROR"
    if task is TaskStatus.BUILDING and server is ServerStatus.ERROR:
        return "ERROR"
    word = _TASK_WORDS.get(task)
    if word is not None:
        return word
    if is_backing_up:
        return "BACKUP"
    return _SERVER_WORDS.get(server, "UNKNOWN")


def api_operating_status(
    task: TaskStatus,
    server: ServerStatus,
    service: ServiceStatus,
    *,
    heartbeat_age: datetime.timedelta,
    heartbeat_expiry: datetime.timedelta,
) -> str:
    """Return the word of the API's ``operating_status`` key; empty while a task runs."""
    if task is not TaskStatus.NONE or server is not ServerStatus.ACTIVE:
        return ""
    if heartbeat_age > heartbeat_expiry:
        return "ERROR"
    return _SERVICE_WORDS[service]


def is_ready(
    task: TaskStatus, server: ServerStatus, service: ServiceStatus, *, is_backing_up: bool = False
) -> bool:
    """Tell whether restart, resize and their like may start on such an instance."""
    return (
        server is ServerStatus.ACTIVE
        and task in _IDLE
        and service.allows_action
        and not is_backing_up
    )
