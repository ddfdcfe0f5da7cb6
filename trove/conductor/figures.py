"""The figures of an engine, as a guest sends them: checked, then written as they are stored.

A guest may be hostile: what is no figure of :mod:`trove.datastores.metrics`, no number, not finite,
negative or beyond 64 bits is dropped. The rest of the heartbeat counts all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from trove.datastores import metrics

#: More than an agent of a later release may have.
_MOST = 4 * len(metrics.METRICS)
_LARGEST = float(2**63)

UNKNOWN = "unknown_metric"
BAD_VALUE = "bad_metric"
TOO_MANY = "too_many_metrics"


def pack(sent: Mapping[str, object]) -> tuple[str | None, tuple[str, ...]]:
    """Return figures as a JSON object, None for none, and the reasons why some were dropped."""
    if not sent:
        return None, ()
    if len(sent) > _MOST:
        return None, (TOO_MANY,)
    good: dict[str, float] = {}
    wrong: set[str] = set()
    for name, value in sent.items():
        if name not in metrics.METRICS:
            wrong.add(UNKNOWN)
        # a bool is an int to Python; a comparison with NaN is never true
        elif (type(value) is float or type(value) is int) and 0 <= value < _LARGEST:
            good[name] = value
        else:
            wrong.add(BAD_VALUE)
    return orjson.dumps(good).decode() if good else None, tuple(sorted(wrong))
