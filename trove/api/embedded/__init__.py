"""What one machine has in the place of a cloud, so that every client works unchanged.

Clients look for their tokens in an identity service, for published logs in an object store and for
certificates in a key manager. Behind ``[api] embedded_services`` the API itself answers as these
three do, as far as clients of databases need them, below ``/identity``, ``/object-store`` and
``/key-manager``. On OpenStack the real services are there and the switch stays off.
"""

from __future__ import annotations

import dataclasses
from wsgiref.types import WSGIApplication

IDENTITY = "identity"
OBJECT_STORE = "object-store"
KEY_MANAGER = "key-manager"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """An application below a first segment of the path.

    With ``needs_caller`` it is behind authentication and finds the caller in the environment
    (:data:`trove.api.method.CONTEXT`); who may see which path is its own affair.
    """

    segment: str
    app: WSGIApplication
    needs_caller: bool = True
