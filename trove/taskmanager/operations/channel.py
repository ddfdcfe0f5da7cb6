"""Give the agent of a new server a key and an account that nobody but it can know.

A server is made with a bootstrap key and an account of the guest bus in its configuration, where
they can be read for as long as it lives. When its agent has said hello it is sent their successors,
sealed with the bootstrap key; the first message that the new key opens ends the old key. The old
account is removed at the end of the flow, when the agent has left it. The successor is stored
before it is sent and stays until it counts, so that it does not matter who dies when.

The password of an account is derived from the key of its generation: who has one has the other, and
there is nothing more to store.
"""

from __future__ import annotations

import base64
import dataclasses

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf import hkdf
from oslo_log import log

from trove.common import crypto, exception
from trove.db import guest_jobs, guest_keys
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: The whole of what agents say of this job that are older than it.
_OLD_AGENT = f"this agent knows no job {payloads.RekeyJob.KIND}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FirstCredentials:
    """What the agent of a new server makes first contact with."""

    key: str = dataclasses.field(repr=False)
    transport_url: str = dataclasses.field(repr=False)


def first_credentials(ctx: engine.Context) -> FirstCredentials:
    """Return key and account for a server that is to be made; the key is made anew if it was used.

    Raises StepFailed when the instance is gone, DriverError.
    """
    keys = _get_keys(ctx)
    if not keys.is_bootstrap or keys.next is not None:
        _renew(ctx, keys.generation)
        keys = _get_keys(ctx)
    url = ctx.tools.drivers.broker.ensure_account(
        ctx.instance_id, keys.generation, account_password(keys.current)
    )
    return FirstCredentials(key=crypto.encode_key(keys.current), transport_url=url)


def account_password(key: bytes) -> str:
    """Return the password of the account that belongs to a key."""
    derive = hkdf.HKDF(
        algorithm=hashes.SHA256(), length=32, salt=None, info=b"trove: account of the guest bus"
    )
    return base64.urlsafe_b64encode(derive.derive(key)).decode("ascii").rstrip("=")


class SecureChannel(engine.Step):
    """Replace the key and the account that the server was made with."""

    name = "secure_channel"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the agent take the new ones."""
        return secure(ctx)


class RemoveFirstAccount(engine.Step):
    """Remove the account that the server was made with."""

    name = "remove_first_account"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove all accounts but the one that counts."""
        remove_first_account(ctx)
        return None


def remove_first_account(ctx: engine.Context) -> None:
    """Remove the accounts of an instance but the one that counts."""
    keys = _get_keys(ctx)
    ctx.tools.drivers.broker.remove_accounts(ctx.instance_id, keep=keys.generation)


def secure(ctx: engine.Context, *, name: str = payloads.RekeyJob.KIND) -> engine.Wait | None:
    """Have the agent use a key that its server was not made with; None when it does.

    ``name`` tells the jobs of one operation apart. Raises StepFailed when the agent cannot.
    """
    keys = _get_keys(ctx)
    if keys.is_bootstrap and keys.next is None:
        _offer(ctx, keys.generation)
        keys = _get_keys(ctx)
    if keys.is_bootstrap and keys.next is not None:
        outcome = _send(ctx, keys.next, keys.generation + 1, name)
        if isinstance(outcome, engine.Wait):
            return outcome
        if not outcome.succeeded:
            _settle_if_old(ctx, outcome, keys.generation)
        keys = _get_keys(ctx)
    if keys.is_bootstrap:
        # the report of success is what ends a bootstrap key: this one was sealed with that key
        return engine.Wait(event="rekey", timeout_s=steps.AGENT_LOOK_S)
    return None


def _send(
    ctx: engine.Context, key: bytes, generation: int, name: str
) -> guest_jobs.GuestJob | engine.Wait:
    """Send key and account until the outcome is known; return it, or the wait for it."""
    url = ctx.tools.drivers.broker.ensure_account(
        ctx.instance_id, generation, account_password(key)
    )
    outcome = steps.run_job(
        ctx,
        payloads.RekeyJob.KIND,
        lambda: payloads.RekeyJob(key=crypto.encode_key(key), transport_url=url),
        name=name,
    )
    if isinstance(outcome, engine.Wait):
        steps.watch_server(ctx)
    return outcome


def _settle_if_old(ctx: engine.Context, outcome: guest_jobs.GuestJob, generation: int) -> None:
    """Go on with the first key when the agent is older than this job; else raise StepFailed."""
    if outcome.error_code != exception.UnknownJob.code and outcome.error != _OLD_AGENT:
        steps.expect_success(outcome, what="Replacing the key of the guest agent")
    steps.record(
        ctx,
        lambda session, now: guest_keys.settle(session, ctx.instance_id, generation=generation),
    )
    LOG.warning(
        "instance %s: its agent is too old to replace the key that its server was made with;"
        " import a newer image and rebuild the instance",
        ctx.instance_id,
    )


def _get_keys(ctx: engine.Context) -> guest_keys.Keys:
    with ctx.tools.database.reader() as session:
        wrapped = guest_keys.find_wrapped(session, ctx.instance_id)
    if wrapped is None:
        raise engine.StepFailed("The instance was deleted meanwhile.")
    return guest_keys.unwrap(ctx.tools.key_ring, ctx.instance_id, wrapped)


def _offer(ctx: engine.Context, generation: int) -> None:
    wrapped = _wrap_new(ctx)
    steps.record(
        ctx,
        lambda session, now: guest_keys.offer(
            session, ctx.instance_id, generation=generation, wrapped=wrapped
        ),
    )


def _renew(ctx: engine.Context, generation: int) -> None:
    wrapped = _wrap_new(ctx)
    steps.record(
        ctx,
        lambda session, now: guest_keys.renew(
            session, ctx.instance_id, generation=generation, wrapped=wrapped
        ),
    )


def _wrap_new(ctx: engine.Context) -> bytes:
    return ctx.tools.key_ring.wrap(
        crypto.generate_key(), purpose=guest_keys.purpose(ctx.instance_id)
    )
