"""What the control plane gives a guest for objects of a backup or of an archive."""

from __future__ import annotations

from trove.rpc import payloads
from trove.storage import base


def make(
    store: base.Store,
    account: str,
    *,
    container: str,
    prefix: str,
    is_read_only: bool = False,
) -> payloads.ObjectStorage:
    """Return the objects of a container whose names begin with a prefix, and what opens them.

    Raises StorageError.
    """
    grant = store.grant(account, container=container, prefix=prefix, is_read_only=is_read_only)
    return payloads.ObjectStorage(
        kind=store.kind,
        account=account,
        container=container,
        prefix=prefix,
        grant=dict(grant),
        valid_s=store.grant_s,
    )
