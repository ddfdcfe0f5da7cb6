"""Bundles: releases of the agent on their way to guests, signed by the operator.

A bundle is a tar file of ``manifest.json``, ``manifest.sig`` and the files that the manifest lists
with their sizes and SHA-256s: wheels. The signature (Ed25519) is over the bytes of the manifest and
comes before all that it vouches for, so that nothing else is even stored when it is not right.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from trove.common import exception

_MANIFEST, _SIGNATURE = "manifest.json", "manifest.sig"
_MOST_MANIFEST_BYTES = 1024 * 1024
_CHUNK = 1024 * 1024
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,199}\.whl\Z")
_VERSION = re.compile(r"(\d{1,6})(\.\d{1,6})*[A-Za-z0-9.+-]{0,40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class BundleError(exception.TroveError):
    """A bundle cannot be made, or must not be used."""

    msg_fmt = "The bundle is refused: {reason}"
    code = "trove.bundle"


def release_of(version: str) -> int:
    """Return the number of a release, the first of its version; raises BundleError."""
    match = _VERSION.match(version)
    if match is None:
        raise BundleError(reason=f"{version[:60]!r} is no version")
    return int(match.group(1))


def check_step(from_version: str, to_version: str) -> None:
    """Raise BundleError when releases are so far apart that they need not understand each other.

    A newer release is always taken; an older one is when it is the one before.
    """
    if release_of(to_version) < release_of(from_version) - 1:
        raise BundleError(reason=f"{to_version} is more than one release older than {from_version}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file of a bundle has to be."""

    sha256: str
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in a bundle, and where it runs.

    ``python`` is its version without the last part, ``machine`` as uname(2) says, None for any.
    With ``shares_base`` it has this project's wheel alone and is used with what the image has
    installed.
    """

    version: str
    python: str
    machine: str | None
    shares_base: bool
    files: Mapping[str, FileFacts]

    def to_bytes(self) -> bytes:
        """Return what is signed."""
        return json.dumps({"bundle": 1, **dataclasses.asdict(self)}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read what was signed; raises BundleError."""
        try:
            wire = json.loads(text)
            if wire["bundle"] != 1:
                raise BundleError(reason="it is of a kind that this release does not know")
            files = {str(name): FileFacts(**facts) for name, facts in wire["files"].items()}
            found = cls(
                version=str(wire["version"]),
                python=str(wire["python"]),
                machine=wire["machine"],
                shares_base=bool(wire["shares_base"]),
                files=files,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BundleError(reason="its manifest cannot be read") from None
        release_of(found.version)
        for name, facts in files.items():
            is_one = _WHEEL.match(name) and isinstance(facts.size_bytes, int)
            if not is_one or not _SHA256.match(str(facts.sha256)):
                raise BundleError(reason="its manifest names what is no wheel")
        return found


# -- keys -----


def generate_key() -> str:
    """Return a new private key, PEM."""
    return (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode("ascii")
    )


def load_key(pem: str) -> ed25519.Ed25519PrivateKey:
    """Return a private key; raises BundleError."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise BundleError(
            reason="the key is no Ed25519 key without password; make one with 'trove-manage guest"
            " bundle-key'"
        )
    return key


def public_key_of(key: ed25519.Ed25519PrivateKey) -> str:
    """Return the public key as it stands in ``[guestagent] bundle_public_keys``."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode("ascii")


def _verify(manifest: bytes, signature: bytes, public_keys: Sequence[str]) -> None:
    if not public_keys:
        raise BundleError(
            reason="no key is trusted: [guestagent] bundle_public_keys was not set when the guest"
            " was made"
        )
    for text in public_keys:
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
            key.verify(signature, manifest)
        except (InvalidSignature, ValueError, binascii.Error):
            continue
        return
    raise BundleError(reason="it is signed by none of the keys that are trusted")


# -- files -----


def facts_of(path: pathlib.Path) -> FileFacts:
    """Return size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileFacts(sha256=digest.hexdigest(), size_bytes=path.stat().st_size)


def write(
    path: pathlib.Path,
    files: Sequence[pathlib.Path],
    *,
    version: str,
    python: str,
    machine: str | None,
    shares_base: bool,
    key: ed25519.Ed25519PrivateKey,
) -> Manifest:
    """Make a bundle of files; raises OSError."""
    manifest = Manifest(
        version=version,
        python=python,
        machine=machine,
        shares_base=shares_base,
        files={file.name: facts_of(file) for file in sorted(files, key=lambda file: file.name)},
    )
    text = manifest.to_bytes()
    Manifest.from_bytes(text)
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in ((_MANIFEST, text), (_SIGNATURE, key.sign(text))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for file in sorted(files, key=lambda file: file.name):
            member = tarfile.TarInfo(file.name)
            member.size = manifest.files[file.name].size_bytes
            with file.open("rb") as stream:
                archive.addfile(member, stream)
    return manifest


def read(
    path: pathlib.Path, public_keys: Sequence[str], *, into: pathlib.Path | None = None
) -> Manifest:
    """Check a bundle from end to end, and unpack its files into an empty directory if one is given.

    Raises BundleError, OSError.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            text = _read_small(archive, _MANIFEST)
            _verify(text, _read_small(archive, _SIGNATURE), public_keys)
            manifest = Manifest.from_bytes(text)
            left = dict(manifest.files)
            while (member := archive.next()) is not None:
                facts = left.pop(member.name, None)
                if facts is None or not member.isreg() or member.size != facts.size_bytes:
                    raise BundleError(reason="it holds what its manifest does not list")
                target = None if into is None else into / member.name
                if _unpack(archive, member, target) != facts.sha256:
                    raise BundleError(reason=f"{member.name} is not what was signed")
    except (tarfile.TarError, EOFError) as e:
        raise BundleError(reason="it is damaged or not whole") from e
    if left:
        raise BundleError(reason="it is not whole")
    return manifest


def _read_small(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.next()
    if member is None or member.name != name or not member.isreg():
        raise BundleError(reason=f"it is no bundle: {name} is missing")
    stream = archive.extractfile(member)
    if stream is None or member.size > _MOST_MANIFEST_BYTES:
        raise BundleError(reason=f"it is no bundle: {name} is too large")
    return stream.read()


def _unpack(archive: tarfile.TarFile, member: Any, target: pathlib.Path | None) -> str:
    stream = archive.extractfile(member)
    digest = hashlib.sha256()
    with (target or pathlib.Path("/dev/null")).open("wb") as file:
        while stream is not None and (chunk := stream.read(_CHUNK)):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
