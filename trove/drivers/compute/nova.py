"""Servers of Nova, in the project of this service.

A server is found by its tags: one that all servers of this service have, and one with the id of its
instance. Nova sets them together with the server, and lists by them in one request. It lets two
servers have the same tags: whoever makes one looks again afterwards, and all agree on which one
stays. The port and the volume of an instance are made before, and Nova gives them to one server
only.

The files of the agent go by config drive, whose user data no network serves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import exception
from trove.drivers import cloud
from trove.drivers.compute import base, config_drive, nova_states
from trove.drivers.compute.nova_api import SERVICE, NovaApi, told

LOG = log.getLogger(__name__)

#: The tag of every server of this service.
TAG = "trove"
#: Beginning of the tag that names the instance. Nova takes 60 characters a tag.
INSTANCE_TAG = "trove-instance-"
#: Items of a server's metadata.
INSTANCE, PROJECT, GROUP = "trove_instance_id", "trove_project_id", "trove_group"

_FLAVOR_ID = re.compile(r"[\w. -]{1,255}", re.ASCII)
_POLICIES = frozenset({"affinity", "soft-affinity", "anti-affinity", "soft-anti-affinity"})
_MAX_NAME = 255
#: How Nova says that another server has a port or a volume.
_HELD = ("is still in use", "must be available or downloading to reserve")


class NovaCompute(base.ComputeDriver):
    """Servers in the project of ``[service_credentials]``."""

    attaches_volumes = True
    can_migrate = True

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; connects on first use. Raises ConfigurationError."""
        self._conf = conf
        self._api = NovaApi(conf)
        self.look_interval_s = conf.nova.look_interval_s
        try:
            _name(conf.nova.server_name, name="n", instance_id="i", project_id="p")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise exception.ConfigurationError(
                reason=f"[nova] server_name = {conf.nova.server_name}: only {{instance_id}},"
                " {project_id} and {name} can be used"
            ) from None

    # -- flavors -----

    def list_flavors(self) -> Sequence[base.Flavor]:
        """Return the flavors that the service's project may use, in order of memory."""
        found = self._api.pages("/flavors/detail", "flavors", action="list flavors")
        return sorted(map(_flavor, found), key=lambda flavor: (flavor.ram_mib, flavor.id))

    def get_flavor(self, flavor_id: str) -> base.Flavor:
        """Return a flavor by id; raises FlavorNotFound."""
        if not _FLAVOR_ID.fullmatch(flavor_id):
            raise exception.FlavorNotFound(flavor_id=flavor_id)
        try:
            with told(f"show flavor {flavor_id}"):
                return _flavor(self._api.reading.flavors.get(flavor_id).to_dict())
        except cloud.CloudNotFound:
            raise exception.FlavorNotFound(flavor_id=flavor_id) from None

    # -- servers -----

    def create_server(self, spec: base.ServerSpec) -> base.Server:
        """Begin to make a server, or return the one that there is."""
        found = self._find(spec.instance_id)
        if found is None:
            values = self._values(spec)
            try:
                with told(f"create a server with flavor {spec.flavor.name}"):
                    made = self._api.acting.servers.create(**values).to_dict()
            except cloud.CloudError as e:
                found = self._find(spec.instance_id)
                if found is None:
                    raise self._explained(e, spec) from e
                LOG.info("instance %s: its server was made after all", spec.instance_id)
            else:
                LOG.info("instance %s: server %s is being made", spec.instance_id, made["id"])
                found = self._remove_twins(spec.instance_id) or made
        return _server(found, instance_id=spec.instance_id)

    def _values(self, spec: base.ServerSpec) -> dict[str, Any]:
        """Return what is asked of Nova."""
        zone = spec.availability_zone or self._conf.nova.availability_zone
        if zone and ":" in zone:
            # to those who have this service's rights Nova lets it name a host
            raise cloud.CloudError(
                service=SERVICE,
                action="create a server",
                reason=f"there can be no availability zone {zone}",
            )
        ports = [port for port in (spec.management_port_id, spec.port_id) if port]
        metadata = {INSTANCE: spec.instance_id, PROJECT: spec.project_id}
        values: dict[str, Any] = {
            "name": _name(
                self._conf.nova.server_name,
                name=spec.name,
                instance_id=spec.instance_id,
                project_id=spec.project_id,
            ),
            "image": spec.image_id,
            "flavor": spec.flavor.id,
            "meta": metadata,
            "tags": [TAG, f"{INSTANCE_TAG}{spec.instance_id}"],
            "userdata": self._user_data(spec),
            "config_drive": True,
            "nics": [{"port-id": port} for port in ports],
            "key_name": self._conf.nova.keypair,
            "availability_zone": zone,
        }
        if spec.volume_id:
            values["block_device_mapping_v2"] = [
                {
                    "uuid": spec.volume_id,
                    "source_type": "volume",
                    "destination_type": "volume",
                    "boot_index": -1,
                    "delete_on_termination": False,
                }
            ]
        if spec.locality and spec.group_id:
            group_id = self._ensure_group(spec.group_id, spec.locality)
            values["scheduler_hints"] = {"group": group_id}
            metadata[GROUP] = cloud.name_of(spec.group_id)
        return values

    def _user_data(self, spec: base.ServerSpec) -> str:
        try:
            return config_drive.user_data(spec)
        except config_drive.TooLarge as e:
            raise cloud.CloudError(
                service=SERVICE, action="create a server", reason=str(e)
            ) from None

    def _explained(self, error: cloud.CloudError, spec: base.ServerSpec) -> cloud.CloudError:
        """Have it tried again when what stands in the way may be gone in a moment."""
        text = str(error).lower()
        if error.status in (400, 404) and spec.group_id and "group" in text:
            reason = "its server group was removed meanwhile"
        elif error.status in (400, 409) and any(words in text for words in _HELD):
            # by a server that is gone already and has not given everything back
            reason = "its port or volume is still in use"
        else:
            return error
        return cloud.refused(
            SERVICE,
            f"create a server with flavor {spec.flavor.name}",
            status=None,
            reason=reason,
            request_id=error.request_id,
        )

    def find_server(self, instance_id: str) -> base.Server | None:
        """Return the server of an instance, or None."""
        found = self._find(instance_id)
        if found is None:
            return None
        if found.get("status") == "ERROR":
            return self._troubled(found, instance_id)
        return _server(found, instance_id=instance_id)

    def check_gone(self, server_id: str) -> None:
        """Ask for the server by its id: a list leaves out, silently, the servers of a cell that is
        down. Raises CloudError, unless it is gone or going.
        """
        try:
            server = self._get(server_id, "show")
        except cloud.CloudNotFound:
            return
        if not nova_states.is_going(server):
            raise cloud.refused(
                SERVICE,
                f"list server {server_id}",
                status=None,
                reason="it is there, but is not listed by its tags",
            )

    def list_servers(self) -> Sequence[base.Server]:
        """Return all servers of this service; one request, or as many as there are pages."""
        made = []
        for each in self._list(TAG):
            instance_id = (each.get("metadata") or {}).get(INSTANCE)
            if instance_id:
                made.append(_server(each, instance_id=instance_id))
        return made

    def start_server(self, server_id: str) -> None:
        """Start a server that is SHUTOFF; nothing when it runs or is about to."""
        server = self._get(server_id, "start")
        if nova_states.status_of(server) is states.ServerStatus.SHUTOFF:
            self._begin("start", server_id, self._api.acting.servers.start)

    def stop_server(self, server_id: str) -> None:
        """Have the guest shut down, as by its power button; nothing when it is off."""
        server = self._get(server_id, "stop")
        if server["status"] != "SHUTOFF" and nova_states.task_of(server) != "powering-off":
            self._begin("stop", server_id, self._api.acting.servers.stop)

    def reboot_server(self, server_id: str) -> None:
        """Have the guest restart, or restart the server where its guest cannot be asked."""
        server = self._get(server_id, "reboot")
        if nova_states.status_of(server) is states.ServerStatus.REBOOT:
            return
        if server["status"] == "ACTIVE":
            try:
                self._begin("reboot", server_id, self._api.acting.servers.reboot, "SOFT")
                return
            except cloud.CloudConflict as e:
                LOG.info("server %s is rebooted the hard way: %s", server_id, e)
        self._act("reboot", server_id, self._api.acting.servers.reboot, "HARD")

    def delete_server(self, server_id: str) -> None:
        """Begin to remove a server, and its group with the last member; nothing when it is gone."""
        try:
            server = self._get(server_id, "delete")
            if nova_states.task_of(server) == "deleting":
                return
            self._remove_group_of(server)
            # at once, also where Nova keeps what was deleted for a while, with port and volume
            self._act("delete", server_id, self._api.acting.servers.force_delete)
        except cloud.CloudNotFound:
            return
        LOG.info("server %s is being deleted", server_id)

    # -- resizes and moves -----

    def resize_server(self, server_id: str, flavor: base.Flavor) -> None:
        """Begin a resize; nothing when the server has the flavor or is on its way."""
        server = self._get(server_id, "resize")
        is_busy = nova_states.status_of(server) is states.ServerStatus.RESIZE
        if is_busy or _flavor_id(server) == flavor.id:
            return
        self._begin(
            f"resize to flavor {flavor.name}", server_id, self._api.acting.servers.resize, flavor.id
        )

    def find_setback(self, server_id: str) -> str | None:
        """Return what Nova noted of its last action with a server, when that did not end well."""
        actions = self._api.reading.instance_action
        try:
            with told(f"list actions of server {server_id}"):
                last = actions.list(server_id)[:1]
                if not last:
                    return None
                request_id = last[0].request_id
                noted = self._api.acting.instance_action.get(server_id, request_id).to_dict()
        except cloud.CloudError as e:
            LOG.info("%s", e)
            return None
        failed = [each for each in noted["events"] if each.get("result") == "Error"]
        if not failed:
            return None
        reason = next((each["details"] for each in failed if each.get("details")), None)
        return nova_states.setback(noted["action"], reason, request_id)

    def confirm_resize(self, server_id: str) -> None:
        """Confirm a resize; nothing when none waits for it, or is being confirmed."""
        self._end_resize("confirm the resize of", server_id, "confirm_resize")

    def revert_resize(self, server_id: str) -> None:
        """Begin to take a resize back; nothing when none waits for it."""
        self._end_resize("revert the resize of", server_id, "revert_resize")

    def _end_resize(self, action: str, server_id: str, method: str) -> None:
        server = self._get(server_id, action)
        if server["status"] != "VERIFY_RESIZE":
            return
        try:
            self._act(action, server_id, getattr(self._api.acting.servers, method))
        except cloud.CloudError as e:
            # a confirmation that is under way already: "Instance has not been resized."
            if e.status not in (400, 409):
                raise
            LOG.info("server %s: %s", server_id, e)

    def migrate_server(self, server_id: str, host: str | None) -> None:
        """Begin a cold migration; nothing when the server is there, or on its way."""
        server = self._get(server_id, "migrate")
        if nova_states.status_of(server) in (
            states.ServerStatus.RESIZE,
            states.ServerStatus.VERIFY_RESIZE,
        ):
            return
        if host is None or _host(server) != host:
            self._begin("migrate", server_id, self._api.acting.servers.migrate, host)

    # -- volumes -----

    def attach_volume(self, server_id: str, volume_id: str) -> None:
        """Begin to give a server its volume; nothing when it has it."""
        action = f"attach volume {volume_id} to server {server_id}"
        if volume_id in self._attached(server_id, action):
            return
        try:
            with told(action):
                self._api.acting.volumes.create_server_volume(server_id, volume_id)
        except cloud.CloudError:
            if volume_id not in self._attached(server_id, action):
                raise

    def detach_volume(self, server_id: str, volume_id: str) -> None:
        """Begin to take a volume from a server; nothing when it is gone or going."""
        action = f"detach volume {volume_id} from server {server_id}"
        try:
            with told(action):
                self._api.acting.volumes.delete_server_volume(server_id, volume_id)
        except cloud.CloudNotFound:
            return
        except cloud.CloudError as e:
            # it is on its way: a volume that a server is to lose is "detaching" at once
            if e.status not in (400, 409) or "must be 'in-use'" not in str(e):
                raise
            LOG.info("%s", e)

    def _attached(self, server_id: str, action: str) -> set[str]:
        with told(action):
            found = self._api.acting.volumes.get_server_volumes(server_id)
        return {each.volumeId for each in found}

    # -- server groups -----

    def _ensure_group(self, group_id: str, policy: str) -> str:
        """Return Nova's id of a server group; several makers agree on one."""
        if policy not in _POLICIES:
            raise cloud.CloudError(
                service=SERVICE, action="create a server group", reason=f"no policy {policy}"
            )
        name = cloud.name_of(group_id)
        found = self._groups(name)
        if not found:
            with told(f"create server group {name}"):
                self._api.acting.server_groups.create(name=name, policy=policy)
            LOG.info("server group %s made, policy %s", name, policy)
            found = self._groups(name)
        if not found:
            raise cloud.refused(
                SERVICE, f"create server group {name}", status=None, reason="it is not listed"
            )
        kept, *others = found
        for each in others:
            if not each["members"]:
                self._delete_group(each["id"])
        return str(kept["id"])

    def list_empty_groups(self) -> Collection[str]:
        """Return whose groups have no server; one request, or as many as there are pages."""
        found = (
            cloud.instance_of(each["name"])
            for each in self._api.list_groups()
            if not each["members"]
        )
        return {group_id for group_id in found if group_id is not None}

    def remove_empty_group(self, group_id: str) -> None:
        """Remove a server group that was made for a server that never came."""
        for each in self._groups(cloud.name_of(group_id)):
            if not each["members"]:
                self._delete_group(each["id"])

    def _groups(self, name: str) -> list[Mapping[str, Any]]:
        """Return the groups of a name; first the one that is used."""
        found = [each for each in self._api.list_groups() if each["name"] == name]
        return sorted(found, key=lambda each: (not each["members"], each["id"]))

    def _remove_group_of(self, server: Mapping[str, Any]) -> None:
        name = (server.get("metadata") or {}).get(GROUP)
        if not name:
            return
        for each in self._groups(name):
            if set(each["members"]) <= {server["id"]}:
                self._delete_group(each["id"])

    def _delete_group(self, group_id: str) -> None:
        try:
            with told(f"delete server group {group_id}"):
                self._api.acting.server_groups.delete(group_id)
        except cloud.CloudNotFound:
            pass

    # -- inside -----

    def _list(self, tag: str) -> list[Mapping[str, Any]]:
        """Return the servers with a tag, oldest first."""
        found = list(
            self._api.pages(
                "/servers/detail", "servers", action="list servers", query={"tags": tag}
            )
        )
        return sorted(found, key=lambda each: (each["created"], each["id"]))

    def _find(self, instance_id: str) -> Mapping[str, Any] | None:
        """Return the oldest server of an instance; one that is going only when there is no other.

        A server that is gone is not listed any more.
        """
        found = self._list(f"{INSTANCE_TAG}{instance_id}")
        return min(found, key=nova_states.is_going, default=None)

    def _remove_twins(self, instance_id: str) -> Mapping[str, Any] | None:
        """Keep the oldest server of an instance, remove the others."""
        found = [
            each
            for each in self._list(f"{INSTANCE_TAG}{instance_id}")
            if not nova_states.is_going(each)
        ]
        for twin in found[1:]:
            LOG.warning("instance %s: removing its second server %s", instance_id, twin["id"])
            self._act("delete", twin["id"], self._api.acting.servers.force_delete)
        return found[0] if found else None

    def _get(self, server_id: str, action: str) -> Mapping[str, Any]:
        with told(f"{action} server {server_id}"):
            document: Mapping[str, Any] = self._api.reading.servers.get(server_id).to_dict()
        return document

    def _begin(self, action: str, server_id: str, call: Any, *args: Any) -> None:
        """Ask for what takes time; where something is under way already, that is waited for."""
        try:
            self._act(action, server_id, call, *args)
        except cloud.CloudConflict as e:
            if nova_states.task_of(self._get(server_id, action)) is None:
                raise
            LOG.info("%s", e)

    def _act(self, action: str, server_id: str, call: Any, *args: Any) -> None:
        with told(f"{action} server {server_id}"):
            call(server_id, *args)

    def _troubled(self, found: Mapping[str, Any], instance_id: str) -> base.Server:
        """Return a server in error with its fault, and with what was done last.

        Nova's list tells neither: of servers that came to no host it has no fault.
        """
        last: Mapping[str, Any] = {}
        try:
            found = self._get(found["id"], "show")
            with told(f"list actions of server {found['id']}"):
                actions = self._api.reading.instance_action.list(found["id"])
            last = actions[0].to_dict() if actions else {}
        except cloud.CloudError as e:
            LOG.info("%s", e)
        return _server(found, instance_id=instance_id, last=last)


def _name(template: str, **values: str) -> str:
    return template.format(**values)[:_MAX_NAME]


def _flavor(document: Mapping[str, Any]) -> base.Flavor:
    return base.Flavor(
        id=str(document["id"]),
        name=document["name"],
        ram_mib=document["ram"],
        vcpus=document["vcpus"],
        disk_gib=document.get("disk") or 0,
        ephemeral_gib=document.get("OS-FLV-EXT-DATA:ephemeral") or 0,
    )


def _flavor_id(document: Mapping[str, Any]) -> str | None:
    flavor_id = (document.get("flavor") or {}).get("id")
    return None if flavor_id is None else str(flavor_id)


def _host(document: Mapping[str, Any]) -> str | None:
    """Return the host; only those with an administrator's rights are told."""
    host: str | None = document.get("OS-EXT-SRV-ATTR:host")
    return host


def _server(
    document: Mapping[str, Any],
    *,
    instance_id: str,
    last: Mapping[str, Any] | None = None,
) -> base.Server:
    last = last or {}
    status = (
        nova_states.status_of(document)
        if document.get("status")
        # the answer to a create says nothing but the id
        else states.ServerStatus.BUILD
    )
    told_of = (document.get("updated"), document.get("status"), nova_states.task_of(document))
    return base.Server(
        id=document["id"],
        instance_id=instance_id,
        status=status,
        fault=nova_states.fault_of(
            document, action=last.get("action"), request_id=last.get("request_id")
        )
        if document.get("status")
        else None,
        flavor_id=_flavor_id(document),
        host=_host(document),
        changed=" ".join(str(each) for each in told_of) if document.get("updated") else None,
    )
