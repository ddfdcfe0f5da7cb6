"""trove-guestagent as a guest image starts it: early, while its configuration is still written.

Reading the libraries takes as long as the rest of the boot; the end of trove-guest-init is waited
for behind that.
"""

from __future__ import annotations

import sys

from trove.guestagent import software

if __name__ == "__main__":
    # before anything else is imported: another release may be the one to run
    software.hand_over(sys.argv[1:])

from trove.cmd import guestagent
from trove.guestagent.boot import init


def main() -> int:
    """Wait, then be the agent."""
    init.await_done(init.Paths())
    return guestagent.main()


if __name__ == "__main__":
    sys.exit(main())
