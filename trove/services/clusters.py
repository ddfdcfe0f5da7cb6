"""Clusters, as far as datastores have them: what a datastore can do stands in its spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from trove.common import exception
from trove.datastores import spec
from trove.db import base
from trove.services import names
from trove.services.datastores import Datastores, VersionChoice

#: Fewest members of a new cluster.
FEWEST_MEMBERS = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewMember:
    """A member that a new cluster is to have."""

    flavor_id: str
    volume_size_gib: int | None


class Clusters:
    """Use cases of clusters."""

    def __init__(self, *, database: base.Database) -> None:
        """Take the database."""
        self._datastores = Datastores(database=database)

    def list_page(self) -> Sequence[Any]:
        """Return the clusters: none."""
        return ()

    def get(self, cluster_id: str) -> Any:
        """Return a cluster; raises NotFound."""
        raise exception.NotFound(f"Cluster {cluster_id} cannot be found.")

    def create(self, choice: VersionChoice, members: Sequence[NewMember]) -> Any:
        """Begin to make a cluster.

        Raises DatastoreNotFound, DatastoreVersionUnknown, NotImplementedByEngine for a datastore
        without clusters, and BadRequest for members that do not match.
        """
        version = self._datastores.choose_version(choice)
        facts = names.get_spec(version.manager)
        names.require_engine(facts, spec.Capability.CLUSTER, datastore=version.datastore_name)
        if len(members) < FEWEST_MEMBERS:
            raise exception.BadRequest(reason=f"a cluster has at least {FEWEST_MEMBERS} instances")
        if len({member.flavor_id for member in members}) > 1:
            raise exception.BadRequest(reason="the instances of a cluster have the same flavor")
        if len({member.volume_size_gib for member in members}) > 1:
            raise exception.BadRequest(reason="the volumes of a cluster have the same size")
        raise exception.NotAvailable(feature="clusters")
