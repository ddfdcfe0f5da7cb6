"""Rules of modules."""

from __future__ import annotations

from trove.policies.base import MEMBER, READER, rule

_ONE = "/modules/{module_id}"
_OF_INSTANCE = "/instances/{instance_id}/modules"

RULES = [
    rule("module:create", MEMBER, "Make a module.", "POST /modules"),
    rule("module:index", READER, "List modules.", "GET /modules"),
    rule("module:show", READER, "Show a module.", f"GET {_ONE}"),
    rule("module:update", MEMBER, "Change a module.", f"PUT {_ONE}"),
    rule("module:delete", MEMBER, "Delete a module.", f"DELETE {_ONE}"),
    rule("module:instances", READER, "List a module's instances.", f"GET {_ONE}/instances"),
    rule(
        "module:reapply",
        MEMBER,
        "Apply a module again to its instances.",
        f"PUT {_ONE}/instances",
    ),
    rule("instance:module_list", READER, "List an instance's modules.", f"GET {_OF_INSTANCE}"),
    rule(
        "instance:module_apply",
        MEMBER,
        "Apply modules to an instance.",
        f"POST {_OF_INSTANCE}",
        "POST /instances",
    ),
    rule(
        "instance:module_remove",
        MEMBER,
        "Remove a module from an instance.",
        f"DELETE {_OF_INSTANCE}/{{module_id}}",
    ),
]
