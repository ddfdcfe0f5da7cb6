"""The roles that all rules are made of.

Roles imply each other (admin, manager, member, reader, in this order); a project's roles reach its
own resources only, ``admin`` reaches those of every project. ``service`` implies none: it reads, in
every project, what other services of a cloud count and bill.
"""

from __future__ import annotations

from collections.abc import Sequence

from oslo_policy import policy

ADMIN = "rule:context_is_admin"
READER = "rule:project_reader"
MEMBER = "rule:project_member"
MANAGER = "rule:project_manager"
#: Who only looks, in every project: other services of the cloud, such as telemetry and billing.
SERVICE = "rule:admin_or_service"
#: A project's own readers, and those who look in every project.
READER_OR_SERVICE = "rule:project_reader or rule:admin_or_service"
#: Any authenticated caller.
ANYBODY = "@"

ROLES = [
    policy.RuleDefault(
        "context_is_admin",
        "role:admin",
        description="Who acts on the resources of every project and sees operators' details.",
    ),
    policy.RuleDefault(
        "admin_or_service",
        "rule:context_is_admin or role:service",
        description="Who may look at the instances and quotas of every project.",
    ),
    policy.RuleDefault(
        "manager_role", "role:manager or role:admin", description="A project's manager."
    ),
    policy.RuleDefault(
        "member_role", "role:member or rule:manager_role", description="A project's member."
    ),
    policy.RuleDefault(
        "reader_role", "role:reader or rule:member_role", description="A project's reader."
    ),
    policy.RuleDefault(
        "project_reader",
        "rule:context_is_admin or (rule:reader_role and project_id:%(project_id)s)",
        description="May look at the resources of the project.",
    ),
    policy.RuleDefault(
        "project_member",
        "rule:context_is_admin or (rule:member_role and project_id:%(project_id)s)",
        description="May make, change and delete resources of the project.",
    ),
    policy.RuleDefault(
        "project_manager",
        "rule:context_is_admin or (rule:manager_role and project_id:%(project_id)s)",
        description="May do what puts a project's resources at risk.",
    ),
    policy.RuleDefault("default", "!", description="A rule that does not exist admits nobody."),
]


def rule(name: str, check: str, description: str, *routes: str) -> policy.DocumentedRuleDefault:
    """Return a documented rule; ``routes`` are like ``"GET /instances"``."""
    operations: Sequence[dict[str, str]] = [
        {"method": method, "path": f"/v1.0/{{project_id}}{path}"}
        for method, path in (route.split(" ", 1) for route in routes)
    ]
    return policy.DocumentedRuleDefault(
        name=name, check_str=check, description=description, operations=list(operations)
    )
