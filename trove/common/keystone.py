"""Sessions with the cloud: one for each credential, shared by all drivers of a process.

The service's own credential is ``[service_credentials]``. A user's token is used only inside the
request that brought it: its session is made for that request and kept nowhere.
"""

from __future__ import annotations

import threading
from typing import Any

from keystoneauth1 import exceptions as ksa_exceptions
from keystoneauth1 import loading, token_endpoint
from keystoneauth1 import session as ksa_session
from keystoneauth1.identity import v3
from oslo_config import cfg

from trove.common import context, exception

GROUP = "service_credentials"

_lock = threading.Lock()
#: Credential -> its session.
_sessions: dict[tuple[tuple[str, str], ...], ksa_session.Session] = {}


def session_of(conf: cfg.ConfigOpts) -> ksa_session.Session:
    """Return the session of the service's own credential; does not connect.

    Raises ConfigurationError when ``[service_credentials]`` names none.
    """
    auth = _load_auth(conf)
    group = conf[GROUP]
    key = tuple(sorted((name, str(group[name])) for name in group))
    with _lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = _new_session(conf, auth)
    return session


def _load_auth(conf: cfg.ConfigOpts) -> Any:
    try:
        auth = loading.load_auth_from_conf_options(conf, GROUP)
    except (ksa_exceptions.AuthPluginException, cfg.Error) as e:
        raise exception.ConfigurationError(reason=f"[{GROUP}]: {e}") from None
    if auth is None:
        raise exception.ConfigurationError(
            reason=f"[{GROUP}] auth_type is not set: the drivers of cloud services need an identity"
        )
    return auth


def _new_session(conf: cfg.ConfigOpts, auth: Any) -> ksa_session.Session:
    session: ksa_session.Session = loading.load_session_from_conf_options(
        conf, GROUP, auth=auth, additional_user_agent=[("trove", None)]
    )
    return session


def separate_session(conf: cfg.ConfigOpts) -> ksa_session.Session:
    """Return a session of the service's own credential that nobody shares: to be closed.

    For what a process asks before it is forked. Raises ConfigurationError.
    """
    return _new_session(conf, _load_auth(conf))


def user_session(
    conf: cfg.ConfigOpts, caller: context.RequestContext, *, endpoint: str | None = None
) -> ksa_session.Session:
    """Return a session with the rights of who sent a request, for the time of that request.

    With ``endpoint`` everything is sent there, and no catalog is asked for. Raises Unauthorized
    when the request brought no token.
    """
    if not caller.auth_token:
        raise exception.Unauthorized()
    session_of(conf)  # has the options of the credential registered
    if endpoint is not None:
        return _new_session(conf, token_endpoint.Token(endpoint, caller.auth_token))
    return _new_session(
        conf,
        v3.Token(
            auth_url=conf[GROUP].auth_url, token=caller.auth_token, project_id=caller.project_id
        ),
    )
