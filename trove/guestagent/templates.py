"""Ready data directories, by datastore manager."""

from __future__ import annotations

import pathlib

from trove.common import exception
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.datastores.mysql import template
from trove.guestagent.system import users

_DIALECTS = {dialects.MARIADB.spec.manager: dialects.MARIADB}


def build(manager: str, *, target: pathlib.Path, user: str, basedir: str | None) -> dict[str, str]:
    """Make ``target``; returns version, binary and target. Raises GuestError, ConfigurationError.

    An existing target is left as it is.
    """
    dialect = _DIALECTS.get(manager)
    if dialect is None:
        raise exception.ConfigurationError(
            reason=f"no template can be made for {manager}; known are {', '.join(_DIALECTS)}"
        )
    version = template.build(dialect, target=target, user=users.engine_user(user), basedir=basedir)
    binary = template.find_server(dialect, basedir=basedir)
    return {"version": version, "binary": str(binary), "target": str(target)}
