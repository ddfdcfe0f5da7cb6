"""``openstack database operation``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osc_lib.cli import format_columns
from osc_lib.command import command

from trove.osc.api import DatabaseApi

_COLUMNS = ("ID", "Operation", "State", "Step", "Percent", "Created", "Updated")


def _step(operation: Mapping[str, Any]) -> str:
    if "step_number" not in operation:
        return str(operation["step"])
    return f"{operation['step']} ({operation['step_number']} of {operation['step_count']})"


def _add_instance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instance", metavar="<instance>", help="Instance (name or ID)")


class ListOperations(command.Lister):
    """List what was done to an instance, newest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        parser.add_argument("--limit", metavar="<number>", type=int, help="At most this many")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[tuple[Any, ...]]]:
        """Return columns and rows."""
        api = DatabaseApi(self.app.client_manager)
        found = api.list_operations(
            api.find_instance_id(parsed_args.instance), limit=parsed_args.limit
        )
        return _COLUMNS, (
            (
                each["id"],
                each["operation"],
                each["state"],
                _step(each),
                each["percent"],
                each["created"],
                each["updated"],
            )
            for each in found
        )


class ShowOperation(command.ShowOne):
    """Show an operation and what it did so far."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        parser.add_argument("operation", metavar="<operation>", help="Operation (ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values."""
        api = DatabaseApi(self.app.client_manager)
        shown = api.get_operation(api.find_instance_id(parsed_args.instance), parsed_args.operation)
        shown["journal"] = format_columns.ListDictColumn(shown["journal"])
        names = sorted(shown)
        return names, [shown[name] for name in names]
