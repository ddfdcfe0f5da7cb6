"""Rules of flavors and limits."""

from __future__ import annotations

from trove.policies.base import ANYBODY, READER, rule

RULES = [
    rule("flavor:index", ANYBODY, "List flavors.", "GET /flavors"),
    rule("flavor:show", ANYBODY, "Show a flavor.", "GET /flavors/{flavor_id}"),
    rule("limits:index", READER, "Show the limits of the project.", "GET /limits"),
]
