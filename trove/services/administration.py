"""What operators see of instances of all projects, and what they ask of their agents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from oslo_config import cfg

from trove.common import context, exception
from trove.db import base, instance_lists, instance_views, roots
from trove.rpc import guest, payloads
from trove.services import instance_lists as pages
from trove.services.changes import find_in_reach

_Answer = TypeVar("_Answer", bound=payloads.Payload)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """An instance, and the last time its superuser was enabled."""

    view: instance_views.InstanceView
    root: roots.Enabling | None


class Administration:
    """Use cases of administrators."""

    def __init__(
        self, *, conf: cfg.ConfigOpts, database: base.Database, guest_api: guest.GuestApi
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._guest = guest_api

    def list_page(
        self,
        filters: instance_lists.Filters,
        *,
        order: instance_lists.Order,
        limit: int,
        marker: str | None,
    ) -> tuple[Sequence[instance_views.InstanceView], str | None]:
        """Return a page of the instances of all projects and the marker of the next one.

        Raises BadRequest for a marker of another list. A number as marker skips so many.
        """
        with self._database.reader() as session:
            return pages.read_page(
                session,
                instance_views.InstanceView,
                filters,
                order=order,
                limit=limit,
                marker=marker,
                takes_offsets=True,
            )

    def get(self, instance_id: str, *, with_deleted: bool) -> Inspected:
        """Return an instance, a deleted one only if asked for it; raises InstanceNotFound."""
        with self._database.reader() as session:
            view = instance_views.find_view(
                session, instance_id, project_id=None, with_deleted=with_deleted
            )
            if view is None:
                raise exception.InstanceNotFound(instance_id=instance_id)
            return Inspected(view=view, root=roots.find_last(session, instance_id))

    def get_root(self, instance_id: str) -> roots.Enabling | None:
        """Return when the superuser was last enabled, or None; raises InstanceNotFound."""
        return self.get(instance_id, with_deleted=False).root

    def diagnose(self, caller: context.RequestContext, instance_id: str) -> payloads.Diagnostics:
        """Return what agent and engine use; raises InstanceNotFound, GuestError, GuestTimeout."""
        return self._call(caller, instance_id, "diagnostics", payloads.Diagnostics)

    def get_hardware(self, caller: context.RequestContext, instance_id: str) -> payloads.HwInfo:
        """Return what an instance may use; raises InstanceNotFound, GuestError, GuestTimeout."""
        return self._call(caller, instance_id, "hwinfo", payloads.HwInfo)

    def ping(self, caller: context.RequestContext, instance_id: str) -> None:
        """Have the agent answer; raises InstanceNotFound, GuestError, GuestTimeout."""
        self._call(caller, instance_id, "ping", payloads.Heartbeat)

    def _call(
        self,
        caller: context.RequestContext,
        instance_id: str,
        method: str,
        answer: type[_Answer],
    ) -> _Answer:
        with self._database.reader() as session:
            find_in_reach(session, caller, instance_id)
        timeout_s = float(self._conf.api.guest_call_timeout_s)
        result = self._guest.call(instance_id, method, payloads.Empty(), timeout_s=timeout_s)
        if not isinstance(result, answer):
            raise exception.GuestError(reason=f"{method} was answered with something else")
        return result
