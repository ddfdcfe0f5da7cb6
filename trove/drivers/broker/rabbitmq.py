"""Accounts of RabbitMQ, by its management API: one for each agent, limited to what is its own.

What the account of instance X may do, on the virtual host of the guest bus and nowhere else:

===========  =======================================================================
``guest.X``  and what begins with ``guest.X.``, ``guest.X_``, ``answer.X.``: declare,
             bind, consume, delete queues and exchanges of these names
down         bind its queues to its own topics of the exchange that control
             processes send to; never publish there
up           publish to the exchange that leads to control processes alone
===========  =======================================================================

It cannot declare or remove what others use, see or touch their queues, or reach other agents
through an exchange or a dead letter of its own: there is no exchange that it may write to and that
leads to them. Numbers of connections and channels are limited; how much may lie in queues, and how
long, is limited by policies that an operator's own policies do not get in the way of.

The broker is given a salted hash of the password, not the password. An account is made without
rights first, so that it never has more than it should.
"""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections.abc import Collection, Mapping
from typing import Any

import requests
from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.drivers.broker import base, passwords
from trove.rpc import transport

LOG = log.getLogger(__name__)

_PREFIX = "trove-guest-"
_NAME = re.compile(r"^trove-guest-(?P<owner>[0-9a-f-]{36})-(?P<generation>[0-9]{1,9})$")
_INSTANCE_ID = re.compile(r"^[0-9a-f-]{36}$")

#: An agent has about six of each; after an outage those before it may linger for a while.
LIMITS: Mapping[str, int] = {"max-connections": 24, "max-channels": 48}
#: Bytes that wait in one queue of an agent, and of the conductors. A message has at most 1.4 MB.
GUEST_QUEUE_BYTES = 16 * 1024 * 1024
CONTROL_QUEUE_BYTES = 128 * 1024 * 1024
#: Milliseconds after which a queue that nobody uses is removed.
_UNUSED_MS = 1_800_000

_TIMEOUT_S = (3.05, 15.0)
_PAGE = 500


class RabbitManagement(base.BrokerDriver):
    """Accounts made by the management API of RabbitMQ."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError when it is not complete."""
        url = urllib.parse.urlsplit(conf.guest.management_url or "")
        if url.scheme not in ("http", "https") or not (url.hostname and url.username):
            raise exception.ConfigurationError(
                reason="[guest] management_url must be a URL such as"
                " https://user:password@broker:15671 for broker_driver = rabbitmq"
            )
        self._conf = conf
        self._auth = (urllib.parse.unquote(url.username), urllib.parse.unquote(url.password or ""))
        self._url = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self._vhost = transport.guest_vhost(conf)
        self._window_ms = int(conf.guest.message_window_s) * 1000
        self._lock = threading.Lock()
        self._has_policies = False
        self._local = threading.local()

    def __repr__(self) -> str:
        """Say nothing of the credential."""
        return f"<RabbitManagement of virtual host {self._vhost}>"

    def ensure_account(self, instance_id: str, generation: int, password: str) -> str:
        """Make the account, or set it right; return the URL with it."""
        if not _INSTANCE_ID.match(instance_id):
            raise exception.DriverError(service="RabbitMQ", reason="no instance has such an id")
        name = f"{_PREFIX}{instance_id}-{generation}"
        self._ensure_policies()
        self._ask(
            "PUT",
            f"users/{name}",
            {
                "password_hash": passwords.password_hash(password),
                "hashing_algorithm": passwords.HASHING_ALGORITHM,
                "tags": "",
            },
        )
        for limit, value in LIMITS.items():
            self._ask("PUT", f"user-limits/{name}/{limit}", {"value": value})
        for kind, rights in _rights_of(instance_id).items():
            self._ask("PUT", f"{kind}/{self._quoted_vhost}/{name}", rights)
        return transport.guest_url(self._conf, username=name, password=password)

    def remove_accounts(self, instance_id: str, *, keep: int | None = None) -> None:
        """Remove accounts of an instance; the broker ends the connections of a user that goes."""
        for owner, generation in self._list_accounts(f"{_PREFIX}{instance_id}-"):
            if owner == instance_id and generation != keep:
                self._ask("DELETE", f"users/{_PREFIX}{owner}-{generation}", missing_is_fine=True)
                LOG.info("instance %s: its broker account %d is removed", owner, generation)
        if keep is None:
            self._remove_left(instance_id)

    def list_owners(self) -> Collection[str]:
        """Return the ids of instances that have accounts."""
        return {owner for owner, _ in self._list_accounts(_PREFIX)}

    # -- the API -----

    @property
    def _quoted_vhost(self) -> str:
        return urllib.parse.quote(self._vhost, safe="")

    def _ensure_policies(self) -> None:
        """Limit the queues of the guest bus, once a process.

        What waited for longer than a message counts is of no use to anybody.
        """
        with self._lock:
            if self._has_policies:
                return
            guests = {"max-length-bytes": GUEST_QUEUE_BYTES, "expires": _UNUSED_MS}
            control = {"max-length-bytes": CONTROL_QUEUE_BYTES}
            for name, pattern, definition in (
                ("trove-guests", r"^(guest|answer)\.", guests),
                ("trove-control", r"^(trove-conductor|answer\.control)[._]?", control),
            ):
                self._ask(
                    "PUT",
                    f"operator-policies/{self._quoted_vhost}/{name}",
                    {
                        "pattern": pattern,
                        "definition": {**definition, "message-ttl": self._window_ms},
                        # the second pattern is the closer one
                        "priority": 1 if name == "trove-control" else 0,
                        "apply-to": "queues",
                    },
                )
            self._has_policies = True

    def _remove_left(self, instance_id: str) -> None:
        """Remove the queues that an agent left, before they run out, and exchanges if it made any.

        Those of its queues go along with these; a thief's need not.
        """
        own = re.compile(_own(instance_id))
        for kind in ("queues", "exchanges"):
            path = f"{kind}/{self._quoted_vhost}"
            query = {"page": 1, "page_size": _PAGE, "name": instance_id, "columns": "name"}
            for item in self._ask("GET", path, query=query)["items"]:
                if own.fullmatch(item["name"]):
                    name = urllib.parse.quote(item["name"], safe="")
                    self._ask("DELETE", f"{path}/{name}", missing_is_fine=True)

    def _list_accounts(self, prefix: str) -> list[tuple[str, int]]:
        """Return owner and generation of the accounts whose names begin with ``prefix``."""
        found: list[tuple[str, int]] = []
        page, pages = 1, 1
        while page <= pages:
            answer = self._ask(
                "GET",
                "users",
                query={"page": page, "page_size": _PAGE, "name": prefix, "columns": "name"},
            )
            # brokers before 3.13 give all users at once, whatever is asked for
            is_paged = isinstance(answer, dict)
            pages = int(answer["page_count"]) if is_paged else 1
            for user in answer["items"] if is_paged else answer:
                match = _NAME.match(user["name"])
                if match is not None and user["name"].startswith(prefix):
                    found.append((match["owner"], int(match["generation"])))
            page += 1
        return found

    def _session(self) -> requests.Session:
        """Return the session of this thread: requests does not promise to share one."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # neither a proxy nor a .netrc of the environment
            session.trust_env = False
            session.auth = self._auth
            session.verify = self._conf.guest.management_ca_file or True
            self._local.session = session
        return session

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        missing_is_fine: bool = False,
    ) -> Any:
        """Return the answer's JSON, None for none; raises DriverError."""
        what = f"{method} {path.partition('/')[0]}"
        try:
            answer = self._session().request(
                method,
                f"{self._url}/api/{path}",
                json=body,
                params=query,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as e:
            raise exception.DriverUnavailable(
                service="RabbitMQ's management API", reason=f"{what}: {type(e).__name__}"
            ) from e
        if answer.status_code in (200, 201, 204):
            return answer.json() if answer.content else None
        if answer.status_code == 404 and missing_is_fine:
            return None
        raise _refused(what, answer.status_code)


def _own(instance_id: str) -> str:
    """Return the pattern of the names that belong to an agent."""
    return rf"(guest|answer)\.{instance_id}([._].*)?"


def _rights_of(instance_id: str) -> Mapping[str, Mapping[str, str]]:
    """Return the rights of an agent, the narrower ones first; they are regular expressions."""
    own = _own(instance_id)
    # what an agent binds, word for word: no wildcard of a topic passes
    topics = (
        rf"guest\.{instance_id}(\.{instance_id})?",
        rf"answer\.{instance_id}(\.[0-9a-f-]{{36}}){{1,2}}",
    )
    return {
        "topic-permissions": {
            "exchange": transport.DOWN_EXCHANGE,
            "write": "^$",
            "read": f"^({'|'.join(topics)})$",
        },
        "permissions": {
            "configure": f"^{own}$",
            "write": rf"^({re.escape(transport.UP_EXCHANGE)}|{own})$",
            "read": rf"^({re.escape(transport.DOWN_EXCHANGE)}|{own})$",
        },
    }


#: What helps, by status.
_REMEDIES: Mapping[int, str] = {
    401: "check user and password in [guest] management_url; the user needs the tag administrator",
    403: "the user of [guest] management_url needs the tag administrator",
    404: "the virtual host of [guest] transport_url does not exist, or the broker is older than"
    " 3.8.10",
}


def _refused(what: str, status: int) -> exception.DriverError:
    is_passing = status >= 500 or status in (408, 429)
    kind = exception.DriverUnavailable if is_passing else exception.DriverError
    remedy = _REMEDIES.get(status)
    return kind(
        service="RabbitMQ's management API",
        reason=f"{what}: it answered {status}" + (f"; {remedy}" if remedy else ""),
    )
