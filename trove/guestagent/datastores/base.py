"""What the agent asks of an engine, as small interfaces, and their composition.

A :class:`Datastore` is a frozen composition. What an engine cannot do is an :class:`Unsupported`
part; capabilities are derived from the parts, and a test compares them with the engine's spec.
All methods may raise :class:`trove.common.exception.GuestError` with a cause and a remedy.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Self

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent import state
from trove.guestagent.system import process
from trove.rpc import payloads


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What an engine is given: the instance, its directories, its address, its programs."""

    instance_id: str
    layout: state.Layout
    store: state.Store
    bind_address: str
    port: int
    basedir: str | None = None
    template_dir: pathlib.Path | None = None
    #: Number of the agent's first start on this state directory.
    first_boot: int = 1
    #: Volume to mount at the layout's mount point; None when it is a mere directory.
    volume_id: str | None = None
    #: Where other versions of the engine are installed, by version: for upgrades from them.
    former_basedirs: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server's configuration is made from; remembered by the agent, holds no secret."""

    memory_mib: int
    vcpus: int
    server_id: int
    volume_size_gib: int | None = None
    has_tls: bool = False
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


class NotReady(exception.TroveError):
    """The engine does not answer (yet)."""

    msg_fmt = "The database does not answer: {reason}"
    code = "trove.engine_not_ready"


class Part:
    """Base of all parts; ``capabilities`` is what an instance can do thanks to it."""

    capabilities: ClassVar[frozenset[datastore_spec.Capability]] = frozenset()


class Service(Part, abc.ABC):
    """The engine as a process, and its data directory."""

    #: What asks the process for a clean stop.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: Seconds a clean stop may take before the process is killed.
    stop_timeout_s: ClassVar[float] = 60.0

    @property
    @abc.abstractmethod
    def marker(self) -> str:
        """Argument that only this instance's engine has on its command line."""

    @abc.abstractmethod
    def is_installed(self) -> bool:
        """Tell whether there is a complete data directory to start the engine on."""

    @abc.abstractmethod
    def anticipate(self) -> None:
        """Do ahead of time what installing will need and no job has to decide; may be skipped."""

    @abc.abstractmethod
    def install(
        self, job: payloads.PrepareJob, *, restore: Callable[[], object] | None = None
    ) -> None:
        """Make data directory, keys and configuration; complete after a crash in between.

        With ``restore`` it is that which makes the data directory, when all else is there.
        """

    @abc.abstractmethod
    def resize(
        self,
        *,
        memory_mib: int | None = None,
        vcpus: int | None = None,
        volume_size_gib: int | None = None,
    ) -> None:
        """Write the configuration for other sizes, what is None as it was; takes effect at start.

        Raises GuestError when nothing is installed.
        """

    @abc.abstractmethod
    def command(self) -> process.Command:
        """Check that the engine can be started, and return how."""

    @abc.abstractmethod
    def ping(self) -> str:
        """Return the version of the engine when it answers; raises NotReady."""

    def prove_write(self) -> None:
        """Have a running engine write something of the agent's own that no tenant sees.

        Called now and then, not while the engine is to take no writes. An engine whose role allows
        no writes has nothing to prove. Raises NotReady when it cannot write.
        """

    @abc.abstractmethod
    def set_read_only(self, is_read_only: bool) -> None:
        """Have a running engine refuse the tenants' writes, or take them again.

        Called when the disk is nearly full and when there is space again; reading and deleting
        go on as far as the engine can tell them from other writes. A restart of the engine ends
        it. Raises GuestError, NotReady.
        """

    @abc.abstractmethod
    def explain_exit(self, return_code: int | None, log: str) -> str:
        """Return why the engine ended and what helps, from what it wrote since its start."""

    @abc.abstractmethod
    def certificate_request(self) -> str | None:
        """Return a request (PEM) for the engine's certificate; None when it knows no TLS."""

    @abc.abstractmethod
    def disconnect(self) -> None:
        """Drop connections that were kept: the engine is about to stop or has stopped."""


class Accounts(Part, abc.ABC):
    """Databases, users and grants. Reserved ones are neither shown nor touched.

    ``ensure_`` methods may be called again after a crash in between. Listings are in order of
    name (and host), reserved names taken out before the page is cut.
    """

    @abc.abstractmethod
    def list_databases(self, page: payloads.Page) -> payloads.Databases:
        """Return a page of databases."""

    @abc.abstractmethod
    def create_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create all of them or none; raises AlreadyExists."""

    @abc.abstractmethod
    def ensure_databases(self, databases: tuple[payloads.Database, ...]) -> None:
        """Create those that are missing."""

    @abc.abstractmethod
    def delete_database(self, name: str) -> None:
        """Drop a database; raises DatabaseNotFound."""

    @abc.abstractmethod
    def list_users(self, page: payloads.Page) -> payloads.Users:
        """Return a page of users; a marker is ``name@host``."""

    @abc.abstractmethod
    def get_user(self, user: payloads.UserRef) -> payloads.User:
        """Return a user with its databases; raises UserNotFound."""

    @abc.abstractmethod
    def create_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create all of them or none, with their grants; raises AlreadyExists."""

    @abc.abstractmethod
    def ensure_users(self, users: tuple[payloads.User, ...]) -> None:
        """Create those that are missing; give all their passwords and grants."""

    @abc.abstractmethod
    def update_user(self, user: payloads.UserRef, change: payloads.UserChange) -> None:
        """Change name, host or password, grants kept; raises UserNotFound, AlreadyExists."""

    @abc.abstractmethod
    def delete_user(self, user: payloads.UserRef) -> None:
        """Drop a user; raises UserNotFound."""

    @abc.abstractmethod
    def grant(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Grant everything on databases; raises UserNotFound, DatabaseNotFound."""

    @abc.abstractmethod
    def revoke(self, user: payloads.UserRef, databases: tuple[str, ...]) -> None:
        """Take grants back; raises UserNotFound, DatabaseNotFound when there was none."""


class Root(Part, abc.ABC):
    """The superuser, for the tenant."""

    @abc.abstractmethod
    def enable(self, password: str) -> str:
        """Let the superuser in from everywhere with this password; returns its name."""

    @abc.abstractmethod
    def disable(self) -> None:
        """Lock the superuser out again; nothing when it was never let in."""


class Tls(Part, abc.ABC):
    """Certificates of the tenant's in place of the instance's own."""

    @abc.abstractmethod
    def apply(self, job: payloads.SslJob) -> None:
        """Have TLS as the job describes it, or as it was; raises GuestError."""

    def needs_restart(self) -> bool:
        """Tell whether a part of what was applied counts only once the engine starts again."""
        return False


class Configuration(Part, abc.ABC):
    """The server's configuration, changed on an existing database."""

    @abc.abstractmethod
    def configure(self, job: payloads.ConfigureJob, *, is_running: bool) -> bool:
        """Write the configuration and tell a running engine; tell whether it must restart.

        Raises ConfigurationRefused when the engine does not take a value; nothing changes then.
        """


class Logs(Part, abc.ABC):
    """The logs of an instance, the agent's own among them. All may raise GuestError."""

    @abc.abstractmethod
    def open(self) -> None:
        """Begin to write the agent's own log."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the agent's own log."""

    @abc.abstractmethod
    def list_logs(self) -> payloads.Logs:
        """Return all logs."""

    @abc.abstractmethod
    def show_log(self, request: payloads.LogRequest) -> payloads.Log:
        """Return one log."""

    @abc.abstractmethod
    def change_log(self, request: payloads.LogRequest) -> payloads.Log:
        """Discard, disable, enable, publish, in this order, as far as asked; return the log."""

    @abc.abstractmethod
    def tend(self) -> None:
        """Keep all logs within their bounds; called every few seconds."""


class Metrics(Part, abc.ABC):
    """Figures of a running engine, by the names of :mod:`trove.datastores.metrics`."""

    capabilities = frozenset({datastore_spec.Capability.METRICS})

    @abc.abstractmethod
    def read(self) -> dict[str, float]:
        """Return what the engine counts; costs it 2 ms at most. Raises NotReady, GuestError."""


class Queries(Part, abc.ABC):
    """Statistics of the statements that an engine is asked."""

    capabilities = frozenset({datastore_spec.Capability.QUERIES})

    @abc.abstractmethod
    def top(self, request: payloads.TopQueriesRequest) -> payloads.TopQueries:
        """Return the statements that cost most, their literals taken out; raises GuestError."""


class Upgrade(Part, abc.ABC):
    """An engine of another version on the data of this one.

    Versions are the engines' own, such as ``10.11.19``. The agent remembers the version that last
    ran on the data; a start on it by another version goes through this.
    """

    capabilities = frozenset({datastore_spec.Capability.UPGRADE})

    @abc.abstractmethod
    def version(self) -> str:
        """Return the version of the programs that are installed here; raises GuestError."""

    @abc.abstractmethod
    def check(self, *, old: str, new: str) -> None:
        """Raise GuestError, with what to do instead, unless there is a way from old to new.

        Asked while the old version runs; ``new`` may say the first numbers only.
        """

    @abc.abstractmethod
    def is_same_series(self, old: str, new: str) -> bool:
        """Tell whether the programs of two versions run on the same data."""

    @abc.abstractmethod
    def begin(self, *, old: str, new: str) -> None:
        """Make the data ready for the new version before it starts; the engine is stopped.

        What is needed to go back is kept. May be called again after a crash in between.
        """

    @abc.abstractmethod
    def complete(self, *, old: str, new: str) -> None:
        """Do what is left once the new version answers; may be called again."""

    @abc.abstractmethod
    def revert(self, *, old: str, new: str) -> None:
        """Have the data again as the old version left it; the engine is stopped."""

    @abc.abstractmethod
    def commit(self) -> None:
        """Remove what was kept to go back: the new version has proved itself."""


class Stream(abc.ABC):
    """Bytes of an engine that are read once, to the end, and what they are.

    A context manager: leaving it ends the programs that gave the bytes and removes what was made
    for them, whether all was read or not.
    """

    @abc.abstractmethod
    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end; raises GuestError."""

    @abc.abstractmethod
    def finish(self) -> dict[str, Any]:
        """Return the facts of what was read to its end: what restoring and increments need.

        JSON types, no secret. Raises GuestError unless the engine and its tools did all of it,
        whatever exit code they gave.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End the programs and remove what was made; may be called again.

        Also called by another thread while one reads, when the backup is cancelled: the programs
        are ended then, and what that read gives or raises does not matter.
        """

    def __enter__(self) -> Self:
        """Give the stream."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the stream."""
        self.close()


class Content(abc.ABC):
    """Bytes that come back from the storage, checked while they are read; a context manager."""

    @abc.abstractmethod
    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end; raises GuestError for what is damaged."""

    @abc.abstractmethod
    def __enter__(self) -> Self:
        """Give the content."""

    @abc.abstractmethod
    def __exit__(self, *exc: object) -> None:
        """Close it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Something that was stored: the facts that its stream gave, and its bytes again."""

    facts: Mapping[str, Any]
    open: Callable[[], Content]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Up to where logs are replayed, at most one of them; nothing: all there is of them.

    ``time_s`` is a time of the engine's clock (seconds since 1970, UTC): what was committed later
    is left out. ``position`` is the engine's own: a GTID, an LSN, a time of an oplog; what it names
    is the last to be replayed. ``name`` is that of a point that the tenant named in the engine.
    """

    time_s: float | None = None
    position: str | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a database is made from again: a full backup, its increments, the log behind them.

    ``logs`` gives the pieces of the log in order, without a gap, from the beginning of the last
    backup of the chain on; None: the database as it was backed up.
    """

    chain: Sequence[Kept]
    logs: Callable[[], Iterator[Kept]] | None = None
    target: Target = Target()


class Backup(Part, abc.ABC):
    """Copies of a running database, and databases from copies."""

    capabilities = frozenset({datastore_spec.Capability.BACKUP})

    @abc.abstractmethod
    def estimate_bytes(self) -> int:
        """Return about how many bytes a full copy of the running engine has; raises GuestError."""

    @abc.abstractmethod
    def open_full(self) -> Stream:
        """Begin to copy the running engine, which goes on; raises GuestError.

        The copy is consistent; where in the engine's log it is, its facts say.
        """

    def open_increment(self, parent: Mapping[str, Any]) -> Stream:
        """Begin to copy what changed since a backup of these facts; raises GuestError.

        Refused, with a full one as the remedy, when the changes since then are not known.
        """
        raise exception.GuestError(
            reason="this database has no incremental backups: make a full one"
        )

    def write_probe(self, mark: str) -> bool:
        """Write a mark among the running engine's own data, durably; False when it keeps none.

        It replaces the last one. ``verify`` then finds it as ``probe``. Raises GuestError.
        """
        return False

    @abc.abstractmethod
    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise GuestError, with the reason, unless the programs here can restore such a copy."""

    @abc.abstractmethod
    def restore(self, recovery: Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Make ``work``, which does not exist, a complete data directory; raises GuestError.

        It is a directory on the data volume, to be put into the place of the data directory by a
        rename; ownership, logs and cleanliness are those of an engine that was stopped cleanly.
        Nothing else is touched and nothing listens but on private sockets. Returns facts such as
        ``{"restored_to_s": 1700000000.0}``. May be called again after a crash in between, with an
        empty place.
        """

    def quiesce(self) -> contextlib.AbstractContextManager[Mapping[str, Any]]:
        """Have the running engine finish what would be lost, or cost a recovery, in a crash.

        As long as the context is open the engine ends no transaction that writes, as far as it can
        be asked for that. Takes seconds at most; raises GuestError. Gives facts, JSON types. What
        goes without it is a database that starts again after a crash.
        """
        return contextlib.nullcontext({})

    def adopt(self, work: pathlib.Path, kept: pathlib.Path) -> None:
        """Make what another server's engine left in ``work`` at a crash one's of this instance.

        ``kept`` is what the agent of that server had on the volume, about to be removed. May be
        called again after a crash in between.
        """

    @abc.abstractmethod
    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        """Start a throw-away engine on what :meth:`restore` made, and have it check all of it.

        Returns what was looked at, such as ``{"check": "mariadb-check", "objects": 120}``; raises
        GuestError for what is damaged. ``work`` is of no use afterwards.
        """


class LogLost(exception.TroveError):
    """The engine no longer has the log from a position on: there is a gap."""

    msg_fmt = "The log is lost: {reason}"
    code = "trove.log_lost"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some of an engine's log. ``until`` is the position behind it.

    ``as_of_s`` is a time of the engine's clock: what was committed until then is in this piece or
    before it. The facts of the stream hold what replaying needs.
    """

    until: Mapping[str, Any]
    as_of_s: float
    stream: Stream


class Archive(Part, abc.ABC):
    """The engine's log of changes, to be kept elsewhere while it grows: point in time recovery.

    Positions are the engine's own, JSON types. Time is that of this machine.
    """

    capabilities = frozenset({datastore_spec.Capability.POINT_IN_TIME})

    @abc.abstractmethod
    def start(self) -> Mapping[str, Any]:
        """Have the running engine keep its log from now on; return the position of now."""

    @abc.abstractmethod
    def read(self, position: Mapping[str, Any], *, most_bytes: int) -> Piece | None:
        """Return the log from a position on, whole transactions, None when nothing was written.

        About ``most_bytes`` at most. Costs next to nothing on an idle engine. Raises LogLost,
        NotReady, GuestError.
        """

    @abc.abstractmethod
    def pending_bytes(self, position: Mapping[str, Any]) -> int:
        """Return how many bytes of log there are behind a position; raises LogLost."""

    @abc.abstractmethod
    def release(self, position: Mapping[str, Any]) -> None:
        """Let the engine remove its log up to a position: it is kept elsewhere."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Let the engine remove its log whenever it has no use for it; may be called again."""


class Unsupported(Part):
    """In the place of a part that an engine does not have: every use raises."""

    def __init__(self, datastore: str, operation: str) -> None:
        """Remember what to say."""
        self._datastore = datastore
        self._operation = operation

    def __getattr__(self, name: str) -> NoReturn:
        """Raise NotImplementedByEngine, or AttributeError for Python's own lookups."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise exception.NotImplementedByEngine(datastore=self._datastore, operation=self._operation)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Datastore:
    """An engine, composed."""

    spec: datastore_spec.DatastoreSpec
    service: Service
    accounts: Accounts | Unsupported
    root: Root | Unsupported
    tls: Tls | Unsupported
    config: Configuration | Unsupported
    backup: Backup | Unsupported
    archive: Archive | Unsupported
    replication: Part
    cluster: Part
    logs: Logs | Unsupported
    metrics: Metrics | Unsupported
    queries: Queries | Unsupported
    upgrade: Upgrade | Unsupported

    @property
    def capabilities(self) -> frozenset[datastore_spec.Capability]:
        """What the parts can do, together."""
        parts = (
            self.service,
            self.accounts,
            self.root,
            self.tls,
            self.config,
            self.backup,
            self.archive,
            self.replication,
            self.cluster,
            self.logs,
            self.metrics,
            self.queries,
            self.upgrade,
        )
        return frozenset().union(*(part.capabilities for part in parts))
