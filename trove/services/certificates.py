"""The certificate that clients of databases trust."""

from __future__ import annotations

from oslo_log import log

from trove.common import exception
from trove.drivers.secrets.base import SecretsDriver

LOG = log.getLogger(__name__)


class Certificates:
    """Use cases of certificates."""

    def __init__(self, *, secrets: SecretsDriver | None) -> None:
        """Take the driver; None when this process has no authority."""
        self._secrets = secrets

    def get_authority(self) -> str:
        """Return the authority's certificate, PEM; raises ServiceUnavailable."""
        if self._secrets is not None:
            try:
                return self._secrets.get_ca_certificate()
            except exception.DriverError as e:
                # the text names files of the server: not for users
                LOG.error("the certificate authority cannot be shown: %s", e)
        raise exception.ServiceUnavailable(
            reason="the certificate authority is not available; tell the operator"
        )
