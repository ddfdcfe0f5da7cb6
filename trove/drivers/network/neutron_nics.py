"""Whether a user may use the network, subnet and address that a request names.

The service could make a port on any network; so the user's own token asks Neutron, inside the
user's request, and nothing of it is kept. A network must be the project's own or shared with it:
external networks are seen by everybody, and are nobody's to attach to. Its addresses may be those
of the management network, too: guests keep the two apart.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

from trove.common import context, exception, keystone
from trove.drivers import cloud
from trove.drivers.network import neutron_api


class Nics:
    """Checks nics with their users' rights."""

    def __init__(self, conf: cfg.ConfigOpts, api: neutron_api.NeutronApi) -> None:
        """Take the service's own connection, for what the service may be asked itself."""
        self._conf = conf
        self._api = api

    def check(self, nic: Mapping[str, Any], caller: context.RequestContext) -> None:
        """Raise BadRequest unless the caller may use what the nic names."""
        with contextlib.closing(self._connect(caller)) as connection:
            users = connection.network
            network_id, subnet_id = nic.get("network_id"), nic.get("subnet_id")
            subnets = []
            if subnet_id is not None:
                subnet = self._see(users.get_subnet, "subnet", subnet_id)
                if network_id is not None and subnet.network_id != network_id:
                    raise _refused(f"Subnet {subnet_id} not found in the network {network_id}")
                network_id, subnets = subnet.network_id, [subnet]
            network = self._see(users.get_network, "network", network_id)
            if network.project_id != caller.project_id and not network.is_shared:
                raise _refused(
                    f"network {network_id} is neither the project's own nor shared with it"
                )
            if network.id == self._conf.neutron.management_network:
                raise _refused(f"network {network_id} is not for instances of users")
        if nic.get("ip_address"):
            _check_address(nic["ip_address"], subnets)

    def _connect(self, caller: context.RequestContext) -> Any:
        """Return a connection with the caller's token, to the endpoint that the service uses."""
        own = self._api.cloud
        with cloud.told("Keystone", "name the endpoint of Neutron"):
            endpoint = own.session.get_endpoint(
                service_type="network", interface=own.interface, region_name=own.region_name
            )
        session = keystone.user_session(self._conf, caller, endpoint=endpoint)
        return own.connection_of(session)

    def _see(self, show: Any, kind: str, thing_id: Any) -> Any:
        """Return a thing that the user sees; raises BadRequest when there is none for them."""
        try:
            with neutron_api.told(f"show a {kind} to its user"):
                return show(thing_id)
        except cloud.CloudNotFound:
            raise _refused(f"{kind} {thing_id} cannot be found") from None


def _check_address(text: Any, subnets: Sequence[Any]) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _refused(f"{text!r} is not an IP address") from None
    if not any(address in ipaddress.ip_network(subnet.cidr) for subnet in subnets):
        raise _refused(f"{address} is not in the subnet")


def _refused(reason: str) -> exception.BadRequest:
    return exception.BadRequest(reason=f"nics: {reason}")
