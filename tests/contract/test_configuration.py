"""Configuration on every real engine: what is dynamic, what waits, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.rows import Subject, subject
from trove.common import exception
from trove.datastores.spec import Capability
from trove.rpc import payloads

__all__ = ["subject"]


@pytest.fixture
def plain(subject: Subject) -> Subject:
    """Give the instance on its defaults, restarted when that is needed."""
    subject.need(Capability.CONFIGURATION)
    if configure(subject, {}).result["restart_required"]:
        subject.restart()
    return subject


def run(subject: Subject, overrides: dict[str, Any], **changes: Any) -> payloads.JobOutcome:
    sizes = subject.guest.sizes
    return subject.guest.run(payloads.ConfigureJob(**{**sizes, **changes}, overrides=overrides))


def configure(subject: Subject, overrides: dict[str, Any], **changes: Any) -> payloads.JobOutcome:
    outcome = run(subject, overrides, **changes)
    assert outcome.succeeded, outcome.error
    return outcome


def value(subject: Subject, name: str) -> Any:
    return subject.probe.setting(subject.guest, name)


def test_every_rule_is_a_parameter_of_the_engine(plain: Subject) -> None:
    rules = plain.spec.parameters()
    assert rules
    assert set(rules) <= set(plain.probe.catalogue(plain.guest))


def test_a_dynamic_value_counts_at_once_and_after_a_restart(plain: Subject) -> None:
    name, wanted = plain.probe.dynamic
    usual = value(plain, name)
    assert usual != wanted
    outcome = configure(plain, {name: wanted}, overrides_digest="d")
    assert outcome.result == {"restart_required": False, "overrides_digest": "d"}
    assert value(plain, name) == wanted
    plain.restart()
    assert value(plain, name) == wanted
    assert configure(plain, {}).result["restart_required"] is False
    assert value(plain, name) == usual


def test_a_static_value_counts_after_a_restart(plain: Subject) -> None:
    name, wanted = plain.probe.static
    dynamic, also_wanted = plain.probe.dynamic
    usual = value(plain, name)
    assert usual != wanted
    assert configure(plain, {name: wanted}).result["restart_required"] is True
    assert value(plain, name) == usual
    # a restart is still due, whatever else was changed meanwhile
    both = {name: wanted, dynamic: also_wanted}
    assert configure(plain, both).result["restart_required"] is True
    assert value(plain, dynamic) == also_wanted
    plain.restart()
    assert value(plain, name) == wanted
    assert configure(plain, both).result["restart_required"] is False


def test_a_static_value_that_is_taken_back_needs_no_restart(plain: Subject) -> None:
    name, wanted = plain.probe.static
    assert configure(plain, {name: wanted}).result["restart_required"] is True
    assert configure(plain, {}).result["restart_required"] is False


def test_what_the_engine_refuses_leaves_everything_as_it_was(plain: Subject) -> None:
    name, wanted = plain.probe.dynamic
    configure(plain, {name: wanted})
    guest, usual = plain.guest, value(plain, name)
    before = guest.engine()
    settings = plain.guest.environment().store.find("settings")
    assert plain.probe.refused
    for bad in plain.probe.refused:
        outcome = run(plain, dict(bad))
        assert not outcome.succeeded
        assert outcome.error_code == exception.ConfigurationRefused.code
        assert outcome.error
        assert value(plain, name) == usual
        assert plain.guest.environment().store.find("settings") == settings
    assert guest.engine() == before
    plain.restart()
    guest.wait_status("HEALTHY")
    assert value(plain, name) == wanted


def test_an_agent_that_starts_again_knows_what_waits_for_a_restart(plain: Subject) -> None:
    overrides = dict((plain.probe.static, plain.probe.dynamic))
    configure(plain, overrides)
    plain.guest.stop_agent()
    plain.guest.start_agent()
    plain.guest.wait_status("HEALTHY")
    assert configure(plain, overrides).result["restart_required"] is True
    plain.restart()
    assert {name: value(plain, name) for name in overrides} == overrides


def test_a_stopped_engine_is_not_started_by_its_configuration(plain: Subject) -> None:
    name, wanted = plain.probe.dynamic
    assert plain.guest.run(payloads.StopJob()).succeeded
    configure(plain, {name: wanted})
    assert plain.guest.engine() is None
    plain.restart()
    assert value(plain, name) == wanted


def test_a_job_that_is_not_live_only_writes(plain: Subject) -> None:
    name, wanted = plain.probe.dynamic
    usual = value(plain, name)
    configure(plain, {name: wanted}, is_live=False)
    assert value(plain, name) == usual
    plain.restart()
    assert value(plain, name) == wanted
