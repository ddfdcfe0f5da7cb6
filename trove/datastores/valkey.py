"""Valkey: facts of the datastore, where they differ from those of Redis."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from trove.datastores import names, parameters, redis, redis_configuration, spec

#: Parameters of Redis that Valkey does not have.
_ABSENT = frozenset({"dynamic_hz", "sanitize_dump_payload"})


@functools.cache
def rules() -> Mapping[str, parameters.Parameter]:
    """Return the rules of the parameters: those of Redis, and Valkey's own."""
    found = {**parameters.load("redis"), **parameters.load("valkey")}
    return {name: found[name] for name in sorted(found) if name not in _ABSENT}


SPEC = spec.register(
    spec.DatastoreSpec(
        manager="valkey",
        port=redis.PORT,
        more_ports=(redis.TLS_PORT,),
        system_user="valkey",
        root_name=redis.ROOT_NAME,
        capabilities=redis.CAPABILITIES,
        reserved_databases=frozenset(),
        reserved_users=redis.RESERVED_USERS,
        check_database_name=redis.check_pattern,
        check_user_name=redis.check_user_name,
        check_host=redis.check_host,
        check_password=names.check_password,
        check_character_set=redis.check_character_set,
        parameters=rules,
        default_configuration=redis_configuration.defaults,
        minimum_ram_mib=128,
        logs=redis.LOGS,
    )
)
