"""What all drivers of cloud services share: the connection, and errors that can be told.

An error of a service says what was asked, of which service, under which request id, and what helps;
it never carries a body or a header, which may hold secrets.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import openstack
from keystoneauth1 import exceptions as ksa_exceptions
from openstack import exceptions as sdk_exceptions
from oslo_config import cfg

from trove.common import exception, keystone

#: Prefix of the names of everything that is made for an instance; its id follows.
PREFIX = "trove-"
#: Answers after which trying again can help.
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_MAX_REASON = 300


class CloudError(exception.DriverError):
    """A service of the cloud refused; ``status`` is its answer's, None when there was none."""

    msg_fmt = "{service} failed to {action}: {reason}{request}{remedy}"
    code = "trove.cloud"

    def __init__(
        self,
        *,
        service: str,
        action: str,
        reason: str,
        status: int | None = None,
        request_id: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Say what was refused, why, and what helps."""
        super().__init__(
            service=service,
            action=action,
            reason=reason.rstrip("."),
            request=f" (request {request_id})" if request_id else "",
            remedy=f". {remedy.rstrip('.')}" if remedy else "",
        )
        self.status = status
        self.request_id = request_id


class CloudUnavailable(CloudError, exception.DriverUnavailable):
    """A service of the cloud is down, slow or overloaded: trying again can help."""

    code = "trove.cloud_unavailable"


class CloudNotFound(CloudError):
    """A service of the cloud has no such thing."""

    code = "trove.cloud_not_found"


class CloudConflict(CloudError):
    """A service of the cloud refused because of the state that the thing is in now."""

    code = "trove.cloud_conflict"


class CloudQuotaExceeded(CloudError):
    """The service's own project is over its quota in the cloud."""

    code = "trove.cloud_quota_exceeded"


def refused(
    service: str,
    action: str,
    *,
    status: int | None,
    reason: str,
    request_id: str | None = None,
) -> CloudError:
    """Return the error for an answer of a service, by its status."""
    text = "".join(c if c.isprintable() else " " for c in reason).strip()[:_MAX_REASON]
    kind: type[CloudError] = CloudError
    remedy = None
    lowered = text.lower()
    if status == 413 or (status in (403, 409) and "quota" in lowered):
        kind = CloudQuotaExceeded
        remedy = f"The operator raises this service's quota in {service}, or frees some"
    elif status is None or status in _RETRYABLE:
        kind = CloudUnavailable
    elif status == 401:
        remedy = "The operator checks [service_credentials]"
    elif status == 403:
        remedy = "The operator gives the user of [service_credentials] the role that this needs"
    elif status == 404:
        kind = CloudNotFound
    elif status == 409:
        kind = CloudConflict
    return kind(
        service=service,
        action=action,
        reason=text or f"it answered {status}",
        status=status,
        request_id=request_id,
        remedy=remedy,
    )


@contextlib.contextmanager
def told(service: str, action: str) -> Iterator[None]:
    """Turn errors of keystoneauth1 and openstacksdk into a CloudError that says what was asked."""
    try:
        yield
    except sdk_exceptions.HttpException as e:
        status = getattr(e.response, "status_code", None) or e.status_code
        raise refused(
            service,
            action,
            status=status,
            reason=e.details or e.message or "",
            request_id=e.request_id,
        ) from e
    except sdk_exceptions.ConfigException as e:
        raise CloudError(
            service=service, action=action, reason=str(e), remedy="Check [service_credentials]"
        ) from e
    except sdk_exceptions.SDKException as e:
        raise refused(service, action, status=None, reason=e.message or type(e).__name__) from e
    except ksa_exceptions.HttpError as e:
        raise refused(
            service,
            action,
            status=e.http_status,
            reason=e.details or e.message or "",
            request_id=e.request_id,
        ) from e
    except (ksa_exceptions.EndpointNotFound, ksa_exceptions.CatalogException) as e:
        raise CloudError(
            service=service,
            action=action,
            reason="its endpoint is not in the catalog",
            remedy="The operator registers it, or corrects region_name and interface in"
            " [service_credentials]",
        ) from e
    except ksa_exceptions.ClientException as e:
        # no connection, no answer in time, no identity service
        raise refused(service, action, status=None, reason=type(e).__name__) from e


class Cloud:
    """The connection of the service's own credential; connects on first use, after any fork."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError when it names no credential."""
        self._conf = conf
        self.session = keystone.session_of(conf)
        self._lock = threading.Lock()
        self._connection: openstack.connection.Connection | None = None

    @property
    def region_name(self) -> str | None:
        """Return the region, None for the only one."""
        region_name: str | None = self._conf.service_credentials.region_name
        return region_name

    @property
    def interface(self) -> str:
        """Return which endpoints are used: internal, public or admin."""
        interface: str = self._conf.service_credentials.interface
        return interface

    @property
    def connection(self) -> Any:
        """Return openstacksdk's connection."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect(self.session)
            return self._connection

    def connection_of(self, session: Any) -> Any:
        """Return a connection with another session, as of a user's token; keep it nowhere."""
        return self._connect(session)

    def _connect(self, session: Any) -> Any:
        kinds = ("block_storage", "network", "image", "object_store", "key_manager", "dns")
        return openstack.connection.Connection(
            session=session,
            region_name=self.region_name,
            **{f"{kind}_interface": self.interface for kind in kinds},
            # operations try again themselves, without keeping a thread; the SDK would sleep, by its
            # own default for images above all
            status_code_retries=0,
            image_status_code_retries=0,
        )


def name_of(instance_id: str) -> str:
    """Return the name of what is made for an instance."""
    return f"{PREFIX}{instance_id}"


def instance_of(name: str | None) -> str | None:
    """Return whose a thing of that name is, None when it is nobody's of this service."""
    if not name or not name.startswith(PREFIX):
        return None
    return name.removeprefix(PREFIX) or None
