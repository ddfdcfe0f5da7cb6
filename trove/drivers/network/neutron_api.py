"""How this service speaks with Neutron: as one project, with errors that say what helps.

Only what belongs to the service's own project is ever looked at: with the rights of a service,
lists hold what all projects have, and anybody may give a port of theirs the name of one of ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.drivers import cloud

LOG = log.getLogger(__name__)

SERVICE = "Neutron"


class NetworkFull(cloud.CloudError, exception.AddressPoolExhausted):
    """No address is left in a network of the cloud."""

    code = "trove.address_pool_exhausted"


_FULL = "Free some addresses of that network, or have its allocation pools enlarged"
_TAKEN = "Name another address, or none"
_GONE = "Name a network and a subnet that exist"
#: Type of Neutron's error -> our class, None to keep it, and what helps.
_KINDS: Mapping[str, tuple[type[cloud.CloudError] | None, str]] = {
    "IpAddressGenerationFailure": (NetworkFull, _FULL),
    "IpAddressGenerationFailureForSubnet": (NetworkFull, _FULL),
    "ExternalIpAddressExhausted": (NetworkFull, _FULL),
    "IpAddressAlreadyAllocated": (None, _TAKEN),
    "IpAddressInUse": (None, _TAKEN),
    "InvalidIpForNetwork": (None, _TAKEN),
    "InvalidIpForSubnet": (None, _TAKEN),
    "NetworkNotFound": (None, _GONE),
    "SubnetNotFound": (None, _GONE),
    "ExternalGatewayForFloatingIPNotFound": (
        None,
        "Connect the subnet to the external network with a router, or do without a public address",
    ),
}


def type_of(error: cloud.CloudError) -> str | None:
    """Return Neutron's own type of an error, None when it named none."""
    try:
        found = error.__cause__.response.json()["NeutronError"]["type"]  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return str(found)


@contextlib.contextmanager
def told(action: str) -> Iterator[None]:
    """Turn errors into a CloudError with the remedy that suits Neutron's own type of it."""
    try:
        with cloud.told(SERVICE, action):
            yield
    except cloud.CloudError as e:
        kind, remedy = _KINDS.get(type_of(e) or "", (None, None))
        if remedy is None:
            raise
        raise (kind or type(e))(
            service=SERVICE,
            action=action,
            reason=str(e.kwargs["reason"]),
            status=e.status,
            request_id=e.request_id,
            remedy=remedy,
        ) from e


class NeutronApi:
    """Neutron with the rights of this service; connects on first use."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError when it names no credential."""
        self.cloud = cloud.Cloud(conf)

    @contextlib.contextmanager
    def asked(self, action: str) -> Iterator[Any]:
        """Give openstacksdk's network proxy; errors inside say what was asked."""
        with told(action):
            yield self.cloud.connection.network

    @property
    def project_id(self) -> str:
        """Return the project that everything is made in."""
        return str(self.cloud.session.get_project_id())

    def find_own(self, action: str, kind: str, **query: Any) -> list[Any]:
        """Return what is ours of a kind (a list method of the proxy), oldest first."""
        with self.asked(action) as api:
            found = list(getattr(api, kind)(project_id=self.project_id, **query))
        # a second service of the cloud could list what it was not asked for
        mine = [each for each in found if each.project_id == self.project_id]
        return sorted(mine, key=lambda each: (each.created_at or "", each.id))


def keep_one(found: Sequence[Any], remove: Callable[[str], None], *, what: str) -> Any | None:
    """Return the first of what should be one at most, and remove the others.

    Two processes that made the same thing at once choose the same one of the two.
    """
    for twin in found[1:]:
        LOG.warning("%s %s is a twin of %s and is removed", what, twin.id, found[0].id)
        # whatever uses it will let go of it in time
        with contextlib.suppress(cloud.CloudConflict):
            remove(twin.id)
    return found[0] if found else None
