"""Certificates of instances: the one the control plane signs, and the tenant's in its place."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from cryptography import x509
from oslo_log import log

from trove import states
from trove.common import exception
from trove.db import guest_jobs, instances, models, operations, tls
from trove.drivers.secrets.store import Consumer
from trove.rpc import payloads
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)

#: A certificate that ends sooner is signed anew when it is needed again.
_LEAST_LIFE = datetime.timedelta(days=60)
#: Tries of what may fail without harm.
_TRIES = 5
#: How long an undone change waits for its guest.
_UNDO_S = 60.0


# -- the instance's own -----


def sign(ctx: engine.Context, instance: models.Instance) -> str | None:
    """Return the certificate of an instance for its request, recorded before anybody has it.

    The same as the last time, unless its key changed or it soon ends; None without a request.
    """
    csr = instance.heartbeat.csr_pem
    if csr is None:
        return None
    known = tls.from_document(instance.ssl)
    if known.builtin_pem is not None and _fits(known.builtin_pem, csr, ctx.tools.clock.now()):
        return known.builtin_pem
    hostname = ctx.tools.drivers.dns.hostname_of(instance.id)
    pem = ctx.tools.drivers.secrets.sign_server_certificate(
        csr,
        instance_id=instance.id,
        addresses=[entry["address"] for entry in instance.addresses],
        hostnames=[instance.id, *([hostname] if hostname else [])],
    )
    new = dataclasses.replace(known, builtin_pem=pem)
    steps.record(ctx, lambda session, now: tls.put(session, instance.id, new, now=now))
    return pem


def _fits(pem: str, csr: str, now: datetime.datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        request = x509.load_pem_x509_csr(csr.encode())
    except ValueError:
        return False
    return (
        certificate.public_key() == request.public_key()
        and certificate.not_valid_after_utc - now >= _LEAST_LIFE
    )


# -- who uses a secret -----


def _consumer(ctx: engine.Context) -> Consumer:
    return Consumer(service="database", resource_type="instance", resource_id=ctx.instance_id)


def _register(ctx: engine.Context, setting: tls.Setting) -> None:
    """Note that the instance uses a secret."""
    if setting.container_ref is None:
        return
    try:
        ctx.tools.drivers.secrets.add_consumer(
            setting.container_ref, _consumer(ctx), project_id=str(setting.project_id)
        )
    except exception.SecretNotFound:
        # its key is with the operation, or with the guest: nothing depends on it
        LOG.info("instance %s: the secret of its bundle is gone", ctx.instance_id)


def _release(ctx: engine.Context, setting: tls.Setting | None) -> None:
    """Note that the instance does not use a secret any more; some tries, then let it be."""
    if setting is None or setting.container_ref is None:
        return
    try:
        ctx.tools.drivers.secrets.remove_consumer(
            setting.container_ref, _consumer(ctx), project_id=str(setting.project_id)
        )
    except exception.DriverError as e:
        if e.retryable and ctx.operation.attempts < _TRIES:
            raise
        LOG.warning(
            "instance %s: still noted as a consumer of a secret: %s", ctx.instance_id, e.message
        )


def _stored(ctx: engine.Context) -> tls.Tls:
    with ctx.tools.database.reader() as session:
        return tls.get(session, ctx.instance_id)


def _wanted(ctx: engine.Context) -> tls.Setting:
    return tls.Setting(**ctx.data["setting"])


class ReleaseSecret(engine.Step):
    """For an instance that goes: it uses no secret any more."""

    name = "release_secret"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Tell the key manager."""
        _release(ctx, _stored(ctx).current)
        return None


# -- the flow -----


class RegisterConsumer(engine.Step):
    """Have the key manager know who uses the bundle, lest it is deleted unawares."""

    name = "register_consumer"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Tell the key manager."""
        _register(ctx, _wanted(ctx))
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Take it back, unless the bundle is the one in use."""
        wanted = _wanted(ctx)
        if wanted.container_ref != _stored(ctx).current.container_ref:
            _release(ctx, wanted)
        return None


class Install(engine.Step):
    """Have the agent switch over."""

    name = "install"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        outcome = steps.run_job(ctx, payloads.SslJob.KIND, lambda: self._job(ctx))
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            return outcome
        steps.expect_success(outcome, what="Changing TLS")
        return None

    @staticmethod
    def _job(ctx: engine.Context) -> payloads.SslJob:
        wanted, stored, secret = _wanted(ctx), _stored(ctx), ctx.secret()
        return payloads.SslJob(
            mode=wanted.mode,
            set_id=wanted.set_id,
            key_pem=secret.get("key_pem"),
            certificate_pem=wanted.certificate_pem,
            ca_pem=secret.get("ca_pem"),
            keep=_sets(stored.current, stored.previous),
        )

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the agent switch back if it may have switched; not for ever."""
        with ctx.tools.database.reader() as session:
            sent = guest_jobs.find(session, ctx.job_id(payloads.SslJob.KIND))
        if sent is None or sent.succeeded is False:
            return None
        now = ctx.tools.clock.now()
        since = datetime.datetime.fromisoformat(ctx.data.setdefault("undo_since", now.isoformat()))
        left_s = _UNDO_S - (now - since).total_seconds()
        if left_s <= 0:
            LOG.warning("instance %s: TLS may not be what is recorded", ctx.instance_id)
            return None
        outcome = steps.run_job(
            ctx, payloads.SslJob.KIND, lambda: self._former(ctx), name="undo", retry_s=left_s
        )
        return outcome if isinstance(outcome, engine.Wait) else None

    @staticmethod
    def _former(ctx: engine.Context) -> payloads.SslJob:
        stored = _stored(ctx)
        return payloads.SslJob(
            mode=stored.current.mode,
            set_id=stored.current.set_id,
            keep=_sets(stored.current, stored.previous),
        )


def _sets(*settings: tls.Setting | None) -> tuple[str, ...]:
    return tuple(each.set_id for each in settings if each is not None and each.set_id is not None)


class ReleaseFormer(engine.Step):
    """Have the key manager know that the former bundle is not used any more."""

    name = "release_former"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Tell the key manager, unless it is the same bundle."""
        former = _stored(ctx).current
        if former.container_ref != _wanted(ctx).container_ref:
            _release(ctx, former)
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """The former bundle stays in use: have the key manager know."""
        _register(ctx, _stored(ctx).current)
        return None


class Finish(engine.Step):
    """Record what is in force and end the task."""

    name = "finish"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Set task and TLS in one, unless somebody else set the task (a deletion)."""

        def finish(session: Any, now: datetime.datetime) -> None:
            if not instances.change_task(
                session,
                ctx.instance_id,
                expect=states.TaskStatus.UPDATING,
                to=states.TaskStatus(ctx.data["task"]),
                now=now,
                server_status=states.ServerStatus.ACTIVE,
            ):
                return
            old, wanted = tls.get(session, ctx.instance_id), _wanted(ctx)
            if wanted != old.current:
                new = dataclasses.replace(old, current=wanted, previous=old.current)
                tls.put(session, ctx.instance_id, new, now=now)
            instances.clear_fault(session, ctx.instance_id, now=now)
            LOG.info("instance %s: TLS is %s", ctx.instance_id, wanted.mode)

        steps.record(ctx, finish)
        return None


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Set the task back and tell what happened."""
    now = ctx.tools.clock.now()
    if instances.change_task(
        session,
        ctx.instance_id,
        expect=states.TaskStatus.UPDATING,
        to=states.TaskStatus(ctx.data["task"]),
        now=now,
    ):
        instances.set_fault(
            session,
            ctx.instance_id,
            message=f"{failure.message} TLS is as it was before.",
            details=f"step {failure.step}: {failure.details or failure.message}",
            now=now,
        )


FLOW = engine.Flow(
    kind=operations.UPDATE_SSL,
    steps=(RegisterConsumer(), Install(), ReleaseFormer(), Finish()),
    on_failed=on_failed,
)
