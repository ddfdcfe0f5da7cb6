"""``trove-manage``: the operator's command line."""

from __future__ import annotations

import sys

from oslo_db import exception as db_exception

from trove.cmd import manage_commands
from trove.common import exception


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with the reason on stderr otherwise."""
    args = manage_commands.make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        args.run(args)
    except exception.TroveError as e:
        sys.stderr.write(f"trove-manage: {e.message}\n")
        return 1
    except db_exception.DBError as e:
        sys.stderr.write(
            f"trove-manage: the database cannot be used: {e}\n"
            "Check [database] connection, and run 'trove-manage db sync'.\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
