"""Checks of names and passwords that hold for every engine; no I/O.

Each check returns None for a good value, else what is wrong with it, in words for people that
never repeat the value (it may be a password).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata

#: Categories no name may hold: controls, lone surrogates, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_HOST_PATTERN = re.compile(r"^[A-Za-z0-9_.%:-]+$")

MAX_PASSWORD_LENGTH = 255


def check_text(kind: str, text: str, *, max_length: int) -> str | None:
    """Check length and characters of a name; ``kind`` begins the answer ("A user name")."""
    if not text:
        return f"{kind} must not be empty"
    if len(text) > max_length:
        return f"{kind} must not be longer than {max_length} characters"
    if any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        return f"{kind} must not contain control characters or line separators"
    return None


def check_password(text: str) -> str | None:
    """Check a password: 1 to 255 characters, none of them a control character."""
    return check_text("A password", text, max_length=MAX_PASSWORD_LENGTH)


def check_host_pattern(text: str) -> str | None:
    """Check where a user may connect from, in the MySQL family's notation.

    Good are addresses (IPv4, IPv6), names, patterns with ``%`` and ``_``, and an IPv4 network as
    ``address/netmask`` (https://mariadb.com/kb/en/create-user/#account-names).
    """
    wrong = check_text("A host", text, max_length=255)
    if wrong:
        return wrong
    if "/" in text:
        return _check_network(text)
    if not _HOST_PATTERN.match(text):
        return "A host may only contain letters, digits and . : - _ %"
    if ":" in text and "%" not in text and "_" not in text:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            return "A host with colons must be an IPv6 address or a pattern of one"
    return None


def _check_network(text: str) -> str | None:
    address, _, mask = text.partition("/")
    try:
        network_address, netmask = ipaddress.IPv4Address(address), ipaddress.IPv4Address(mask)
        network = ipaddress.IPv4Network(f"{address}/{netmask}", strict=False)
    except ValueError:
        return "A network must have the form address/netmask, such as 10.1.0.0/255.255.0.0"
    if network.netmask != netmask:
        return "The netmask of a host must be ones followed by zeros, such as 255.255.0.0"
    if network.network_address != network_address:
        return (
            "The address of a network must have no bits outside its netmask, such as"
            " 10.1.0.0/255.255.0.0; others would never match"
        )
    return None
