"""Handlers of modules, and of the modules of an instance."""

from __future__ import annotations

from typing import Any

from trove.api import method, notices, pagination, query
from trove.api.controllers.services import Services
from trove.api.controllers.v1.instances import make_viewer
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import modules as schemas
from trove.api.schemas import queries
from trove.api.views import instances as instance_views
from trove.api.views import modules as views
from trove.services.modules import Reapplication


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below a project."""
    instances = ModuleInstances(services)
    module = Module(services, children={"instances": instances})
    return {"modules": Modules(services, item=module)}


def instance_children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    return {"modules": InstanceModules(services, item=InstanceModule(services))}


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._modules = services.modules
        self._applied = services.instance_modules


class Modules(_Base):
    """All modules that the caller may know of."""

    @method.expose(
        "module:index",
        response=schemas.LIST,
        errors=(404,),
        query={"datastore": queries.text("Only those for this datastore, by name or id.")},
    )
    def get(self, call: Call) -> Json:
        """List modules."""
        rows = self._modules.list_modules(
            call.caller, datastore=call.query.get("datastore") or None
        )
        return {"modules": [views.item(row) for row in rows]}

    @method.expose(
        "module:create",
        body=schemas.CREATE,
        response=schemas.DETAIL,
        notice=notices.MODULE_CREATE,
    )
    def post(self, call: Call) -> Json:
        """Make a module."""
        return {"module": views.detail(self._modules.create(call.caller, call.body["module"]))}


class Module(_Base):
    """One module."""

    parameter = "module_id"

    @method.expose("module:show", response=schemas.SHOW)
    def get(self, call: Call, module_id: str) -> Json:
        """Show a module."""
        row = self._modules.get(call.caller, module_id)
        count = self._modules.count_instances(module_id)
        return {"module": views.detail(row, instance_count=count)}

    @method.expose(
        "module:update",
        body=schemas.UPDATE,
        response=schemas.DETAIL,
        notice=notices.MODULE_UPDATE,
    )
    def put(self, call: Call, module_id: str) -> Json:
        """Change a module."""
        row = self._modules.update(call.caller, module_id, call.body["module"])
        return {"module": views.detail(row)}

    @method.expose("module:delete", notice=notices.MODULE_DELETE)
    def delete(self, call: Call, module_id: str) -> Json:
        """Delete a module."""
        self._modules.delete(call.caller, module_id)
        return None


class ModuleInstances(_Base):
    """The instances that a module is applied to."""

    @method.expose(
        "module:instances",
        response=schemas.INSTANCES,
        query={**queries.PAGE, "count_only": queries.flag("Count them by contents.")},
    )
    def get(self, call: Call, module_id: str) -> Json:
        """List them, or count them by contents."""
        if query.parse_bool(call.query, "count_only"):
            row, counts = self._modules.list_counts(call.caller, module_id)
            return {"instances": [views.count(row, each) for each in counts]}
        api = self._services.conf.api
        rows, next_marker = self._modules.list_instances(
            call.caller,
            module_id,
            limit=pagination.parse_limit(
                call.query, default=api.default_page_size, maximum=api.max_page_size
            ),
            marker=pagination.parse_marker(call.query),
        )
        viewer = make_viewer(self._services, call)
        return pagination.page(
            "instances",
            [instance_views.base(row, viewer) for row in rows],
            urls=call.urls,
            query=call.query,
            next_marker=next_marker,
        )

    @method.expose("module:reapply", status=202, body=schemas.REAPPLY)
    def put(self, call: Call, module_id: str) -> Json:
        """Apply the module to them again."""
        body = call.body["reapply"]
        md5, size, delay = body.get("md5"), body.get("batch_size"), body.get("batch_delay")
        wanted = Reapplication(
            md5=None if md5 is None else md5.lower(),
            force=bool(body.get("force")),
            batch_size=50 if size is None else size,
            batch_delay_s=2.0 if delay is None else float(delay),
        )
        self._modules.reapply(call.caller, module_id, wanted)
        return None


class InstanceModules(_Base):
    """The modules of an instance."""

    @method.expose(
        "instance:module_list",
        response=schemas.RESULTS,
        query={
            "from_guest": queries.flag("Ask the agent instead of the service's own records."),
            "include_contents": queries.flag("Tell what the modules contain."),
        },
    )
    def get(self, call: Call, instance_id: str) -> Json:
        """List them, as the agent has them."""
        applied = self._applied.list_applied(
            call.caller,
            instance_id,
            from_guest=query.parse_bool(call.query, "from_guest"),
            include_contents=query.parse_bool(call.query, "include_contents"),
        )
        return {"modules": [views.result(each) for each in applied]}

    @method.expose(
        "instance:module_apply",
        body=schemas.APPLY,
        response=schemas.RESULTS,
        notice=notices.MODULE_APPLY,
    )
    def post(self, call: Call, instance_id: str) -> Json:
        """Apply more of them."""
        ids = list(dict.fromkeys(item["id"].lower() for item in call.body["modules"]))
        applied = self._applied.apply(call.caller, instance_id, ids)
        return {"modules": [views.result(each) for each in applied]}


class InstanceModule(_Base):
    """One module of an instance."""

    parameter = "module_id"

    @method.expose("instance:module_remove", notice=notices.MODULE_REMOVE)
    def delete(self, call: Call, instance_id: str, module_id: str) -> Json:
        """Remove it from the instance."""
        self._applied.remove(call.caller, instance_id, module_id)
        return None
