"""The rules and the judge."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import policy as policy_fixture
from trove import policies
from trove.common import concurrency, context, exception


def _caller(roles: list[str], project: str = "p") -> context.RequestContext:
    return context.RequestContext(
        user_id="u", project_id=project, roles=roles, overwrite=False, is_admin=False
    )


class _Counting:
    """An enforcer that counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = True

    def enforce(self, rule: str, target: Any, creds: Any) -> bool:
        self.asked += 1
        return self.answer


def test_every_rule_is_documented_and_no_name_comes_twice() -> None:
    names = [rule.name for rule in policies.list_rules()]
    assert len(names) == len(set(names))
    assert all(rule.description for rule in policies.list_rules())


def test_the_tools_get_an_enforcer() -> None:
    assert "instance:create" in policies.make_default_enforcer().registered_rules


@pytest.mark.parametrize(
    ("rule", "roles", "project", "allowed"),
    [
        ("instance:show", ["reader"], "p", True),
        ("instance:show", ["reader"], "q", False),
        ("instance:show", [], "p", False),
        ("instance:show", ["custom"], "p", False),
        ("instance:create", ["reader"], "p", False),
        ("instance:create", ["member"], "p", True),
        ("instance:create", ["manager"], "p", True),
        ("instance:create", ["member"], "q", False),
        ("instance:create", ["admin"], "q", True),
        ("instance:force_delete", ["member"], "p", False),
        ("instance:force_delete", ["manager"], "p", True),
        ("instance:reset_status", ["manager"], "p", False),
        ("instance:reset_status", ["admin"], "q", True),
        ("datastore:index", [], "p", True),
        ("no:such:rule", ["member"], "p", False),
    ],
)
def test_roles_mean_something(rule: str, roles: list[str], project: str, allowed: bool) -> None:
    judge = policies.Authorizer(policy_fixture.make_enforcer(), clock=concurrency.ManualClock())
    caller = _caller(roles)
    if allowed:
        judge(rule, {"project_id": project}, caller)
    else:
        with pytest.raises(exception.PolicyForbidden, match=rule):
            judge(rule, {"project_id": project}, caller)


def test_a_judgement_is_remembered_for_a_moment_and_for_one_caller_only() -> None:
    enforcer, clock = _Counting(), concurrency.ManualClock()
    judge = policies.Authorizer(enforcer, clock=clock)
    for _ in range(3):
        judge("r", {"project_id": "p"}, _caller(["member"]))
    assert enforcer.asked == 1
    judge("r", {"project_id": "q"}, _caller(["member"]))
    judge("r", {"project_id": "p"}, _caller(["reader"]))
    judge("r", {"project_id": "p"}, _caller(["member"], project="q"))
    judge("s", {"project_id": "p"}, _caller(["member"]))
    assert enforcer.asked == 5
    enforcer.answer = False
    judge("r", {"project_id": "p"}, _caller(["member"]))
    clock.advance(2.1)
    with pytest.raises(exception.PolicyForbidden):
        judge("r", {"project_id": "p"}, _caller(["member"]))


def test_a_context_without_enforcer_may_do_nothing() -> None:
    with pytest.raises(exception.PolicyForbidden):
        _caller(["admin"]).authorize("instance:show")
