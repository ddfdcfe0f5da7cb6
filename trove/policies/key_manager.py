"""Rules of the embedded key manager."""

from __future__ import annotations

from oslo_policy import policy

from trove.policies.base import MEMBER

_ALL = "/key-manager/v1/secrets"
_ONE = f"{_ALL}/{{secret_id}}"

RULES = [
    policy.DocumentedRuleDefault(
        name="key_manager:read",
        check_str=MEMBER,
        description="List and read the project's secrets in the embedded key manager.",
        operations=[
            {"method": "GET", "path": path}
            for path in (_ALL, _ONE, f"{_ONE}/payload", f"{_ONE}/consumers")
        ],
    ),
    policy.DocumentedRuleDefault(
        name="key_manager:write",
        check_str=MEMBER,
        description="Store secrets of the project in the embedded key manager.",
        operations=[
            {"method": "POST", "path": _ALL},
            {"method": "POST", "path": f"{_ONE}/consumers"},
            {"method": "DELETE", "path": f"{_ONE}/consumers"},
        ],
    ),
    policy.DocumentedRuleDefault(
        name="key_manager:delete",
        check_str=MEMBER,
        description="Delete a secret of the project in the embedded key manager.",
        operations=[{"method": "DELETE", "path": _ONE}],
    ),
]
