"""Limits and markers."""

from __future__ import annotations

import urllib.parse

import hypothesis
import hypothesis.strategies as st
import pytest

from trove.api import pagination, urls
from trove.common import exception

_URLS = urls.Urls(base="https://h/x", path="/v1.0/p/users", project_id="p")


@hypothesis.given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300))
def test_a_wrapped_marker_needs_no_quoting_and_comes_back(marker: str) -> None:
    wrapped = pagination.wrap_marker(marker)
    assert urllib.parse.quote(wrapped, safe="") == wrapped
    assert pagination.parse_marker({"marker": wrapped}) == marker


@pytest.mark.parametrize("raw", ["joe@%", "m~", "m~!", "m~/w", "x", "m~\xe9"])
def test_what_does_not_unwrap_is_a_raw_marker(raw: str) -> None:
    assert pagination.parse_marker({"marker": raw}) in (raw, "")


def test_no_marker_and_an_empty_one_are_the_same() -> None:
    assert pagination.parse_marker({}) is None
    assert pagination.parse_marker({"marker": ""}) is None


@pytest.mark.parametrize(
    ("text", "limit"), [("", 20), ("0", 0), ("7", 7), ("1000", 50), ("0009", 9)]
)
def test_the_limit_is_capped(text: str, limit: int) -> None:
    assert pagination.parse_limit({"limit": text}, default=20, maximum=50) == limit


@pytest.mark.parametrize("text", ["-1", "a", "1.0", " 1", "+1", "²", "9" * 19])
def test_a_bad_limit_is_refused(text: str) -> None:
    with pytest.raises(exception.BadRequest):
        pagination.parse_limit({"limit": text}, default=20, maximum=50)


def test_links_are_there_only_when_there_is_a_next_page() -> None:
    query = {"limit": "1", "marker": "old", "name": "a b"}
    assert pagination.page("users", [], urls=_URLS, query=query, next_marker=None) == {"users": []}
    body = pagination.page("users", [{}], urls=_URLS, query=query, next_marker="new")
    link = {"rel": "next", "href": "https://h/x/v1.0/p/users?limit=1&marker=new&name=a+b"}
    assert body == {"users": [{}], "links": [link], "users_links": [link]}
