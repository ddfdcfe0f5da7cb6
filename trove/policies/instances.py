"""Rules of instances."""

from __future__ import annotations

from trove.policies.base import ADMIN, MANAGER, MEMBER, READER, rule

_ONE = "/instances/{instance_id}"

RULES = [
    rule("instance:create", MEMBER, "Create an instance.", "POST /instances"),
    rule("instance:index", READER, "List instances.", "GET /instances"),
    rule("instance:detail", READER, "List instances in detail.", "GET /instances/detail"),
    rule("instance:show", READER, "Show an instance.", f"GET {_ONE}"),
    rule("instance:delete", MEMBER, "Delete an instance.", f"DELETE {_ONE}"),
    rule("instance:restart", MEMBER, "Restart the database service.", f"POST {_ONE}/action"),
    rule(
        "instance:reset_status",
        ADMIN,
        "Reset the status of an instance.",
        f"POST {_ONE}/action",
    ),
    rule(
        "instance:force_delete",
        MANAGER,
        "Reset the status of an instance in order to delete it.",
        f"POST {_ONE}/action",
    ),
]
