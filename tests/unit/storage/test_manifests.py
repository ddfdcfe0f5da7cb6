"""Manifests: read as they were written, or not at all."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove import states
from trove.storage import manifests

_KEY = b"k" * 32
_ATTEMPT = "0123456789abcdef"
_BEGAN = datetime.datetime(2026, 11, 23, 8, 0, 0, 5, tzinfo=datetime.UTC)


def _make(**changes: Any) -> manifests.Manifest:
    manifest = manifests.Manifest(
        backup_id="b",
        attempt=_ATTEMPT,
        kind=states.BackupKind.INCREMENT,
        parent_id="a",
        manager="mariadb",
        engine_version="10.11.19",
        facts={"gtid": "0-1-2", "bytes": 2**70, "part": 0.1, "name": "böse\udc80"},
        about={"instance_id": "i", "nested": {"list": [1, None, True]}},
        archive=manifests.ArchiveStart(epoch="e", sequence=7),
        began=_BEGAN,
        completed=_BEGAN + datetime.timedelta(hours=1),
        data_bytes=100,
        stored_bytes=30,
        segments=tuple(
            manifests.Segment(
                name=manifests.segment_name(_ATTEMPT, number), size=10 + number, sha256="ab" * 32
            )
            for number in range(2)
        ),
        wrapped_key="a2V5",
    )
    changes.setdefault("stored_bytes", sum(each.size for each in manifest.segments))
    return dataclasses.replace(manifest, **changes).signed(_KEY)


def _changed(**changes: Any) -> bytes:
    document = json.loads(_make().to_json()) | changes
    return json.dumps(document, sort_keys=True).encode()


def test_manifest_is_read_as_it_was_written() -> None:
    for manifest in (_make(), _make(parent_id=None, archive=None, about={}, facts={})):
        read = manifests.Manifest.from_json(manifest.to_json())
        assert read == manifest
        assert read.sha256 == manifest.sha256
        read.check(_KEY)


def test_manifest_of_another_key_is_refused() -> None:
    with pytest.raises(manifests.ManifestError, match="key"):
        _make().check(b"x" * 32)


@pytest.mark.parametrize(
    "change",
    [
        {"backup_id": "c"},
        {"attempt": "f" * 16},
        {"kind": states.BackupKind.FULL},
        {"parent_id": None},
        {"manager": "mysql"},
        {"engine_version": "11"},
        {"facts": {}},
        {"about": {}},
        {"archive": manifests.ArchiveStart(epoch="e", sequence=8)},
        {"began": _BEGAN - datetime.timedelta(microseconds=1)},
        {"completed": _BEGAN},
        {"data_bytes": 101},
        {"stored_bytes": 31},
        {"segments": ()},
        {"wrapped_key": "a2V6"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_mac_is_of_everything(change: dict[str, Any]) -> None:
    fields = {field.name for field in dataclasses.fields(manifests.Manifest)}
    assert set(change) < fields
    with pytest.raises(manifests.ManifestError):
        dataclasses.replace(_make(), **change).check(_KEY)


_SEGMENT = {"name": manifests.segment_name(_ATTEMPT, 0), "size": 10, "sha256": "ab" * 32}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        _make().to_json() + b"\n",
        _make().to_json().replace(b'"facts"', b'"facts": 1, "facts"'),
        _changed(more=1),
        _changed(format=2),
        _changed(format="1"),
        _changed(mac=""),
        _changed(kind="other"),
        _changed(attempt="../../../etc"),
        _changed(began="2026-11-23T08:00:00"),
        _changed(began="2026-11-23T08:00:00+01:00"),
        _changed(data_bytes=-1),
        _changed(data_bytes=1.5),
        _changed(data_bytes=True),
        _changed(facts=[]),
        _changed(facts={"a": float("nan")}),
        _changed(archive=1),
        _changed(archive={"epoch": 1, "sequence": 1}),
        _changed(wrapped_key="not base64"),
        _changed(segments=None),
        _changed(segments=[]),
        _changed(segments=["a"]),
        _changed(segments=[_SEGMENT]),
        _changed(segments=[_SEGMENT, _SEGMENT], stored_bytes=20),
        _changed(segments=[_SEGMENT | {"size": 0}], stored_bytes=0),
        _changed(segments=[_SEGMENT | {"name": "../x"}], stored_bytes=10),
        _changed(segments=[_SEGMENT | {"more": 1}], stored_bytes=10),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(manifests.ManifestError):
        manifests.Manifest.from_json(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(json.loads(_make().to_json()))), value=_JSON)
def test_no_value_of_a_field_breaks_the_reader(name: str, value: Any) -> None:
    content = _changed(**{name: value})
    try:
        manifest = manifests.Manifest.from_json(content)
        manifest.check(_KEY)
    except manifests.ManifestError:
        return
    assert manifest == _make()
