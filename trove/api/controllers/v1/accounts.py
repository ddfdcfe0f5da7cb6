"""Handlers of databases, users, grants and the superuser."""

from __future__ import annotations

from typing import Any

from trove.api import method, notices, pagination
from trove.api.controllers.services import Services
from trove.api.controllers.v1 import parsing
from trove.api.method import Call, Json
from trove.api.routing import Resource
from trove.api.schemas import accounts as schemas
from trove.api.schemas import queries
from trove.api.views import accounts as views

_DATABASE = "instance:extension:database:"
_USER = "instance:extension:user:"
_ACCESS = "instance:extension:user_access:"
_ROOT = "instance:extension:root:"


def children(services: Services) -> dict[str, Resource]:
    """Return the nodes below an instance."""
    grants = Grants(services, item=Grant(services))
    return {
        "databases": Databases(services, item=Database(services)),
        "users": Users(services, item=User(services, children={"databases": grants})),
        # the older path of disabling the superuser
        "root": Root(services, children={"delete": RootDelete(services)}),
    }


class _Base(Resource):
    def __init__(self, services: Services, **nodes: Any) -> None:
        super().__init__(**nodes)
        self._services = services
        self._accounts = services.accounts

    def _page_arguments(self, call: Call) -> dict[str, Any]:
        api = self._services.conf.api
        limit = pagination.parse_limit(
            call.query, default=api.default_page_size, maximum=api.max_page_size
        )
        return {"limit": limit, "marker": pagination.parse_marker(call.query)}


def _wrapped(marker: str | None) -> str | None:
    return None if marker is None else pagination.wrap_marker(marker)


class Databases(_Base):
    """The databases of an instance."""

    @method.expose(f"{_DATABASE}index", response=schemas.DATABASES, query=queries.PAGE)
    def get(self, call: Call, instance_id: str) -> Json:
        """List databases."""
        page = self._accounts.list_databases(call.caller, instance_id, **self._page_arguments(call))
        return pagination.page(
            "databases",
            views.database_names(each.name for each in page.databases),
            urls=call.urls,
            query=call.query,
            next_marker=_wrapped(page.next_marker),
        )

    @method.expose(
        f"{_DATABASE}create",
        status=202,
        body=schemas.CREATE_DATABASES,
        notice=notices.DATABASE_CREATE,
    )
    def post(self, call: Call, instance_id: str) -> Json:
        """Create databases."""
        items = call.body["databases"] if "databases" in call.body else [call.body["database"]]
        databases = [parsing.database(item) for item in items]
        self._accounts.create_databases(call.caller, instance_id, databases)
        return None


class Database(_Base):
    """One database."""

    parameter = "database"

    @method.expose(f"{_DATABASE}show", response=schemas.DATABASE)
    def get(self, call: Call, instance_id: str, name: str) -> Json:
        """Show a database."""
        row = self._accounts.get_database(call.caller, instance_id, name)
        return {"database": views.database(row)}

    @method.expose(f"{_DATABASE}delete", status=202, notice=notices.DATABASE_DELETE)
    def delete(self, call: Call, instance_id: str, name: str) -> Json:
        """Delete a database."""
        self._accounts.delete_database(call.caller, instance_id, name)
        return None


class Users(_Base):
    """The users of an instance."""

    @method.expose(f"{_USER}index", response=schemas.USERS, query=queries.PAGE)
    def get(self, call: Call, instance_id: str) -> Json:
        """List users."""
        page = self._accounts.list_users(call.caller, instance_id, **self._page_arguments(call))
        return pagination.page(
            "users",
            [views.user(each) for each in page.users],
            urls=call.urls,
            query=call.query,
            next_marker=_wrapped(page.next_marker),
        )

    @method.expose(
        f"{_USER}create", status=202, body=schemas.CREATE_USERS, notice=notices.USER_CREATE
    )
    def post(self, call: Call, instance_id: str) -> Json:
        """Create users."""
        users = [parsing.user(item) for item in call.body["users"]]
        self._accounts.create_users(call.caller, instance_id, users)
        return None

    @method.expose(
        f"{_USER}update_all",
        status=202,
        body=schemas.CHANGE_PASSWORDS,
        notice=notices.USER_CHANGE_PASSWORD,
    )
    def put(self, call: Call, instance_id: str) -> Json:
        """Change passwords."""
        users = [parsing.user(item) for item in call.body["users"]]
        self._accounts.change_passwords(call.caller, instance_id, users)
        return None


class User(_Base):
    """One user."""

    parameter = "user"

    @method.expose(f"{_USER}show", response=schemas.USER)
    def get(self, call: Call, instance_id: str, user: str) -> Json:
        """Show a user."""
        row = self._accounts.get_user(call.caller, instance_id, parsing.user_name(user))
        return {"user": views.user(row)}

    @method.expose(
        f"{_USER}create", status=202, body=schemas.CREATE_ONE_USER, notice=notices.USER_CREATE_ONE
    )
    def post(self, call: Call, instance_id: str, user: str) -> Json:
        """Create the user of the path, as openstacksdk asks for it."""
        who = parsing.user_name(user)
        sent = call.body["users"] if "users" in call.body else call.body["user"]
        item = {"name": who.name, "host": who.host, **sent}
        schemas.USER_ITEM.check(item, root="users")
        self._accounts.create_users(call.caller, instance_id, [parsing.user(item)])
        return None

    @method.expose(
        f"{_USER}update", status=202, body=schemas.UPDATE_USER, notice=notices.USER_UPDATE
    )
    def put(self, call: Call, instance_id: str, user: str) -> Json:
        """Change a user."""
        change = parsing.user_change(call.body["user"])
        self._accounts.update_user(call.caller, instance_id, parsing.user_name(user), change)
        return None

    @method.expose(f"{_USER}delete", status=202, notice=notices.USER_DELETE)
    def delete(self, call: Call, instance_id: str, user: str) -> Json:
        """Delete a user."""
        self._accounts.delete_user(call.caller, instance_id, parsing.user_name(user))
        return None


class Grants(_Base):
    """What a user has access to."""

    @method.expose(f"{_ACCESS}index", response=schemas.ACCESS)
    def get(self, call: Call, instance_id: str, user: str) -> Json:
        """List the databases of a user."""
        row = self._accounts.get_user(call.caller, instance_id, parsing.user_name(user))
        return {"databases": views.database_names(row.databases)}

    @method.expose(f"{_ACCESS}update", status=202, body=schemas.GRANT, notice=notices.USER_GRANT)
    def put(self, call: Call, instance_id: str, user: str) -> Json:
        """Grant access to more databases."""
        databases = [item["name"] for item in call.body["databases"]]
        self._accounts.grant(call.caller, instance_id, parsing.user_name(user), databases)
        return None


class Grant(_Base):
    """A user's access to one database."""

    parameter = "database"

    @method.expose(f"{_ACCESS}delete", status=202, notice=notices.USER_REVOKE)
    def delete(self, call: Call, instance_id: str, user: str, database: str) -> Json:
        """Revoke access."""
        self._accounts.revoke(call.caller, instance_id, parsing.user_name(user), database)
        return None


class RootDelete(_Base):
    """Disabling the superuser, by its older path too."""

    @method.expose(f"{_ROOT}delete", status=204, notice=notices.ROOT_DISABLE)
    def delete(self, call: Call, instance_id: str) -> Json:
        """Disable the superuser."""
        self._accounts.disable_root(call.caller, instance_id)
        return None


class Root(RootDelete):
    """The superuser."""

    @method.expose(f"{_ROOT}index", response=schemas.ROOT_ENABLED)
    def get(self, call: Call, instance_id: str) -> Json:
        """Tell whether the superuser is enabled."""
        return {"rootEnabled": self._accounts.is_root_enabled(call.caller, instance_id)}

    @method.expose(
        f"{_ROOT}create",
        body=schemas.ENABLE_ROOT,
        response=schemas.ROOT_USER,
        body_required=False,
        notice=notices.ROOT_ENABLE,
    )
    def post(self, call: Call, instance_id: str) -> Json:
        """Enable the superuser."""
        name, password = self._accounts.enable_root(
            call.caller, instance_id, password=call.body.get("password")
        )
        return {"user": {"name": name, "password": password}}
