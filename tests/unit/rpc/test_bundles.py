"""A bundle is what was signed, from end to end, or it is refused."""

from __future__ import annotations

import io
import json
import pathlib
import tarfile
from collections.abc import Callable

import pytest

from trove.rpc import bundles

_KEY = bundles.load_key(bundles.generate_key())
_PUBLIC = bundles.public_key_of(_KEY)


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> pathlib.Path:
    tags = "cp311-cp311-manylinux1_x86_64.manylinux2014_x86_64.manylinux_2_17_x86_64"
    names = ["trove-2.1.0-py3-none-any", "a-1-py3-none-any", f"{'long' * 15}-1.0-{tags}"]
    wheels = [tmp_path / f"{name}.whl" for name in names]
    for wheel in wheels:
        wheel.write_bytes(wheel.name.encode() * 1000)
    path = tmp_path / "x.bundle"
    bundles.write(
        path,
        wheels,
        version="2.1.0",
        python="3.11",
        machine=None,
        shares_base=False,
        key=_KEY,
    )
    return path


def test_bundle_comes_out_as_it_was_put_in(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    other = bundles.public_key_of(bundles.load_key(bundles.generate_key()))
    manifest = bundles.read(bundle, [other, _PUBLIC], into=into)
    assert (manifest.version, manifest.python, manifest.machine) == ("2.1.0", "3.11", None)
    assert {path.name for path in into.iterdir()} == set(manifest.files)
    for name, facts in manifest.files.items():
        assert bundles.facts_of(into / name) == facts


@pytest.mark.parametrize("keys", [[], ["", "x", "AAAA"], ["other"]])
def test_bundle_of_a_key_that_is_not_trusted_is_refused(
    bundle: pathlib.Path, tmp_path: pathlib.Path, keys: list[str]
) -> None:
    if keys == ["other"]:
        keys = [bundles.public_key_of(bundles.load_key(bundles.generate_key()))]
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(bundles.BundleError, match="key"):
        bundles.read(bundle, keys, into=into)
    assert list(into.iterdir()) == []


def _rewrite(bundle: pathlib.Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    with tarfile.open(bundle) as archive:
        members = {each.name: archive.extractfile(each) for each in archive.getmembers()}
        content = {name: stream.read() for name, stream in members.items() if stream is not None}
    with tarfile.open(bundle, "w:") as archive:
        for name, data in change(content).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _forged_manifest(content: dict[str, bytes]) -> dict[str, bytes]:
    wire = json.loads(content["manifest.json"])
    wire["version"] = "9.0.0"
    return content | {"manifest.json": json.dumps(wire).encode()}


@pytest.mark.parametrize(
    "change",
    [
        _forged_manifest,
        lambda content: content | {"a-1-py3-none-any.whl": b"x" * 20000},
        lambda content: content | {"evil-1-py3-none-any.whl": b"x"},
        lambda content: content | {"../../evil": b"x"},
        lambda content: {name: content[name] for name in list(content)[:-1]},
        lambda content: dict(reversed(content.items())),
        lambda content: {},
    ],
    ids=["manifest", "content", "more", "path", "less", "order", "nothing"],
)
def test_bundle_that_was_changed_is_refused(
    bundle: pathlib.Path,
    tmp_path: pathlib.Path,
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
) -> None:
    _rewrite(bundle, change)
    into = tmp_path / "a" / "into"
    into.mkdir(parents=True)
    with pytest.raises(bundles.BundleError):
        bundles.read(bundle, [_PUBLIC], into=into)
    assert not (tmp_path / "evil").exists()


def test_bundle_that_is_cut_off_anywhere_is_refused(bundle: pathlib.Path) -> None:
    whole = bundle.read_bytes()
    contents_end = whole.rstrip(b"\0")
    for size in range(0, len(contents_end), 4099):
        bundle.write_bytes(whole[:size])
        with pytest.raises(bundles.BundleError):
            bundles.read(bundle, [_PUBLIC])


@pytest.mark.parametrize("name", ["../x.whl", ".x.whl", "x.txt", "a/b.whl", ""])
def test_manifest_names_wheels_only(name: str) -> None:
    facts = {"sha256": "0" * 64, "size_bytes": 1}
    wire = {"bundle": 1, "version": "1.0", "python": "3.11", "machine": None}
    text = json.dumps(wire | {"shares_base": True, "files": {name: facts}}).encode()
    with pytest.raises(bundles.BundleError, match="no wheel"):
        bundles.Manifest.from_bytes(text)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"bundle": 2}', b'{"bundle": 1}'])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(bundles.BundleError):
        bundles.Manifest.from_bytes(text)


def test_neighbouring_releases_are_taken_and_older_ones_are_not() -> None:
    for version in ("4.0.0", "3.9.1", "4.2.0.dev17", "5.0.0", "19.0"):
        bundles.check_step("4.1.0", version)
    for version in ("2.9.9", "0.0.1", "", "x", "-1"):
        with pytest.raises(bundles.BundleError):
            bundles.check_step("4.1.0", version)


@pytest.mark.parametrize("pem", ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE"])
def test_what_is_no_key_is_told_without_showing_it(pem: str) -> None:
    with pytest.raises(bundles.BundleError, match="bundle-key"):
        bundles.load_key(pem)
