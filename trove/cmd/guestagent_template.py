"""Make the data directory that new instances are copied from; prints what was made as JSON.

``python -m trove.cmd.guestagent_template --manager mariadb --target DIR --user mysql`` prints
``{"version": ..., "binary": ..., "target": ...}``. It ends with a message and code 1 when the
engine is missing or fails.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from trove.common import exception
from trove.guestagent import templates


def main() -> int:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(prog="trove-guestagent-template", description=__doc__)
    parser.add_argument("--manager", required=True, help="datastore manager, such as mariadb")
    parser.add_argument("--target", required=True, type=pathlib.Path, help="directory to make")
    parser.add_argument("--user", default="mysql", help="user the engine runs as, if we are root")
    parser.add_argument("--basedir", help="where the engine is installed")
    arguments = parser.parse_args()
    try:
        made = templates.build(
            arguments.manager,
            target=arguments.target.absolute(),
            user=arguments.user,
            basedir=arguments.basedir,
        )
    except exception.TroveError as e:
        sys.exit(str(e.kwargs.get("reason", e)))
    print(json.dumps(made))  # noqa: T201 (the answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
