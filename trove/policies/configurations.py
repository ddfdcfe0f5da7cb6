"""Rules of configuration groups and parameters."""

from __future__ import annotations

from trove.policies.base import ADMIN, MEMBER, READER, rule

_ONE = "/configurations/{configuration_id}"
_VERSION = "/datastores/{datastore}/versions/{version}/parameters"
_VERSION_BY_ID = "/datastores/versions/{version}/parameters"
_MGMT = "/mgmt/datastores/versions/{version}/parameters"

RULES = [
    rule("configuration:create", MEMBER, "Make a configuration group.", "POST /configurations"),
    rule("configuration:index", READER, "List configuration groups.", "GET /configurations"),
    rule("configuration:show", READER, "Show a configuration group.", f"GET {_ONE}"),
    rule(
        "configuration:update",
        MEMBER,
        "Replace the values of a configuration group.",
        f"PUT {_ONE}",
    ),
    rule(
        "configuration:edit",
        MEMBER,
        "Set some values of a configuration group.",
        f"PATCH {_ONE}",
    ),
    rule("configuration:delete", MEMBER, "Delete a configuration group.", f"DELETE {_ONE}"),
    rule(
        "configuration:instances",
        READER,
        "List the instances of a configuration group.",
        f"GET {_ONE}/instances",
    ),
    rule(
        "configuration-parameter:index",
        READER,
        "List the configuration parameters of a version.",
        f"GET {_VERSION}",
    ),
    rule(
        "configuration-parameter:show",
        READER,
        "Show a configuration parameter of a version.",
        f"GET {_VERSION}/{{name}}",
    ),
    rule(
        "configuration-parameter:index_by_version",
        READER,
        "List the configuration parameters of a version given by its id alone.",
        f"GET {_VERSION_BY_ID}",
    ),
    rule(
        "configuration-parameter:show_by_version",
        READER,
        "Show a configuration parameter of a version given by its id alone.",
        f"GET {_VERSION_BY_ID}/{{name}}",
    ),
    rule(
        "instance:configuration",
        READER,
        "Show what an instance is configured with by default.",
        "GET /instances/{instance_id}/configuration",
    ),
    rule(
        "mgmt:configuration-parameter:index",
        ADMIN,
        "List the configuration parameters of a version as operators see them.",
        f"GET {_MGMT}",
    ),
    rule(
        "mgmt:configuration-parameter:create",
        ADMIN,
        "Add a configuration parameter to a version.",
        f"POST {_MGMT}",
    ),
    rule(
        "mgmt:configuration-parameter:show",
        ADMIN,
        "Show a configuration parameter, a deleted one too.",
        f"GET {_MGMT}/{{name}}",
    ),
    rule(
        "mgmt:configuration-parameter:update",
        ADMIN,
        "Change a configuration parameter of a version.",
        f"PUT {_MGMT}/{{name}}",
    ),
    rule(
        "mgmt:configuration-parameter:delete",
        ADMIN,
        "Take a configuration parameter from a version.",
        f"DELETE {_MGMT}/{{name}}",
    ),
]
