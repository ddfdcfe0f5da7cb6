"""Rules of clusters."""

from __future__ import annotations

from trove.policies.base import MEMBER, READER, rule

RULES = [
    rule("cluster:create", MEMBER, "Create a cluster.", "POST /clusters"),
    rule("cluster:index", READER, "List clusters.", "GET /clusters"),
    rule("cluster:show", READER, "Show a cluster.", "GET /clusters/{cluster_id}"),
]
