"""MySQL, Oracle's own server: facts of the datastore.

Names and limits are those of 8.0 and 8.4 (https://dev.mysql.com/doc/refman/8.4/en/identifiers.html).
A collation of MySQL begins with the name of its character set, so that no table of them is kept:
the server has the last word.
"""

from __future__ import annotations

import re

from trove.datastores import mysql, spec

MAX_USER_NAME_LENGTH = 32
CONFIG_TEMPLATE = "mysql.cnf.j2"
CONFIG_TEMPLATE_5_6 = "mysql-5.6.cnf.j2"

#: As 8.4 lists them in information_schema.character_sets.
CHARACTER_SETS = frozenset(
    {
        "armscii8", "ascii", "big5", "binary", "cp1250", "cp1251", "cp1256", "cp1257", "cp850",
        "cp852", "cp866", "cp932", "dec8", "eucjpms", "euckr", "gb18030", "gb2312", "gbk",
        "geostd8", "greek", "hebrew", "hp8", "keybcs2", "koi8r", "koi8u", "latin1", "latin2",
        "latin5", "latin7", "macce", "macroman", "sjis", "swe7", "tis620", "ucs2", "ujis",
        "utf16", "utf16le", "utf32", "utf8mb3", "utf8mb4",
    }
)  # fmt: skip
_COLLATION = re.compile(r"[a-z0-9_]{1,64}\Z")


def _canonical(name: str) -> str:
    """Spell ``utf8`` and ``utf8_...``, which mean utf8mb3, the way newer servers do."""
    return re.sub(r"^utf8(?=_|$)", "utf8mb3", name.lower())


def check_character_set(character_set: str | None, collate: str | None) -> str | None:
    """Check a character set, a collation, or both together."""
    charset = None if character_set is None else _canonical(character_set)
    if charset is not None and charset not in CHARACTER_SETS:
        return "MySQL has no character set of this name"
    if collate is None:
        return None
    collation = _canonical(collate)
    owner = collation.partition("_")[0]
    if not _COLLATION.match(collation) or owner not in CHARACTER_SETS:
        return "MySQL has no collation of this name"
    if charset is not None and charset != owner:
        return f"The collation does not belong to the character set {charset}"
    return None


SPEC = spec.register(
    mysql.make_spec(
        manager="mysql",
        max_user_name_length=MAX_USER_NAME_LENGTH,
        check_character_set=check_character_set,
        template=CONFIG_TEMPLATE,
        minimum_ram_mib=512,
        capabilities={spec.Capability.BACKUP, spec.Capability.POINT_IN_TIME},
    )
)
