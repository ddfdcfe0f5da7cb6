"""Create an instance: port, volume, server, agent, engine."""

from __future__ import annotations

import configparser
import dataclasses
import io
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.db import instances, models, operations
from trove.drivers.compute.base import ServerSpec
from trove.drivers.volume.base import Volume
from trove.rpc import payloads
from trove.services import names
from trove.taskmanager.operations import (
    access,
    certificates,
    channel,
    configure,
    engine,
    modules,
    naming,
    restore,
    steps,
)

LOG = log.getLogger(__name__)

#: More than an agent starts again while its server is being replaced.
_BOOTS_APART = 1000


class CreatePort(engine.Step):
    """Give the instance its ports: one to the guest bus, and one with an address for its users."""

    name = "create_port"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Make the ports, or complete what a try before this one made; record the address."""
        instance = steps.get_instance(ctx)
        driver = ctx.tools.drivers.network
        facts = names.get_spec(instance.version.manager)
        ctx.data["management_port_id"] = driver.create_management_port(instance_id=instance.id)
        port = driver.create_port(
            instance_id=instance.id,
            project_id=instance.project_id,
            nic=ctx.data.get("nic"),
            access=self.access(ctx, instance),
            engine_port=facts.port,
            more_ports=facts.more_ports,
        )
        addresses = steps.addresses_of(port)
        steps.record(
            ctx,
            lambda session, now: instances.set_port(
                session, instance.id, port_id=port.id, addresses=addresses, now=now
            ),
        )
        return None

    def access(self, ctx: engine.Context, instance: models.Instance) -> dict[str, Any]:
        """Return who may connect."""
        return access.effective(ctx.tools.conf, instance.access)

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove the ports."""
        return steps.remove_port(ctx)


class CreateVolume(engine.Step):
    """Give the instance its data volume."""

    name = "create_volume"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Find or make the volume and wait until it is available."""
        instance = steps.get_instance(ctx)
        if instance.volume_size_gib is None:
            return None
        volume = make_volume(ctx, instance, owner_id=instance.id)
        if isinstance(volume, engine.Wait):
            return volume
        steps.record(
            ctx,
            lambda session, now: instances.set_volume(
                session, instance.id, volume_id=volume.id, now=now
            ),
        )
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove the volume."""
        return steps.remove_volume(ctx)


def make_volume(
    ctx: engine.Context, instance: models.Instance, *, owner_id: str
) -> Volume | engine.Wait:
    """Return a volume like that of an instance, made for an owner; or the wait for it.

    It is made of a snapshot when the operation restores one. Raises StepFailed.
    """
    size_gib = instance.volume_size_gib or 0
    restoration = restore.find(ctx)
    # asked for again it gives the one that there is, and removes what is one too many
    volume = ctx.tools.drivers.volume.create_volume(
        instance_id=owner_id,
        size_gib=size_gib,
        volume_type=instance.volume_type,
        project_id=instance.project_id,
        snapshot_id=None if restoration is None else restoration.snapshot_id,
    )
    if volume.status == "creating":
        return steps.volume_wait(ctx, "volume", 1.0)
    if volume.status == "error":
        reason = steps.shorten(
            volume.fault,
            default="the volume service reports it in error; its operator looks for the reason"
            " in its log",
        )
        raise engine.StepFailed(
            f"A volume of {size_gib} GiB could not be made: {reason}",
            details=f"volume {volume.id} is in error",
        )
    return volume


class CreateServer(engine.Step):
    """Make the server that the agent and the engine run in."""

    name = "create_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Find or make the server."""
        instance = steps.get_instance(ctx)
        # also where there is one: a driver that died half-way goes on with what it made
        server = ctx.tools.drivers.compute.create_server(server_spec(ctx, instance))
        steps.record_server(ctx, server)
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove the server."""
        return steps.remove_server(ctx)


def server_spec(
    ctx: engine.Context, instance: models.Instance, *, image_id: str | None = None
) -> ServerSpec:
    """Describe the server of an instance; raises StepFailed when it cannot be made.

    Without ``image_id`` it is that of the datastore version.
    """
    image_id = image_id or get_image_id(ctx, instance.version)
    if instance.key_wrapped is None or instance.port_id is None or not instance.addresses:
        raise engine.StepFailed("The instance was deleted meanwhile.")
    first = channel.first_credentials(ctx)
    return ServerSpec(
        instance_id=instance.id,
        name=instance.name,
        project_id=instance.project_id,
        flavor=ctx.tools.drivers.compute.get_flavor(instance.flavor_id),
        image_id=image_id,
        datastore_manager=instance.version.manager,
        port_id=instance.port_id,
        management_port_id=ctx.data.get("management_port_id")
        or ctx.tools.drivers.network.create_management_port(instance_id=instance.id),
        address=instance.addresses[0]["address"],
        volume_id=instance.volume_id,
        availability_zone=instance.availability_zone,
        locality=instance.locality,
        group_id=steps.group_of(instance) if instance.locality else None,
        files={
            "guest.conf": render_guest_conf(
                ctx.tools.conf,
                instance_id=instance.id,
                datastore_manager=instance.version.manager,
                first_boot=_first_boot(instance),
                transport_url=first.transport_url,
            ),
            "instance.key": first.key + "\n",
        },
    )


def _first_boot(instance: models.Instance) -> int:
    """Return the number of an agent's first start, above those of its server before this one.

    Reports are ordered by it: what an earlier agent said last, and comes late, must not count.
    """
    boot = instance.heartbeat.boot
    return boot + _BOOTS_APART if boot else 1


def get_image_id(ctx: engine.Context, version: models.DatastoreVersion) -> str:
    """Return the image of a version: the one it names, else the newest one with its tags.

    Raises StepFailed when there is none.
    """
    if version.image_id is not None:
        return version.image_id
    image = ctx.tools.drivers.image.find_tagged(version.image_tags) if version.image_tags else None
    if image is None:
        raise engine.StepFailed(
            f"Datastore version {version.name} has no image: the operator imports one with"
            " 'trove-manage image import'."
        )
    return image.id


def render_guest_conf(
    conf: cfg.ConfigOpts,
    *,
    instance_id: str,
    datastore_manager: str,
    transport_url: str,
    first_boot: int = 1,
) -> str:
    """Return the part of an agent's configuration that is the same for every driver."""
    groups: Mapping[str, Mapping[str, object]] = {
        "guest": {
            "transport_url": transport_url,
            "heartbeat_interval_s": conf.guest.heartbeat_interval_s,
            "message_window_s": conf.guest.message_window_s,
        },
        "guestagent": {
            "instance_id": instance_id,
            "datastore_manager": datastore_manager,
            "first_boot": first_boot,
            "bundle_public_keys": ",".join(conf.guestagent.bundle_public_keys),
            "endpoints": ",".join(conf.guestagent.endpoints),
            "hosts": ",".join(f"{name}:{host}" for name, host in conf.guestagent.hosts.items()),
        },
    }
    parser = configparser.RawConfigParser()
    for group, values in groups.items():
        parser.add_section(group)
        for name, value in values.items():
            # oslo.config substitutes $name: a dollar sign of a password must stay one
            parser.set(group, name, str(value).replace("$", "$$"))
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


class AwaitServer(engine.Step):
    """Wait until the server runs."""

    name = "await_server"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look whether it does, or whether its agent said hello already.

        Raises StepFailed when it is gone or in error.
        """
        instance = steps.get_instance(ctx)
        if instance.server_status is states.ServerStatus.ACTIVE or instance.heartbeat.boot > 0:
            return None
        server = steps.keep_server_running(ctx)
        if server.status is not states.ServerStatus.ACTIVE:
            return steps.server_wait(ctx, "server", steps.BUILD_LOOK_S)
        steps.record_server(ctx, server)
        return None


class AwaitAgent(engine.Step):
    """Wait until the agent said hello."""

    name = "await_agent"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Look whether it did; meanwhile keep its server running."""
        if steps.get_instance(ctx).heartbeat.boot > 0:
            return None
        steps.watch_server(ctx)
        return steps.agent_wait(ctx)


class Prepare(engine.Step):
    """Have the agent make the engine, with its certificate, databases and users."""

    name = "prepare"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Send the job until its outcome is known."""
        outcome = steps.run_job(ctx, payloads.PrepareJob.KIND, lambda: self.job(ctx))
        if isinstance(outcome, engine.Wait):
            steps.watch_server(ctx)
            return outcome
        steps.expect_success(outcome, what="Preparing the database")
        for module_id in modules.record(ctx, ctx.instance_id, outcome.result):
            LOG.warning("instance %s: module %s was not applied", ctx.instance_id, module_id)
        configure.record_confirmed(ctx, outcome)
        return None

    def job(self, ctx: engine.Context) -> payloads.PrepareJob:
        """Describe the engine, and the backups that it is made from if there are any."""
        job = prepare_job(ctx, steps.get_instance(ctx))
        return dataclasses.replace(job, restoration=restore.payload_of(ctx))


def prepare_job(
    ctx: engine.Context, instance: models.Instance, *, engine_version: str | None = None
) -> payloads.PrepareJob:
    """Describe the engine of an instance for its agent, with a certificate for its request."""
    drivers = ctx.tools.drivers
    flavor = drivers.compute.get_flavor(instance.flavor_id)
    certificate = certificates.sign(ctx, instance)
    ca = None if certificate is None else drivers.secrets.get_ca_certificate()
    overrides, digest = configure.wanted(ctx, instance)
    return payloads.PrepareJob(
        memory_mib=flavor.ram_mib,
        vcpus=flavor.vcpus,
        volume_size_gib=instance.volume_size_gib,
        server_id=ctx.data.get("server_id", 1),
        certificate_pem=certificate,
        ca_pem=ca,
        overrides=overrides,
        overrides_digest=digest,
        engine_version=engine_version,
        databases=_payloads(payloads.Database, ctx.data.get("databases")),
        users=_payloads(payloads.User, ctx.secret().get("users")),
        modules=modules.payloads_of(ctx, ctx.data.get("modules") or ()),
    )


def _payloads(kind: Any, wires: list[dict[str, Any]] | None) -> tuple[Any, ...]:
    return tuple(kind.from_wire(wire) for wire in wires or ())


class Activate(engine.Step):
    """Hand the instance over to its user."""

    name = "activate"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """End the task BUILDING; raises StepFailed when somebody else ended it."""

        def activate(session: Any, now: Any) -> None:
            if instances.change_task(
                session,
                ctx.instance_id,
                expect=states.TaskStatus.BUILDING,
                to=states.TaskStatus.NONE,
                now=now,
                server_status=states.ServerStatus.ACTIVE,
            ):
                instances.clear_fault(session, ctx.instance_id, now=now)
                LOG.info("instance %s: ready", ctx.instance_id)

        steps.record(ctx, activate)
        task = steps.get_instance(ctx).task
        if task is not states.TaskStatus.NONE:
            raise engine.StepFailed(f"The instance is in task {task.value} meanwhile.")
        return None


_ERRORS: Mapping[str, states.TaskStatus] = {
    CreatePort.name: states.TaskStatus.BUILDING_ERROR_PORT,
    naming.CreateName.name: states.TaskStatus.BUILDING_ERROR_DNS,
    CreateVolume.name: states.TaskStatus.BUILDING_ERROR_VOLUME,
    CreateServer.name: states.TaskStatus.BUILDING_ERROR_SERVER,
    AwaitServer.name: states.TaskStatus.BUILDING_ERROR_SERVER,
}


def on_failed(ctx: engine.Context, session: Any, failure: engine.Failure) -> None:
    """Leave the instance in the error of the step that failed, with what to do about it."""
    now = ctx.tools.clock.now()
    task = _ERRORS.get(failure.step, states.TaskStatus.BUILDING_ERROR_TIMEOUT_GA)
    if instances.change_task(
        session, ctx.instance_id, expect=states.TaskStatus.BUILDING, to=task, now=now
    ):
        instances.set_fault(
            session,
            ctx.instance_id,
            message=f"{failure.message} Nothing is left of the instance but this record: delete it,"
            " and create it again once the cause is mended.",
            details=f"step {failure.step}: {failure.details or failure.message}",
            now=now,
        )
        LOG.warning("instance %s: %s", ctx.instance_id, task.value)


FLOW = engine.Flow(
    kind=operations.CREATE_INSTANCE,
    steps=(
        CreatePort(),
        naming.CreateName(),
        CreateVolume(),
        CreateServer(),
        AwaitServer(),
        AwaitAgent(),
        channel.SecureChannel(),
        restore.AwaitArchive(),
        Prepare(),
        channel.RemoveFirstAccount(),
        Activate(),
    ),
    on_failed=on_failed,
)
