"""What is applied to an instance besides its engine.

A module has a directory of its own on the volume, by its id, that nobody but the agent may enter:
its contents, what its type made of them, and how that went, so that the list is the same after a
restart of the agent or a rebuild. Contents are data: nothing of them is run, and nothing is written
outside the directory.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import json
import pathlib
import re
import threading
from collections.abc import Iterable

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent import state
from trove.guestagent.modules import types
from trove.guestagent.system import filesystem
from trove.rpc import payloads

LOG = log.getLogger(__name__)

OK = "OK"
ERROR = "ERROR"

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_LONGEST_MESSAGE = 500


class Modules:
    """The modules of one instance; safe for use by several threads."""

    def __init__(self, layout: state.Layout, *, clock: concurrency.Clock) -> None:
        """Use the volume of a layout."""
        self._layout = layout
        self._root = layout.volume_agent_dir / "modules"
        self._clock = clock
        self._lock = threading.Lock()

    def list_results(self, *, include_contents: bool) -> payloads.ModuleResults:
        """Return all modules, in order of name."""
        with self._lock:
            found = [self._find(path.name) for path in self._directories()]
            results = sorted((r for r in found if r is not None), key=lambda r: (r.name, r.id))
            if include_contents:
                results = [dataclasses.replace(r, contents=self._contents(r.id)) for r in results]
        return payloads.ModuleResults(modules=tuple(results))

    def apply(
        self, modules: Iterable[payloads.Module], *, force: bool = False
    ) -> payloads.ModuleResults:
        """Apply modules in this order; one that fails does not keep the others from it."""
        with self._lock:
            results = tuple(self._apply(module, force=force) for module in modules)
        return payloads.ModuleResults(modules=results)

    def remove(self, module_id: str) -> None:
        """Take a module away with everything it made; nothing when it is not there."""
        with self._lock:
            directory = self._directory(module_id)
            if directory.is_dir():
                (directory / "state.json").unlink(missing_ok=True)
                filesystem.remove_tree(directory)
                LOG.info("module %s removed", module_id)

    def _directory(self, module_id: str) -> pathlib.Path:
        if not _ID.match(module_id):
            raise exception.GuestError(reason="the id of the module is not valid")
        return self._root / module_id

    def _directories(self) -> list[pathlib.Path]:
        try:
            return [path for path in self._root.iterdir() if _ID.match(path.name)]
        except FileNotFoundError:
            return []

    def _find(self, module_id: str) -> payloads.ModuleResult | None:
        try:
            text = (self._directory(module_id) / "state.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return payloads.ModuleResult.from_wire(json.loads(text))

    def _contents(self, module_id: str) -> str | None:
        try:
            return base64.b64encode((self._directory(module_id) / "contents").read_bytes()).decode()
        except FileNotFoundError:
            return None

    def _apply(self, module: payloads.Module, *, force: bool) -> payloads.ModuleResult:
        known = self._find(module.id)
        if known is not None and not force and (known.md5, known.status) == (module.md5, OK):
            return known
        try:
            message = self._carry_out(module)
            status = OK
        except types.ModuleFailed as e:
            status, message = ERROR, e.message
        except OSError as e:
            status, message = ERROR, filesystem.explain(e, "applying the module")
        LOG.info("module %s (%s): %s", module.id, module.type[:40], status)
        return self._remember(module, known, status=status, message=message)

    def _carry_out(self, module: payloads.Module) -> str:
        try:
            contents = base64.b64decode(module.contents, validate=True)
        except (binascii.Error, ValueError):
            raise types.ModuleFailed(reason="the contents are not base64") from None
        # MD5 is how clients tell contents apart; nothing is trusted for it
        if hashlib.md5(contents, usedforsecurity=False).hexdigest() != module.md5:
            raise types.ModuleFailed(reason="the contents were damaged on the way")
        kind = types.TYPES.get(module.type)
        if kind is None:
            raise types.ModuleFailed(reason=f"this agent knows no modules of type {module.type}")
        checked = kind.check(contents)
        directory = self._make_directory(module.id)
        filesystem.write_file(directory / "contents", contents, mode=0o600)
        return kind.apply(checked, directory)

    def _make_directory(self, module_id: str) -> pathlib.Path:
        self._layout.make_volume_agent_dir()
        filesystem.ensure_directory(self._root, mode=0o700)
        return filesystem.ensure_directory(self._directory(module_id), mode=0o700)

    def _remember(
        self,
        module: payloads.Module,
        known: payloads.ModuleResult | None,
        *,
        status: str,
        message: str,
    ) -> payloads.ModuleResult:
        now = self._clock.now().astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        result = payloads.ModuleResult(
            id=module.id,
            type=module.type,
            name=module.name,
            md5=module.md5,
            status=status,
            message=message[:_LONGEST_MESSAGE],
            created=now if known is None else known.created,
            updated=now,
            tenant=module.tenant,
            datastore=module.datastore,
            datastore_version=module.datastore_version,
            auto_apply=module.auto_apply,
            visible=module.visible,
            is_admin=module.is_admin,
        )
        try:
            path = self._make_directory(module.id) / "state.json"
            filesystem.write_file(path, json.dumps(result.to_wire()), mode=0o600)
        except OSError as e:
            reason = filesystem.explain(e, "remembering the module")
            return dataclasses.replace(result, status=ERROR, message=reason)
        return result
