"""Ready data directories, by datastore manager.

The module ``template`` of a family's package has ``make(manager, target=..., user=...,
basedir=...)``, which returns version and server program. Only the family at hand is imported.
"""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Mapping

from trove.common import exception
from trove.guestagent.system import users

_FAMILIES: Mapping[str, str] = {"mariadb": "mysql"}


def build(manager: str, *, target: pathlib.Path, user: str, basedir: str | None) -> dict[str, str]:
    """Make ``target``; returns version, binary and target. Raises GuestError, ConfigurationError.

    An existing target is left as it is.
    """
    family = _FAMILIES.get(manager)
    if family is None:
        raise exception.ConfigurationError(
            reason=f"no template can be made for {manager}; known are {', '.join(_FAMILIES)}"
        )
    template = importlib.import_module(f"trove.guestagent.datastores.{family}.template")
    version, program = template.make(
        manager, target=target, user=users.engine_user(user), basedir=basedir
    )
    return {"version": version, "binary": str(program), "target": str(target)}
