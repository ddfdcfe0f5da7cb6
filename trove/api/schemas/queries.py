"""Parameters of queries, by name, as handlers declare them."""

from __future__ import annotations

from collections.abc import Mapping

from trove.api.schemas.common import Document

Parameters = Mapping[str, Document]


def text(description: str) -> Document:
    """Return a parameter that is a bounded text."""
    return {"type": "string", "maxLength": 255, "description": description}


def flag(description: str) -> Document:
    """Return a parameter that is true or false."""
    return {"type": "boolean", "description": description}


#: The size of a page, and where it begins.
PAGE: Parameters = {
    "limit": {
        "type": "integer",
        "minimum": 0,
        "description": "The most items of the page; the service may have a smaller maximum.",
    },
    "marker": {
        "type": "string",
        "maxLength": 2000,
        "description": "The end of the page before, as the link to the next page has it.",
    },
}
#: What a list of instances is chosen by, and its order.
INSTANCES: Parameters = {
    **PAGE,
    "name": text("Only those of this name."),
    "status": text("Only those of this status."),
    "datastore": text("Only those of this datastore, by name or id."),
    "datastore_version": text("Only those of this datastore version, by name or id."),
    "flavor_id": text("Only those of this flavor."),
    "tags": {
        "type": "string",
        "maxLength": 20_000,
        "description": "Only those that have all of these tags, separated by commas.",
    },
    "tags-any": {
        "type": "string",
        "maxLength": 20_000,
        "description": "Only those that have any of these tags, separated by commas.",
    },
    "include_clustered": flag("Those that are part of a cluster as well."),
    "sort_key": {
        "enum": ["created", "updated", "name"],
        "description": "What the list is sorted by.",
    },
    "sort_dir": text("The direction of the order: asc or desc."),
}
PROJECT: Document = text("The project that is meant, for administrators.")
