"""What is told of requests that change something: notifications, and events of what was done.

A request whose work goes on as an operation is told of by the operation, from its acceptance on;
of such a request only its refusal is told here. Any other is told of when it starts and when it has
ended: of one that was cut short in between, the end is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_log import log

from trove.common import concurrency, context
from trove.db import base, events, instances, notifications

LOG = log.getLogger(__name__)


class Notices:
    """Writes what is told; never a secret in ``traits``."""

    def __init__(self, *, database: base.Database, clock: concurrency.Clock) -> None:
        """Take the collaborators."""
        self._database = database
        self._clock = clock

    def started(
        self, caller: context.RequestContext, event: str, traits: Mapping[str, Any]
    ) -> None:
        """Tell that a request begins to be carried out."""
        self._notify([(f"dbaas.{event}.start", self._traits(caller, traits))])

    def ended(
        self,
        caller: context.RequestContext,
        event: str | None,
        traits: Mapping[str, Any],
        *,
        feed: str | None,
        resource: tuple[str, str],
    ) -> None:
        """Tell that it was done; ``feed`` is the type of the event, of a resource (type, id).

        What was done is done: when it cannot be told, only the log says so.
        """
        try:
            self._store_end(caller, event, traits, feed=feed, resource=resource)
        except base.DatabaseError as e:
            LOG.error(
                "%s was done and could not be told of: the SQL backend fails (%s)",
                feed or event,
                type(e).__name__,
            )

    def failed(
        self,
        caller: context.RequestContext,
        event: str,
        traits: Mapping[str, Any],
        *,
        error: tuple[str, str],
        is_started: bool,
    ) -> None:
        """Tell that it failed; ``error`` is its code and what people are told."""
        code, message = error
        told = self._traits(caller, traits)
        items = [] if is_started else [(f"dbaas.{event}.start", told)]
        items.append((f"dbaas.{event}.error", {**told, "exception": code, "message": message}))
        try:
            self._notify(items, priority=notifications.ERROR)
        except base.DatabaseError as e:
            # the client is told why the request failed, which is worth more
            LOG.error("an error could not be told of: %s", type(e).__name__)

    def _traits(self, caller: context.RequestContext, traits: Mapping[str, Any]) -> dict[str, Any]:
        base_traits = notifications.base_traits(caller.project_id, caller.request_id)
        return {**base_traits, **traits}

    @base.retry_on_conflict
    def _notify(
        self, items: list[tuple[str, dict[str, Any]]], *, priority: str = notifications.INFO
    ) -> None:
        if not self._database.notifies:
            return
        now = self._clock.now()
        with self._database.writer() as session:
            for event_type, payload in items:
                notifications.append(
                    session,
                    event_type,
                    payload,
                    now=now,
                    priority=notifications.INFO if event_type.endswith(".start") else priority,
                )

    @base.retry_on_conflict
    def _store_end(
        self,
        caller: context.RequestContext,
        event: str | None,
        traits: Mapping[str, Any],
        *,
        feed: str | None,
        resource: tuple[str, str],
    ) -> None:
        if feed is None and (event is None or not self._database.notifies):
            return
        now = self._clock.now()
        resource_type, resource_id = resource
        with self._database.writer() as session:
            if event is not None:
                notifications.append(
                    session, f"dbaas.{event}.end", self._traits(caller, traits), now=now
                )
            if feed is None:
                return
            project_id = str(caller.project_id)
            if resource_type == "project":
                project_id = resource_id
            elif resource_type == "instance":
                # an administrator may act on another project's
                project_id = instances.find_project(session, resource_id) or project_id
            events.append(
                session,
                project_id,
                type=feed,
                resource_type=resource_type,
                resource_id=resource_id,
                payload={
                    name: value for name, value in traits.items() if name != f"{resource_type}_id"
                },
                request_id=caller.request_id,
                user_id=caller.user_id,
                now=now,
            )
