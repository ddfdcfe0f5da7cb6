"""Rules of instances."""

from __future__ import annotations

from trove.policies.base import ADMIN, MANAGER, MEMBER, READER, SERVICE, rule

_ONE = "/instances/{instance_id}"
_ACTION = f"POST {_ONE}/action"
_MGMT = "/mgmt/instances"
_MGMT_ONE = "/mgmt/instances/{instance_id}"
_MGMT_ACTION = f"POST {_MGMT_ONE}/action"

RULES = [
    rule("instance:create", MEMBER, "Create an instance.", "POST /instances"),
    rule("instance:index", READER, "List instances.", "GET /instances"),
    rule("instance:detail", READER, "List instances in detail.", "GET /instances/detail"),
    rule("instance:show", READER, "Show an instance.", f"GET {_ONE}", f"GET {_ONE}/ssl"),
    rule(
        "instance:update",
        MEMBER,
        "Change an instance, or create one with a configuration group.",
        f"PUT {_ONE}",
        f"POST {_ONE}/ssl",
        "POST /instances",
    ),
    rule(
        "instance:edit",
        "rule:instance:update",
        "Change an instance, the other way: as upgrades are asked for.",
        f"PATCH {_ONE}",
    ),
    rule("instance:delete", MEMBER, "Delete an instance.", f"DELETE {_ONE}"),
    rule("instance:restart", MEMBER, "Restart the database service.", _ACTION),
    rule("instance:resize_volume", MEMBER, "Make the volume larger.", _ACTION),
    rule("instance:resize_flavor", MEMBER, "Give the instance another flavor.", _ACTION),
    rule(
        "instance:promote_to_replica_source",
        MEMBER,
        "Make a replica the source of its set.",
        _ACTION,
    ),
    rule(
        "instance:eject_replica_source",
        MEMBER,
        "Put a replica in the place of a source that is down.",
        _ACTION,
    ),
    rule(
        "instance:restore",
        MEMBER,
        "Put a restored database in the place of the one there is.",
        _ACTION,
    ),
    rule("instance:reset_status", ADMIN, "Reset the status of an instance.", _ACTION),
    rule(
        "instance:force_delete",
        MANAGER,
        "Reset the status of an instance in order to delete it.",
        _ACTION,
    ),
    rule("mgmt:instance:index", SERVICE, "List the instances of all projects.", f"GET {_MGMT}"),
    rule(
        "mgmt:instance:show", SERVICE, "Show an instance as operators see it.", f"GET {_MGMT_ONE}"
    ),
    rule(
        "mgmt:instance:action",
        ADMIN,
        "Act on an instance as an operator; each action has a rule of its own besides.",
        _MGMT_ACTION,
    ),
    rule("mgmt:instance:stop", ADMIN, "Stop the database service.", _MGMT_ACTION),
    rule("mgmt:instance:reboot", ADMIN, "Stop and start the server.", _MGMT_ACTION),
    rule("mgmt:instance:migrate", ADMIN, "Move the server to another host.", _MGMT_ACTION),
    rule(
        "mgmt:instance:reset_task_status",
        ADMIN,
        "Set the task of an instance back.",
        _MGMT_ACTION,
    ),
    rule("mgmt:instance:rebuild", ADMIN, "Make the server anew from another image.", _MGMT_ACTION),
    rule(
        "mgmt:instance:root",
        ADMIN,
        "Tell who enabled the superuser and when.",
        f"GET {_MGMT_ONE}/root",
    ),
    rule(
        "mgmt:instance:diagnostics",
        ADMIN,
        "Tell what agent and engine use.",
        f"GET {_MGMT_ONE}/diagnostics",
    ),
    rule(
        "mgmt:instance:hwinfo",
        ADMIN,
        "Tell what an instance may use of its machine.",
        f"GET {_MGMT_ONE}/hwinfo",
    ),
    rule(
        "mgmt:instance:rpc_ping",
        ADMIN,
        "Tell whether the agent answers.",
        f"GET {_MGMT_ONE}/rpc_ping",
    ),
]
