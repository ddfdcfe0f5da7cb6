"""Databases, users, grants and the superuser of an instance: asked of its agent, truthfully.

Every change is a call with a deadline: what the agent refuses, the caller is told. Names are
checked here by the rules of the datastore, so that a bad one never reaches the agent.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TypeVar

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, context, crypto, exception
from trove.datastores import spec
from trove.db import base, roots
from trove.db.instance_views import InstanceView
from trove.rpc import guest, payloads
from trove.services import agents, names
from trove.services.changes import find_in_reach

LOG = log.getLogger(__name__)

_Answer = TypeVar("_Answer", bound=payloads.Payload)

#: A lookup ends even when an agent never says that there are no more.
_LOOKUP_PAGE = 1000
_MOST_LOOKUP_PAGES = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UserName:
    """Which user of an instance."""

    name: str
    host: str = "%"

    @classmethod
    def parse(cls, text: str) -> UserName:
        """Split ``name@host`` at the last @; no host or an empty one is any host."""
        name, at, host = text.rpartition("@")
        if not at:
            return cls(name=text)
        return cls(name=name, host=host or "%")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """An instance that can be asked now, and the facts of its datastore."""

    view: InstanceView
    facts: spec.DatastoreSpec


class Accounts:
    """Use cases of what is inside an instance."""

    def __init__(
        self,
        *,
        conf: cfg.ConfigOpts,
        database: base.Database,
        guest_api: guest.GuestApi,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._conf = conf
        self._database = database
        self._guest = guest_api
        self._clock = clock

    # -- databases -----

    def list_databases(
        self, caller: context.RequestContext, instance_id: str, *, limit: int, marker: str | None
    ) -> payloads.Databases:
        """Return a page of databases; raises InstanceNotFound, InstanceNotReady, GuestError."""
        opened = self._open(caller, instance_id, spec.Capability.DATABASES)
        if limit == 0:
            return payloads.Databases()
        page = payloads.Page(limit=limit, marker=marker)
        return self._call(opened, "list_databases", page, payloads.Databases)

    def get_database(
        self, caller: context.RequestContext, instance_id: str, name: str
    ) -> payloads.Database:
        """Return one database; raises DatabaseNotFound."""
        opened = self._open(caller, instance_id, spec.Capability.DATABASES)
        names.check_database_name(opened.facts, name)
        page = payloads.Page(limit=_LOOKUP_PAGE)
        for _ in range(_MOST_LOOKUP_PAGES):
            answer = self._call(opened, "list_databases", page, payloads.Databases)
            for database in answer.databases:
                if database.name == name:
                    return database
            if answer.next_marker is None:
                break
            page = payloads.Page(limit=_LOOKUP_PAGE, marker=answer.next_marker)
        raise exception.DatabaseNotFound(name=name)

    def create_databases(
        self,
        caller: context.RequestContext,
        instance_id: str,
        databases: Sequence[payloads.Database],
    ) -> None:
        """Make databases; raises AlreadyExists, BadRequest."""
        opened = self._open(caller, instance_id, spec.Capability.DATABASES)
        names.check_databases(opened.facts, databases)
        if databases:
            request = payloads.Databases(databases=tuple(databases))
            self._call(opened, "create_databases", request, payloads.Empty)

    def delete_database(self, caller: context.RequestContext, instance_id: str, name: str) -> None:
        """Drop a database; raises DatabaseNotFound, BadRequest.

        A database that takes no writes because its disk is nearly full has room again after this.
        """
        opened = self._open(caller, instance_id, spec.Capability.DATABASES, may_be_blocked=True)
        names.check_database_name(opened.facts, name)
        self._call(opened, "delete_database", payloads.DatabaseRef(name=name), payloads.Empty)

    # -- users -----

    def list_users(
        self, caller: context.RequestContext, instance_id: str, *, limit: int, marker: str | None
    ) -> payloads.Users:
        """Return a page of users, without passwords."""
        opened = self._open(caller, instance_id, spec.Capability.USERS)
        if limit == 0:
            return payloads.Users()
        page = payloads.Page(limit=limit, marker=marker)
        return self._call(opened, "list_users", page, payloads.Users)

    def get_user(
        self, caller: context.RequestContext, instance_id: str, who: UserName
    ) -> payloads.User:
        """Return a user; raises UserNotFound, BadRequest."""
        opened = self._open_for(caller, instance_id, who)
        return self._call(opened, "get_user", _ref(who), payloads.User)

    def create_users(
        self, caller: context.RequestContext, instance_id: str, users: Sequence[payloads.User]
    ) -> None:
        """Make users with their grants; raises AlreadyExists, BadRequest."""
        opened = self._open(caller, instance_id, spec.Capability.USERS)
        names.check_users(opened.facts, users)
        if users:
            self._call(opened, "create_users", payloads.Users(users=tuple(users)), payloads.Empty)

    def change_passwords(
        self, caller: context.RequestContext, instance_id: str, users: Sequence[payloads.User]
    ) -> None:
        """Give users new passwords: all or, when one does not exist, none; raises UserNotFound."""
        opened = self._open(caller, instance_id, spec.Capability.USERS)
        names.check_users(opened.facts, users)
        for user in users:
            reference = payloads.UserRef(name=user.name, host=user.host)
            self._call(opened, "get_user", reference, payloads.User)
        for user in users:
            request = payloads.UpdateUser(
                user=payloads.UserRef(name=user.name, host=user.host),
                change=payloads.UserChange(new_password=user.password),
            )
            self._call(opened, "update_user", request, payloads.Empty)

    def update_user(
        self,
        caller: context.RequestContext,
        instance_id: str,
        who: UserName,
        change: payloads.UserChange,
    ) -> None:
        """Rename a user, give another host or password; raises UserNotFound, AlreadyExists."""
        opened = self._open_for(caller, instance_id, who)
        if change.new_name is not None:
            names.check_user_name(opened.facts, change.new_name)
        if change.new_host is not None:
            names.check_host(opened.facts, change.new_host)
        if change.new_password is not None:
            names.check_password(opened.facts, change.new_password)
        request = payloads.UpdateUser(user=_ref(who), change=change)
        self._call(opened, "update_user", request, payloads.Empty)

    def delete_user(self, caller: context.RequestContext, instance_id: str, who: UserName) -> None:
        """Drop a user; raises UserNotFound, BadRequest."""
        opened = self._open_for(caller, instance_id, who)
        self._call(opened, "delete_user", _ref(who), payloads.Empty)

    # -- grants -----

    def grant(
        self,
        caller: context.RequestContext,
        instance_id: str,
        who: UserName,
        databases: Sequence[str],
    ) -> None:
        """Add access to databases; raises UserNotFound, BadRequest for an unknown database."""
        opened = self._open_for(caller, instance_id, who)
        for name in databases:
            names.check_database_name(opened.facts, name)
        request = payloads.Grant(user=_ref(who), databases=tuple(dict.fromkeys(databases)))
        try:
            self._call(opened, "grant", request, payloads.Empty)
        except exception.DatabaseNotFound as e:
            raise exception.BadRequest(reason=e.message) from None

    def revoke(
        self, caller: context.RequestContext, instance_id: str, who: UserName, database: str
    ) -> None:
        """Take access to a database away; raises UserNotFound, DatabaseNotFound (not granted)."""
        opened = self._open_for(caller, instance_id, who)
        names.check_database_name(opened.facts, database)
        user = self._call(opened, "get_user", _ref(who), payloads.User)
        if database not in user.databases:
            raise exception.DatabaseNotFound(name=database)
        request = payloads.Grant(user=_ref(who), databases=(database,))
        self._call(opened, "revoke", request, payloads.Empty)

    # -- the superuser -----

    def is_root_enabled(self, caller: context.RequestContext, instance_id: str) -> bool:
        """Tell whether the superuser was enabled and not disabled since."""
        with self._database.reader() as session:
            return find_in_reach(session, caller, instance_id).root_enabled

    def enable_root(
        self, caller: context.RequestContext, instance_id: str, *, password: str | None
    ) -> tuple[str, str]:
        """Enable the superuser with this or a new password; return its name and password."""
        opened = self._open(caller, instance_id, spec.Capability.ROOT)
        chosen = password or crypto.generate_password()
        names.check_password(opened.facts, chosen)
        request = payloads.EnableRoot(password=chosen)
        try:
            answer = self._call(opened, "enable_root", request, payloads.RootUser)
        except exception.GuestTimeout:
            # it may have happened: the history must not miss it
            self._record_root(caller, instance_id)
            raise
        self._record_root(caller, instance_id)
        LOG.info("instance %s: superuser enabled", instance_id)
        return answer.name, chosen

    def disable_root(self, caller: context.RequestContext, instance_id: str) -> None:
        """Disable the superuser; raises NotFound unless it is enabled."""
        opened = self._open(caller, instance_id, spec.Capability.ROOT)
        if not opened.view.root_enabled:
            raise exception.NotFound("Root user has never been enabled on the instance.")
        self._call(opened, "disable_root", payloads.Empty(), payloads.Empty)
        with self._database.writer() as session:
            roots.record_disabled(session, instance_id, now=self._clock.now())
        LOG.info("instance %s: superuser disabled", instance_id)

    # -- shared -----

    def _record_root(self, caller: context.RequestContext, instance_id: str) -> None:
        with self._database.writer() as session:
            roots.record_enabled(
                session, instance_id, user_id=caller.user_id, now=self._clock.now()
            )

    def _open(
        self,
        caller: context.RequestContext,
        instance_id: str,
        capability: spec.Capability,
        *,
        may_be_blocked: bool = False,
    ) -> _Open:
        with self._database.reader() as session:
            view = find_in_reach(session, caller, instance_id)
        facts = names.get_spec(view.manager)
        names.require(facts, capability)
        expiry = datetime.timedelta(seconds=self._conf.api.agent_heartbeat_expiry_s)
        agents.require_running(
            view, now=self._clock.now(), expiry=expiry, may_be_blocked=may_be_blocked
        )
        return _Open(view=view, facts=facts)

    def _open_for(self, caller: context.RequestContext, instance_id: str, who: UserName) -> _Open:
        opened = self._open(caller, instance_id, spec.Capability.USERS)
        names.check_user_name(opened.facts, who.name)
        names.check_host(opened.facts, who.host)
        return opened

    def _call(
        self, opened: _Open, method: str, request: payloads.Payload, answer: type[_Answer]
    ) -> _Answer:
        result = self._guest.call(
            opened.view.id, method, request, timeout_s=float(self._conf.api.guest_call_timeout_s)
        )
        if not isinstance(result, answer):
            raise exception.GuestError(reason=f"{method} was answered with something else")
        return result


def _ref(who: UserName) -> payloads.UserRef:
    return payloads.UserRef(name=who.name, host=who.host)
