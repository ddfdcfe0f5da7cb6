"""``trove-status``: checks before and after an upgrade."""

from __future__ import annotations

import sys

from oslo_upgradecheck import upgradecheck

from trove import conf as trove_conf
from trove.cmd import status_checks


def main() -> int:
    """Run 'upgrade check'; 0 when all is well, see oslo.upgradecheck for the rest."""
    conf = trove_conf.new()
    return int(upgradecheck.main(conf, project="trove", upgrade_command=status_checks.Checks(conf)))


if __name__ == "__main__":
    sys.exit(main())
