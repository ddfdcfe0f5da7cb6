"""Security groups: one for each instance, and one for all ports to the guest bus."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from oslo_log import log

from trove.drivers import cloud
from trove.drivers.network import neutron_api, neutron_rules

LOG = log.getLogger(__name__)

#: Descriptions tell what is whose apart, and can be asked for.
INSTANCE = "Database service: who may connect to an instance"
GUESTS = "Database service: ports to the guest bus"
#: No name of an instance's begins like it.
GUESTS_NAME = "database-guests"


class Groups:
    """The security groups of this service's project."""

    def __init__(self, api: neutron_api.NeutronApi) -> None:
        """Take the connection."""
        self._api = api

    def ensure(self, name: str, description: str, rules: Collection[neutron_rules.Rule]) -> str:
        """Return the id of the group of a name, made if need be, with exactly these rules."""
        group = self._find(name)
        if group is None:
            with self._api.asked("make a security group") as api:
                api.create_security_group(name=name, description=description)
            # whoever else made one meanwhile finds the same one
            group = self._find(name)
        if group is None:
            raise cloud.CloudUnavailable(
                service=neutron_api.SERVICE,
                action="make a security group",
                reason=f"{name} is not listed yet",
            )
        self._set_rules(group, rules)
        return str(group.id)

    def remove(self, instance_id: str) -> bool:
        """Remove the groups of an instance; tell whether there was one."""
        found = self._list(name=cloud.name_of(instance_id))
        for group in found:
            # in use by a port that goes in the next round
            with contextlib.suppress(cloud.CloudConflict):
                self._delete(group.id)
        return bool(found)

    def list_owners(self) -> set[str]:
        """Return the ids of the instances that have a group."""
        named = (cloud.instance_of(group.name) for group in self._list(description=INSTANCE))
        return {instance_id for instance_id in named if instance_id is not None}

    def _list(self, **query: str) -> list[Any]:
        return self._api.find_own("list security groups", "security_groups", **query)

    def _find(self, name: str) -> Any | None:
        return neutron_api.keep_one(self._list(name=name), self._delete, what="security group")

    def _delete(self, group_id: str) -> None:
        with self._api.asked("remove a security group") as api:
            api.delete_security_group(group_id)

    def _set_rules(self, group: Any, wanted: Collection[neutron_rules.Rule]) -> None:
        """Add what is missing, then remove what is too much: nobody allowed is ever kept out."""
        found = {
            wire["id"]: neutron_rules.Rule.from_wire(wire) for wire in group.security_group_rules
        }
        missing = set(wanted) - set(found.values())
        if missing:
            self._add(group, missing)
        for rule_id, rule in found.items():
            if rule not in wanted:
                with self._api.asked("remove a rule of a security group") as api:
                    api.delete_security_group_rule(rule_id)
        surplus = sum(rule not in wanted for rule in found.values())
        if missing or surplus:
            LOG.info(
                "security group %s: %d rules added, %d removed", group.name, len(missing), surplus
            )

    def _add(self, group: Any, rules: Collection[neutron_rules.Rule]) -> None:
        wires = [rule.to_wire(group.id) for rule in sorted(rules, key=repr)]
        try:
            with self._api.asked("add rules to a security group") as api:
                list(api.create_security_group_rules(wires))
        except cloud.CloudConflict:
            # some of them were added meanwhile, and none of these was
            for wire in wires:
                with (
                    contextlib.suppress(cloud.CloudConflict),
                    self._api.asked("add a rule to a security group") as api,
                ):
                    api.create_security_group_rule(**wire)
