"""Hints to the taskmanager: which operation to look at now."""

from __future__ import annotations

import abc
import socket
import uuid
from collections.abc import Callable

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.rpc import transport

LOG = log.getLogger(__name__)

TOPIC = "trove-taskmanager"


class TaskManagerApi(abc.ABC):
    """Casts to the taskmanager."""

    @abc.abstractmethod
    def run_operation(self, operation_id: str) -> None:
        """Hint that an operation can go on; never raises and never blocks for long.

        A lost hint costs one sweep interval: the operation is in the database.
        """


class TaskManagerClient(TaskManagerApi):
    """The real thing, on the control bus."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the options; connects on first use."""
        self._sender = transport.Sender(conf, transport.Bus.CONTROL)

    def run_operation(self, operation_id: str) -> None:
        """Hint that an operation can go on; a hint that cannot be sent is dropped."""
        try:
            self._sender.cast(TOPIC, "run_operation", operation_id=operation_id)
        except exception.ServiceUnavailable as e:
            LOG.info("no hint to the taskmanager for operation %s: %s", operation_id, e)

    def close(self) -> None:
        """Close all connections."""
        self._sender.close()


def make_server(
    conf: cfg.ConfigOpts, on_run: Callable[[str], None], *, threads: int = 1
) -> transport.RpcServer:
    """Return the server of a taskmanager process, not started.

    ``on_run(operation_id)`` must return at once and must not raise.
    """

    def run_operation(operation_id: object = None) -> None:
        if isinstance(operation_id, str):
            on_run(operation_id)

    return transport.RpcServer(
        conf,
        transport.Bus.CONTROL,
        topic=TOPIC,
        server=f"{socket.gethostname()}-{uuid.uuid4()}",
        methods={"run_operation": run_operation},
        threads=threads,
    )
