"""The data volume of an instance, as its agent uses it.

The engine's files are on the volume or nowhere: while it is not mounted nothing is written below
the mount point, and the engine is not started. A file system is made once in the life of an
instance, on a volume that is blank; a volume that should hold data and does not is an error.
"""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent import state
from trove.guestagent.system import blockdevices, filesystem, mounts, process

LOG = log.getLogger(__name__)

_LABEL = "trove-data"
_DOCUMENT = "volume"
_OPTIONS = ("noatime", "nodev", "nosuid", "noexec", "errors=remount-ro")
#: How long a device may take to appear or to show its new size, and between two looks.
_PATIENCE_S = 90.0
_LOOK_S = 0.5
_GIB = 1 << 30


class DataVolume:
    """The volume; safe for use by several threads. One without an id is a mere directory."""

    def __init__(
        self,
        mount_point: pathlib.Path,
        *,
        volume_id: str | None,
        store: state.Store,
        must_hold_data: bool,
        find_device: Callable[[str], pathlib.Path | None] = blockdevices.find_by_volume,
        clock: concurrency.Clock | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Take what the configuration says; nothing is mounted yet."""
        self._mount_point = mount_point
        self._configured_id = volume_id
        self._store = store
        self._must_hold_data = must_hold_data
        self._find_device = find_device
        self._clock = clock or concurrency.SystemClock()
        self._patience_s = patience_s
        self._pause = threading.Event()
        self._lock = threading.RLock()
        self._problem: str | None = None

    @property
    def is_device(self) -> bool:
        """Tell whether there is a volume to mount, not a mere directory."""
        return self._configured_id is not None

    @property
    def is_ready(self) -> bool:
        """Tell whether the engine's files may be used."""
        return not self.is_device or self._mount_point.is_mount()

    @property
    def problem(self) -> str | None:
        """What is wrong with the volume, for people; None when it is mounted or let go of."""
        return None if self.is_ready else self._problem

    def close(self) -> None:
        """Wait for no device any more."""
        self._pause.set()

    def ensure(self, *, is_patient: bool = True) -> None:
        """Have the volume mounted, with a file system made at the first time; raises GuestError.

        Who is not patient waits neither for the device nor for another thread.
        """
        if self.is_ready:
            return
        if not self._lock.acquire(blocking=is_patient):
            raise exception.GuestError(reason="The data volume is being mounted.")
        try:
            if self._mount_point.is_mount():
                return
            if self._is_released():
                raise exception.GuestError(
                    reason="The data volume is let go of, to be changed; it comes back by itself."
                )
            self._attempt(
                must_hold_data=self._must_hold_data or self._was_formatted(),
                patience_s=self._patience_s if is_patient else 0.0,
            )
        finally:
            self._lock.release()

    def release(self) -> None:
        """Unmount, and stay so until :meth:`take` or the next start of the machine.

        Raises GuestError while something uses the volume.
        """
        with self._lock:
            if not self.is_device:
                return
            self._remember(released_at=process.machine_boot_id())
            self._problem = None
            if not self._mount_point.is_mount():
                return
            try:
                filesystem.sync_file_system(self._mount_point)
                mounts.unmount(self._mount_point)
            except OSError as e:
                raise exception.GuestError(
                    reason=f"the data volume cannot be unmounted: {e.strerror}"
                ) from None

    def take(self, volume_id: str, *, size_gib: int) -> None:
        """Mount a volume that holds data and grow its file system; raises GuestError."""
        with self._lock:
            if not self.is_device:
                return
            if not self._mount_point.is_mount():
                self._remember(volume_id=volume_id, released_at=None)
                self._attempt(must_hold_data=True, patience_s=self._patience_s)
            elif volume_id != self._volume_id():
                raise exception.GuestError(reason="another data volume is mounted")
            self._remember(released_at=None)
            self.grow(size_gib)

    def grow(self, size_gib: int) -> None:
        """Grow the file system to a device of at least this size; raises GuestError."""
        with self._lock:
            if not self.is_device:
                return
            try:
                device = self._await_device(self._patience_s, at_least_bytes=size_gib * _GIB)
                blockdevices.grow_file_system(device)
            except (OSError, TimeoutError) as e:
                raise exception.GuestError(
                    reason=f"the file system of the data volume did not grow: {_words(e)}"
                ) from None

    # -- inside -----

    def _attempt(self, *, must_hold_data: bool, patience_s: float) -> None:
        """Mount, and remember what is wrong when that fails."""
        try:
            self._mount(self._await_device(patience_s), must_hold_data=must_hold_data)
            self._problem = None
        except exception.GuestError as e:
            self._problem = str(e.kwargs["reason"])
            raise
        except (OSError, TimeoutError) as e:
            self._problem = f"The data volume cannot be mounted: {_words(e)}"
            raise exception.GuestError(reason=self._problem) from None

    def _mount(self, device: pathlib.Path, *, must_hold_data: bool) -> None:
        signature = blockdevices.find_signature(device)
        if signature is None:
            if must_hold_data:
                raise exception.GuestError(
                    reason="The data volume is blank, though it should hold the data of this"
                    " instance: it is left as it is. Attach the right volume, or restore a backup."
                )
            LOG.info("making a file system on the blank volume %s", self._volume_id())
            blockdevices.make_file_system(device, label=_LABEL)
        elif signature.kind != blockdevices.FILE_SYSTEM:
            raise exception.GuestError(
                reason=f"There is {signature.kind} on the data volume instead of"
                f" {blockdevices.FILE_SYSTEM}: it is left as it is. Attach the right volume."
            )
        else:
            blockdevices.check_file_system(device)
        filesystem.ensure_passable(self._mount_point)
        mounts.mount(
            device, self._mount_point, options=_OPTIONS, file_system=blockdevices.FILE_SYSTEM
        )
        self._mount_point.chmod(0o755)
        self._remember(formatted=True)
        LOG.info("the data volume %s is mounted", self._volume_id())

    def _await_device(self, patience_s: float, *, at_least_bytes: int = 0) -> pathlib.Path:
        """Return the device once it is there and large enough; raises GuestError."""
        volume_id = self._volume_id()
        end = self._clock.monotonic() + patience_s
        size = None
        while True:
            device = self._find_device(volume_id)
            if device is not None:
                size = blockdevices.size_bytes(device)
                if size >= at_least_bytes:
                    return device
            if self._clock.monotonic() >= end or self._pause.wait(_LOOK_S):
                break
        if size is not None:
            raise exception.GuestError(
                reason=f"The data volume has {size // _GIB} GiB instead of"
                f" {at_least_bytes // _GIB} GiB."
            )
        raise exception.GuestError(
            reason=f"The data volume {volume_id} is not attached to the server: the database is"
            " not started without it. Attach it again, or restore a backup."
        )

    def _document(self) -> dict[str, object]:
        return self._store.find(_DOCUMENT) or {}

    def _remember(self, **changes: object) -> None:
        before = self._document()
        after = {**before, **changes}
        if after != before:
            self._store.save(_DOCUMENT, after)

    def _volume_id(self) -> str:
        return str(self._document().get("volume_id") or self._configured_id)

    def _was_formatted(self) -> bool:
        return bool(self._document().get("formatted"))

    def _is_released(self) -> bool:
        return self._document().get("released_at") == process.machine_boot_id()


def _words(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno) if error.errno else str(error)
