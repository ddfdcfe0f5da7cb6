"""What the guest channel carries: frozen dataclasses with a JSON-ready wire form.

Changes are additive only: a new field has a default, no field is renamed, removed or retyped.
``tests/unit/rpc/test_payloads.py`` pins the wire format by a fingerprint. Unknown keys are ignored
by :meth:`Payload.from_wire`, so that versions N-1 and N understand each other; a missing or
mistyped key raises :class:`MalformedPayload`, since a guest may be hostile.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from trove.common import exception


class MalformedPayload(exception.TroveError):
    """A message does not have the form of its type."""

    msg_fmt = "Malformed {type} payload: {reason}"
    code = "trove.malformed_payload"


#: Checks a value of the wire and returns it rebuilt; the text says where, for its TypeError.
_Check = Callable[[Any, str], Any]

#: What of the wire needs no conversion.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _to_wire(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Payload):
        return value.to_wire()
    if isinstance(value, tuple | list):
        return [_to_wire(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_wire(item) for key, item in value.items()}
    return value


def _check_of(hint: Any) -> _Check:
    """Return the check for a type hint: hints are looked at once, values with every message."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return _optional(_check_of(inner))
    if origin is tuple:
        return _items(_check_of(typing.get_args(hint)[0]))
    if origin is not None or hint in (dict, Mapping):
        return _object
    if hint is Any:
        return lambda value, where: value
    if issubclass(hint, Payload):
        return lambda value, where: hint.from_wire(value)
    return _scalar(hint)


def _optional(check: _Check) -> _Check:
    return lambda value, where: None if value is None else check(value, where)


def _items(check: _Check) -> _Check:
    def check_items(value: Any, where: str) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{where} must be a list")
        return tuple(check(item, f"{where}[]") for item in value)

    return check_items


def _object(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{where} must be an object")
    return dict(value)


def _scalar(kind: type) -> _Check:
    def check_scalar(value: Any, where: str) -> Any:
        if type(value) is kind:
            return value
        # to Python a bool is an int, to the wire it is not
        if not isinstance(value, bool):
            if kind is float and isinstance(value, int):
                return float(value)
            if isinstance(value, kind):
                return value
        raise TypeError(f"{where} must be of type {kind.__name__}")

    return check_scalar


class _Field(NamedTuple):
    """How a field of a payload is read."""

    name: str
    is_required: bool
    check: _Check


_FIELDS: dict[type, tuple[_Field, ...]] = {}


def _fields(cls: type[Payload]) -> tuple[_Field, ...]:
    known = _FIELDS.get(cls)
    if known is None:
        known = _FIELDS[cls] = _read_fields(cls)
    return known


def _read_fields(cls: type[Payload]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(
        _Field(
            name=field.name,
            is_required=field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING,
            check=_check_of(hints[field.name]),
        )
        for field in dataclasses.fields(cls)
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Base of all payloads."""

    def to_wire(self) -> dict[str, Any]:
        """Return a dict of JSON types."""
        return {field.name: _to_wire(getattr(self, field.name)) for field in _fields(type(self))}

    @classmethod
    def from_wire(cls, wire: object) -> Self:
        """Rebuild from :meth:`to_wire`'s dict; raises MalformedPayload."""
        if not isinstance(wire, dict):
            raise MalformedPayload(type=cls.__name__, reason="must be an object")
        values: dict[str, Any] = {}
        for name, is_required, check in _fields(cls):
            if name in wire:
                try:
                    values[name] = check(wire[name], name)
                except TypeError as e:
                    raise MalformedPayload(type=cls.__name__, reason=str(e)) from None
            elif is_required:
                raise MalformedPayload(type=cls.__name__, reason=f"{name} is missing")
        return cls(**values)


# -- shared pieces -----


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Database(Payload):
    """A database (schema) of an engine."""

    name: str
    character_set: str | None = None
    collate: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class User(Payload):
    """A database user; ``password`` only on its way into the guest."""

    name: str
    host: str = "%"
    password: str | None = dataclasses.field(repr=False, default=None)
    databases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UserChange(Payload):
    """New attributes of a user; None leaves an attribute as it is."""

    new_name: str | None = None
    new_host: str | None = None
    new_password: str | None = dataclasses.field(repr=False, default=None)


# -- guest to control plane -----


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveState(Payload):
    """How the archive of the engine's log is.

    ``sequence`` is the number of the next piece; everything that was committed until ``as_of``
    (seconds since 1970, the guest's clock) is in those before it. ``problem`` says, for people, why
    nothing can be stored; ``is_lost`` that the log has a gap: the epoch is over.
    """

    epoch: str
    sequence: int
    as_of: float
    #: Where the archive begins.
    since: float
    pending_bytes: int = 0
    stored_bytes: int = 0
    problem: str | None = None
    is_lost: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Payload):
    """How an instance is. (``boot``, ``sequence``) orders the reports of one instance.

    ``boot`` counts starts of the agent on its data volume, ``sequence`` counts reports since.
    Sizes are bytes. ``service_status`` is a name of :class:`trove.states.ServiceStatus`.
    """

    boot: int
    sequence: int
    service_status: str
    engine_version: str | None = None
    agent_version: str | None = None
    disk_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    job_id: str | None = None
    job_progress_percent: int | None = None
    message: str | None = None
    #: The engine's figures by the names of :mod:`trove.datastores.metrics`.
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Bytes of the current job's work that are done, and about how many there are.
    job_done_bytes: int | None = None
    job_total_bytes: int | None = None
    #: How the archive of the engine's log is, None without one.
    archive: ArchiveState | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Payload):
    """First report after a start of the agent.

    ``csr_pem`` asks for a server certificate: the private key never leaves the guest.
    """

    heartbeat: Heartbeat
    csr_pem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome(Payload):
    """How a job ended. ``error`` is for people; ``error_code`` is stable."""

    job_id: str
    succeeded: bool
    heartbeat: Heartbeat
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    error_code: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Payload):
    """The conductor's answer to hello and to a job's outcome. ``now_s`` is its clock (Unix)."""

    now_s: float
    accepted: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest(Payload):
    """Ask for a grant that is good again: that of a backup, or of an archive's epoch.

    ``names`` are the objects that are to be read or written next, for storages that sign each one.
    """

    backup_id: str | None = None
    epoch: str | None = None
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrantAnswer(Payload):
    """The grant; None when the instance has no business with what it asked for.

    ``now_s`` and ``accepted`` are as in :class:`Ack`: a request that was out of the window is
    answered with the time alone.
    """

    storage: ObjectStorage | None = None
    now_s: float | None = None
    accepted: bool = True


# -- control plane to guest: jobs -----


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job(Payload):
    """Work for an agent, idempotent by ``job_id``; ``kind`` names the type of ``payload``."""

    job_id: str
    kind: str
    payload: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrepareJob(Payload):
    """Make the engine of a new instance. Memory is MiB, volume GiB."""

    KIND: ClassVar[str] = "prepare"

    memory_mib: int
    vcpus: int
    volume_size_gib: int | None = None
    server_id: int = 1
    certificate_pem: str | None = None
    ca_pem: str | None = None
    databases: tuple[Database, ...] = ()
    users: tuple[User, ...] = ()
    root_password: str | None = dataclasses.field(repr=False, default=None)
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    modules: tuple[Module, ...] = ()
    #: Comes back as ``overrides_digest`` of the result.
    overrides_digest: str | None = None
    #: Version that the control plane has the instance on, as far as it knows: it decides whether
    #: data go forward to the version of the image or back to it.
    engine_version: str | None = None
    #: Make the database from backups instead of anew.
    restoration: Restoration | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureJob(Payload):
    """Configure the engine for these sizes (MiB, GiB) and with exactly these overrides.

    Dynamic values count at once, unless not ``is_live``: then the file alone is written, for an
    engine that is restarted anyway. What the engine refuses leaves everything as it was. The
    result has ``restart_required`` and ``overrides_digest``.
    """

    KIND: ClassVar[str] = "configure"

    memory_mib: int
    vcpus: int
    volume_size_gib: int | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    overrides_digest: str | None = None
    is_live: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RekeyJob(Payload):
    """Use this key (base64) and this account of the guest bus from now on, and no others.

    The outcome is reported with them.
    """

    KIND: ClassVar[str] = "rekey"

    key: str = dataclasses.field(repr=False)
    transport_url: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeAgentJob(Payload):
    """Install another release of the agent from a signed bundle, and go on as that.

    The bundle is an object: ``kind`` and ``grant`` open its store. It succeeds when the release is
    installed; the hello that follows says whether it runs. Without a hello that is answered within
    ``trial_s`` the agent goes back.
    """

    KIND: ClassVar[str] = "upgrade_agent"

    version: str
    sha256: str
    size_bytes: int
    kind: str
    container: str
    name: str
    grant: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)
    trial_s: float = 180.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeEngineJob(Payload):
    """One phase of the engine's way to ``version``, of which the first numbers may be given.

    "check" tells whether there is one, while the old version runs; "begin" makes the data ready
    for the programs of the image, before they start; "commit" removes what was kept to go back.
    The result has ``engine_version``.
    """

    KIND: ClassVar[str] = "upgrade_engine"

    phase: str
    version: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStorage(Payload):
    """Objects of one container whose names begin with ``prefix``, and what opens them.

    ``kind`` and ``grant`` are those of :mod:`trove.storage`; a grant is good for ``valid_s``
    seconds, a new one comes by the report "grant".
    """

    kind: str
    account: str
    container: str
    prefix: str
    grant: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)
    valid_s: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackup(Payload):
    """A backup that is stored, to be read. ``key`` is base64 of its 256-bit data key.

    ``manifest_sha256`` is that of the manifest as the control plane knows it.
    """

    backup_id: str
    storage: ObjectStorage
    key: str = dataclasses.field(repr=False)
    manifest_sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogArchive(Payload):
    """The archive of an engine's log: pieces numbered from ``first`` on, without a gap.

    An epoch ends when the log breaks; each has a key of its own. ``last`` is the newest known
    piece, None while it is written to.
    """

    epoch: str
    storage: ObjectStorage
    key: str = dataclasses.field(repr=False)
    first: int = 0
    last: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restoration(Payload):
    """What a database is made from: a chain of backups, full first, and the log behind them.

    ``target_*`` say where the log ends, at most one of them; ``target_time`` is seconds since 1970.
    With ``snapshot``, the id of a backup, there is no chain: the data volume was made of it.
    """

    chain: tuple[StoredBackup, ...]
    archive: LogArchive | None = None
    target_time: float | None = None
    target_position: str | None = None
    target_name: str | None = None
    snapshot: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackupJob(Payload):
    """Back the engine up: of all of it, or of what changed since ``parent``.

    ``about`` stands in the manifest as it is, so that a backup can be told from its objects alone;
    ``wrapped_key`` too: base64 of the data key, wrapped by the operator's key. The result has
    ``manifest_sha256``, ``stored_bytes``, ``data_bytes``, ``facts`` (the stream's), ``archive``
    (``{"epoch", "sequence"}`` where the log goes on) and ``engine_version``.
    """

    KIND: ClassVar[str] = "backup"

    backup_id: str
    storage: ObjectStorage
    key: str = dataclasses.field(repr=False)
    wrapped_key: str = dataclasses.field(repr=False)
    parent: StoredBackup | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    segment_bytes: int = 8 * 1024 * 1024
    compression_level: int = 2
    #: Bytes of the engine's data a second, 0: as fast as it goes.
    rate_limit_bytes_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestoreJob(Payload):
    """Put a restored database into the place of the one there is, which is kept until "commit".

    ``phase`` is "restore", "commit" (remove the former database) or "revert" (have it again).
    """

    KIND: ClassVar[str] = "restore"

    phase: str
    restoration: Restoration | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyBackupJob(Payload):
    """Restore a backup beside the running engine, check it, throw it away.

    The result has ``findings`` (the engine's own check) and ``facts`` of the restoration.
    """

    KIND: ClassVar[str] = "verify_backup"

    restoration: Restoration


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveJob(Payload):
    """Keep the engine's log in an archive from now on; None: no longer.

    At most ``interval_s`` seconds of writes are on the volume alone. When more than ``spool_bytes``
    of log wait for the storage, the archive ends with a gap and a full backup is due.
    """

    KIND: ClassVar[str] = "archive"

    archive: LogArchive | None = None
    interval_s: float = 30.0
    spool_bytes: int = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestartJob(Payload):
    """Restart the engine."""

    KIND: ClassVar[str] = "restart"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StopJob(Payload):
    """Stop the engine cleanly and keep it stopped (before the server is deleted)."""

    KIND: ClassVar[str] = "stop"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StartJob(Payload):
    """Have the engine running; nothing when it runs."""

    KIND: ClassVar[str] = "start"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResizeJob(Payload):
    """Fit the engine to another size of its server (MiB), and have it running with that."""

    KIND: ClassVar[str] = "resize"

    memory_mib: int
    vcpus: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrowJob(Payload):
    """Take note of a larger data volume (GiB), while the engine runs."""

    KIND: ClassVar[str] = "grow"

    volume_size_gib: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnmountJob(Payload):
    """Let go of the data volume, so that it can be taken from the server; the engine is stopped.

    Nothing when it is not mounted. It stays so until a :class:`MountJob`, unless the server starts
    anew with its volume.
    """

    KIND: ClassVar[str] = "unmount"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MountJob(Payload):
    """Mount the data volume, grow its file system to its device (GiB), have the engine running.

    The volume is found by its id, and waited for while the server learns of it. It holds data: one
    that has no file system, or another one, is an error and left as it is. What is done already is
    not done again.
    """

    KIND: ClassVar[str] = "mount"

    volume_id: str
    volume_size_gib: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModulesJob(Payload):
    """Apply modules; the result has the list ``modules`` of id, md5 and status."""

    KIND: ClassVar[str] = "apply_modules"

    modules: tuple[Module, ...] = ()
    force: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SslJob(Payload):
    """Have TLS as described, whatever it is now; the engine goes on serving.

    ``mode`` is "builtin" (the instance's own certificate) or one of "basic", "enforced", "mtls"
    with the certificate of the set ``set_id``. The set's files come with it unless the guest has
    them already. Sets that are neither in use nor in ``keep`` are removed.
    """

    KIND: ClassVar[str] = "ssl"

    mode: str
    set_id: str | None = None
    key_pem: str | None = dataclasses.field(repr=False, default=None)
    certificate_pem: str | None = None
    ca_pem: str | None = None
    keep: tuple[str, ...] = ()


# -- control plane to guest: short calls -----
# Each call has a request and an answer type; CALLS at the end is their registry.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Empty(Payload):
    """Nothing to say."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page(Payload):
    """A page of a list: items after ``marker``, at most ``limit``."""

    limit: int
    marker: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Databases(Payload):
    """Databases in order of name; ``next_marker`` when there are more."""

    databases: tuple[Database, ...] = ()
    next_marker: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Users(Payload):
    """Users in order of name and host, without passwords; ``next_marker`` when there are more."""

    users: tuple[User, ...] = ()
    next_marker: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseRef(Payload):
    """Which database."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UserRef(Payload):
    """Which user."""

    name: str
    host: str = "%"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpdateUser(Payload):
    """Change a user."""

    user: UserRef
    change: UserChange


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Payload):
    """Grant a user access to databases, or revoke it."""

    user: UserRef
    databases: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnableRoot(Payload):
    """Enable the engine's superuser with this password."""

    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootUser(Payload):
    """Name of the engine's superuser."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts(Payload):
    """What the kernel says of a process (proc(5)); ``version`` is that of its program."""

    threads: int
    fd_size: int
    vm_size_kib: int
    vm_peak_kib: int
    vm_rss_kib: int
    vm_hwm_kib: int
    version: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics(Payload):
    """How the agent is, and its engine if one runs."""

    agent: ProcessFacts
    engine: ProcessFacts | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HwInfo(Payload):
    """What the instance may use of its machine."""

    memory_mib: int
    cpus: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Module(Payload):
    """A module to apply; ``contents`` are base64. ``tenant`` and the like are only for display."""

    id: str
    type: str
    name: str
    md5: str
    contents: str = dataclasses.field(repr=False)
    tenant: str = "all"
    datastore: str = "all"
    datastore_version: str = "all"
    auto_apply: bool = False
    visible: bool = True
    is_admin: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Modules(Payload):
    """Modules to apply, in this order.

    What is applied already with the same contents is left alone unless ``force``.
    """

    modules: tuple[Module, ...] = ()
    force: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModuleQuery(Payload):
    """Which modules there are; contents only on demand."""

    include_contents: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRef(Payload):
    """Which module."""

    id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModuleResult(Payload):
    """How a module is on the guest: ``status`` is OK or ERROR; times are ISO 8601, UTC."""

    id: str
    type: str
    name: str
    md5: str
    status: str
    message: str | None = None
    created: str | None = None
    updated: str | None = None
    removed: str | None = None
    tenant: str = "all"
    datastore: str = "all"
    datastore_version: str = "all"
    auto_apply: bool = False
    visible: bool = True
    is_admin: bool = False
    contents: str | None = dataclasses.field(repr=False, default=None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModuleResults(Payload):
    """Modules of a guest."""

    modules: tuple[ModuleResult, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogStorage(Payload):
    """Where a log is published: a grant for an account of an object store, and names in it.

    Names of objects begin with ``prefix``; ``account`` tells accounts apart.
    """

    kind: str
    account: str
    container: str
    prefix: str
    grant: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest(Payload):
    """Show a log, or change it and show it: discard, disable, enable, publish, in this order.

    ``storage`` is needed to publish and to discard. ``budget_s`` is how long publishing may take:
    what does not fit is left for the next request.
    """

    name: str
    enable: bool = False
    disable: bool = False
    publish: bool = False
    discard: bool = False
    storage: LogStorage | None = None
    budget_s: float = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log(Payload):
    """A log. ``status`` is a word of the API; sizes are bytes.

    ``published`` is in the object store, ``pending`` can be published, ``dropped`` went from the
    instance before it was published, to keep the log within its bounds. ``container`` and
    ``prefix`` are set while there is something published. ``wanted`` are the names of objects that
    publishing goes on with, when the grant is not for them.
    """

    name: str
    type: str
    status: str
    published_bytes: int = 0
    pending_bytes: int = 0
    dropped_bytes: int = 0
    container: str | None = None
    prefix: str | None = None
    wanted: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Logs(Payload):
    """All logs of an instance."""

    logs: tuple[Log, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRef(Payload):
    """A job, by its id."""

    job_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Freeze(Payload):
    """Have the engine stand still for a snapshot of its volume, for ``timeout_s`` at most."""

    freeze_id: str
    backup_id: str
    timeout_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen(Payload):
    """The engine stands still since ``at_s`` (seconds since 1970); ``facts`` are the engine's."""

    engine_version: str | None
    data_bytes: int
    at_s: float
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thaw(Payload):
    """Have the engine go on."""

    freeze_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thawed(Payload):
    """Whether the engine stood still from its freezing until now, and if not, why."""

    was_frozen: bool
    reason: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopQueriesRequest(Payload):
    """The ``limit`` statements with the largest ``order_by``, a figure of :class:`TopQuery`."""

    limit: int = 20
    order_by: str = "total_seconds"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopQuery(Payload):
    """A statement with its literals taken out, and what it cost since the statistics began."""

    text: str
    database: str | None = None
    user: str | None = None
    calls: int = 0
    total_seconds: float = 0.0
    mean_seconds: float = 0.0
    max_seconds: float = 0.0
    rows: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopQueries(Payload):
    """The statements that cost most; ``since`` is when the statistics began, ISO 8601 or None."""

    queries: tuple[TopQuery, ...] = ()
    since: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Payload):
    """Instead of an answer: why a call failed. ``code`` is one of trove.common.exception's."""

    code: str
    message: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)


#: Short calls of the control plane to an agent: method -> (request type, answer type).
#: Errors come back as Failure with these codes: trove.already_exists (arguments kind, name),
#: trove.database_not_found (name), trove.user_not_found (name, host), trove.guest_error (reason).
CALLS: Mapping[str, tuple[type[Payload], type[Payload]]] = {
    "ping": (Empty, Heartbeat),
    "list_databases": (Page, Databases),
    "create_databases": (Databases, Empty),
    "delete_database": (DatabaseRef, Empty),
    "list_users": (Page, Users),
    "get_user": (UserRef, User),
    "create_users": (Users, Empty),
    "update_user": (UpdateUser, Empty),
    "delete_user": (UserRef, Empty),
    "grant": (Grant, Empty),
    "revoke": (Grant, Empty),
    "enable_root": (EnableRoot, RootUser),
    "disable_root": (Empty, Empty),
    "list_logs": (Empty, Logs),
    "show_log": (LogRequest, Log),
    "change_log": (LogRequest, Log),
    "list_modules": (ModuleQuery, ModuleResults),
    "apply_modules": (Modules, ModuleResults),
    "remove_module": (ModuleRef, Empty),
    "diagnostics": (Empty, Diagnostics),
    "hwinfo": (Empty, HwInfo),
    "top_queries": (TopQueriesRequest, TopQueries),
    "cancel_job": (JobRef, Empty),
    "freeze": (Freeze, Frozen),
    "thaw": (Thaw, Thawed),
}

#: Jobs: kind -> type of the payload.
JOBS: Mapping[str, type[Payload]] = {
    PrepareJob.KIND: PrepareJob,
    RekeyJob.KIND: RekeyJob,
    ConfigureJob.KIND: ConfigureJob,
    RestartJob.KIND: RestartJob,
    StopJob.KIND: StopJob,
    StartJob.KIND: StartJob,
    ResizeJob.KIND: ResizeJob,
    GrowJob.KIND: GrowJob,
    UnmountJob.KIND: UnmountJob,
    MountJob.KIND: MountJob,
    SslJob.KIND: SslJob,
    UpgradeAgentJob.KIND: UpgradeAgentJob,
    UpgradeEngineJob.KIND: UpgradeEngineJob,
    ModulesJob.KIND: ModulesJob,
    BackupJob.KIND: BackupJob,
    RestoreJob.KIND: RestoreJob,
    VerifyBackupJob.KIND: VerifyBackupJob,
    ArchiveJob.KIND: ArchiveJob,
}

#: Reports of an agent to the conductor: method -> (request type, answer type). Most heartbeats are
#: cast; now and then one asks for its answer, to set the clock.
REPORTS: Mapping[str, tuple[type[Payload], type[Payload]]] = {
    "hello": (Hello, Ack),
    "heartbeat": (Heartbeat, Ack),
    "job_done": (JobOutcome, Ack),
    "grant": (GrantRequest, GrantAnswer),
}
