"""Rules of quotas."""

from __future__ import annotations

from trove.policies.base import ADMIN, READER_OR_SERVICE, rule

RULES = [
    rule(
        "mgmt:quota:show",
        READER_OR_SERVICE,
        "Show the quotas of a project; of the own one, or as administrator or service of any.",
        "GET /mgmt/quotas/{quota_project_id}",
    ),
    rule(
        "mgmt:quota:update",
        ADMIN,
        "Set the quotas of a project.",
        "PUT /mgmt/quotas/{quota_project_id}",
    ),
]
