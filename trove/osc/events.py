"""``openstack database event``."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osc_lib.command import command

from trove.osc.api import DatabaseApi

_COLUMNS = ("Sequence", "Created", "Type", "Resource ID", "Payload")
#: Seconds between looks for new events.
_INTERVAL_S = 2.0


def _row(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        event["sequence"],
        event["created"],
        event["type"],
        event["resource_id"],
        json.dumps(event["payload"], sort_keys=True),
    )


class ListEvents(command.Lister):
    """List what happened in the project, oldest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--instance", metavar="<instance>", help="Only events of an instance (name or ID)"
        )
        parser.add_argument(
            "--type",
            metavar="<type>",
            help="Only events of this type or below it, like instance.create",
        )
        parser.add_argument(
            "--since",
            metavar="<time>",
            help="Only events since a time like 2026-01-31T12:00:00 (UTC)",
        )
        parser.add_argument(
            "--limit", metavar="<number>", type=_positive, help="End after this many events"
        )
        parser.add_argument(
            "--follow",
            action="store_true",
            help="Print each event on a line of its own as it happens (with -f json as an object),"
            " until interrupted",
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List, or print line by line what there is no end of."""
        if not parsed_args.follow:
            return int(super().run(parsed_args))
        try:
            for event in self._events(parsed_args):
                self._print(event, as_json=parsed_args.formatter == "json")
        except KeyboardInterrupt:
            # how following ends
            pass
        return 0

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[tuple[Any, ...]]]:
        """Return columns and rows."""
        return _COLUMNS, (_row(event) for event in self._events(parsed_args))

    def _print(self, event: Mapping[str, Any], *, as_json: bool) -> None:
        line = json.dumps(event) if as_json else " ".join(str(value) for value in _row(event))
        self.app.stdout.write(f"{line}\n")
        self.app.stdout.flush()

    def _events(self, parsed_args: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
        """Yield events until there are no more, or for ever when following."""
        api = DatabaseApi(self.app.client_manager)
        instance_id = None
        if parsed_args.instance is not None:
            instance_id = api.find_instance_id(parsed_args.instance)
        wanted = {"type": parsed_args.type, "since": parsed_args.since}
        left = parsed_args.limit
        pause = threading.Event()
        for page, has_more in api.read_events(instance_id, wanted):
            yield from page[:left]
            if left is not None:
                left -= len(page[:left])
                if left == 0:
                    return
            if not has_more:
                if not parsed_args.follow:
                    return
                pause.wait(_INTERVAL_S)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
