"""The name that an instance has in the DNS, where instances have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oslo_log import log

from trove.db import instances
from trove.taskmanager.operations import engine, steps

LOG = log.getLogger(__name__)


def _reached_at(addresses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a name should lead to: who is outside reaches the public address alone."""
    public = [entry["address"] for entry in addresses if entry["type"] == "public"]
    return public or [entry["address"] for entry in addresses]


def _show(ctx: engine.Context, hostname: str | None) -> None:
    steps.record(
        ctx,
        lambda session, now: instances.set_hostname(
            session, ctx.instance_id, hostname=hostname, now=now
        ),
    )


class CreateName(engine.Step):
    """Give the instance a name."""

    name = "create_name"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Have the name lead to the addresses, and show it; nothing where there are no names."""
        dns = ctx.tools.drivers.dns
        hostname = dns.hostname_of(ctx.instance_id)
        if hostname is None:
            return None
        dns.set_records(ctx.instance_id, _reached_at(steps.get_instance(ctx).addresses))
        _show(ctx, hostname)
        LOG.info("instance %s: named %s", ctx.instance_id, hostname)
        return None

    def undo(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove the name."""
        steps.remove_name(ctx)
        if ctx.tools.drivers.dns.hostname_of(ctx.instance_id) is not None:
            _show(ctx, None)
        return None


class UpdateName(engine.Step):
    """Have the name lead to addresses that changed."""

    name = "update_name"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Change the records of an instance that has a name."""
        if steps.get_instance(ctx).hostname is not None:
            ctx.tools.drivers.dns.set_records(ctx.instance_id, _reached_at(ctx.data["addresses"]))
        return None


class DeleteName(engine.Step):
    """Remove the name, before its address can be somebody else's."""

    name = "delete_name"

    def run(self, ctx: engine.Context) -> engine.Wait | None:
        """Remove it; nothing where there are no names."""
        steps.remove_name(ctx)
        return None
