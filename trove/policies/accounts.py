"""Rules of what is inside an instance: databases, users, grants, the superuser."""

from __future__ import annotations

from trove.policies.base import MEMBER, READER, rule

_ONE = "/instances/{instance_id}"
_USER = f"{_ONE}/users/{{user}}"
_DATABASE = "instance:extension:database:"
_USERS = "instance:extension:user:"
_ACCESS = "instance:extension:user_access:"
_ROOT = "instance:extension:root:"

RULES = [
    rule(
        f"{_DATABASE}create",
        MEMBER,
        "Create databases.",
        f"POST {_ONE}/databases",
        "POST /instances",
    ),
    rule(
        f"{_DATABASE}delete", MEMBER, "Delete a database.", f"DELETE {_ONE}/databases/{{database}}"
    ),
    rule(f"{_DATABASE}index", READER, "List databases.", f"GET {_ONE}/databases"),
    rule(f"{_DATABASE}show", READER, "Show a database.", f"GET {_ONE}/databases/{{database}}"),
    rule(
        f"{_USERS}create",
        MEMBER,
        "Create users.",
        f"POST {_ONE}/users",
        f"POST {_USER}",
        "POST /instances",
    ),
    rule(f"{_USERS}delete", MEMBER, "Delete a user.", f"DELETE {_USER}"),
    rule(f"{_USERS}index", READER, "List users.", f"GET {_ONE}/users"),
    rule(f"{_USERS}show", READER, "Show a user.", f"GET {_USER}"),
    rule(f"{_USERS}update", MEMBER, "Change a user.", f"PUT {_USER}"),
    rule(f"{_USERS}update_all", MEMBER, "Change passwords of users.", f"PUT {_ONE}/users"),
    rule(f"{_ACCESS}index", READER, "List a user's grants.", f"GET {_USER}/databases"),
    rule(f"{_ACCESS}update", MEMBER, "Grant a user access.", f"PUT {_USER}/databases"),
    rule(
        f"{_ACCESS}delete",
        MEMBER,
        "Revoke a user's access.",
        f"DELETE {_USER}/databases/{{database}}",
    ),
    rule(f"{_ROOT}create", MEMBER, "Enable the superuser.", f"POST {_ONE}/root"),
    rule(f"{_ROOT}delete", MEMBER, "Disable the superuser.", f"DELETE {_ONE}/root"),
    rule(f"{_ROOT}index", READER, "Tell whether the superuser is enabled.", f"GET {_ONE}/root"),
]
