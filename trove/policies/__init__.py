"""The rules of oslo.policy, one module a resource, and the enforcer that judges by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

from trove.common import context, exception
from trove.policies import accounts, base, clusters, datastores, flavors, instances

_MODULES = (instances, accounts, clusters, datastores, flavors)


def list_rules() -> list[policy.RuleDefault]:
    """Return all rules with their defaults, for the enforcer and oslopolicy-sample-generator."""
    return [*base.ROLES, *(rule for module in _MODULES for rule in module.RULES)]


def make_enforcer(conf: cfg.ConfigOpts) -> policy.Enforcer:
    """Return an enforcer with this project's rules and the operator's policy file."""
    enforcer = policy.Enforcer(conf)
    enforcer.register_defaults(list_rules())
    return enforcer


def make_default_enforcer() -> policy.Enforcer:
    """Return an enforcer for oslo.policy's command-line tools."""
    conf = cfg.ConfigOpts()
    conf([], project="trove", prog="trove")
    return make_enforcer(conf)


class Authorizer:
    """Judge contexts by an enforcer; what :class:`trove.common.context.RequestContext` is given."""

    def __init__(self, enforcer: policy.Enforcer) -> None:
        """Take the enforcer of :func:`make_enforcer`."""
        self._enforcer = enforcer

    def __call__(
        self, rule: str, target: Mapping[str, Any], caller: context.RequestContext
    ) -> None:
        """Raise PolicyForbidden unless ``rule`` admits the caller; unknown rules admit nobody."""
        if not self._enforcer.enforce(rule, target, credentials(caller)):
            raise exception.PolicyForbidden(rule=rule)

    def is_admin(self, project_id: str | None, roles: list[str]) -> bool:
        """Tell whether a caller with these roles acts on every project."""
        caller = {"project_id": project_id, "roles": roles}
        return bool(self._enforcer.enforce("context_is_admin", {}, caller))


def credentials(caller: context.RequestContext) -> dict[str, Any]:
    """Return what rules may look at; a plain dict, since this runs once a request."""
    return {
        "user_id": caller.user_id,
        "project_id": caller.project_id,
        "roles": caller.roles,
        "is_admin": caller.is_admin,
        "system_scope": caller.system_scope,
        "domain_id": caller.domain_id,
        "user_domain_id": caller.user_domain_id,
        "project_domain_id": caller.project_domain_id,
        "service_roles": caller.service_roles,
    }
