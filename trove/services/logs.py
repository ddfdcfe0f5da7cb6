"""The logs of an instance: asked of its agent, published to an object store by it.

The contents never come through here: an agent is granted the account of one project and stores them
there, and clients read them from the object store with their own credentials. A log of the project
(and a system log that the operator exposes) goes to the account of the instance's project; other
system logs are for administrators and go to the account of the administrator who publishes them.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TypeVar

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, context, exception
from trove.datastores import spec
from trove.db import base
from trove.db.instance_views import InstanceView
from trove.rpc import guest, payloads
from trove.services import names
from trove.services.changes import find_in_reach
from trove.storage import base as storage

LOG = log.getLogger(__name__)

_Answer = TypeVar("_Answer", bound=payloads.Payload)
#: Part of a request's time that an agent may publish for; the rest is for the way and the answer.
_PUBLISHING_SHARE = 0.5
_PAGE = 1000
#: Most objects that an agent is granted at once.
_MOST_NAMES = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogChange:
    """What to do with a log; nothing: show it."""

    enable: bool = False
    disable: bool = False
    publish: bool = False
    discard: bool = False

    @property
    def is_show(self) -> bool:
        """Tell whether nothing changes."""
        return self == LogChange()

    @property
    def needs_store(self) -> bool:
        """Tell whether the object store is asked for."""
        return self.publish or self.discard


class Logs:
    """Use cases of logs."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        guest_api: guest.GuestApi,
        store: storage.Store | None,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; without a store nothing can be published."""
        self._conf = conf
        self._database = database
        self._guest = guest_api
        self._store = store
        self._clock = clock

    def list_logs(self, caller: context.RequestContext, instance_id: str) -> list[payloads.Log]:
        """Return the logs that the caller may see.

        Raises InstanceNotFound, InstanceNotReady, NotImplementedByEngine, GuestError.
        """
        view, facts = self._find(caller, instance_id)
        self._require_agent(view)
        visible = {each.name: each for each in facts.logs if self._is_visible(caller, each)}
        answer = self._call(instance_id, "list_logs", payloads.Empty(), payloads.Logs)
        found = {each.name: each for each in answer.logs if each.name in visible}
        return [found[name] for name in visible if name in found]

    def change(
        self, caller: context.RequestContext, instance_id: str, name: str, change: LogChange
    ) -> payloads.Log:
        """Do what is asked for with a log and return it.

        Raises InstanceNotFound, InstanceNotReady, NotImplementedByEngine, BadRequest for a log that
        is not defined, Forbidden for one that the caller may not see, NotAvailable without a store,
        GuestError.
        """
        view, facts = self._find(caller, instance_id)
        asked = self._find_log(caller, facts, name)
        if change.enable and change.disable:
            raise exception.BadRequest(reason="a log is enabled or disabled, not both")
        is_switched = (change.enable or change.disable) and not change.publish
        if is_switched and asked.type is spec.LogType.SYS:
            raise exception.BadRequest(
                reason=f"the log {name} is always written: it can be published and discarded"
            )
        if change.needs_store and self._store is None:
            raise exception.NotAvailable(feature="publishing logs: there is no object store")
        self._require_agent(view)
        timeout_s = float(self._conf.api.guest_call_timeout_s)
        where = self._prepare(caller, view, asked, change)
        request = payloads.LogRequest(
            name=name,
            enable=change.enable,
            disable=change.disable,
            publish=change.publish,
            discard=change.discard,
            storage=where,
            budget_s=timeout_s * _PUBLISHING_SHARE,
        )
        method = "show_log" if change.is_show else "change_log"
        began_s = self._clock.monotonic()
        answer = self._call(instance_id, method, request, payloads.Log)
        if answer.wanted:
            until_s = began_s + request.budget_s
            answer = self._go_on(caller, view, asked, answer, until_s=until_s)
        if not change.is_show:
            LOG.info("instance %s: log %s is %s", instance_id, name, answer.status)
        return answer

    # -- who sees what -----

    def _find(
        self, caller: context.RequestContext, instance_id: str
    ) -> tuple[InstanceView, spec.DatastoreSpec]:
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
        facts = names.get_spec(view.manager)
        names.require_engine(facts, spec.Capability.LOGS, datastore=view.datastore_name)
        return view, facts

    def _find_log(
        self, caller: context.RequestContext, facts: spec.DatastoreSpec, name: str
    ) -> spec.LogSpec:
        for each in facts.logs:
            if each.name == name:
                if self._is_visible(caller, each):
                    return each
                raise exception.Forbidden(reason=f"the log {name} is for administrators")
        known = ", ".join(each.name for each in facts.logs if self._is_visible(caller, each))
        raise exception.BadRequest(reason=f"the log is not defined; there are {known}")

    def _is_exposed(self, asked: spec.LogSpec) -> bool:
        return asked.type is spec.LogType.USER or asked.name in self._conf.logs.exposed

    def _is_visible(self, caller: context.RequestContext, asked: spec.LogSpec) -> bool:
        return bool(caller.is_admin) or self._is_exposed(asked)

    # -- the agent -----

    def _prepare(
        self,
        caller: context.RequestContext,
        view: InstanceView,
        asked: spec.LogSpec,
        change: LogChange,
    ) -> payloads.LogStorage | None:
        """Do our part in the object store; returns what the agent needs for its own."""
        if not change.needs_store:
            return None
        try:
            where = self._grant(caller, view, asked)
            if change.discard and where is not None:
                self._discard(caller, where)
        except storage.StorageError as e:
            LOG.warning("instance %s: %s", view.id, e.message)
            raise exception.ServiceUnavailable(reason=e.message) from e
        return where

    def _go_on(
        self,
        caller: context.RequestContext,
        view: InstanceView,
        asked: spec.LogSpec,
        answer: payloads.Log,
        *,
        until_s: float,
    ) -> payloads.Log:
        """Have the agent publish on, where each object is granted by its name.

        That is what was pending when it was asked first: a busy log never ends.
        """
        enough_bytes = answer.published_bytes + answer.pending_bytes
        while (left_s := until_s - self._clock.monotonic()) > 0:
            try:
                where = self._grant(caller, view, asked, names=answer.wanted)
            except storage.StorageError as e:
                raise exception.ServiceUnavailable(reason=e.message) from e
            request = payloads.LogRequest(
                name=asked.name, publish=True, storage=where, budget_s=left_s
            )
            answer = self._call(view.id, "change_log", request, payloads.Log)
            if not answer.wanted or answer.published_bytes >= enough_bytes:
                break
        return answer

    def _grant(
        self,
        caller: context.RequestContext,
        view: InstanceView,
        asked: spec.LogSpec,
        *,
        names: Sequence[str] = (),
    ) -> payloads.LogStorage | None:
        if self._store is None:
            return None
        prefix = f"{view.id}/{view.manager}-{asked.name}/"
        # the object that describes them lies beside the log's objects
        shared = prefix.rstrip("/")
        own = [each for each in names[:_MOST_NAMES] if each.startswith(prefix)]
        project_id = view.project_id if self._is_exposed(asked) else str(caller.project_id)
        grant = self._store.grant(
            project_id,
            container=self._conf.logs.container,
            prefix=shared,
            caller=caller,
            names=[each.removeprefix(shared) for each in (storage.metafile(prefix), *own)],
        )
        return payloads.LogStorage(
            kind=self._store.kind,
            account=project_id,
            container=self._conf.logs.container,
            prefix=prefix,
            grant=dict(grant),
        )

    def _discard(self, caller: context.RequestContext, where: payloads.LogStorage) -> None:
        """Delete what is published where guests cannot find it themselves."""
        if self._store is None or self._store.guests_list:
            return
        account = self._store.account(where.account, caller=caller)
        timeout_s = float(self._conf.api.guest_call_timeout_s) * _PUBLISHING_SHARE
        until_s = self._clock.monotonic() + timeout_s
        while objects := account.list(where.container, prefix=where.prefix, limit=_PAGE):
            for each in objects:
                account.delete(where.container, each.name)
                if self._clock.monotonic() >= until_s:
                    raise exception.GuestError(
                        reason="not everything that was published could be deleted in time: ask"
                        " again"
                    )
        account.delete(where.container, storage.metafile(where.prefix))

    def _require_agent(self, view: InstanceView) -> None:
        """Raise InstanceNotReady unless the agent is there; the database need not be."""
        expiry = datetime.timedelta(seconds=self._conf.api.agent_heartbeat_expiry_s)
        is_silent = self._clock.now() - view.heartbeat_received > expiry
        is_leaving = view.task is states.TaskStatus.DELETING
        if view.server_id is None or is_leaving or is_silent:
            status = view.status
            if is_silent and not is_leaving and view.server_id is not None:
                status = f"{status}, and its agent has been silent since {view.heartbeat_received}"
            raise exception.InstanceNotReady(instance_id=view.id, status=status)

    def _call(
        self,
        instance_id: str,
        method: str,
        request: payloads.Payload,
        answer: type[_Answer],
    ) -> _Answer:
        timeout_s = float(self._conf.api.guest_call_timeout_s)
        result = self._guest.call(instance_id, method, request, timeout_s=timeout_s)
        if not isinstance(result, answer):
            raise exception.GuestError(reason=f"{method} was answered with something else")
        return result
