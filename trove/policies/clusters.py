"""Rules of clusters."""

from __future__ import annotations

from trove.policies.base import ADMIN, MANAGER, MEMBER, READER, rule

_ONE = "/clusters/{cluster_id}"
_MGMT = "/mgmt/clusters"

RULES = [
    rule("cluster:create", MEMBER, "Create a cluster.", "POST /clusters"),
    rule("cluster:index", READER, "List clusters.", "GET /clusters"),
    rule("cluster:show", READER, "Show a cluster.", f"GET {_ONE}"),
    rule(
        "cluster:show_instance",
        READER,
        "Show a member of a cluster.",
        f"GET {_ONE}/instances/{{member_id}}",
    ),
    rule("cluster:action", MEMBER, "Change a cluster.", f"POST {_ONE}"),
    rule("cluster:reset-status", ADMIN, "Reset the status of a cluster.", f"POST {_ONE}"),
    rule(
        "cluster:force_delete",
        MANAGER,
        "Reset the status of a cluster in order to delete it.",
        f"POST {_ONE}",
    ),
    rule("cluster:delete", MEMBER, "Delete a cluster.", f"DELETE {_ONE}"),
    rule(
        "cluster:extension:root:index",
        READER,
        "Tell whether the superuser of a cluster is enabled.",
        f"GET {_ONE}/root",
    ),
    rule(
        "cluster:extension:root:create",
        MEMBER,
        "Enable the superuser of a cluster.",
        f"POST {_ONE}/root",
    ),
    rule("mgmt:cluster:index", ADMIN, "List the clusters of all projects.", f"GET {_MGMT}"),
    rule(
        "mgmt:cluster:show",
        ADMIN,
        "Show a cluster of any project.",
        f"GET {_MGMT}/{{cluster_id}}",
    ),
    rule(
        "mgmt:cluster:action",
        ADMIN,
        "Reset the task of a cluster.",
        f"POST {_MGMT}/{{cluster_id}}/action",
    ),
]
