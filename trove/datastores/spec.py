"""What a datastore is: its names, limits and capabilities, as data.

One module an engine registers a :class:`DatastoreSpec`; the API validates with it, the taskmanager
reads ports and capabilities from it, the agent's composition is checked against it.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping

from trove.datastores import parameters

#: Rules of configuration parameters, by name.
Rules = Mapping[str, parameters.Parameter]


class Capability(enum.StrEnum):
    """What a datastore can do beyond running."""

    DATABASES = "databases"
    USERS = "users"
    HOSTS = "hosts"
    ROOT = "root"
    CONFIGURATION = "configuration"
    BACKUP = "backup"
    #: Backups of what changed since another one.
    INCREMENTS = "increments"
    POINT_IN_TIME = "point_in_time"
    REPLICATION = "replication"
    CLUSTER = "cluster"
    LOGS = "logs"
    UPGRADE = "upgrade"
    TLS = "tls"
    METRICS = "metrics"
    QUERIES = "queries"


class LogType(enum.StrEnum):
    """Whose a log is: USER logs are the project's, SYS logs the operator's."""

    USER = "USER"
    SYS = "SYS"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogSpec:
    """A log of an instance. USER logs are enabled and disabled, SYS logs are always written."""

    name: str
    type: LogType


#: The guest agent's own log, which every datastore with logs has.
GUEST_LOG = LogSpec(name="guest", type=LogType.SYS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreSpec:
    """Facts of one datastore manager.

    ``check_*`` return None for a good value, else what is wrong with it, for people.
    """

    manager: str
    port: int
    #: Further ports of the engine that its users connect to, such as one for TLS.
    more_ports: tuple[int, ...] = ()
    #: The user of the operating system that the engine's package makes for it.
    system_user: str
    root_name: str
    capabilities: frozenset[Capability]
    reserved_databases: frozenset[str]
    reserved_users: frozenset[str]
    check_database_name: Callable[[str], str | None]
    check_user_name: Callable[[str], str | None]
    check_host: Callable[[str], str | None]
    check_password: Callable[[str], str | None]
    check_character_set: Callable[[str | None, str | None], str | None]
    #: Rules of the configuration parameters; empty without the capability CONFIGURATION.
    parameters: Callable[[], Rules] = dict
    #: Rules of one version, such as 15.18, where the versions of an engine differ; ``parameters``
    #: are then those that all versions have alike.
    version_parameters: Callable[[str], Rules] | None = None
    #: What an instance's configuration is by default: (memory MiB, volume GiB) -> values.
    default_configuration: Callable[[int, int | None], Mapping[str, str | int]] = (
        lambda memory_mib, volume_size_gib: {}
    )
    has_volume: bool = True
    minimum_ram_mib: int = 128
    logs: tuple[LogSpec, ...] = ()

    def rules(self, version: str) -> Rules:
        """Return the rules of the configuration parameters of a version."""
        if self.version_parameters is None:
            return self.parameters()
        return self.version_parameters(version)

    def is_reserved_database(self, name: str) -> bool:
        """Tell whether a database belongs to the engine or the service, in any spelling."""
        return name.strip().lower() in self.reserved_databases

    def is_reserved_user(self, name: str) -> bool:
        """Tell whether a user belongs to the engine or the service, in any spelling."""
        return name.strip().lower() in self.reserved_users


_REGISTRY: dict[str, DatastoreSpec] = {}


def register(spec: DatastoreSpec) -> DatastoreSpec:
    """Add a spec to the registry; raises ValueError when its manager is there already."""
    if spec.manager in _REGISTRY:
        raise ValueError(f"datastore manager {spec.manager} is registered twice")
    _REGISTRY[spec.manager] = spec
    return spec


def registry() -> Mapping[str, DatastoreSpec]:
    """Return all specs by manager (import :mod:`trove.datastores.all` first)."""
    return _REGISTRY


_PRINTABLE = re.compile(r"^[^\x00-\x1f\x7f]+$")


def is_printable(text: str) -> bool:
    """Tell whether a text has no control characters."""
    return _PRINTABLE.match(text) is not None
