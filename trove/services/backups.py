"""Backups, as far as datastores have them, and where they are to be stored.

What a datastore can do stands in its spec: a request for a backup is checked as a whole and then
refused for the lack of the capability. Strategies are kept for every datastore.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from trove.common import concurrency, context, exception
from trove.datastores import spec
from trove.db import backup_strategies, base, datastores
from trove.services import names
from trove.services.changes import find_in_reach


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewBackup:
    """What a caller asks for: a backup of an instance, or one that is stored already."""

    name: str
    instance_id: str | None = None
    parent_id: str | None = None
    #: Version that a stored backup is of.
    restored_version_id: str | None = None


class Backups:
    """Use cases of backups and backup strategies."""

    def __init__(self, *, database: base.Database, clock: concurrency.Clock) -> None:
        """Take the collaborators."""
        self._database = database
        self._clock = clock

    def list_page(self, *, datastore: str | None) -> Sequence[Any]:
        """Return the backups of a datastore or of all: none; raises DatastoreNotFound."""
        if datastore is not None:
            with self._database.reader() as session:
                datastores.get_datastore(session, datastore)
        return ()

    def list_of_instance(self, caller: context.RequestContext, instance_id: str) -> Sequence[Any]:
        """Return the backups of an instance, in whatever state it is; raises InstanceNotFound."""
        with self._database.reader() as session:
            find_in_reach(session, caller, instance_id)
        return ()

    def get(self, backup_id: str) -> Any:
        """Return a backup; raises NotFound."""
        raise exception.NotFound(f"Backup {backup_id} cannot be found.")

    def create(self, caller: context.RequestContext, new: NewBackup) -> Any:
        """Begin to make a backup.

        Raises InstanceNotFound, DatastoreVersionUnknown, NotFound for the parent, and
        NotImplementedByEngine for a datastore without backups.
        """
        with self._database.reader() as session:
            if new.restored_version_id is not None:
                version = datastores.get_version(session, new.restored_version_id)
                manager, datastore = version.manager, version.datastore_name
            else:
                view = find_in_reach(session, caller, str(new.instance_id))
                manager, datastore = view.manager, view.datastore_name
        names.require_engine(names.get_spec(manager), spec.Capability.BACKUP, datastore=datastore)
        if new.parent_id is not None:
            self.get(new.parent_id)
        raise exception.NotAvailable(feature="backups")

    # -- strategies -----

    def list_strategies(
        self, project_id: str, instance_id: str | None
    ) -> Sequence[backup_strategies.Strategy]:
        """Return where a project's backups are stored, or those of one of its instances."""
        with self._database.reader() as session:
            return backup_strategies.list_strategies(session, project_id, instance_id=instance_id)

    @base.retry_on_conflict
    def set_strategy(
        self, caller: context.RequestContext, instance_id: str | None, container: str
    ) -> backup_strategies.Strategy:
        """Set where the backups of an instance, or of the whole project, are stored.

        Raises InstanceNotFound. What belongs to an instance belongs to the instance's project.
        """
        with self._database.writer() as session:
            project_id = str(caller.project_id)
            if instance_id is not None:
                project_id = find_in_reach(session, caller, instance_id).project_id
            strategy = backup_strategies.Strategy(
                project_id=project_id,
                instance_id=instance_id or backup_strategies.WHOLE_PROJECT,
                container=container,
            )
            backup_strategies.put(session, strategy, now=self._clock.now())
        return strategy

    @base.retry_on_conflict
    def remove_strategy(self, project_id: str, instance_id: str | None) -> None:
        """Remove a strategy, that of the whole project without ``instance_id``; or do nothing."""
        with self._database.writer() as session:
            backup_strategies.remove(
                session, project_id, instance_id or backup_strategies.WHOLE_PROJECT
            )
