"""MariaDB: facts of the datastore.

``mariadb_charsets.json`` maps each character set to its collations as MariaDB 10.11 lists them in
``information_schema.collation_character_set_applicability`` (short and full names).
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping

from trove.datastores import mysql, spec

MAX_USER_NAME_LENGTH = 80
CONFIG_TEMPLATE = "mariadb.cnf.j2"


@functools.cache
def collations() -> Mapping[str, frozenset[str]]:
    """Return the collations of each character set, all in lower case."""
    resource = importlib.resources.files("trove.datastores") / "mariadb_charsets.json"
    table = json.loads(resource.read_text(encoding="utf-8"))
    return {charset: frozenset(words.split()) for charset, words in table.items()}


def _canonical(name: str) -> str:
    """Spell ``utf8`` and ``utf8_...``, which mean utf8mb3, the way the table does."""
    return re.sub(r"^utf8(?=_|$)", "utf8mb3", name.lower())


def check_character_set(character_set: str | None, collate: str | None) -> str | None:
    """Check a character set, a collation, or both together."""
    table = collations()
    charset = None if character_set is None else _canonical(character_set)
    collation = None if collate is None else _canonical(collate)
    if charset is not None and charset not in table:
        return "MariaDB has no character set of this name"
    if collation is None:
        return None
    owners = {name for name, members in table.items() if collation in members}
    if not owners:
        return "MariaDB has no collation of this name"
    if charset is not None and charset not in owners:
        return f"The collation does not belong to the character set {charset}"
    if charset is None and len(owners) > 1:
        return "The collation exists for several character sets: name the character set too"
    return None


SPEC = spec.register(
    mysql.make_spec(
        manager="mariadb",
        max_user_name_length=MAX_USER_NAME_LENGTH,
        check_character_set=check_character_set,
        template=CONFIG_TEMPLATE,
        minimum_ram_mib=256,
        capabilities=(
            spec.Capability.BACKUP,
            spec.Capability.INCREMENTS,
            spec.Capability.POINT_IN_TIME,
        ),
        has_audit_log=True,
    )
)
