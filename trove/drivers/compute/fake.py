"""A compute driver for tests: servers are entries of a dict, faults are injected."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Collection, Sequence

from oslo_config import cfg

from trove import states
from trove.common import exception
from trove.drivers import injection
from trove.drivers.compute import base

FLAVORS = (
    base.Flavor(id="1", name="db.tiny", ram_mib=256, vcpus=1),
    base.Flavor(id="2", name="db.small", ram_mib=512, vcpus=1),
)
HOSTS = ("host-1", "host-2")


@dataclasses.dataclass(slots=True, kw_only=True)
class _Entry:
    server: base.Server
    spec: base.ServerSpec
    looks_until_active: int
    looks_until_gone: int | None = None
    #: The flavor that an unconfirmed resize left, and the looks until it has.
    resized_from: str | None = None
    looks_until_resized: int = 0


class FakeCompute(base.ComputeDriver):
    """Servers that exist only here.

    ``looks_to_build`` and ``looks_to_delete`` say how many times a server is looked at before it
    is ACTIVE or gone, ``looks_to_resize`` the same of one that is resized. ``on_start`` is called
    with the instance id when a server starts.
    """

    can_migrate = True

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Begin without servers; the configuration is not used."""
        self.injector = injection.Injector()
        self.on_start: Callable[[str], None] | None = None
        self.on_stop: Callable[[str], None] | None = None
        #: Told of each volume that a server takes (True) or lets go of (False).
        self.on_volume: Callable[[str, bool], None] | None = None
        self.looks_to_build = 0
        self.looks_to_delete = 0
        self.looks_to_resize = 0
        #: How often a server was made for each instance.
        self.created: dict[str, int] = {}
        #: Groups of servers.
        self.groups: set[str] = set()
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.RLock()

    def list_flavors(self) -> Sequence[base.Flavor]:
        """Return all flavors, in order of memory."""
        with self.injector.around("list_flavors"):
            return FLAVORS

    def get_flavor(self, flavor_id: str) -> base.Flavor:
        """Return a flavor by id; raises FlavorNotFound."""
        with self.injector.around("get_flavor"):
            for flavor in FLAVORS:
                if flavor.id == flavor_id:
                    return flavor
            raise exception.FlavorNotFound(flavor_id=flavor_id)

    def create_server(self, spec: base.ServerSpec) -> base.Server:
        """Make a server, unless the instance has one."""
        with self.injector.around("create_server"), self._lock:
            entry = self._find(spec.instance_id)
            if entry is not None:
                return entry.server
            if spec.group_id is not None:
                self.groups.add(spec.group_id)
            is_slow = self.looks_to_build > 0
            entry = _Entry(
                server=base.Server(
                    id=str(uuid.uuid4()),
                    instance_id=spec.instance_id,
                    status=states.ServerStatus.BUILD if is_slow else states.ServerStatus.ACTIVE,
                    flavor_id=spec.flavor.id,
                    host=HOSTS[0],
                ),
                spec=spec,
                looks_until_active=self.looks_to_build,
            )
            self._entries[entry.server.id] = entry
            self.created[spec.instance_id] = self.created.get(spec.instance_id, 0) + 1
            if self.attaches_volumes and spec.volume_id is not None:
                self._volume_moved(spec.volume_id, True)
            if not is_slow:
                self._started(spec.instance_id)
            return entry.server

    def find_server(self, instance_id: str) -> base.Server | None:
        """Return the server made for an instance, or None."""
        with self.injector.around("find_server"), self._lock:
            entry = self._find(instance_id)
            return None if entry is None else self._look(entry)

    def list_servers(self) -> Sequence[base.Server]:
        """Return all servers."""
        with self.injector.around("list_servers"), self._lock:
            looked = [self._look(entry) for entry in list(self._entries.values())]
            return [server for server in looked if server is not None]

    def list_empty_groups(self) -> Collection[str]:
        """Return the groups without a server."""
        with self.injector.around("list_empty_groups"), self._lock:
            return self.groups - {entry.spec.group_id for entry in self._entries.values()}

    def remove_empty_group(self, group_id: str) -> None:
        """Remove a group, unless it has a server."""
        with self.injector.around("remove_empty_group"), self._lock:
            if all(entry.spec.group_id != group_id for entry in self._entries.values()):
                self.groups.discard(group_id)

    def start_server(self, server_id: str) -> None:
        """Start a server that is SHUTOFF."""
        with self.injector.around("start_server"), self._lock:
            entry = self._get(server_id)
            if entry.server.status is states.ServerStatus.SHUTOFF:
                self.set_status(entry.server.instance_id, states.ServerStatus.ACTIVE)
                self._started(entry.server.instance_id)

    def stop_server(self, server_id: str) -> None:
        """Stop a server."""
        with self.injector.around("stop_server"), self._lock:
            entry = self._get(server_id)
            self.set_status(entry.server.instance_id, states.ServerStatus.SHUTOFF)
            self._stopped(entry.server.instance_id)

    def reboot_server(self, server_id: str) -> None:
        """Stop and start a server."""
        with self.injector.around("reboot_server"), self._lock:
            entry = self._get(server_id)
            self._stopped(entry.server.instance_id)
            self.set_status(entry.server.instance_id, states.ServerStatus.ACTIVE)
            self._started(entry.server.instance_id)

    def resize_server(self, server_id: str, flavor: base.Flavor) -> None:
        """Restart a server with another flavor, to be confirmed or reverted."""
        with self.injector.around("resize_server"), self._lock:
            entry = self._get(server_id)
            if entry.server.flavor_id == flavor.id or entry.looks_until_resized:
                return
            if entry.resized_from is not None:
                raise exception.DriverError(service="compute", reason="a resize is not confirmed")
            entry.resized_from = entry.server.flavor_id
            self._stopped(entry.server.instance_id)
            entry.server = dataclasses.replace(
                entry.server, status=states.ServerStatus.RESIZE, flavor_id=flavor.id
            )
            entry.looks_until_resized = self.looks_to_resize
            if not entry.looks_until_resized:
                self._resized(entry)

    def confirm_resize(self, server_id: str) -> None:
        """Make a resize final."""
        with self.injector.around("confirm_resize"), self._lock:
            entry = self._get(server_id)
            if entry.server.status is states.ServerStatus.VERIFY_RESIZE:
                entry.resized_from = None
                entry.server = dataclasses.replace(entry.server, status=states.ServerStatus.ACTIVE)

    def revert_resize(self, server_id: str) -> None:
        """Restart a server with its old flavor."""
        with self.injector.around("revert_resize"), self._lock:
            entry = self._get(server_id)
            if entry.server.status is states.ServerStatus.VERIFY_RESIZE:
                self._stopped(entry.server.instance_id)
                entry.server = dataclasses.replace(
                    entry.server, status=states.ServerStatus.ACTIVE, flavor_id=entry.resized_from
                )
                entry.resized_from = None
                self._started(entry.server.instance_id)

    def migrate_server(self, server_id: str, host: str | None) -> None:
        """Move a server while it runs."""
        with self.injector.around("migrate_server"), self._lock:
            entry = self._get(server_id)
            target = host or next(each for each in HOSTS if each != entry.server.host)
            if target not in HOSTS:
                raise exception.DriverError(service="compute", reason=f"no host {target}")
            entry.server = dataclasses.replace(entry.server, host=target)

    def delete_server(self, server_id: str) -> None:
        """Begin to remove a server; nothing when it is gone."""
        with self.injector.around("delete_server"), self._lock:
            entry = self._entries.get(server_id)
            if entry is None:
                return
            self._stopped(entry.server.instance_id)
            if self.attaches_volumes and entry.spec.volume_id is not None:
                self._volume_moved(entry.spec.volume_id, False)
            if self.looks_to_delete == 0:
                del self._entries[server_id]
            elif entry.looks_until_gone is None:
                entry.looks_until_gone = self.looks_to_delete

    def attach_volume(self, server_id: str, volume_id: str) -> None:
        """Give a server its volume."""
        with self.injector.around("attach_volume"), self._lock:
            self._get(server_id)
            self._volume_moved(volume_id, True)

    def detach_volume(self, server_id: str, volume_id: str) -> None:
        """Take a volume from a server."""
        with self.injector.around("detach_volume"), self._lock:
            self._get(server_id)
            self._volume_moved(volume_id, False)

    # -- for tests -----

    def set_status(
        self, instance_id: str, status: states.ServerStatus, *, fault: str | None = None
    ) -> None:
        """Put the server of an instance into a state, as if the cloud had done it."""
        with self._lock:
            entry = self._find(instance_id)
            if entry is None:
                raise KeyError(instance_id)
            entry.looks_until_active = 0
            entry.server = dataclasses.replace(entry.server, status=status, fault=fault)

    def touch(self, instance_id: str) -> None:
        """Have the server of an instance look as if it changed and changed back."""
        with self._lock:
            entry = self._find(instance_id)
            if entry is None:
                raise KeyError(instance_id)
            entry.server = dataclasses.replace(entry.server, changed=str(uuid.uuid4()))

    def spec_of(self, instance_id: str) -> base.ServerSpec:
        """Return what the server of an instance was made from."""
        with self._lock:
            entry = self._find(instance_id)
            if entry is None:
                raise KeyError(instance_id)
            return entry.spec

    def _find(self, instance_id: str) -> _Entry | None:
        for entry in self._entries.values():
            if entry.server.instance_id == instance_id:
                return entry
        return None

    def _get(self, server_id: str) -> _Entry:
        entry = self._entries.get(server_id)
        if entry is None:
            raise exception.DriverError(service="compute", reason=f"no server {server_id}")
        return entry

    def _look(self, entry: _Entry) -> base.Server | None:
        if entry.looks_until_gone is not None:
            entry.looks_until_gone -= 1
            if entry.looks_until_gone < 0:
                self._entries.pop(entry.server.id, None)
                return None
        elif entry.looks_until_active > 0:
            entry.looks_until_active -= 1
            if entry.looks_until_active == 0:
                self.set_status(entry.server.instance_id, states.ServerStatus.ACTIVE)
                self._started(entry.server.instance_id)
        elif entry.looks_until_resized > 0:
            entry.looks_until_resized -= 1
            if entry.looks_until_resized == 0:
                self._resized(entry)
        return entry.server

    def _resized(self, entry: _Entry) -> None:
        entry.server = dataclasses.replace(entry.server, status=states.ServerStatus.VERIFY_RESIZE)
        self._started(entry.server.instance_id)

    def _started(self, instance_id: str) -> None:
        if self.on_start is not None:
            self.on_start(instance_id)

    def _volume_moved(self, volume_id: str, is_attached: bool) -> None:
        if self.on_volume is not None:
            self.on_volume(volume_id, is_attached)

    def _stopped(self, instance_id: str) -> None:
        if self.on_stop is not None:
            self.on_stop(instance_id)
