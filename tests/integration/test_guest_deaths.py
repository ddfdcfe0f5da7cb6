"""A real MariaDB whose agents die before each act of a job: the next one ends it, nothing is lost.

What needs no engine to be seen is in tests/unit/guestagent/test_deaths_in_jobs.py. The agents here
do their jobs in the test's thread, so that they can die at an act of it.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures.deaths import Death, Deaths, dying, each_death
from tests.fixtures.engine import needs_mariadb
from tests.fixtures.rows import Subject, running
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency
from trove.guestagent import journal, service, tls
from trove.guestagent.datastores.mysql import connection
from trove.guestagent.datastores.mysql import service as mysql_service
from trove.rpc import payloads

pytestmark = needs_mariadb

_OVERRIDES = {"max_connections": 77, "thread_stack": 303104}


class Instance:
    """A prepared instance without an agent, and agents that come and go."""

    def __init__(self, subject: Subject) -> None:
        """Take the instance over from its agent."""
        self.subject = subject
        self.guest = subject.guest
        self.guest.stop_agent()

    def agent(self) -> service.Agent:
        """Return another agent, that supervises and does jobs when it is told to."""
        environment = self.guest.environment()
        self.guest.datastore = self.guest.row_engine.maker(environment)
        made = service.Agent(
            self.guest.datastore,
            environment,
            self.guest.conductor,
            clock=concurrency.SystemClock(),
            heartbeat_interval_s=60.0,
            probe_interval_s=0.2,
        )
        made.supervisor.start()
        return made

    def run(self, job: Any, *, die_at: int = 0, job_id: str = "") -> journal.Entry | None:
        """Have an agent do a job, or go on with the one that is left; None when it died."""
        agent = self.agent()
        try:
            if job is not None:
                job_id = job_id or str(uuid.uuid4())
                wire = payloads.Job(job_id=job_id, kind=job.KIND, payload=job.to_wire())
                agent.manager.on_job(wire)
            if not die_at:
                agent.manager._do_next()
            else:
                with dying(die_at, (connection.Session, "execute")):
                    try:
                        agent.manager._do_next()
                    except Death:
                        return None
            (entry,) = [e for e in agent.journal.unreported() if e.job_id == job_id or not job_id]
            agent.journal.acknowledge(entry)
            return entry
        finally:
            agent.close()

    def done(self, job: Any) -> None:
        """Have a job done."""
        entry = self.run(job)
        assert entry is not None
        assert entry.succeeded, entry.error

    def each(
        self, job: Any, *, begin: Callable[[], None], check: Callable[[journal.Entry], None]
    ) -> int:
        """Do a job as often as it has acts, with a death at each; return how many there were."""

        def once(die_at: int) -> bool:
            begin()
            job_id = str(uuid.uuid4())
            entry = self.run(job, die_at=die_at, job_id=job_id)
            has_died = entry is None
            if entry is None:
                # it is in the journal, and is delivered again as well
                entry = self.run(job, job_id=job_id)
            assert entry is not None
            check(entry)
            assert journal.Journal(self.guest.layout.jobs_dir).find_next() is None
            return has_died

        return each_death(once)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the engine as the agent's account."""
        assert self.guest.datastore is not None
        server: Any = self.guest.datastore.service
        with server.connector.session() as session:
            return list(session.execute(statement))

    def status(self) -> states.ServiceStatus:
        """Return the health word of another agent."""
        agent = self.agent()
        try:
            wanted = states.ServiceStatus.RESTARTING
            wait_until(lambda: agent.supervisor.snapshot().status is not wanted)
            return agent.supervisor.snapshot().status
        finally:
            agent.close()


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with running("mariadb") as subject, pytest.MonkeyPatch.context() as patch:
        # not what is to be shown here, and slow on a busy disk
        patch.setattr(os, "fsync", lambda descriptor: None)
        subject.tenant_user()
        made = Instance(subject)
        made.sql("CREATE TABLE shop.t (v INT PRIMARY KEY)")
        made.sql("INSERT INTO shop.t VALUES (1)")
        # of the tenant's own doing: to be let in with TLS only
        made.sql("CREATE USER own@'%' IDENTIFIED BY 'word' REQUIRE SSL")
        yield made


def _demands(instance: Instance) -> dict[str, str]:
    names = "('joe', 'own', 'later')"
    rows = instance.sql(f"SELECT User, ssl_type FROM mysql.user WHERE User IN {names}")
    return {str(user): str(demand) for user, demand in rows}


def _sets(instance: Instance) -> set[str]:
    folder = instance.guest.layout.mount_point / "tls"
    return set(os.listdir(folder)) if folder.is_dir() else set()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("builtin", "enforced"),
        ("builtin", "mtls"),
        ("mtls", "basic"),
        ("enforced", "builtin"),
    ],
)
def test_tls_is_as_asked_wherever_the_agent_dies(
    instance: Instance, before: str, after: str
) -> None:
    first, second = instance.subject.tls("basic"), instance.subject.tls("basic")

    def job(mode: str, given: payloads.SslJob) -> payloads.SslJob:
        if mode == "builtin":
            return payloads.SslJob(mode="builtin")
        return payloads.SslJob(**{**given.to_wire(), "mode": mode, "keep": ()})

    def begin() -> None:
        instance.done(job(before, first))

    def check(entry: journal.Entry) -> None:
        assert entry.succeeded, entry.error
        wanted = "X509" if after == "mtls" else ""
        assert _demands(instance) == {"joe": wanted, "own": wanted or "ANY"}
        (row,) = instance.sql("SELECT @@GLOBAL.require_secure_transport")
        assert bool(row[0]) == (after in ("enforced", "mtls"))
        assert _sets(instance) == ({second.set_id} if after != "builtin" else set())
        assert not (instance.guest.layout.volume_agent_dir / "tls_own_demands.json").exists()

    acts = instance.each(job(after, second), begin=begin, check=check)
    assert acts >= 8
    ca = instance.subject.tenant.pem if after != "builtin" else instance.subject.authority.pem
    client = instance.subject.client_of(instance.subject.tenant) if after == "mtls" else None
    assert instance.subject.is_let_in("joe", "secret", database="shop", ca=ca, client=client)
    # what was demanded is what comes back
    instance.done(payloads.SslJob(mode="builtin"))
    assert _demands(instance) == {"joe": "", "own": "ANY"}


def test_a_refused_certificate_changes_nothing_wherever_the_agent_dies(
    instance: Instance,
) -> None:
    bad = instance.subject.tls("mtls", key_pem=instance.subject.tls("mtls").key_pem)
    good = instance.subject.tls("enforced")
    instance.done(good)
    # of the tenant's own doing, and since the last change
    instance.sql("CREATE OR REPLACE USER later@'%' REQUIRE SSL")

    def check(entry: journal.Entry) -> None:
        assert not entry.succeeded
        assert entry.error
        assert _demands(instance) == {"joe": "", "later": "ANY", "own": "ANY"}

    instance.each(bad, begin=lambda: None, check=check)
    ca = instance.subject.tenant.pem
    assert instance.subject.is_let_in("joe", "secret", database="shop", ca=ca)
    assert not instance.subject.is_let_in("joe", "secret", database="shop")
    instance.sql("DROP USER later@'%'")
    instance.done(payloads.SslJob(mode="builtin"))


def test_tls_is_as_asked_when_the_engine_ended_with_the_agent(instance: Instance) -> None:
    job = instance.subject.tls("mtls")
    job_id = str(uuid.uuid4())
    instance.done(payloads.SslJob(mode="builtin"))
    # the service's demands are made of the accounts, and nothing says so
    agent = instance.agent()
    agent.manager.on_job(payloads.Job(job_id=job_id, kind=job.KIND, payload=job.to_wire()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tls.TlsStore, "save", Deaths(1).before(tls.TlsStore.save))
        with pytest.raises(Death):
            agent.manager._do_next()
    agent.close()
    engine = instance.guest.engine()
    assert engine is not None
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: instance.guest.engine() is None)
    entry = instance.run(None, job_id=job_id)
    assert entry is not None
    assert entry.succeeded, entry.error
    assert _demands(instance) == {"joe": "X509", "own": "X509"}
    assert instance.status() is states.ServiceStatus.HEALTHY
    instance.done(payloads.SslJob(mode="builtin"))
    assert _demands(instance) == {"joe": "", "own": "ANY"}
    assert instance.sql("SELECT v FROM shop.t") == [(1,)]


def test_a_configuration_is_in_force_wherever_the_agent_dies(instance: Instance) -> None:
    sizes: dict[str, Any] = dict(instance.guest.sizes)

    def begin() -> None:
        instance.done(payloads.ConfigureJob(**sizes))

    def check(entry: journal.Entry) -> None:
        assert entry.succeeded, entry.error
        # the static one waits for a restart, also when an earlier agent wrote it
        assert entry.result["restart_required"] is True
        assert instance.sql("SELECT @@GLOBAL.max_connections") == [(77,)]
        assert instance.guest.datastore is not None
        server: Any = instance.guest.datastore.service
        assert server.find_settings().overrides == _OVERRIDES
        assert server.find_former_settings() is None
        assert "max_connections = 77" in server.configuration_file.read_text()

    job = payloads.ConfigureJob(**sizes, overrides=_OVERRIDES)
    real, tried = mysql_service.MysqlService.try_configuration, set[str]()

    def try_once(self: mysql_service.MysqlService, text: str) -> None:
        if text not in tried:
            real(self, text)
            tried.add(text)

    with pytest.MonkeyPatch.context() as patch:
        # the program says of the same text the same each time
        patch.setattr(mysql_service.MysqlService, "try_configuration", try_once)
        assert instance.each(job, begin=begin, check=check) >= 6
        begin()


def test_a_refused_configuration_is_taken_back_wherever_the_agent_dies(
    instance: Instance,
) -> None:
    sizes: dict[str, Any] = dict(instance.guest.sizes)
    instance.done(payloads.ConfigureJob(**sizes))
    (before,) = instance.sql("SELECT @@GLOBAL.max_connections, @@GLOBAL.wait_timeout")
    real = connection.Session.execute

    def refuse(self: connection.Session, template: str, **values: Any) -> Any:
        if values.get("value") == 4242:
            return real(self, "SET GLOBAL wait_timeout = 'no number'")
        return real(self, template, **values)

    def check(entry: journal.Entry) -> None:
        assert not entry.succeeded
        assert entry.error_code == "trove.configuration_refused", entry.error
        now = instance.sql("SELECT @@GLOBAL.max_connections, @@GLOBAL.wait_timeout")
        assert now == [before]
        assert instance.guest.datastore is not None
        server: Any = instance.guest.datastore.service
        assert server.find_settings().overrides == {}
        assert server.find_former_settings() is None

    job = payloads.ConfigureJob(**sizes, overrides={"max_connections": 77, "wait_timeout": 4242})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection.Session, "execute", refuse)
        # which has nothing against it
        patch.setattr(mysql_service.MysqlService, "try_configuration", lambda *_: None)
        assert instance.each(job, begin=lambda: None, check=check) >= 6
    assert instance.status() is states.ServiceStatus.HEALTHY
