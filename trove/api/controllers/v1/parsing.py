"""From bodies that fit their schema to what services take."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from trove.common import context, exception
from trove.rpc import payloads
from trove.services.accounts import UserName
from trove.services.datastores import VersionChoice
from trove.services.instances import NewInstance, NewReplica
from trove.services.restores import RestorePoint


def authorize_parts(caller: context.RequestContext, new: NewInstance) -> None:
    """Raise PolicyForbidden unless the caller may also do what parts of the request amount to."""
    if new.databases:
        caller.authorize("instance:extension:database:create")
    if new.users:
        caller.authorize("instance:extension:user:create")
    if new.configuration_id is not None:
        caller.authorize("instance:update")
    if new.module_ids:
        caller.authorize("instance:module_apply")


def new_instance(body: Mapping[str, Any]) -> NewInstance:
    """Return what an ``instance`` object of a create request asks for; raises BadRequest."""
    if (body.get("replica_count") or 1) > 1:
        raise exception.BadRequest(reason="replica_count needs replica_of")
    volume = body.get("volume") or {}
    size = volume.get("size")
    return NewInstance(
        name=body["name"],
        flavor_id=flavor_id(body),
        version=version_choice(body.get("datastore") or {}),
        volume_size_gib=None if size is None else int(size),
        volume_type=volume.get("type") or None,
        databases=tuple(database(item) for item in body.get("databases") or ()),
        users=tuple(user(item) for item in body.get("users") or ()),
        availability_zone=body.get("availability_zone"),
        region=body.get("region_name"),
        nic=_nic(body.get("nics") or ()),
        access=body.get("access"),
        configuration_id=configuration_id(body.get("configuration", body.get("configuration_id"))),
        module_ids=tuple(
            dict.fromkeys(module["id"].lower() for module in body.get("modules") or ())
        ),
        locality=body.get("locality"),
        tags=tuple(body.get("tags") or ()),
        is_protected=body.get("deletion_protected", False),
        restore_point=_restore_point(body.get("restorePoint")),
    )


def _restore_point(point: Mapping[str, Any] | None) -> RestorePoint | None:
    if point is None:
        return None
    if "backupRef" not in point and "instance" not in point:
        raise exception.BadRequest(reason="restorePoint: backupRef is missing, or instance")
    return restore_point(point)


def restore_point(point: Mapping[str, Any]) -> RestorePoint:
    """Return what a database is to be restored from; raises BadRequest."""
    if "backupRef" in point and "instance" in point:
        raise exception.BadRequest(reason="restorePoint: name a backup or an instance, not both")
    if len({"time", "position", "name"} & set(point)) > 1:
        raise exception.BadRequest(reason="restorePoint: give one of time, position and name")
    if "backupRef" not in point and {"position", "name"} & set(point):
        raise exception.BadRequest(
            reason="restorePoint: a position or a name needs the backup that it comes after"
        )
    backup_id, instance_id = point.get("backupRef"), point.get("instance")
    wanted = point.get("time")
    is_now = isinstance(wanted, str) and wanted.lower() == "now"
    return RestorePoint(
        backup_id=None if backup_id is None else backup_id.lower(),
        instance_id=None if instance_id is None else instance_id.lower(),
        time=None if wanted is None or is_now else _time(wanted),
        is_now=is_now,
        position=point.get("position"),
        name=point.get("name"),
    )


def _time(text: str) -> datetime.datetime:
    """Return a time in UTC; one without a zone is meant so."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        return (
            moment.replace(tzinfo=datetime.UTC)
            if moment.tzinfo is None
            else moment.astimezone(datetime.UTC)
        )
    except (ValueError, OverflowError):
        raise exception.BadRequest(
            reason="restorePoint.time must be a time in ISO 8601, such as 2026-05-01T12:00:00Z, or"
            ' "now"'
        ) from None


#: Keys that a replica has from its source, and by which name a refusal calls them.
_FROM_SOURCE: Mapping[str, str] = {
    "flavorRef": "flavor",
    "flavor": "flavor",
    "volume": "volume",
    "datastore": "datastore",
    "locality": "locality",
}


def replica(body: Mapping[str, Any]) -> NewReplica:
    """Return which replicas an ``instance`` object asks for, and what in it is too much."""
    refusals = [
        f"Cannot specify {name} when creating replicas."
        for key, name in _FROM_SOURCE.items()
        if body.get(key)
    ]
    if any("ip_address" in nic or "v4-fixed-ip" in nic for nic in body.get("nics") or ()):
        refusals.append("Cannot specify IP address when creating replicas.")
    if body.get("databases") or body.get("users"):
        refusals.append("Cannot create a replica with users or databases.")
    return NewReplica(
        source_id=body["replica_of"].lower(), refusal=refusals[0] if refusals else None
    )


def configuration_id(reference: str | None) -> str | None:
    """Return the id of a configuration group that is given by id or URL."""
    return None if reference is None else last_segment(reference).lower()


def last_segment(reference: str) -> str:
    """Return what a URL ends with."""
    return reference.rstrip("/").rpartition("/")[2]


def volume_size_gib(size: Any) -> int:
    """Return a size that may stand in an object, and in decimal digits."""
    return int(size["size"] if isinstance(size, dict) else size)


def flavor_reference(reference: str | int) -> str:
    """Return the id of a flavor; of a URL the last segment."""
    text = str(reference)
    return last_segment(text) if "://" in text else text


def flavor_id(body: Mapping[str, Any]) -> str:
    """Take ``flavorRef``, or ``flavor`` as openstacksdk names it; of a URL the last segment."""
    reference = body.get("flavorRef", body.get("flavor"))
    if isinstance(reference, dict):
        reference = reference["id"]
    if reference is None:
        raise exception.ValidationFailed(reason="instance: flavorRef is missing")
    return flavor_reference(reference)


def version_choice(datastore: Mapping[str, str]) -> VersionChoice:
    """Return which version a ``datastore`` object means."""
    return VersionChoice(
        datastore=datastore.get("type") or None,
        version=datastore.get("version") or None,
        number=datastore.get("version_number") or None,
    )


def _nic(nics: Sequence[Mapping[str, str]]) -> Mapping[str, str] | None:
    if not nics:
        return None
    given = nics[0]
    nic = {
        "network_id": given.get("network_id") or given.get("net-id"),
        "subnet_id": given.get("subnet_id"),
        "ip_address": given.get("ip_address") or given.get("v4-fixed-ip"),
    }
    present = {key: value for key, value in nic.items() if value}
    if "network_id" not in present and "subnet_id" not in present:
        raise exception.BadRequest(reason="nics: network or subnet needs to be specified")
    if "ip_address" in present and "subnet_id" not in present:
        raise exception.BadRequest(reason="nics: subnet needs to be specified")
    return present


def database(item: Mapping[str, Any]) -> payloads.Database:
    """Return a database to be made."""
    return payloads.Database(
        name=item["name"],
        character_set=item.get("character_set") or None,
        collate=item.get("collate") or None,
    )


def user(item: Mapping[str, Any]) -> payloads.User:
    """Return a user to be made, or to be given a password."""
    return payloads.User(
        name=item["name"],
        host=item.get("host") or "%",
        password=item["password"],
        databases=tuple(each["name"] for each in item.get("databases") or ()),
    )


def user_change(item: Mapping[str, Any]) -> payloads.UserChange:
    """Return the new attributes of a user; raises BadRequest when there is none."""
    change = payloads.UserChange(
        new_name=item.get("name"), new_host=item.get("host"), new_password=item.get("password")
    )
    if change == payloads.UserChange():
        raise exception.BadRequest(reason="user: one of name, host, password must be given")
    return change


def user_name(segment: str) -> UserName:
    """Return which user a path segment means."""
    return UserName.parse(segment)
