"""How paths become segments, on every kind of server."""

from __future__ import annotations

import urllib.parse

import hypothesis
import hypothesis.strategies as st
import pytest

from trove.api import edge


def _segments(**environ: str) -> list[str]:
    return [edge.decode_segment(segment) for segment in edge.split_path(environ)]


@pytest.mark.parametrize(
    ("uri", "script_name", "path_info"),
    [
        # PATH_INFO decoded once (mod_wsgi, uWSGI), with %2F kept (cheroot), and no REQUEST_URI
        ("/v1.0/p/a%2Fb", "", "/v1.0/p/a/b"),
        ("/v1.0/p/a%2Fb", "", "/v1.0/p/a%2Fb"),
        ("/v1.0/p/a%2fb?x=/y", "", "/v1.0/p/a%2Fb"),
        ("/database/v1.0/p/a%2Fb", "/database", "/v1.0/p/a/b"),
        ("/v1.0/p/a%2Fb", "/database", "/v1.0/p/a/b"),
        ("http://host:1/v1.0/p/a%2Fb", "", "/v1.0/p/a%2Fb"),
        ("//v1.0//p/a%2Fb", "", "//p/a%2Fb"),
        ("//v1.0/p///a%2Fb/", "", "//v1.0/p///a/b/"),
    ],
)
def test_an_encoded_slash_stays_in_its_segment(uri: str, script_name: str, path_info: str) -> None:
    found = _segments(REQUEST_URI=uri, SCRIPT_NAME=script_name, PATH_INFO=path_info)
    assert found == ["v1.0", "p", "a/b"]


def test_a_uri_that_does_not_agree_with_the_path_is_not_believed() -> None:
    # a middleware has rewritten PATH_INFO
    assert _segments(REQUEST_URI="/old/%2F", PATH_INFO="/new/x%") == ["new", "x%"]
    assert _segments(PATH_INFO="/v1.0//p/") == ["v1.0", "p"]
    assert _segments(PATH_INFO="/a%2Fb") == ["a%2Fb"]
    assert _segments(PATH_INFO="") == []


@hypothesis.given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1))
def test_any_segments_come_back_from_a_decoding_server(segments: list[str]) -> None:
    uri = "/" + "/".join(urllib.parse.quote(segment, safe="") for segment in segments)
    decoded = urllib.parse.unquote(uri, "latin-1")
    assert _segments(REQUEST_URI=uri, PATH_INFO=decoded) == segments
