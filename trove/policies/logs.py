"""Rules of the logs of instances, and of the embedded object store that they are published to."""

from __future__ import annotations

from oslo_policy import policy

from trove.policies.base import MEMBER, READER, rule

_LOG = "/instances/{instance_id}/log"
_STORE = "/object-store/v1/AUTH_{project_id}"
_CONTAINER = f"{_STORE}/{{container}}"
_OBJECT = f"{_CONTAINER}/{{object}}"

RULES = [
    rule(
        "instance:guest_log_list",
        READER,
        "List the logs of an instance, or show one.",
        f"GET {_LOG}",
        f"POST {_LOG}",
    ),
    rule(
        "instance:guest_log_set",
        MEMBER,
        "Enable, disable, publish or discard a log.",
        f"POST {_LOG}",
    ),
    policy.DocumentedRuleDefault(
        name="object_store:read",
        check_str=READER,
        description="List and read the project's objects in the embedded object store.",
        operations=[
            {"method": method, "path": path}
            for path in (_STORE, _CONTAINER, _OBJECT)
            for method in ("GET", "HEAD")
        ],
    ),
    policy.DocumentedRuleDefault(
        name="object_store:delete",
        check_str=MEMBER,
        description="Delete an object of the project in the embedded object store.",
        operations=[{"method": "DELETE", "path": _OBJECT}],
    ),
]
