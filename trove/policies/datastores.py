"""Rules of datastores and their versions."""

from __future__ import annotations

from trove.policies.base import ADMIN, ANYBODY, rule

_MGMT = "/mgmt/datastore-versions"

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
    rule(
        "datastore:list_associated_volume_types",
        ANYBODY,
        "List the volume types that a version may be used with.",
        "GET /datastores/{datastore}/versions/{version}/volume-types",
    ),
    rule(
        "datastore:delete",
        ADMIN,
        "Remove a datastore that has no versions.",
        "DELETE /datastores/{datastore}",
    ),
    rule(
        "mgmt:datastore-version:index",
        ADMIN,
        "List all datastore versions with what operators can set.",
        f"GET {_MGMT}",
    ),
    rule(
        "mgmt:datastore-version:create",
        ADMIN,
        "Register a datastore version.",
        f"POST {_MGMT}",
    ),
    rule(
        "mgmt:datastore-version:show",
        ADMIN,
        "Show a datastore version with what operators can set.",
        f"GET {_MGMT}/{{version_id}}",
    ),
    rule(
        "mgmt:datastore-version:update",
        ADMIN,
        "Change a datastore version.",
        f"PATCH {_MGMT}/{{version_id}}",
    ),
    rule(
        "mgmt:datastore-version:delete",
        ADMIN,
        "Remove a datastore version that nothing uses.",
        f"DELETE {_MGMT}/{{version_id}}",
    ),
]
