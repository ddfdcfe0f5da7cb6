"""Notifications for other services, through oslo.messaging.

``[oslo_messaging_notifications]`` says by which drivers and to which topics; without a driver, or
with ``noop`` alone, nobody is told anything. Unlike oslo.messaging's own notifier, which only logs
that a message could not be sent, :class:`Notifier` says so to its caller.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
import functools
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import oslo_messaging
import stevedore
from oslo_config import cfg
from oslo_messaging import opts as messaging_opts

from trove.common import exception
from trove.rpc import transport

#: Where consumers look for the exchange of this service.
CONTROL_EXCHANGE = "trove"
_GROUP = "oslo_messaging_notifications"
_NAMESPACE = "oslo.messaging.notify.drivers"
_NOOP = "noop"
#: oslo.messaging's drivers that send over a transport -> version of the message's format.
_OVER_TRANSPORT: Mapping[str, float] = {"messaging": 1.0, "messagingv2": 2.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A notification; ``priority`` is "info" or "error"."""

    message_id: str
    event_type: str
    priority: str
    payload: Mapping[str, Any]
    created: datetime.datetime


class NotifierApi(abc.ABC):
    """Sends notifications."""

    @abc.abstractmethod
    def send(self, message: Message) -> None:
        """Send one; raises MessagingUnavailable when it could not be handed over."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close all connections."""


@functools.cache
def _options() -> Sequence[tuple[str | None, Sequence[cfg.Opt]]]:
    return [
        (group, options)
        for group, options in messaging_opts.list_opts()
        if group in (None, _GROUP, "oslo_messaging_rabbit")
    ]


def _drivers(conf: cfg.ConfigOpts) -> list[str]:
    for group, options in _options():
        if group == _GROUP:
            conf.register_opts(options, group=group)
    return [name for name in conf[_GROUP].driver if name and name != _NOOP]


def is_enabled(conf: cfg.ConfigOpts) -> bool:
    """Tell whether anybody is to be told anything."""
    return bool(_drivers(conf))


def make(conf: cfg.ConfigOpts) -> NotifierApi | None:
    """Return a notifier, None when nobody is to be told; connects on first use."""
    return Notifier(conf) if is_enabled(conf) else None


def _as_operators_set(conf: cfg.ConfigOpts) -> cfg.ConfigOpts:
    """Return the operator's options without the defaults that suit our own buses.

    Those have queues vanish with their consumer: notifications wait for theirs, in queues that
    must be declared as other services declare them.
    """
    own = cfg.ConfigOpts()
    own([], project="trove", default_config_files=[], default_config_dirs=[])
    transport.register_options(own)
    transport.register_options(conf)
    own.set_default("control_exchange", CONTROL_EXCHANGE)
    for group, options in _options():
        own.register_opts(options, group=group)
        conf.register_opts(options, group=group)
        for option in options:
            where = conf.get_location(option.dest, group)
            if where is None or not _is_chosen(where):
                continue
            value = conf[group][option.dest] if group else conf[option.dest]
            own.set_override(option.dest, value, group=group)
    return own


def _is_chosen(where: cfg.LocationInfo) -> bool:
    return where.location.is_user_controlled or where.location is cfg.Locations.set_override


class Notifier(NotifierApi):
    """The real thing."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the options; make it after a fork, never before.

        Raises ConfigurationError for a driver that does not exist.
        """
        names = _drivers(conf)
        own = _as_operators_set(conf)
        self._publisher_id = f"trove.{socket.gethostname()}"
        self._topics: Sequence[str] = own[_GROUP].topics
        self._versions = [_OVER_TRANSPORT[name] for name in names if name in _OVER_TRANSPORT]
        self._transport = oslo_messaging.get_notification_transport(own)
        self._others = stevedore.NamedExtensionManager(
            _NAMESPACE,
            names=[name for name in names if name not in _OVER_TRANSPORT],
            invoke_on_load=True,
            invoke_args=[own],
            invoke_kwds={"topics": self._topics, "transport": self._transport},
        )
        missing = {*names} - {*_OVER_TRANSPORT} - {*self._others.names()}
        if missing:
            raise exception.ConfigurationError(
                reason=f"[{_GROUP}] driver: there is no {', '.join(sorted(missing))}"
            )

    def send(self, message: Message) -> None:
        """Send one by every driver; raises MessagingUnavailable when one could not."""
        wire = {
            "message_id": message.message_id,
            "publisher_id": self._publisher_id,
            "event_type": message.event_type,
            "priority": message.priority.upper(),
            "payload": dict(message.payload),
            "timestamp": message.created.replace(tzinfo=None).isoformat(" "),
        }
        try:
            for version in self._versions:
                self._send_over_transport(wire, message.priority, version)
            for extension in self._others:
                extension.obj.notify({}, wire, wire["priority"], 0)
        except transport.SEND_ERRORS as e:
            raise exception.MessagingUnavailable() from e

    def _send_over_transport(self, wire: dict[str, Any], priority: str, version: float) -> None:
        for topic in self._topics:
            # what oslo.messaging's driver does, but for hiding from us that it failed
            self._transport._send_notification(
                oslo_messaging.Target(topic=f"{topic}.{priority}"),
                {},
                wire,
                version=version,
                retry=0,
            )

    def close(self) -> None:
        """Close all connections."""
        self._transport.cleanup()
