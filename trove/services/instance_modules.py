"""Modules of instances: chosen, applied, asked after, removed.

The agent of the instance is asked in the request itself: what it answers is what is told, and what
it applied is what is recorded. What an agent says of a module that exists is not taken for its
facts, only for how it is there.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, context, crypto, exception
from trove.db import base, datastores, instance_views, modules
from trove.rpc import guest, payloads
from trove.services import agents
from trove.services.changes import find_in_reach
from trove.services.modules import ALL, get_in_reach

LOG = log.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A module on an instance: what the guest says, and the module where it still exists."""

    result: payloads.ModuleResult
    module: modules.Module | None
    may_show_contents: bool


class InstanceModules:
    """Use cases of modules on instances."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        guest_api: guest.GuestApi,
        key_ring: crypto.KeyRing,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._guest = guest_api
        self._key_ring = key_ring
        self._clock = clock

    def check_applicable(
        self, caller: context.RequestContext, ids: Collection[str], version: datastores.Version
    ) -> tuple[str, ...]:
        """Return the ids of the modules that a new instance gets, in the order of application.

        These are the ones that the caller names and those with ``auto_apply``. Raises
        ModuleNotFound, and BadRequest for one that is bound to another datastore version.
        """
        with self._database.reader() as session:
            named, auto = modules.list_for_instance(
                session,
                ids=ids,
                project_id=str(caller.project_id),
                is_admin=bool(caller.is_admin),
                datastore_id=version.datastore_id,
                version_id=version.id,
            )
        _require_all(ids, named)
        for module in named:
            _check_fit(module, datastore=version.datastore_name, version_id=version.id)
        every = {module.id: module for module in (*named, *auto)}
        return tuple(module.id for module in in_order(every.values()))

    def list_applied(
        self,
        caller: context.RequestContext,
        instance_id: str,
        *,
        from_guest: bool,
        include_contents: bool,
    ) -> Sequence[Applied]:
        """Return the modules of an instance as its agent has them.

        With ``from_guest`` also those that the service does not count as applied: that failed, or
        that were deleted. Raises InstanceNotFound, InstanceNotReady, GuestError.
        """
        self._open(caller, instance_id)
        results = self._call(
            instance_id,
            "list_modules",
            payloads.ModuleQuery(include_contents=include_contents),
        )
        with self._database.reader() as session:
            applied = modules.list_applied(session, instance_id)
            known = modules.list_by_ids(session, [result.id for result in results])
        if not from_guest:
            results = [result for result in results if result.id in applied]
        return _applied(caller, results, known)

    def apply(
        self, caller: context.RequestContext, instance_id: str, ids: Collection[str]
    ) -> Sequence[Applied]:
        """Apply modules to an instance and return how that went, each by itself.

        Raises InstanceNotFound, InstanceNotReady, ModuleNotFound, BadRequest, GuestError.
        """
        view = self._open(caller, instance_id)
        with self._database.reader() as session:
            found = [m for m in modules.list_by_ids(session, ids) if _is_in_reach(caller, m)]
            contents = modules.get_contents(session, [module.id for module in found])
        _require_all(ids, found)
        for module in found:
            _check_fit(module, datastore=view.datastore_name, version_id=view.datastore_version_id)
        if not found:
            return []
        request = payloads.Modules(modules=to_payloads(found, contents, key_ring=self._key_ring))
        results = self._call(instance_id, "apply_modules", request)
        self._record(instance_id, results)
        return _applied(caller, results, found)

    @base.retry_on_conflict
    def _record(self, instance_id: str, results: Iterable[payloads.ModuleResult]) -> None:
        applied = {result.id: result.md5 for result in results if result.status == "OK"}
        with self._database.writer() as session:
            modules.record_applied(session, instance_id, applied, now=self._clock.now())

    def remove(self, caller: context.RequestContext, instance_id: str, module_id: str) -> None:
        """Take a module away from an instance; nothing when it is not there.

        Raises InstanceNotFound, InstanceNotReady, ModuleNotFound, GuestError, and Forbidden for
        one that operators have every instance get.
        """
        self._open(caller, instance_id)
        with self._database.reader() as session:
            module = get_in_reach(session, caller, module_id)
        if module.auto_apply and not caller.is_admin:
            raise exception.Forbidden(reason="the module is applied to every instance by operators")
        self._guest.call(
            instance_id,
            "remove_module",
            payloads.ModuleRef(id=module_id),
            timeout_s=float(self._conf.api.guest_call_timeout_s),
        )
        with self._database.writer() as session:
            modules.forget(session, instance_id, module_id)
        LOG.info("instance %s: module %s removed", instance_id, module_id)

    # -- shared -----

    def _open(
        self, caller: context.RequestContext, instance_id: str
    ) -> instance_views.InstanceView:
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
        expiry = datetime.timedelta(seconds=self._conf.api.agent_heartbeat_expiry_s)
        agents.require_running(view, now=self._clock.now(), expiry=expiry)
        return view

    def _call(
        self, instance_id: str, method: str, request: payloads.Payload
    ) -> Sequence[payloads.ModuleResult]:
        answer = self._guest.call(
            instance_id, method, request, timeout_s=float(self._conf.api.guest_call_timeout_s)
        )
        if not isinstance(answer, payloads.ModuleResults):
            raise exception.GuestError(reason=f"{method} was answered with something else")
        return answer.modules


def in_order(found: Iterable[modules.Module]) -> list[modules.Module]:
    """Return modules in the order in which they are applied."""
    return sorted(found, key=lambda m: (not m.priority_apply, m.apply_order, m.name, m.id))


def to_payloads(
    found: Iterable[modules.Module], contents: Mapping[str, bytes], *, key_ring: crypto.KeyRing
) -> tuple[payloads.Module, ...]:
    """Return what a guest is sent of modules, in the order of application."""
    return tuple(
        payloads.Module(
            id=module.id,
            type=module.type,
            name=module.name,
            md5=module.md5,
            contents=base64.b64encode(
                key_ring.unwrap(contents[module.id], purpose=f"module:{module.id}")
            ).decode("ascii"),
            tenant=module.project_id or ALL,
            datastore=module.datastore_name or ALL,
            datastore_version=module.version_name or ALL,
            auto_apply=module.auto_apply,
            visible=module.visible,
            is_admin=module.is_admin,
        )
        for module in in_order(found)
        if module.id in contents
    )


def _is_in_reach(caller: context.RequestContext, module: modules.Module) -> bool:
    if caller.is_admin:
        return True
    return module.visible and module.project_id in (None, str(caller.project_id))


def _require_all(ids: Collection[str], found: Iterable[modules.Module]) -> None:
    missing = sorted(set(ids) - {module.id for module in found})
    if missing:
        raise exception.ModuleNotFound(module_id=", ".join(missing[:5]))


def _check_fit(module: modules.Module, *, datastore: str, version_id: str) -> None:
    """Raise BadRequest unless a module is for instances of this datastore version."""
    if module.datastore_name not in (None, datastore):
        reason = f"module {module.name} is for datastore {module.datastore_name}, not {datastore}"
        raise exception.BadRequest(reason=reason)
    if module.datastore_version_id not in (None, version_id):
        raise exception.BadRequest(
            reason=f"module {module.name} is for version {module.version_name} of {datastore} only"
        )


def _applied(
    caller: context.RequestContext,
    results: Iterable[payloads.ModuleResult],
    found: Iterable[modules.Module],
) -> list[Applied]:
    """Return what the caller may see of a guest's results."""
    known = {module.id: module for module in found}
    shown = []
    for result in results:
        module = known.get(result.id)
        is_visible = result.visible if module is None else module.visible
        is_admins = result.is_admin if module is None else module.is_admin
        if is_visible or caller.is_admin:
            shown.append(
                Applied(
                    result=result,
                    module=module,
                    may_show_contents=bool(caller.is_admin) or not is_admins,
                )
            )
    return shown
