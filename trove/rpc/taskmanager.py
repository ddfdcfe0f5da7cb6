"""Hints to the taskmanager: which operation to look at now."""

from __future__ import annotations

import abc

TOPIC = "trove-taskmanager"


class TaskManagerApi(abc.ABC):
    """Casts to the taskmanager."""

    @abc.abstractmethod
    def run_operation(self, operation_id: str) -> None:
        """Hint that an operation can go on; never raises and never blocks for long.

        A lost hint costs one sweep interval: the operation is in the database.
        """
