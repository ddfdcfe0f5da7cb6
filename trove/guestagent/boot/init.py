"""Set up this guest: files for the agent, host name, firewall, network.

What the config drive brings is a bootstrap, taken once: the keys that replace it are not
overwritten by it at the next boot. A server that was made anew (another instance, or a later
``first_boot``) begins with its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from trove.guestagent.boot import configdrive, endpoints, errors, firewall, network
from trove.guestagent.system import filesystem, process

_DEFAULT_HOST_NAME = "trove"
_GUEST_CONF = "guest.conf"
#: Seconds the kernel may take to show the drive and the interfaces, and between two looks.
_PATIENCE_S = 30.0
_LOOK_S = 0.2
_PROGRAM_TIMEOUT_S = 60.0
#: Drivers of what is needed here, and of the power button: faster than to wait until udev comes to
#: them. Those that this kernel has built in or not at all do not matter.
_DRIVERS = ("virtio_net", "virtio_rng", "ata_piix", "ahci", "sr_mod", "isofs", "button", "evdev")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where things lie, below ``root``, so that tests have their own."""

    root: pathlib.Path = pathlib.Path("/")

    @property
    def config_dir(self) -> pathlib.Path:
        """The agent's configuration and keys."""
        return self.root / "etc/trove-guestagent"

    @property
    def state_dir(self) -> pathlib.Path:
        """What this program remembers."""
        return self.root / "var/lib/trove-guest-init"

    @property
    def agent_state_dir(self) -> pathlib.Path:
        """What the agent remembers."""
        return self.root / "var/lib/trove-guestagent"

    @property
    def network_dir(self) -> pathlib.Path:
        """Files of systemd-networkd for this boot."""
        return self.root / "run/systemd/network"

    @property
    def done_file(self) -> pathlib.Path:
        """There when this boot's run ended well."""
        return self.root / "run/trove-guest-init.done"

    @property
    def image_file(self) -> pathlib.Path:
        """What the image says of itself."""
        return self.root / "usr/share/trove/image.json"

    @property
    def interfaces(self) -> pathlib.Path:
        """The kernel's network interfaces."""
        return self.root / "sys/class/net"


class Init:
    """One run. ``read_drive`` returns None when there is no config drive (yet)."""

    def __init__(
        self,
        paths: Paths,
        *,
        read_drive: Callable[[], configdrive.ConfigDrive | None],
        load_firewall: Callable[[str], None],
        set_host_name: Callable[[str], None],
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Take the collaborators."""
        self._paths = paths
        self._read_drive = read_drive
        self._load_firewall = load_firewall
        self._set_host_name = set_host_name
        self._patience_s = patience_s

    def run(self) -> str:
        """Do everything; returns a line for the console. Raises BootError, OSError."""
        drive = self._await(self._read_drive)
        if drive is None:
            raise errors.BootError(
                f"there is no config drive (label {configdrive.LABEL}): start the server with one"
            )
        conf = self._guest_conf(drive)
        is_new = self._install(drive, conf)
        self._set_host_name(host_name(drive.hostname))
        self._write_hosts(conf, host_name(drive.hostname))
        self._network(drive, conf)
        self._paths.done_file.touch()
        return f"instance {conf.instance_id}, {'first boot' if is_new else 'files kept'}"

    @staticmethod
    def _guest_conf(drive: configdrive.ConfigDrive) -> endpoints.GuestConf:
        text = drive.files.get(_GUEST_CONF)
        if text is None:
            raise errors.BootError(f"the user data of the config drive has no {_GUEST_CONF}")
        return endpoints.parse_conf(text)

    # -- files -----

    def _install(self, drive: configdrive.ConfigDrive, conf: endpoints.GuestConf) -> bool:
        """Write the agent's files unless that was done for this very server."""
        identity = {"instance_id": conf.instance_id, "first_boot": conf.first_boot}
        seen = self._paths.state_dir / "seen.json"
        if _read_json(seen) == identity:
            return False
        self._paths.config_dir.mkdir(parents=True, exist_ok=True)
        filesystem.ensure_directory(self._paths.config_dir, mode=0o700)
        # keys that replaced those of an earlier server would be taken for this one's
        filesystem.remove_tree(self._paths.agent_state_dir)
        for name, content in drive.files.items():
            filesystem.write_file(self._paths.config_dir / name, content, mode=0o600)
        self._paths.state_dir.mkdir(parents=True, exist_ok=True)
        filesystem.ensure_directory(self._paths.state_dir, mode=0o700)
        filesystem.write_file(seen, json.dumps(identity), mode=0o600)
        return True

    def _write_hosts(self, conf: endpoints.GuestConf, name: str) -> None:
        lines = ["127.0.0.1 localhost", "::1 localhost", f"127.0.1.1 {name}"]
        lines += [f"{address} {host}" for host, address in sorted(conf.hosts.items())]
        filesystem.write_file(self._paths.root / "etc/hosts", "\n".join(lines) + "\n", mode=0o644)

    # -- network -----

    def _network(self, drive: configdrive.ConfigDrive, conf: endpoints.GuestConf) -> None:
        """Write the network's files and put the firewall up, before the network comes up."""
        sides = network.choose_sides(network.parse(drive.network), conf.bind_address)
        allowed = conf.addresses()
        management = sides.management
        policy = firewall.Policy(
            user_interface=self._interface(sides.user.mac),
            management_interface=None if management is None else self._interface(management.mac),
            engine_ports=self._engine_ports(conf),
            endpoints=tuple(allowed),
        )
        self._load_firewall(firewall.render(policy))
        files = network.render(
            sides, bind_address=conf.bind_address, endpoints=[address for address, _ in allowed]
        )
        self._paths.network_dir.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = self._paths.network_dir / name
            # in memory only, and read by the user of systemd-networkd
            path.write_text(content, encoding="ascii")
            path.chmod(0o644)

    def _engine_ports(self, conf: endpoints.GuestConf) -> tuple[int, ...]:
        """Return where users connect to the engine; none for an image without one."""
        image = self._image()
        port = conf.port or image.get("port")
        return () if port is None else (port, *image.get("more_ports", ()))

    def _interface(self, mac: str) -> str:
        """Return the name of the interface of an address; raises BootError."""

        def find() -> str | None:
            for path in sorted(self._paths.interfaces.glob("*/address")):
                if path.read_text(encoding="ascii").strip().lower() == mac:
                    return path.parent.name
            return None

        found = self._await(find)
        if found is None:
            raise errors.BootError(f"the server has no interface {mac}")
        return found

    def _image(self) -> dict[str, Any]:
        return _read_json(self._paths.image_file) or {}

    def _await(self, find: Callable[[], T | None]) -> T | None:
        """Look until something is there, or patience ends."""
        pause = threading.Event()
        end = time.monotonic() + self._patience_s
        while (found := find()) is None and time.monotonic() < end:
            pause.wait(_LOOK_S)
        return found


def await_done(paths: Paths) -> None:
    """Return when this boot's run has ended well; never when it failed."""
    pause = threading.Event()
    while not paths.done_file.exists():
        pause.wait(_LOOK_S / 4)


def host_name(text: str) -> str:
    """Return a proper host name made from a server's name."""
    label = re.sub(r"[^a-z0-9-]+", "-", text.partition(".")[0].lower()).strip("-")
    return label[:63].strip("-") or _DEFAULT_HOST_NAME


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_drive() -> configdrive.ConfigDrive | None:
    """Return what this machine's config drive says, None when there is none."""
    device = configdrive.find(pathlib.Path("/sys/class/block"), pathlib.Path("/dev"))
    if device is None:
        return None
    with configdrive.mounted(device) as root:
        return configdrive.read(root)


def load_drivers() -> None:
    """Have the kernel look at once for what udev would find later."""
    try:
        process.run(["modprobe", "--all", "--quiet", *_DRIVERS], timeout_s=_PROGRAM_TIMEOUT_S)
    except (OSError, TimeoutError):
        # they come by themselves then
        return


def load_firewall(rules: str) -> None:
    """Put the rules into the kernel, all or none; raises BootError."""
    try:
        result = process.run(["nft", "-f", "-"], timeout_s=_PROGRAM_TIMEOUT_S, stdin=rules.encode())
    except FileNotFoundError:
        raise errors.BootError("the program nft is missing in this image") from None
    if result.return_code != 0:
        raise errors.BootError(f"the firewall was not loaded: {result.output.strip()[:500]}")


def set_host_name(name: str) -> None:
    """Name this machine, now and for the next boot."""
    socket.sethostname(name)
    filesystem.write_file(pathlib.Path("/etc/hostname"), f"{name}\n", mode=0o644)


def main(argv: list[str] | None = None) -> int:
    """Set this guest up; a failure leaves it without network, and says why on the console."""
    argparse.ArgumentParser(prog="trove-guest-init", description=__doc__).parse_args(argv)
    init = Init(
        Paths(),
        read_drive=read_drive,
        load_firewall=load_firewall,
        set_host_name=set_host_name,
    )
    load_drivers()
    try:
        said = init.run()
    except (errors.BootError, OSError) as e:
        print(f"trove-guest-init: {e}", file=sys.stderr, flush=True)  # noqa: T201 (the console)
        return 1
    print(f"trove-guest-init: {said}", flush=True)  # noqa: T201 (the console)
    return 0
