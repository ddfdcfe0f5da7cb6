"""The rules of oslo.policy, one module a resource, and the enforcer that judges by them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

from trove.common import concurrency, context, exception
from trove.policies import (
    accounts,
    backup_schedules,
    backups,
    base,
    clusters,
    configurations,
    datastores,
    flavors,
    instances,
    key_manager,
    logs,
    modules,
    monitoring,
    operations,
    quotas,
)

_MODULES = (
    instances,
    accounts,
    backups,
    backup_schedules,
    clusters,
    datastores,
    flavors,
    quotas,
    operations,
    configurations,
    logs,
    modules,
    monitoring,
    key_manager,
)


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


#: How long a judgement is remembered, and with it how soon a changed policy file counts.
_REMEMBERED_S = 2.0
_MOST_REMEMBERED = 10000


class Authorizer:
    """Judge contexts by an enforcer; what :class:`trove.common.context.RequestContext` is given.

    A judgement depends on nothing but rule, target and credentials. Asking oslo.policy costs as
    much as the rest of a request (it looks for changed files and inspects every check), so what it
    said is remembered for a moment.
    """

    def __init__(self, enforcer: policy.Enforcer, *, clock: concurrency.Clock) -> None:
        """Take the enforcer of :func:`make_enforcer`."""
        self._enforcer = enforcer
        self._clock = clock
        self._judgements: dict[Hashable, bool] = {}
        self._expires = 0.0

    def __call__(
        self, rule: str, target: Mapping[str, Any], caller: context.RequestContext
    ) -> None:
        """Raise PolicyForbidden unless ``rule`` admits the caller; unknown rules admit nobody."""
        if not self._judge(rule, target, credentials(caller)):
            raise exception.PolicyForbidden(rule=rule)

    def is_admin(self, project_id: str | None, roles: list[str]) -> bool:
        """Tell whether a caller with these roles acts on every project."""
        return self._judge("context_is_admin", {}, {"project_id": project_id, "roles": roles})

    def _judge(self, rule: str, target: Mapping[str, Any], caller: dict[str, Any]) -> bool:
        now = self._clock.monotonic()
        if now >= self._expires or len(self._judgements) >= _MOST_REMEMBERED:
            self._judgements = {}
            self._expires = now + _REMEMBERED_S
        question = (rule, *_flat(target), None, *_flat(caller))
        judgement = self._judgements.get(question)
        if judgement is None:
            judgement = bool(self._enforcer.enforce(rule, target, caller))
            self._judgements[question] = judgement
        return judgement


def _flat(values: Mapping[str, Any]) -> Iterator[Hashable]:
    for key, value in values.items():
        yield key
        yield tuple(value) if isinstance(value, list) else value


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
