"""Names of instances in Designate: an A and an AAAA record set in one zone.

A record set belongs to an instance by its description, ``trove-<instance id>``; one of the same
name that somebody else made is left alone.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import threading
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.drivers import cloud
from trove.drivers.dns import base

LOG = log.getLogger(__name__)

SERVICE = "Designate"
_TYPES = {4: "A", 6: "AAAA"}
_LABELS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Zone:
    id: str
    #: With the dot at its end.
    name: str


class DesignateDns(base.DnsDriver):
    """Names in ``[designate] zone``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError when it makes no names."""
        group = conf.designate
        if not group.zone:
            raise exception.ConfigurationError(
                reason="[designate] zone is not set: it names the zone that instances are named in"
            )
        try:
            example = group.hostname_template.format(instance_id=uuid.UUID(int=0))
        except (KeyError, IndexError, ValueError):
            example = ""
        if str(uuid.UUID(int=0)) not in example or not _LABELS.fullmatch(example):
            raise exception.ConfigurationError(
                reason="[designate] hostname_template must make a host name with {instance_id}"
            )
        self._cloud = cloud.Cloud(conf)
        self._configured: str = group.zone
        self._template: str = group.hostname_template
        self._ttl_s: int = group.ttl_s
        self._lock = threading.Lock()
        self._known: _Zone | None = None

    def hostname_of(self, instance_id: str) -> str | None:
        """Return the name; asks Designate once when the zone is configured by its id."""
        return self._full_name(instance_id).rstrip(".")

    def set_records(self, instance_id: str, addresses: Sequence[str]) -> None:
        """Make, change and remove record sets until they are what is wanted."""
        zone, name = self._zone(), self._full_name(instance_id)
        found = {record.type: record for record in self._list(zone, name=name)}
        for version, record_type in _TYPES.items():
            wanted = sorted(
                address for address in addresses if ipaddress.ip_address(address).version == version
            )
            record = found.get(record_type)
            if record is not None and record.description != cloud.name_of(instance_id):
                raise cloud.CloudConflict(
                    service=SERVICE,
                    action="name an instance",
                    reason=f"{name} is the name of something else",
                    remedy="The operator removes that record set, or sets another"
                    " [designate] hostname_template",
                )
            self._settle(zone, instance_id, record_type, record, wanted)

    def remove_records(self, instance_id: str) -> None:
        """Remove the record sets of an instance."""
        for record in self._list(self._zone(), description=cloud.name_of(instance_id)):
            self._delete(record)

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have a record set, by one listing."""
        owners = {
            cloud.instance_of(record.description)
            for record in self._list(self._zone(), description=f"{cloud.PREFIX}*")
        }
        return {instance_id for instance_id in owners if instance_id is not None}

    def _settle(
        self,
        zone: _Zone,
        instance_id: str,
        record_type: str,
        record: Any | None,
        wanted: Sequence[str],
    ) -> None:
        if record is None and wanted:
            with cloud.told(SERVICE, "name an instance"):
                self._cloud.connection.dns.create_recordset(
                    zone.id,
                    name=self._full_name(instance_id),
                    type=record_type,
                    records=list(wanted),
                    ttl=self._ttl_s,
                    description=cloud.name_of(instance_id),
                )
            LOG.info("instance %s: its name leads to %s", instance_id, ", ".join(wanted))
        elif record is not None and not wanted:
            self._delete(record)
        elif record is not None and (
            sorted(record.records) != list(wanted) or record.ttl != self._ttl_s
        ):
            with cloud.told(SERVICE, "have a name lead elsewhere"):
                self._cloud.connection.dns.update_recordset(
                    record, records=list(wanted), ttl=self._ttl_s
                )
            LOG.info("instance %s: its name leads to %s", instance_id, ", ".join(wanted))

    def _delete(self, record: Any) -> None:
        with cloud.told(SERVICE, "remove the name of an instance"):
            self._cloud.connection.dns.delete_recordset(record)

    def _list(self, zone: _Zone, **query: str) -> list[Any]:
        with cloud.told(SERVICE, "list names"):
            found = list(self._cloud.connection.dns.recordsets(zone.id, **query))
        # one that is removed is listed until all name servers have heard of it
        return [record for record in found if record.action != "DELETE"]

    def _full_name(self, instance_id: str) -> str:
        label = self._template.format(instance_id=instance_id)
        if not _is_id(self._configured):
            return f"{label}.{self._configured.rstrip('.')}."
        return f"{label}.{self._zone().name}"

    def _zone(self) -> _Zone:
        """Return the configured zone, looked up once."""
        with self._lock:
            if self._known is None:
                self._known = self._find_zone()
            return self._known

    def _find_zone(self) -> _Zone:
        with cloud.told(SERVICE, "find the zone of instances"):
            api = self._cloud.connection.dns
            if _is_id(self._configured):
                found = [api.get_zone(self._configured)]
            else:
                found = list(api.zones(name=f"{self._configured.rstrip('.')}."))
        if not found:
            raise cloud.CloudNotFound(
                service=SERVICE,
                action="find the zone of instances",
                reason=f"the project of [service_credentials] has no zone {self._configured}",
                status=404,
                remedy="The operator makes it, or corrects [designate] zone",
            )
        return _Zone(id=found[0].id, name=found[0].name)


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
