"""The key of the guest channel and the account on its bus: those given first, or their successors.

A server is made with a key and an account that are good for first contact only. What replaces them
is kept in the agent's directory, in one file that is replaced as a whole. It belongs to the key it
replaced: in a server made anew, with a key of its own, what an earlier one kept does not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

from oslo_config import cfg
from oslo_log import log

from trove.common import crypto, exception
from trove.guestagent.system import filesystem
from trove.rpc import payloads

LOG = log.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A key and the URL of the guest bus with the account that belongs to it."""

    key: bytes = dataclasses.field(repr=False)
    transport_url: str = dataclasses.field(repr=False)


class CredentialFile:
    """What counts now, and how that is replaced."""

    def __init__(self, path: pathlib.Path, bootstrap: Credentials) -> None:
        """Take where the file is, or will be, and what the server was made with.

        Raises ConfigurationError when there is a file that cannot be read.
        """
        self._path = path
        self._mark = hashlib.sha256(bootstrap.key).hexdigest()
        self.current = self._find() or bootstrap

    def _find(self) -> Credentials | None:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["replaces"] != self._mark:
                LOG.info("%s is of an earlier server and does not count", self._path.name)
                return None
            return Credentials(
                key=crypto.decode_key(kept["key"]), transport_url=str(kept["transport_url"])
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, exception.ConfigurationError) as e:
            raise exception.ConfigurationError(
                reason=f"{self._path} cannot be read ({type(e).__name__}): restore it, or have the"
                " operator rebuild the instance"
            ) from None

    def replace(self, job: payloads.RekeyJob) -> Credentials:
        """Keep what a job brings, durably, and return it; raises GuestError, OSError."""
        try:
            key = crypto.decode_key(job.key)
        except exception.ConfigurationError:
            raise exception.GuestError(reason="the new key is no key") from None
        document = {"replaces": self._mark, "key": job.key, "transport_url": job.transport_url}
        filesystem.write_file(self._path, json.dumps(document), mode=0o600)
        self.current = Credentials(key=key, transport_url=job.transport_url)
        return self.current


def from_config(conf: cfg.ConfigOpts, key: bytes) -> CredentialFile:
    """Return what counts for an agent with a key by its options; raises ConfigurationError."""
    state_dir = pathlib.Path(conf.guestagent.state_dir).absolute()
    return CredentialFile(
        state_dir / "agent" / "channel.json",
        Credentials(key=key, transport_url=conf.guest.transport_url or ""),
    )
