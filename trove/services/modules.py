"""Modules: made, changed, shown, removed, and applied again.

Options that reach beyond a project, or beyond what its members see, are an administrator's, and so
are the modules that administrators make, unless with ``full_access``. Contents are stored wrapped
and are not shown.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, context, crypto, exception
from trove.db import base, instance_views, models, modules, operations
from trove.services.datastores import Datastores

LOG = log.getLogger(__name__)

#: Options whose true value is an administrator's to give.
_ADMIN_OPTIONS = ("all_tenants", "auto_apply", "priority_apply")
#: In the place of a project, a datastore, a version: whichever.
ALL = "all"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reapplication:
    """Which instances to apply a module to again, and how fast."""

    md5: str | None = None
    force: bool = False
    batch_size: int = 50
    batch_delay_s: float = 2.0


class Modules:
    """Use cases of modules."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        run_operation: Callable[[str], object],
        key_ring: crypto.KeyRing,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators; ``run_operation`` tells the task manager, by best effort."""
        self._conf = conf
        self._database = database
        self._run_operation = run_operation
        self._key_ring = key_ring
        self._clock = clock
        self._datastores = Datastores(database=database)

    # -- modules -----

    def list_modules(
        self, caller: context.RequestContext, *, datastore: str | None
    ) -> Sequence[modules.Module]:
        """Return what the caller may know of, of one datastore or of those bound to none."""
        datastore_id = None
        if datastore is not None and datastore != ALL:
            datastore_id = self._datastores.get_datastore(caller, datastore).id
        with self._database.reader() as session:
            return modules.list_modules(
                session,
                project_id=reach(caller),
                datastore_id=datastore_id,
                for_all_datastores=datastore == ALL,
            )

    def get(self, caller: context.RequestContext, module_id: str) -> modules.Module:
        """Return a module; raises ModuleNotFound."""
        with self._database.reader() as session:
            return get_in_reach(session, caller, module_id)

    def count_instances(self, module_id: str) -> int:
        """Return how many live instances a module is applied to."""
        with self._database.reader() as session:
            return modules.count_instances(session, module_id)

    def create(self, caller: context.RequestContext, wanted: Mapping[str, Any]) -> modules.Module:
        """Make a module of these keys of the API.

        Raises Forbidden, BadRequest, AlreadyExists, DatastoreNotFound; NotFound for its type.
        """
        _authorize_options(caller, wanted)
        is_admin = bool(caller.is_admin)
        if wanted.get("full_access"):
            _refuse_admin_options(wanted)
            is_admin = False
        module_id = models.new_id()
        contents = _decode(wanted["contents"])
        values = {
            "name": wanted["name"],
            "type": self._check_type(str(_type_of(wanted))),
            "description": wanted.get("description"),
            "project_id": None if wanted.get("all_tenants") else str(caller.project_id),
            "md5": _md5(contents),
            **self._binding(caller, wanted.get("datastore") or {}),
            "auto_apply": bool(wanted.get("auto_apply")),
            "visible": bool(wanted.get("visible", True)),
            "live_update": bool(wanted.get("live_update")),
            "priority_apply": bool(wanted.get("priority_apply")),
            "is_admin": is_admin,
            "apply_order": wanted.get("apply_order", 5),
        }
        self._add(module_id, contents, values)
        LOG.info("module %s: made", module_id)
        return self._read(module_id)

    @base.retry_on_conflict
    def _add(self, module_id: str, contents: bytes, values: Mapping[str, Any]) -> None:
        with self._database.writer() as session:
            modules.add(
                session,
                module_id=module_id,
                contents_wrapped=self._wrap(module_id, contents),
                now=self._clock.now(),
                **values,
            )

    def update(
        self, caller: context.RequestContext, module_id: str, wanted: Mapping[str, Any]
    ) -> modules.Module:
        """Change a module by the keys of the API that are given.

        Raises ModuleNotFound, Forbidden, BadRequest, AlreadyExists, DatastoreNotFound.
        """
        _authorize_options(caller, wanted)
        self._update(caller, module_id, wanted)
        LOG.info("module %s: changed", module_id)
        return self._read(module_id)

    @base.retry_on_conflict
    def _update(
        self, caller: context.RequestContext, module_id: str, wanted: Mapping[str, Any]
    ) -> None:
        module = self.get(caller, module_id)
        _authorize_change(caller, module)
        values = self._changed(caller, module, wanted)
        with self._database.writer() as session:
            if not modules.hold(session, module_id):
                raise exception.ModuleNotFound(module_id=module_id)
            is_live = values.get("live_update", module.live_update)
            is_other = "md5" in values or "type" in values
            if is_other and not is_live and modules.count_instances(session, module_id):
                raise exception.Forbidden(
                    reason="contents and type of a module that is applied to instances can only be"
                    " changed with live_update"
                )
            modules.update(session, module, now=self._clock.now(), **values)

    def _changed(
        self, caller: context.RequestContext, module: modules.Module, wanted: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the columns that change."""
        values: dict[str, Any] = {
            key: bool(wanted[key])
            for key in ("auto_apply", "visible", "live_update", "priority_apply")
            if wanted.get(key) is not None
        }
        values |= {
            key: wanted[key]
            for key in ("name", "description", "apply_order")
            if wanted.get(key) is not None
        }
        if (kind := _type_of(wanted)) is not None:
            values["type"] = self._check_type(kind)
        if wanted.get("contents") is not None:
            contents = _decode(wanted["contents"])
            if _md5(contents) != module.md5:
                values["contents_wrapped"] = self._wrap(module.id, contents)
                values["md5"] = _md5(contents)
        if wanted.get("all_tenants") is not None:
            own = module.project_id or str(caller.project_id)
            values["project_id"] = None if wanted["all_tenants"] else own
        values |= self._rebinding(caller, module, wanted)
        values |= _ownership(caller, module, wanted, values)
        # what stays the same is no change
        return {key: value for key, value in values.items() if getattr(module, key, ...) != value}

    def _rebinding(
        self, caller: context.RequestContext, module: modules.Module, wanted: Mapping[str, Any]
    ) -> dict[str, Any]:
        choice = wanted.get("datastore") or {}
        if wanted.get("all_datastores"):
            if choice:
                raise exception.BadRequest(reason="all_datastores and datastore exclude each other")
            return {"datastore_id": None, "datastore_version_id": None}
        if wanted.get("all_datastore_versions"):
            if choice.get("version"):
                raise exception.BadRequest(
                    reason="all_datastore_versions and a version exclude each other"
                )
            bound = self._binding(caller, choice) if choice else {}
            return {**bound, "datastore_version_id": None}
        if not choice:
            return {}
        if not choice.get("type") and module.datastore_id is not None:
            choice = {**choice, "type": module.datastore_id}
        return self._binding(caller, choice)

    def _binding(
        self, caller: context.RequestContext, choice: Mapping[str, str]
    ) -> dict[str, str | None]:
        """Return the columns of a choice of datastore and version."""
        name, version = choice.get("type") or None, choice.get("version") or None
        if name is None:
            if version is not None:
                raise exception.BadRequest(reason="a datastore version needs its datastore")
            return {"datastore_id": None, "datastore_version_id": None}
        found = self._datastores.get_datastore(caller, name)
        if version is None:
            return {"datastore_id": found.id, "datastore_version_id": None}
        chosen = self._datastores.get_version(found.id, version)
        return {"datastore_id": found.id, "datastore_version_id": chosen.id}

    def _check_type(self, kind: str) -> str:
        known = self._conf.api.module_types
        if kind not in known:
            raise exception.NotFound(
                f"Module type {kind[:50]!r} cannot be found; there are: {', '.join(known)}."
            )
        return kind

    @base.retry_on_conflict
    def delete(self, caller: context.RequestContext, module_id: str) -> None:
        """Remove a module; raises ModuleNotFound, Forbidden while it is applied."""
        with self._database.writer() as session:
            _authorize_change(caller, get_in_reach(session, caller, module_id))
            if not modules.hold(session, module_id):
                raise exception.ModuleNotFound(module_id=module_id)
            if modules.count_instances(session, module_id):
                raise exception.Forbidden(
                    reason="the module is applied to instances: remove it from them first"
                )
            modules.mark_deleted(session, module_id, now=self._clock.now())
        LOG.info("module %s: deleted", module_id)

    # -- its instances -----

    def list_instances(
        self, caller: context.RequestContext, module_id: str, *, limit: int, marker: str | None
    ) -> tuple[Sequence[instance_views.InstanceSummary], str | None]:
        """Return a page of the caller's instances with a module, and the marker of the next."""
        with self._database.reader() as session:
            get_in_reach(session, caller, module_id)
            views, more = modules.list_instances(
                session, module_id, project_id=reach(caller), limit=limit, marker=marker
            )
        return views, views[-1].id if more and views else None

    def list_counts(
        self, caller: context.RequestContext, module_id: str
    ) -> tuple[modules.Module, Sequence[modules.Count]]:
        """Return a module and how many of the caller's instances have which contents of it."""
        with self._database.reader() as session:
            module = get_in_reach(session, caller, module_id)
            return module, modules.list_counts(session, module_id, project_id=reach(caller))

    def reapply(
        self, caller: context.RequestContext, module_id: str, wanted: Reapplication
    ) -> None:
        """Begin to apply a module again to the caller's instances.

        Raises ModuleNotFound, and Conflict while that is under way.
        """
        operation_id = self._begin_reapply(caller, module_id, wanted)
        self._run_operation(operation_id)
        LOG.info("module %s: reapply accepted as operation %s", module_id, operation_id)

    @base.retry_on_conflict
    def _begin_reapply(
        self, caller: context.RequestContext, module_id: str, wanted: Reapplication
    ) -> str:
        now = self._clock.now()
        with self._database.writer() as session:
            get_in_reach(session, caller, module_id)
            project_id = reach(caller)
            return operations.create(
                session,
                kind=operations.REAPPLY_MODULE,
                resource_id=module_id,
                lock_key=f"module:{module_id}:{_short(project_id)}",
                deadline=now + datetime.timedelta(seconds=self._conf.taskmanager.reapply_timeout_s),
                now=now,
                data={**dataclasses.asdict(wanted), "project_id": project_id},
                request_id=caller.request_id,
                project_id=str(caller.project_id),
                user_id=caller.user_id,
            )

    # -- shared -----

    def _wrap(self, module_id: str, contents: bytes) -> bytes:
        return self._key_ring.wrap(contents, purpose=f"module:{module_id}")

    def _read(self, module_id: str) -> modules.Module:
        with self._database.reader() as session:
            found = modules.find(session, module_id, project_id=None)
        if found is None:
            raise exception.ModuleNotFound(module_id=module_id)
        return found


def reach(caller: context.RequestContext) -> str | None:
    """Return the project that a caller is confined to; None for administrators."""
    return None if caller.is_admin else str(caller.project_id)


def _short(project_id: str | None) -> str:
    return hashlib.sha256(str(project_id).encode()).hexdigest()[:32]


def get_in_reach(session: Any, caller: context.RequestContext, module_id: str) -> modules.Module:
    module = modules.find(session, module_id, project_id=reach(caller))
    if module is None:
        raise exception.ModuleNotFound(module_id=module_id[:100])
    return module


def _authorize_options(caller: context.RequestContext, wanted: Mapping[str, Any]) -> None:
    """Raise Forbidden when somebody else than an administrator uses an administrator's option."""
    if caller.is_admin:
        return
    used = [option for option in _ADMIN_OPTIONS if wanted.get(option)]
    if wanted.get("visible") is not None and not wanted["visible"]:
        used.append("visible")
    if wanted.get("full_access") is not None:
        used.append("full_access")
    if used:
        raise exception.Forbidden(
            reason=f"only administrators may use these options of modules: {', '.join(used)}"
        )


def _authorize_change(caller: context.RequestContext, module: modules.Module) -> None:
    if not caller.is_admin and (module.is_admin or module.project_id is None):
        raise exception.Forbidden(reason="the module is an administrator's")


def _refuse_admin_options(options: Mapping[str, Any]) -> None:
    used = [option for option in _ADMIN_OPTIONS if options.get(option)]
    if not options.get("visible", True):
        used.append("visible")
    if used:
        raise exception.BadRequest(reason=f"full_access cannot be combined with {', '.join(used)}")


def _ownership(
    caller: context.RequestContext,
    module: modules.Module,
    wanted: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """Return whose the module is once ``values`` hold; only administrators change that."""
    if not caller.is_admin:
        return {}
    after = {**module._asdict(), **values}
    options = {
        "all_tenants": after["project_id"] is None,
        **{key: after[key] for key in ("auto_apply", "priority_apply", "visible")},
    }
    if wanted.get("full_access"):
        _refuse_admin_options(options)
        return {"is_admin": False}
    is_wide = any(options[key] for key in _ADMIN_OPTIONS) or not options["visible"]
    if wanted.get("full_access") is not None or is_wide:
        return {"is_admin": True}
    return {}


def _type_of(wanted: Mapping[str, Any]) -> str | None:
    """Return the type under either of the names that clients use."""
    return wanted.get("module_type") or wanted.get("type") or None


def _decode(text: str) -> bytes:
    try:
        contents = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise exception.BadRequest(reason="module.contents must be base64") from None
    if not contents:
        raise exception.BadRequest(reason="module.contents must not be empty")
    return contents


def _md5(contents: bytes) -> str:
    # how clients tell contents apart; nothing is trusted for it
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()
