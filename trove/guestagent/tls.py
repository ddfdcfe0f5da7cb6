"""Which certificate the engine uses: sets of files on the volume, and which of them is current.

The instance's own certificate lies in the state directory, as the control plane signed it. A
certificate of the tenant's is a set: a directory on the volume with key, certificate and CA, so
that it outlives the server. The engine reads all three through one symbolic link, which is
replaced in one step: no engine ever sees the key of one set with the certificate of another.

What is in force is remembered on the volume once it has proven to work; the link follows from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import ssl
from collections.abc import Collection, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from trove.common import exception
from trove.guestagent import state
from trove.guestagent.system import filesystem
from trove.rpc import payloads

BUILTIN = "builtin"
MODES = (BUILTIN, "basic", "enforced", "mtls")

CERTIFICATE = "server.pem"
KEY = "server-key.pem"
CA = "ca.pem"

_SET_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What TLS is like.

    ``strict_before`` are the accounts, as ``name@host``, that had demands of their own on a
    client's TLS before the service made demands, with what they demanded.
    """

    mode: str = BUILTIN
    set_id: str | None = None
    strict_before: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def requires_tls(self) -> bool:
        """Tell whether connections without TLS are refused."""
        return self.mode in ("enforced", "mtls")

    @property
    def requires_client_certificate(self) -> bool:
        """Tell whether clients must show a certificate."""
        return self.mode == "mtls"


class TlsStore:
    """The files of TLS on one instance."""

    def __init__(self, layout: state.Layout) -> None:
        """Use the directories of a layout."""
        self._layout = layout
        self._sets = layout.mount_point / "tls"
        self._link = layout.tls_dir / "current"

    @property
    def directory(self) -> pathlib.Path:
        """Where the engine finds key, certificate and CA."""
        return self._link

    def setting(self) -> Setting:
        """Return what is in force."""
        try:
            text = (self._layout.volume_agent_dir / "tls.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return Setting()
        return Setting(**json.loads(text))

    def save(self, setting: Setting) -> None:
        """Remember what is in force."""
        self._layout.make_volume_agent_dir()
        text = json.dumps(dataclasses.asdict(setting))
        filesystem.write_file(self._layout.volume_agent_dir / "tls.json", text, mode=0o600)

    def find_own_demands(self) -> Mapping[str, str] | None:
        """Return what accounts demanded before a change that has not ended yet."""
        try:
            text = self._own_demands.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        demands: dict[str, str] = json.loads(text)
        return demands

    def remember_own_demands(self, demands: Mapping[str, str] | None) -> None:
        """Remember what accounts demand before the service does; None once that has ended."""
        if demands is None:
            self._own_demands.unlink(missing_ok=True)
            return
        self._layout.make_volume_agent_dir()
        filesystem.write_file(self._own_demands, json.dumps(dict(demands)), mode=0o600)

    @property
    def _own_demands(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "tls_own_demands.json"

    def _directory_of(self, set_id: str | None) -> pathlib.Path:
        if set_id is None:
            return self._layout.tls_dir
        if not _SET_ID.match(set_id):
            raise exception.GuestError(reason="the id of the certificate is not valid")
        return self._sets / set_id

    def has_set(self, set_id: str | None) -> bool:
        """Tell whether the files of a set are there; None is the instance's own certificate."""
        return (self._directory_of(set_id) / CERTIFICATE).is_file()

    def write_set(self, set_id: str, *, key_pem: str, certificate_pem: str, ca_pem: str) -> None:
        """Put the files of a set in their place; complete after a crash in between."""
        owner = self._layout.engine_user
        # the engine may pass and read its files, and replace none of them
        filesystem.ensure_directory(self._sets, mode=0o711)
        directory = filesystem.ensure_directory(self._directory_of(set_id), mode=0o711)
        # the certificate last: with it the set is there
        for name, pem in ((KEY, key_pem), (CA, ca_pem), (CERTIFICATE, certificate_pem)):
            filesystem.write_file(directory / name, pem, mode=0o600, owner=owner)

    def certificate(self, set_id: str | None) -> str:
        """Return the certificate of a set, PEM; raises OSError."""
        return (self._directory_of(set_id) / CERTIFICATE).read_text(encoding="ascii")

    def certificate_der(self, set_id: str | None) -> bytes:
        """Return the certificate of a set as a server shows it; raises OSError."""
        pem = self.certificate(set_id).encode("ascii")
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)

    def link(self, set_id: str | None) -> None:
        """Have the engine find the files of a set; in one step."""
        target = str(self._directory_of(set_id))
        with contextlib.suppress(OSError):
            if os.readlink(self._link) == target:
                return
        temporary = self._link.with_name(f".current.{secrets.token_hex(4)}")
        os.symlink(target, temporary)
        try:
            temporary.replace(self._link)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        filesystem.sync_directory(self._link.parent)

    def prune(self, keep: Collection[str | None]) -> None:
        """Remove the sets that are not in ``keep``."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._sets.iterdir()):
                if path.name not in keep:
                    filesystem.remove_tree(path)


def install(store: TlsStore, job: payloads.SslJob) -> None:
    """Have the files that a job is about in their place; raises GuestError when it makes no sense.

    Nothing uses them yet.
    """
    if job.mode not in MODES or (job.mode == BUILTIN) != (job.set_id is None):
        raise exception.GuestError(reason=f"there is no TLS mode {job.mode[:20]!r} like this")
    if job.set_id is not None and job.key_pem and job.certificate_pem:
        store.write_set(
            job.set_id,
            key_pem=job.key_pem,
            certificate_pem=job.certificate_pem,
            ca_pem=job.ca_pem or job.certificate_pem,
        )
    if not store.has_set(None):
        raise exception.GuestError(
            reason="the engine does no TLS: the instance was made without a certificate"
        )
    if not store.has_set(job.set_id):
        raise exception.GuestError(
            reason="the certificate is not on the instance: enable TLS with a bundle again"
        )


def looking_context() -> ssl.SSLContext:
    """Return how to see which certificate a server shows: it is compared, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def explain(error: Exception) -> exception.GuestError:
    """Return what is told of a change of the certificate that failed, but for servers' errors."""
    if isinstance(error, exception.GuestError):
        return error
    if isinstance(error, ssl.SSLError):
        return exception.GuestError(
            reason=f"a TLS connection with the certificate failed ({error.reason})"
        )
    if isinstance(error, OSError):
        return exception.GuestError(reason=filesystem.explain(error, "changing the certificate"))
    return exception.GuestError(reason=type(error).__name__)
