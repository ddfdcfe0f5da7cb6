"""``openstack database instance``: protection against deletion, and tags."""

from __future__ import annotations

import abc
import argparse
from collections.abc import Sequence

from osc_lib.command import command

from trove.osc.api import DatabaseApi


def _add_instance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instance", metavar="<instance>", help="Instance (name or ID)")


class _Protection(command.Command):
    is_protected: bool

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Set or take away the protection."""
        api = DatabaseApi(self.app.client_manager)
        instance_id = api.find_instance_id(parsed_args.instance)
        api.update_instance(instance_id, deletion_protected=self.is_protected)


class ProtectInstance(_Protection):
    """Refuse to delete an instance from now on."""

    is_protected = True


class UnprotectInstance(_Protection):
    """Let an instance be deleted again."""

    is_protected = False


class _Tags(command.Command):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        parser.add_argument("tag", metavar="<tag>", nargs="+", help="Tag")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Change the tags; those that are as wanted already are no error."""
        api = DatabaseApi(self.app.client_manager)
        instance_id = api.find_instance_id(parsed_args.instance)
        before = list(api.get_instance(instance_id).get("tags", []))
        after = self.change(before, parsed_args.tag)
        if after != before:
            api.update_instance(instance_id, tags=after)

    @abc.abstractmethod
    def change(self, tags: Sequence[str], named: Sequence[str]) -> list[str]:
        """Return the tags as they should be."""


class AddTags(_Tags):
    """Add tags to an instance."""

    def change(self, tags: Sequence[str], named: Sequence[str]) -> list[str]:
        """Return the tags with those named."""
        return list(dict.fromkeys([*tags, *named]))


class RemoveTags(_Tags):
    """Remove tags from an instance."""

    def change(self, tags: Sequence[str], named: Sequence[str]) -> list[str]:
        """Return the tags without those named."""
        return [tag for tag in tags if tag not in named]


class ListTags(command.Lister):
    """List the tags of an instance."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[tuple[str]]]:
        """Return the column and its rows."""
        api = DatabaseApi(self.app.client_manager)
        shown = api.get_instance(api.find_instance_id(parsed_args.instance))
        return ("Tag",), [(tag,) for tag in shown.get("tags", [])]
