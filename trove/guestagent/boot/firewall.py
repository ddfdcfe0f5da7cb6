"""The host firewall of a guest, as a document of nft(8): replaced as a whole, complete at once.

User side: the engine's port comes in, nothing else. Management side: nothing comes in; out go only
the agent (root) and only to the broker and object storage. Nobody asks the metadata service, which
would tell any process of the guest what the config drive said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from trove.guestagent.boot.endpoints import Address

TABLE = "trove"
_METADATA = {4: "169.254.169.254", 6: "fe80::a9fe:a9fe"}
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to admit. Interfaces are names; the management side may be that of the user too."""

    user_interface: str
    management_interface: str | None
    engine_ports: tuple[int, ...]
    endpoints: tuple[tuple[Address, int], ...]


def render(policy: Policy) -> str:
    """Return the rules."""
    user = policy.user_interface
    management = policy.management_interface or user
    return "\n".join(
        [
            # declared first, so that deleting it succeeds where there is none yet
            f"table inet {TABLE}",
            f"delete table inet {TABLE}",
            f"table inet {TABLE} {{",
            *_sets(policy.endpoints),
            "  chain input {",
            "    type filter hook input priority filter; policy drop;",
            '    iifname "lo" accept',
            "    ct state established,related accept",
            "    ct state invalid drop",
            *_neighbours(),
            "    udp sport 67 udp dport 68 accept",
            "    ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
            f'    iifname "{user}" icmp type echo-request limit rate 10/second accept',
            f'    iifname "{user}" icmpv6 type echo-request limit rate 10/second accept',
            *(f'    iifname "{user}" tcp dport {port} accept' for port in policy.engine_ports),
            "  }",
            "  chain forward {",
            "    type filter hook forward priority filter; policy drop;",
            "  }",
            "  chain output {",
            "    type filter hook output priority filter; policy drop;",
            '    oifname "lo" accept',
            f"    ip daddr {_METADATA[4]} drop",
            f"    ip6 daddr {_METADATA[6]} drop",
            "    ct state established,related accept",
            *_neighbours(),
            "    udp sport 68 udp dport 67 accept",
            "    udp sport 546 udp dport 547 accept",
            *_out(management),
            # what answers on the user's network must not be taken for the control plane
            *_never(user, management),
            *([f'    oifname "{user}" accept'] if policy.management_interface else []),
            "  }",
            "}",
            "",
        ]
    )


def _sets(endpoints: Iterable[tuple[Address, int]]) -> Iterable[str]:
    known = list(endpoints)
    for version, (_, kind) in _FAMILIES.items():
        members = [f"{address} . {port}" for address, port in known if address.version == version]
        yield f"  set control{version} {{"
        yield f"    type {kind} . inet_service"
        if members:
            yield f"    elements = {{ {', '.join(members)} }}"
        yield "  }"


def _neighbours() -> list[str]:
    """Return what IPv6 needs to work at all, and what IPv4 tells of errors."""
    return [
        "    icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit,"
        " nd-neighbor-advert, mld-listener-query, mld-listener-report, mld2-listener-report,"
        " packet-too-big, destination-unreachable, time-exceeded } accept",
        "    icmp type { destination-unreachable, time-exceeded } accept",
    ]


def _out(management: str) -> list[str]:
    return [
        f'    oifname "{management}" meta skuid 0 {family} daddr . tcp dport @control{version}'
        " accept"
        for version, (family, _) in _FAMILIES.items()
    ]


def _never(user: str, management: str) -> list[str]:
    if user == management:
        return []
    return [
        f'    oifname "{user}" {family} daddr . tcp dport @control{version} drop'
        for version, (family, _) in _FAMILIES.items()
    ]
