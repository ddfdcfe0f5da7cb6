"""PyMongo without its other half; imported before it.

It imports its asynchronous client together with the one for threads, which costs an agent more than
a MiB for nothing. Modules that have only names, and those on demand, stand in for that one.
"""

from __future__ import annotations

import sys
import types

_PACKAGE = "pymongo.asynchronous"
#: What PyMongo 4.9 to 4.20 imports of it at its own import.
_IMPORTED = (_PACKAGE, f"{_PACKAGE}.mongo_client", f"{_PACKAGE}.helpers")


class _Absent(types.ModuleType):
    """A module in which every name is a class without content."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def leave_out() -> None:
    """Have the asynchronous client not imported; nothing when PyMongo is there already."""
    if "pymongo" in sys.modules:
        return
    for name in _IMPORTED:
        sys.modules[name] = _Absent(name)


leave_out()
