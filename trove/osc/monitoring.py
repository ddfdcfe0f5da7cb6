"""``openstack database instance metrics`` and ``openstack database instance query``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from osc_lib.command import command

from trove.osc.api import DatabaseApi

_COLUMNS = (
    "Query",
    "Database",
    "User",
    "Calls",
    "Rows",
    "Total Seconds",
    "Mean Seconds",
    "Max Seconds",
)
_ORDERS = ("total_seconds", "mean_seconds", "max_seconds", "calls", "rows")


def _add_instance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instance", metavar="<instance>", help="Instance (name or ID)")


class ShowMetrics(command.ShowOne):
    """Show what the database of an instance counts, as it last reported."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values."""
        api = DatabaseApi(self.app.client_manager)
        shown = api.get_metrics(api.find_instance_id(parsed_args.instance))
        figures = shown.pop("figures")
        shown |= {name: _plain(value) for name, value in figures.items()}
        names = sorted(shown)
        return names, [shown[name] for name in names]


class ListQueries(command.Lister):
    """List the statements that cost the database of an instance most, without their literals."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        parser.add_argument("--limit", metavar="<number>", type=int, help="At most this many")
        parser.add_argument(
            "--order-by",
            metavar="<figure>",
            choices=_ORDERS,
            help=f"What the list is in order of, the largest first: {', '.join(_ORDERS)}",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[tuple[Any, ...]]]:
        """Return columns and rows."""
        api = DatabaseApi(self.app.client_manager)
        found = api.list_queries(
            api.find_instance_id(parsed_args.instance),
            limit=parsed_args.limit,
            order_by=parsed_args.order_by,
        )
        return _COLUMNS, (
            (
                each["text"],
                each["database"],
                each["user"],
                each["calls"],
                each["rows"],
                round(each["total_seconds"], 6),
                round(each["mean_seconds"], 6),
                round(each["max_seconds"], 6),
            )
            for each in found
        )


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
