"""Where the members of the Redis family differ, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trove.datastores import redis, valkey
from trove.datastores import spec as datastore_spec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One member of the family."""

    spec: datastore_spec.DatastoreSpec
    server_program: str
    package: str
    #: Field of INFO with the engine's own version: Valkey tells the Redis it is like as well.
    version_field: str


REDIS = Dialect(
    spec=redis.SPEC,
    server_program="redis-server",
    package="redis-server",
    version_field="redis_version",
)
VALKEY = Dialect(
    spec=valkey.SPEC,
    server_program="valkey-server",
    package="valkey-server",
    version_field="valkey_version",
)

#: All members by manager.
DIALECTS: Mapping[str, Dialect] = {dialect.spec.manager: dialect for dialect in (REDIS, VALKEY)}
