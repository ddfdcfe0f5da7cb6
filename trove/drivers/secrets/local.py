"""An authority of our own, kept in two files, that signs the certificates of instances.

Secrets of users are kept, wrapped, below the local state directory.
"""

from __future__ import annotations

import datetime
import functools
import pathlib
from collections.abc import Sequence

from oslo_config import cfg

from trove.common import concurrency, crypto
from trove.drivers import local_state
from trove.drivers.secrets import authority, base
from trove.drivers.secrets import store as stores


def generate_ca(
    certificate_file: pathlib.Path, key_file: pathlib.Path, *, now: datetime.datetime
) -> None:
    """Make an authority in two files, the key's for its owner alone."""
    made = authority.generate(now=now)
    local_state.replace(key_file, made.key_pem, mode=0o600)
    local_state.replace(certificate_file, made.certificate_pem, mode=0o644)


class LocalSecrets(base.KeepingDriver):
    """The authority of ``[tls] ca_certificate_file`` and ``ca_key_file``."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Take the configuration; the files are read when they are needed."""
        self._conf = conf
        self._clock = clock or concurrency.SystemClock()

    @functools.cached_property
    def store(self) -> stores.SecretStore:
        """The store of ``[local] state_dir``; raises ConfigurationError without a key."""
        return stores.SecretStore(
            stores.FileShelf(local_state.LocalState(self._conf.local.state_dir)),
            key_ring=crypto.KeyRing.from_config(self._conf.guest.key_encryption_keys),
            clock=self._clock,
        )

    def create_authority(self) -> bool:
        """Make the two files unless one of them is there."""
        tls = self._conf.tls
        files = (pathlib.Path(tls.ca_certificate_file), pathlib.Path(tls.ca_key_file))
        with local_state.LocalState(self._conf.local.state_dir).lock("authority"):
            if any(file.exists() for file in files):
                return False
            with local_state.told(files[0]):
                generate_ca(*files, now=self._clock.now())
        return True

    def get_ca_certificate(self) -> str:
        """Return the authority's certificate, PEM; raises DriverError."""
        return self._read(self._conf.tls.ca_certificate_file)

    def sign_server_certificate(
        self, csr_pem: str, *, instance_id: str, addresses: Sequence[str], hostnames: Sequence[str]
    ) -> str:
        """Return a server certificate, PEM, for the key of a request; raises DriverError."""
        now = self._clock.now()
        tls = self._conf.tls
        signer = authority.Authority(
            self.get_ca_certificate(),
            self._read(tls.ca_key_file),
            source=f"{tls.ca_certificate_file} and {pathlib.Path(tls.ca_key_file).name}",
            now=now,
        )
        return signer.sign(
            csr_pem,
            instance_id=instance_id,
            addresses=addresses,
            hostnames=hostnames,
            days=tls.certificate_days,
            now=now,
        )

    def _read(self, path: str) -> str:
        try:
            return pathlib.Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as e:
            raise authority.SecretsError(
                f"{path} cannot be read ({e}): set [tls] ca_certificate_file and ca_key_file to the"
                " authority's files"
            ) from e
