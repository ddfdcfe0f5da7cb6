"""What opens and what does not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from trove.common import concurrency, crypto, exception
from trove.rpc import serializer
from trove.rpc.serializer import Direction, Reason

X, Y = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
KEYS = {X: crypto.generate_key(), Y: crypto.generate_key()}


@pytest.fixture
def clock() -> concurrency.ManualClock:
    return concurrency.ManualClock()


@pytest.fixture
def sealer(clock: concurrency.ManualClock) -> serializer.Sealer:
    return serializer.Sealer(KEYS.get, clock=clock, window_s=60)


def up(sealer: serializer.Sealer, instance_id: str = X, **payload: Any) -> dict[str, Any]:
    return sealer.seal(instance_id, Direction.UP, "m", payload)


def over_the_wire(envelope: dict[str, Any]) -> Any:
    return json.loads(json.dumps(envelope))


def assert_dropped(
    sealer: serializer.Sealer, envelope: object, reason: Reason, *, times: int = 1
) -> None:
    with pytest.raises(serializer.Rejected) as caught:
        sealer.open(envelope, Direction.UP)
    assert caught.value.reason is reason
    assert sealer.counters() == {reason.value: times}


def test_what_is_sealed_opens_with_the_same_key(sealer: serializer.Sealer) -> None:
    opened = sealer.open(over_the_wire(up(sealer, a=1)), Direction.UP)
    assert (opened.instance_id, opened.method, opened.payload) == (X, "m", {"a": 1})
    assert sealer.counters() == {}


def test_nothing_of_the_content_can_be_read_in_the_envelope(sealer: serializer.Sealer) -> None:
    text = json.dumps(up(sealer, word="plaintext-word"))
    assert "plaintext-word" not in text
    assert b"plaintext-word" not in base64.b64decode(json.loads(text)["c"])


def test_a_message_sealed_with_the_key_of_x_does_not_speak_for_y(
    sealer: serializer.Sealer,
) -> None:
    assert_dropped(sealer, up(sealer, X) | {"i": Y}, Reason.FORGED)


@pytest.mark.parametrize(
    ("field", "value"),
    [("m", "another-id"), ("t", 1767225599.0), ("r", "another-id"), ("i", Y)],
)
def test_a_changed_field_does_not_open(
    sealer: serializer.Sealer, field: str, value: object
) -> None:
    assert_dropped(sealer, up(sealer) | {field: value}, Reason.FORGED)


def test_a_changed_ciphertext_does_not_open(sealer: serializer.Sealer) -> None:
    envelope = up(sealer)
    blob = bytearray(base64.b64decode(envelope["c"]))
    blob[-1] ^= 1
    assert_dropped(sealer, envelope | {"c": base64.b64encode(blob).decode()}, Reason.FORGED)


def test_a_message_cannot_be_sent_back(sealer: serializer.Sealer) -> None:
    down = sealer.seal(X, Direction.DOWN, "m", {})
    assert_dropped(sealer, down, Reason.WRONG_DIRECTION)
    with pytest.raises(serializer.Rejected) as caught:
        sealer.open(down | {"d": "up"}, Direction.UP)
    assert caught.value.reason is Reason.FORGED


def test_a_replayed_message_is_dropped(
    sealer: serializer.Sealer, clock: concurrency.ManualClock
) -> None:
    envelope = up(sealer)
    sealer.open(envelope, Direction.UP)
    clock.advance(59)
    assert_dropped(sealer, envelope, Reason.REPLAYED)


def test_a_message_dated_ahead_cannot_be_replayed_in_its_later_window(
    sealer: serializer.Sealer, clock: concurrency.ManualClock
) -> None:
    ahead = concurrency.ManualClock(clock.now())
    ahead.advance(59)
    envelope = up(serializer.Sealer(KEYS.get, clock=ahead, window_s=60))
    sealer.open(envelope, Direction.UP)
    clock.advance(118)
    assert_dropped(sealer, envelope, Reason.REPLAYED)


@pytest.mark.parametrize("seconds", [61, -61])
def test_a_message_out_of_the_window_is_stale_and_says_of_whom(
    sealer: serializer.Sealer, clock: concurrency.ManualClock, seconds: float
) -> None:
    envelope = up(sealer)
    clock.advance(seconds)
    with pytest.raises(serializer.Stale) as caught:
        sealer.open(envelope, Direction.UP)
    assert caught.value.opened.instance_id == X
    assert sealer.counters() == {"stale": 1}


def test_a_forged_message_out_of_the_window_is_forged(
    sealer: serializer.Sealer, clock: concurrency.ManualClock
) -> None:
    envelope = up(sealer) | {"i": Y}
    clock.advance(61)
    assert_dropped(sealer, envelope, Reason.FORGED)


def test_an_instance_without_key_is_dropped_and_cannot_be_sealed_for(
    sealer: serializer.Sealer,
) -> None:
    stranger = "33333333-3333-4333-8333-333333333333"
    assert_dropped(sealer, up(sealer) | {"i": stranger}, Reason.UNKNOWN_INSTANCE)
    with pytest.raises(exception.InstanceNotFound):
        up(sealer, stranger)


def test_an_oversized_message_is_dropped_before_it_is_decoded(sealer: serializer.Sealer) -> None:
    envelope = up(sealer) | {"c": "A" * (serializer.MAX_BYTES * 2)}
    assert_dropped(sealer, envelope, Reason.OVERSIZED)
    with pytest.raises(exception.ValidationFailed):
        up(sealer, text="x" * serializer.MAX_BYTES)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"i": None},
        {"i": "x" * 37},
        {"m": 7},
        {"r": {}},
        {"t": "now"},
        {"t": float("nan")},
        {"t": float("inf")},
        {"t": True},
        {"c": None},
        {"c": "!!!"},
    ],
    ids=str,
)
def test_what_is_no_envelope_is_dropped(
    sealer: serializer.Sealer, change: dict[str, object]
) -> None:
    assert_dropped(sealer, up(sealer) | change, Reason.MALFORMED)


@pytest.mark.parametrize("plain", [None, 7, "text", [], {}, {"method": "heartbeat", "payload": {}}])
def test_plain_messages_are_dropped(sealer: serializer.Sealer, plain: object) -> None:
    assert_dropped(sealer, plain, Reason.MALFORMED)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"method": 1}', b"\xff", b'{"a": NaN}'])
def test_sealed_nonsense_is_dropped(sealer: serializer.Sealer, content: bytes) -> None:
    envelope = up(sealer)
    associated_data = serializer._associated_data(envelope)
    blob = crypto.encrypt(KEYS[X], content, associated_data=associated_data)
    envelope["c"] = base64.b64encode(blob).decode()
    assert_dropped(sealer, envelope, Reason.MALFORMED)


def test_a_flooding_instance_is_cut_off_and_others_are_not(
    sealer: serializer.Sealer, clock: concurrency.ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serializer, "MAX_MESSAGES_A_WINDOW", 3)
    for _ in range(3):
        sealer.open(up(sealer, X), Direction.UP)
    assert_dropped(sealer, up(sealer, X), Reason.FLOOD)
    sealer.open(up(sealer, Y), Direction.UP)
    clock.advance(121)
    sealer.open(up(sealer, X), Direction.UP)


def test_silent_instances_are_forgotten(
    sealer: serializer.Sealer, clock: concurrency.ManualClock
) -> None:
    sealer.open(up(sealer, X), Direction.UP)
    clock.advance(200)
    sealer.open(up(sealer, Y), Direction.UP)
    assert list(sealer._seen) == [Y]


def test_an_agent_does_not_take_what_was_sent_before_its_start(
    clock: concurrency.ManualClock,
) -> None:
    control = serializer.Sealer(KEYS.get, clock=clock, window_s=60)
    envelope = control.seal(X, Direction.DOWN, "delete_database", {"name": "d"})
    clock.advance(10)
    restarted = serializer.Sealer(KEYS.get, clock=clock, window_s=60, only_since_start=True)
    with pytest.raises(serializer.Stale):
        restarted.open(envelope, Direction.DOWN)
    clock.advance(1)
    restarted.open(control.seal(X, Direction.DOWN, "ping", {}), Direction.DOWN)


def test_a_call_is_not_carried_out_after_its_caller_gave_up(
    sealer: serializer.Sealer, clock: concurrency.ManualClock
) -> None:
    late = sealer.seal(X, Direction.DOWN, "delete_database", {}, valid_s=8)
    in_time = sealer.seal(X, Direction.DOWN, "delete_database", {}, valid_s=8)
    clock.advance(7)
    sealer.open(in_time, Direction.DOWN)
    clock.advance(2)
    with pytest.raises(serializer.Stale):
        sealer.open(late, Direction.DOWN)


def test_a_reply_opens_for_its_request_alone(sealer: serializer.Sealer) -> None:
    request, other = up(sealer), up(sealer)
    reply = sealer.seal(X, Direction.UP_REPLY, "m", {"ok": 1}, in_reply_to=request["m"])
    assert sealer.open_reply(reply, request).payload == {"ok": 1}
    with pytest.raises(serializer.Rejected) as caught:
        sealer.open_reply(reply, other)
    assert caught.value.reason is Reason.UNEXPECTED_REPLY
    for nothing in (None, {}, up(sealer), reply | {"r": other["m"]}):
        with pytest.raises(serializer.Rejected):
            sealer.open_reply(nothing, other)


def test_a_reply_of_another_instance_is_refused(sealer: serializer.Sealer) -> None:
    request = sealer.seal(X, Direction.DOWN, "ping", {})
    reply = sealer.seal(Y, Direction.DOWN_REPLY, "ping", {}, in_reply_to=request["m"])
    with pytest.raises(serializer.Rejected) as caught:
        sealer.open_reply(reply, request)
    assert caught.value.reason is Reason.WRONG_INSTANCE


def test_a_reply_is_taken_however_wrong_the_clock_is(
    sealer: serializer.Sealer, clock: concurrency.ManualClock
) -> None:
    request = up(sealer)
    clock.advance(100_000)
    reply = sealer.seal(X, Direction.UP_REPLY, "m", {}, in_reply_to=request["m"])
    clock.advance(-200_000)
    assert sealer.open_reply(reply, request).method == "m"


def test_drops_are_logged_ever_more_rarely_and_without_content(
    sealer: serializer.Sealer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(25):
        with pytest.raises(serializer.Rejected):
            sealer.open({"i": "secret\nword", "payload": "secret-word"}, Direction.UP)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "secret" not in "".join(lines)


def test_the_channel_clock_follows_the_conductor_and_not_the_wall() -> None:
    wall, monotonic = [5000.0], [10.0]
    clock = serializer.ChannelClock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    assert clock.now().timestamp() == 5000
    clock.adjust(1000.0, round_trip_s=2.0)
    wall[0] = 9_999_999.0
    monotonic[0] += 5
    assert clock.now().timestamp() == 1006
