"""Ready data directories, by datastore manager.

The module ``template`` of a family's package has ``make(manager, target=..., user=...,
basedir=...)``, which returns version and server program. Only the family at hand is imported.

A template is sealed when it is made: a file in it lists the digests of all others, so that no
instance is made of one that was damaged since.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pathlib
from collections.abc import Mapping

from trove.common import exception
from trove.guestagent.system import filesystem, users

#: Holds the digests; it is not copied into an instance.
SEAL = ".trove-seal.json"

_FAMILIES: Mapping[str, str] = {
    "mariadb": "mysql",
    "mongodb": "mongodb",
    "mysql": "mysql",
    "postgresql": "postgresql",
    "redis": "redis",
    "valkey": "redis",
}


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
    if not (target / SEAL).exists():
        filesystem.write_file(target / SEAL, json.dumps(_digests(target)), mode=0o644)
    return {"version": version, "binary": str(program), "target": str(target)}


def _digests(template: pathlib.Path) -> dict[str, str]:
    """Return the digest of every file of a template by its path in it."""
    digests = {}
    for path in sorted(template.rglob("*")):
        if path.is_file() and path.name != SEAL:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            digests[str(path.relative_to(template))] = digest
    return digests


def check(template: pathlib.Path) -> None:
    """Raise GuestError unless a template is as it was made; one without a seal is not looked at."""
    try:
        sealed = json.loads((template / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        sealed = None
    found = _digests(template)
    if sealed == found:
        return
    names = {*found} if not isinstance(sealed, dict) else {*found} ^ {*sealed}
    if isinstance(sealed, dict):
        names |= {name for name in found if sealed.get(name) != found[name]}
    raise exception.GuestError(
        reason=f"the template of the data directory, {template}, is damaged"
        f" ({', '.join(sorted(names)[:3]) or SEAL}): remove it and make it anew with"
        " trove-guestagent-template, or rebuild the image"
    )
