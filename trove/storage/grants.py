"""What the control plane gives a guest for objects of a backup or of an archive."""

from __future__ import annotations

from collections.abc import Sequence

from trove.rpc import payloads
from trove.storage import base


def make(
    store: base.Store,
    account: str,
    *,
    container: str,
    prefix: str,
    is_read_only: bool = False,
    names: Sequence[str] = (),
) -> payloads.ObjectStorage:
    """Return the objects of a container whose names begin with a prefix, and what opens them.

    ``names``, without the prefix, are those that are wanted next. Raises StorageError.
    """
    grant = store.grant(
        account, container=container, prefix=prefix, is_read_only=is_read_only, names=names
    )
    return payloads.ObjectStorage(
        kind=store.kind,
        account=account,
        container=container,
        prefix=prefix,
        grant=dict(grant),
        valid_s=store.grant_s,
    )
