"""The spec of one datastore, without the modules of all others.

An agent drives one engine: what others are made of costs it memory for nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import re

from trove.datastores import spec

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def find_spec(manager: str) -> spec.DatastoreSpec | None:
    """Return the spec of a manager; None when there is none.

    It is looked for in the module of its name, then in all.
    """
    known = spec.registry()
    name = f"trove.datastores.{manager}"
    if _NAME.match(manager) and importlib.util.find_spec(name) is not None:
        importlib.import_module(name)
    if manager not in known:
        importlib.import_module("trove.datastores.all")
    return known.get(manager)
