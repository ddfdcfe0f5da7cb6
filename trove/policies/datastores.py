"""Rules of datastores and their versions."""

from __future__ import annotations

from trove.policies.base import ANYBODY, rule

RULES = [
    rule("datastore:index", ANYBODY, "List datastores.", "GET /datastores"),
    rule("datastore:show", ANYBODY, "Show a datastore.", "GET /datastores/{datastore}"),
    rule(
        "datastore:version_index",
        ANYBODY,
        "List the versions of a datastore.",
        "GET /datastores/{datastore}/versions",
    ),
    rule(
        "datastore:version_show",
        ANYBODY,
        "Show a version of a datastore.",
        "GET /datastores/{datastore}/versions/{version}",
    ),
    rule(
        "datastore:version_show_by_uuid",
        ANYBODY,
        "Show a version by its id alone.",
        "GET /datastores/versions/{version}",
    ),
    rule(
        "datastore:list_associated_flavors",
        ANYBODY,
        "List the flavors that a version may be used with.",
        "GET /datastores/{datastore}/versions/{version}/flavors",
    ),
]
