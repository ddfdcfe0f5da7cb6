"""Rules of flavors, limits and the certificate authority."""

from __future__ import annotations

from trove.policies.base import ANYBODY, READER, rule

RULES = [
    rule("flavor:index", ANYBODY, "List flavors.", "GET /flavors"),
    rule("flavor:show", ANYBODY, "Show a flavor.", "GET /flavors/{flavor_id}"),
    rule(
        "certificate_authority:show",
        ANYBODY,
        "Show the certificate of the authority that clients of databases trust.",
        "GET /certificate-authority",
    ),
    rule("limits:index", READER, "Show the limits of the project.", "GET /limits"),
]
