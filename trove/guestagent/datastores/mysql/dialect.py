"""Where the members of the MySQL family differ, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trove.datastores import mariadb
from trove.datastores import spec as datastore_spec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One member of the family.

    ``user_source`` is a table expression with the columns ``User`` and ``Host`` of all accounts
    that are users (not roles).
    """

    spec: datastore_spec.DatastoreSpec
    server_program: str
    init_program: str
    init_arguments: tuple[str, ...]
    package: str
    template: str
    user_source: str
    has_create_or_replace_user: bool
    #: SELECT of the names of all variables that can be set while the server runs: not those that
    #: can under conditions only (a pool within the limit of the start, a limit that was not 0).
    dynamic_variables: str
    #: Has a running server read key and certificates again.
    reload_tls: str
    #: Whether the performance schema can be told whom not to watch.
    has_disabled_actors: bool = False
    #: The variable that keeps tenants from writing, and the privilege of those that it does not
    #: keep from it; None when it keeps everybody.
    read_only: str = "read_only"
    read_only_exemption: str | None = None


MARIADB = Dialect(
    spec=mariadb.SPEC,
    server_program="mariadbd",
    init_program="mariadb-install-db",
    init_arguments=(
        "--auth-root-authentication-method=socket",
        "--skip-test-db",
        "--skip-name-resolve",
    ),
    package="mariadb-server",
    template="mariadb.cnf.j2",
    user_source="(SELECT User, Host FROM mysql.user WHERE is_role = 'N') AS accounts",
    has_create_or_replace_user=True,
    dynamic_variables=(
        "SELECT LOWER(VARIABLE_NAME) FROM information_schema.SYSTEM_VARIABLES"
        " WHERE READ_ONLY = 'NO' AND VARIABLE_SCOPE <> 'SESSION ONLY'"
        " AND VARIABLE_NAME NOT IN ('INNODB_BUFFER_POOL_SIZE', 'MAX_USER_CONNECTIONS')"
    ),
    reload_tls="FLUSH LOCAL SSL",
    has_disabled_actors=True,
    read_only_exemption="READ ONLY ADMIN",
)

#: All members by manager.
DIALECTS: Mapping[str, Dialect] = {dialect.spec.manager: dialect for dialect in (MARIADB,)}
