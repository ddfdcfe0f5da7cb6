"""Who asks: the context of a request, carried into the operations it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oslo_context import context as oslo_context

from trove.common import exception

#: ``authorize(rule, target, credentials)`` returns or raises PolicyForbidden.
Authorizer = Callable[[str, Mapping[str, Any], "RequestContext"], None]


def _deny(rule: str, target: Mapping[str, Any], context: RequestContext) -> None:
    """Refuse everything: a context without an enforcer may do nothing."""
    raise exception.PolicyForbidden(rule=rule)


class RequestContext(oslo_context.RequestContext):
    """An authenticated caller: ids, roles, request id, and the enforcer that judges them.

    The API's hook hands the enforcer in, so that lower layers can authorise without importing
    policies.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer | None = None,
        client_ip: str | None = None,
        server_ip: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take oslo.context's keyword arguments, the enforcer, and who talks to whom."""
        super().__init__(**kwargs)
        self.client_ip = client_ip
        self.server_ip = server_ip
        self._authorizer = authorizer or _deny

    def authorize(self, rule: str, target: Mapping[str, Any] | None = None) -> None:
        """Raise PolicyForbidden unless ``rule`` admits the caller.

        ``target`` holds the attributes of what is acted upon; by default the caller's own
        project is the target.
        """
        if target is None:
            target = {"project_id": self.project_id, "user_id": self.user_id}
        self._authorizer(rule, target, self)
