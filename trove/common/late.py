"""Modules that libraries import and hardly ever use: loaded when something is taken from them.

An agent shares a small machine with its database, and a tenth of its memory would be modules that
nothing is ever taken from. :class:`importlib.util.LazyLoader` is of no use here: before Python 3.13
the second import of a module is a use to it.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from typing import Any

MODULES = (
    # imported by wrapt, oslo.utils, oslo.config, oslo.serialization, oslo.log
    *("asyncio", "psutil", "rfc3986", "xmlrpc.client", "logging.config"),
    # by the service itself, for bundles of its programs
    "tarfile",
)

#: Of the modules that are not loaded yet. A lock each, as CPython's LazyLoader has it: a common one
#: would be held over imports, whose own locks others hold.
_locks: dict[str, threading.RLock] = {}
_waiting: set[str] = set()


class _Module(types.ModuleType):
    """A module of which there is but the name until an attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if spec is None or spec.loader is None:
            return types.ModuleType.__getattribute__(self, name)
        with _locks[spec.name]:
            # not so for the module's own code, which asks while it is loaded
            if spec.name in _waiting:
                _waiting.remove(spec.name)
                if spec.submodule_search_locations is not None:
                    self.__path__ = spec.submodule_search_locations
                spec.loader.exec_module(self)
                object.__setattr__(self, "__class__", types.ModuleType)
        return types.ModuleType.__getattribute__(self, name)


def import_late() -> None:
    """Have the modules loaded at their first use; those that are loaded already stay so.

    Must run before the libraries are imported.
    """
    for name in MODULES:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        # without it an import of a submodule loads the package first
        module.__dict__.pop("__path__", None)
        module.__class__ = _Module
        _locks[name] = threading.RLock()
        _waiting.add(name)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
