"""How the key that a server was made with is replaced, and what it is good for meanwhile."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.fixtures import guest_channel
from tests.fixtures.guest_channel import heartbeat
from tests.unit.conductor.test_manager import RING, Conductor, Guest
from trove.common import crypto
from trove.db import base, guest_keys, models
from trove.rpc import payloads

HELLO = payloads.Hello(heartbeat=heartbeat(sequence=1))


def outcome(job_id: str, sequence: int = 2) -> payloads.JobOutcome:
    report = heartbeat(sequence=sequence)
    return payloads.JobOutcome(job_id=job_id, succeeded=True, heartbeat=report)


class NewGuest(Guest):
    """An agent whose server was just made."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(conductor)
        self.first_key = self.key
        with conductor.database.writer() as session:
            session.execute(
                sa.update(models.Instance)
                .where(models.Instance.id == self.id)
                .values(is_bootstrap_key=True)
            )

    def keys(self) -> guest_keys.Keys:
        with self.conductor.database.reader() as session:
            wrapped = guest_keys.find_wrapped(session, self.id)
        assert wrapped is not None
        return guest_keys.unwrap(RING, self.id, wrapped)

    def offer(self) -> bytes:
        """Store the next key, as the task manager does."""
        key = crypto.generate_key()
        wrapped = RING.wrap(key, purpose=guest_keys.purpose(self.id))
        with self.conductor.database.writer() as session:
            assert guest_keys.offer(session, self.id, generation=0, wrapped=wrapped)
            assert not guest_keys.offer(session, self.id, generation=0, wrapped=wrapped)
        return key

    def is_heard(self, sequence: int) -> bool:
        """Tell whether a heartbeat is acknowledged and stored."""
        is_acknowledged = self.send("heartbeat", heartbeat(sequence=sequence)) is not None
        return is_acknowledged and self.stored.sequence == sequence


@pytest.fixture
def conductor(database: base.Database) -> Conductor:
    return Conductor(database)


@pytest.fixture
def guest(conductor: Conductor) -> NewGuest:
    return NewGuest(conductor)


def test_a_bootstrap_key_is_good_for_first_contact_only(guest: NewGuest) -> None:
    assert guest.send("hello", HELLO) is not None
    assert not guest.is_heard(5)
    # acknowledged all the same: a clock may be set by it
    assert guest.send("heartbeat", heartbeat(sequence=6)) is not None
    guest.offer()
    assert guest.send("hello", HELLO) is not None
    job_id = guest_channel.add_job(guest.conductor.database, guest.id)
    assert guest.send("job_done", outcome(job_id)) is not None
    assert guest.keys().is_bootstrap


def test_the_first_message_of_the_new_key_ends_the_old_one(guest: NewGuest) -> None:
    assert guest.send("hello", HELLO) is not None
    guest.key = new_key = guest.offer()
    assert guest.is_heard(7)
    assert guest.keys() == guest_keys.Keys(
        current=new_key, next=None, generation=1, is_bootstrap=False
    )
    guest.key = guest.first_key
    for method, report in (("hello", HELLO), ("heartbeat", heartbeat(sequence=8))):
        assert guest.send(method, report) is None
    guest.key = new_key
    assert guest.is_heard(9)


def test_other_conductors_refuse_the_old_key_at_once(guest: NewGuest) -> None:
    second = Conductor(guest.conductor.database)
    first = guest.conductor
    for each in (first, second):
        guest.conductor = each
        assert guest.send("hello", HELLO) is not None
    new_key = guest.offer()
    guest.conductor, guest.key = first, new_key
    assert guest.send("hello", HELLO) is not None
    guest.conductor, guest.key = second, guest.first_key
    assert guest.send("hello", HELLO) is None
    assert second.manager.counters() == {"forged": 1}
    guest.key = new_key
    assert guest.send("hello", HELLO) is not None


def test_a_new_key_that_comes_too_late_by_the_clock_does_not_count(guest: NewGuest) -> None:
    guest.key = guest.offer()
    envelope = guest.seal("hello", HELLO)
    guest.conductor.clock.advance(500)
    assert guest.conductor.manager.deliver(envelope) is not None
    assert guest.keys().is_bootstrap


def test_the_key_of_a_server_made_anew_opens_at_once(guest: NewGuest) -> None:
    """Though the one before is kept, and was just seen to be valid."""
    guest.key = guest.offer()
    assert guest.send("hello", HELLO) is not None
    guest.conductor.clock.advance(4)
    guest.conductor.keys.revalidate()
    before, guest.key = guest.key, crypto.generate_key()
    wrapped = RING.wrap(guest.key, purpose=guest_keys.purpose(guest.id))
    with guest.conductor.database.writer() as session:
        assert guest_keys.renew(session, guest.id, generation=1, wrapped=wrapped)
        assert not guest_keys.renew(session, guest.id, generation=1, wrapped=wrapped)
    assert guest.send("hello", HELLO) is not None
    assert guest.keys().generation == 2
    assert guest.keys().is_bootstrap
    guest.key = before
    assert guest.send("hello", HELLO) is None


def test_a_kept_key_is_forgotten_when_another_replaced_it(guest: NewGuest) -> None:
    keys = guest.conductor.keys
    guest.key = guest.offer()
    assert guest.send("hello", HELLO) is not None
    wrapped = RING.wrap(b"n" * 32, purpose=guest_keys.purpose(guest.id))
    with guest.conductor.database.writer() as session:
        guest_keys.renew(session, guest.id, generation=1, wrapped=wrapped)
    keys.revalidate()
    assert keys.key_of(guest.id) == b"n" * 32


def test_a_settled_bootstrap_key_is_like_any_other(guest: NewGuest) -> None:
    assert guest.send("hello", HELLO) is not None
    guest.offer()
    with guest.conductor.database.writer() as session:
        assert guest_keys.settle(session, guest.id, generation=0)
        assert not guest_keys.settle(session, guest.id, generation=0)
    assert guest.is_heard(4)
    assert guest.keys().next is None


def test_messages_that_do_not_open_cost_few_statements(guest: NewGuest) -> None:
    guest.key = guest.offer()
    assert guest.send("hello", HELLO) is not None
    guest.conductor.clock.advance(1)
    guest.key = crypto.generate_key()
    statements: list[str] = []
    sa.event.listen(
        sa.Engine,
        "before_cursor_execute",
        listener := lambda _c, _cur, statement, *_: statements.append(statement),
    )
    try:
        for sequence in range(50):
            assert guest.send("heartbeat", heartbeat(sequence=sequence)) is None
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listener)
    assert len([each for each in statements if "key_wrapped" in each]) == 1


def test_a_deleted_instance_takes_no_new_key(guest: NewGuest) -> None:
    new_key = guest.offer()
    with guest.conductor.database.writer() as session:
        session.execute(
            sa.update(models.Instance)
            .where(models.Instance.id == guest.id)
            .values(is_deleted=True, key_wrapped=None)
        )
        assert not guest_keys.promote(session, guest.id, generation=0)
    guest.key = new_key
    assert guest.send("hello", HELLO) is None
