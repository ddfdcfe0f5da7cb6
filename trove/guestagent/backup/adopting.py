"""Databases on volumes that were made of snapshots: the data directory is there already.

What else an instance has on its volume was another's, and is removed: keys, lists, logs, temporary
files. Nothing is touched before the volume is known to hold what was asked for. The data directory
is out of its place (``data.restored``) until all of that is done, so whoever is killed goes on:

==================== ================== ==================== ==========================
``data``             ``data.restored``  ``restored.json``    what the next agent does
==================== ================== ==================== ==========================
of the snapshot      none               another's, or none   begins
none                 of the snapshot    any                  goes on
of the snapshot      none               of this restoration  has the engine run
==================== ================== ==================== ==========================
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.guestagent import state
from trove.guestagent.backup import freezing, probes
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

_LOST_AND_FOUND = "lost+found"


class Adoption:
    """Makes what a snapshot holds the database of this instance."""

    def __init__(
        self, part: base.Backup | base.Unsupported, *, manager: str, layout: state.Layout
    ) -> None:
        """Take the engine's part."""
        self._part = part
        self._manager = manager
        self._layout = layout
        self._work = layout.mount_point / "data.restored"

    @property
    def _marker(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / freezing.MARKER

    @property
    def _record(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "restored.json"

    def find_done(self, backup_id: str) -> str | None:
        """Return the version that the database of a snapshot is of, once it is in its place."""
        known = _read(self._record) or {}
        if known.get("snapshot") != backup_id or not self._layout.data_dir.is_dir():
            return None
        return str(known["engine_version"])

    def check(self, backup_id: str) -> str:
        """Return the version of the engine that a snapshot is of.

        Raises GuestError unless the volume holds it, and it is one of this engine.
        """
        found = _read(self._marker)
        if found is None or found.get("backup_id") != backup_id:
            raise exception.GuestError(
                reason=f"the volume does not hold the snapshot of backup {backup_id}: nothing on it"
                " was changed"
            )
        if found.get("format") != freezing.FORMAT:
            raise exception.GuestError(
                reason="this snapshot was made by a later release of the service: upgrade this one"
            )
        if found.get("manager") != self._manager:
            raise exception.GuestError(
                reason=f"this is a snapshot of {found.get('manager')}, not of {self._manager}"
            )
        if not self._layout.data_dir.is_dir() and not self._work.is_dir():
            raise exception.GuestError(reason="there is no database in the snapshot")
        return str(found.get("engine_version", ""))

    def clear(self) -> None:
        """Take the data directory out of its place, and remove all that is another instance's."""
        layout = self._layout
        if layout.data_dir.is_dir():
            filesystem.remove_tree(self._work)
            layout.data_dir.rename(self._work)
        self._part.adopt(self._work, layout.volume_agent_dir)
        for path in layout.mount_point.iterdir():
            if path not in (self._work, layout.volume_agent_dir) and path.name != _LOST_AND_FOUND:
                _remove(path)
        for path in layout.volume_agent_dir.iterdir():
            if path != self._marker:
                _remove(path)
        filesystem.sync_file_system(layout.mount_point)

    def place(self, backup_id: str, *, engine_version: str) -> None:
        """Put the data directory into its place."""
        layout = self._layout
        layout.make_volume_agent_dir()
        record = {"snapshot": backup_id, "engine_version": engine_version}
        filesystem.write_file(self._record, json.dumps(record), mode=0o600)
        self._work.rename(layout.data_dir)
        filesystem.sync_directory(layout.mount_point)
        LOG.info("the database of snapshot %s is in its place", backup_id)

    def verify(self) -> dict[str, Any]:
        """Have the engine check the data that are out of their place, and look for their mark.

        Raises GuestError for what is damaged, NotProven where nothing was found out. The data are
        of no use afterwards.
        """
        facts = (_read(self._marker) or {}).get("facts") or {}
        try:
            found = self._part.verify(self._work)
        except exception.ProgramMissing as e:
            raise exception.NotProvable(reason=e.kwargs["reason"]) from e
        except OSError as e:
            reason = filesystem.explain(e, "proving a snapshot")
            raise exception.NotProven(reason=reason) from e
        return {"findings": probes.compare(facts.get(probes.KEY), found), "facts": {}}

    def forget(self) -> None:
        """Remove what says that the volume is a snapshot."""
        self._marker.unlink(missing_ok=True)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        filesystem.remove_tree(path)
    else:
        path.unlink()


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None
