"""Secrets of users, the instances' authority and key-encryption keys, kept by Barbican.

A user's secret is read with the user's token, inside the request that names it. Who uses it is
noted as the service: that needs read access to the secret for the service's user (an access list of
the secret). Without it nothing is noted, which is told in the log and holds up nothing.

The authority is one secret, certificate and key together, so that it is there whole or not at all;
of several with its name the oldest counts. It signs in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, context, crypto, exception, keystone
from trove.drivers import cloud
from trove.drivers.secrets import authority, base
from trove.drivers.secrets import store as stores

LOG = log.getLogger(__name__)

SERVICE = "Barbican"
#: Prefix of the values of ``[guest] key_encryption_keys`` that name a secret.
KEY_PREFIX = "barbican:"
#: Consumers of secrets came with this version.
_CONSUMERS = {"OpenStack-API-Version": "key-manager 1.1"}
_PAGE = 100
_CONTAINER = re.compile(r"/containers/([0-9a-fA-F-]{36})/?\Z")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----\n?", re.DOTALL)


class _KeyManager:
    """The requests that this driver sends."""

    def __init__(self, conf: cfg.ConfigOpts, session: Any) -> None:
        self._conf = conf
        self._session = session

    def request(self, method: str, path: str, *, session: Any = None, **kwargs: Any) -> Any:
        """Send a request below /v1, with another session if one is given."""
        url = f"{self._endpoint()}{path}"
        # bodies are secrets
        return (session or self._session).request(
            url, method, log=False, connect_retries=1, redirect=False, **kwargs
        )

    def _endpoint(self) -> str:
        options = self._conf.service_credentials
        found = self._session.get_endpoint(
            service_type="key-manager",
            interface=options.interface,
            region_name=options.region_name,
        )
        if not found:
            raise cloud.CloudError(
                service=SERVICE,
                action="be found",
                reason="its endpoint is not in the catalog",
                remedy="The operator registers it, or chooses another [taskmanager] secrets_driver",
            )
        url = str(found).rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    def get_payload(self, ref: str, *, session: Any = None) -> bytes:
        """Return the payload of a secret."""
        answer = self.request(
            "GET",
            f"/secrets/{stores.secret_id_of(ref)}/payload",
            session=session,
            headers={"Accept": "*/*"},
        )
        payload: bytes = answer.content
        return payload


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Cached:
    authority: authority.Authority
    until_s: float


class BarbicanSecrets(base.SecretsDriver):
    """Secrets in the Barbican of ``[service_credentials]``' catalog."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Take the configuration; raises ConfigurationError when it names no credential."""
        self._conf = conf
        self._clock = clock or concurrency.SystemClock()
        self._manager = _KeyManager(conf, keystone.session_of(conf))
        self._lock = threading.Lock()
        self._cached: _Cached | None = None

    # -- secrets of users -----

    def get_secret_payload(self, ref: str, *, caller: context.RequestContext) -> bytes:
        """Return the payload of a secret that the caller may read."""
        secret_id = stores.secret_id_of(ref)
        # URLs of requests are whole: the session needs no catalog, only the caller's token
        session = keystone.user_session(self._conf, caller, endpoint="")
        try:
            with cloud.told(SERVICE, "read a secret"):
                return self._manager.get_payload(secret_id, session=session)
        except cloud.CloudError as e:
            if e.status in (403, 404):
                # what another may read is not even there for the caller
                raise exception.SecretNotFound(ref=secret_id) from e
            raise

    def add_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note on a secret that something uses it."""
        secret_id = stores.secret_id_of(ref)
        try:
            with self._noted(consumer), cloud.told(SERVICE, "note the use of a secret"):
                self._change_consumers("POST", secret_id, consumer)
        except cloud.CloudNotFound as e:
            raise exception.SecretNotFound(ref=secret_id) from e

    def remove_consumer(self, ref: str, consumer: stores.Consumer, *, project_id: str) -> None:
        """Note on a secret that something uses it no more."""
        with contextlib.suppress(exception.SecretNotFound, cloud.CloudNotFound):
            secret_id = stores.secret_id_of(ref)
            with self._noted(consumer), cloud.told(SERVICE, "note the end of a secret's use"):
                self._change_consumers("DELETE", secret_id, consumer)

    def _change_consumers(self, method: str, secret_id: str, consumer: stores.Consumer) -> None:
        self._manager.request(
            method,
            f"/secrets/{secret_id}/consumers",
            json=dataclasses.asdict(consumer),
            headers={**_CONSUMERS, "Accept": "application/json"},
        )

    @contextlib.contextmanager
    def _noted(self, consumer: stores.Consumer) -> Iterator[None]:
        """Go on when the service has no right to a user's secret: nothing depends on the note."""
        try:
            yield
        except cloud.CloudError as e:
            if e.status != 403:
                raise
            LOG.warning(
                "%s %s: the key manager does not note it as a consumer, since its secret's access"
                " list lacks the user of [service_credentials] (openstack acl user add)",
                consumer.resource_type,
                consumer.resource_id,
            )

    # -- the authority -----

    def get_ca_certificate(self) -> str:
        """Return the authority's certificate, PEM; raises DriverError."""
        return authority.to_pem(self._authority().certificate)

    def sign_server_certificate(
        self, csr_pem: str, *, instance_id: str, addresses: Sequence[str], hostnames: Sequence[str]
    ) -> str:
        """Return a server certificate, PEM, for the key of a request; raises DriverError."""
        return self._authority().sign(
            csr_pem,
            instance_id=instance_id,
            addresses=addresses,
            hostnames=hostnames,
            days=self._conf.tls.certificate_days,
            now=self._clock.now(),
        )

    def create_authority(self) -> bool:
        """Make the authority unless there is one; returns whether this call made it.

        Of two that are made at once the oldest remains.
        """
        if self._conf.barbican.certificate_authority_ref:
            self._authority()
            return False
        with cloud.told(SERVICE, "keep the certificate authority"):
            if self._find_authority() is not None:
                return False
            made = authority.generate(now=self._clock.now())
            answer = self._manager.request(
                "POST",
                "/secrets",
                json={
                    "name": self._conf.barbican.certificate_authority_name,
                    "secret_type": "opaque",
                    "payload": made.certificate_pem + made.key_pem,
                    "payload_content_type": "text/plain",
                },
            )
            own = stores.secret_id_of(str(answer.json()["secret_ref"]))
            oldest = self._find_authority()
            if oldest == own:
                return True
            self._manager.request("DELETE", f"/secrets/{own}")
        return False

    def _authority(self) -> authority.Authority:
        now_s = self._clock.monotonic()
        with self._lock:
            cached = self._cached
        if cached is not None and now_s < cached.until_s:
            return cached.authority
        try:
            with cloud.told(SERVICE, "read the certificate authority"):
                loaded = self._load_authority()
        except cloud.CloudUnavailable as e:
            if cached is None:
                raise
            LOG.warning("the authority that was read before is used: %s", e.message)
            loaded = cached.authority
        with self._lock:
            until_s = now_s + self._conf.barbican.authority_cache_s
            self._cached = _Cached(authority=loaded, until_s=until_s)
        return loaded

    def _load_authority(self) -> authority.Authority:
        ref = self._conf.barbican.certificate_authority_ref or self._find_authority()
        if ref is None:
            raise authority.SecretsError(
                "the key manager has none: make it with 'trove-manage certificate-authority create'"
            )
        container = _CONTAINER.search(ref)
        if container is not None:
            certificate, key = self._read_container(container.group(1))
        else:
            text = _ascii(self._manager.get_payload(ref))
            blocks = {match.group(1): match.group(0) for match in _PEM.finditer(text)}
            certificate = blocks.pop("CERTIFICATE", "")
            key = "".join(blocks.values())
        return authority.Authority(
            certificate, key, source=f"{SERVICE} {ref}", now=self._clock.now()
        )

    def _read_container(self, container_id: str) -> tuple[str, str]:
        """Return certificate and key of a certificate container."""
        found = self._manager.request(
            "GET", f"/containers/{container_id}", headers={"Accept": "application/json"}
        ).json()
        refs = {str(each.get("name")): each["secret_ref"] for each in found["secret_refs"]}
        if not {"certificate", "private_key"} <= refs.keys():
            raise authority.SecretsError(
                f"container {container_id} has not both a certificate and a private_key"
            )
        return (
            _ascii(self._manager.get_payload(refs["certificate"])),
            _ascii(self._manager.get_payload(refs["private_key"])),
        )

    def _find_authority(self) -> str | None:
        """Return the id of the oldest secret with the authority's name, None without one."""
        name = self._conf.barbican.certificate_authority_name
        found: list[tuple[str, str]] = []
        while True:
            page = self._manager.request(
                "GET",
                "/secrets",
                params={"name": name, "limit": str(_PAGE), "offset": str(len(found))},
                headers={"Accept": "application/json"},
            ).json()["secrets"]
            found += [(str(each["created"]), str(each["secret_ref"])) for each in page]
            if len(page) < _PAGE:
                return stores.secret_id_of(min(found)[1]) if found else None


def _ascii(payload: bytes) -> str:
    try:
        return payload.decode("ascii")
    except UnicodeDecodeError as e:
        raise authority.SecretsError("the authority's secret is not PEM") from e


def resolve_keys(conf: cfg.ConfigOpts) -> None:
    """Put the keys themselves in the place of their references in ``key_encryption_keys``.

    Done once at the start of a process, with a session of its own, since workers are forked later.
    Raises ConfigurationError for what is no key, CloudError for what cannot be read.
    """
    values = conf.guest.key_encryption_keys
    if not any(value.startswith(KEY_PREFIX) for value in values):
        return
    session = keystone.separate_session(conf)
    manager = _KeyManager(conf, session)
    keys = []
    for value in values:
        if value.startswith(KEY_PREFIX):
            with cloud.told(SERVICE, "read a key of [guest] key_encryption_keys"):
                payload = manager.get_payload(value.removeprefix(KEY_PREFIX))
            is_raw = len(payload) == crypto.KEY_BYTES
            value = crypto.encode_key(payload if is_raw else crypto.decode_key(_ascii(payload)))
        keys.append(value)
    session.session.close()
    conf.set_override("key_encryption_keys", keys, group="guest")
