"""``openstack database certificate authority``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from osc_lib.command import command

from trove.osc.api import DatabaseApi


class ShowCertificateAuthority(command.ShowOne):
    """Show the certificate that clients of databases should trust.

    ``-f value -c certificate`` prints it as a file for them.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[str]]:
        """Return names and values."""
        shown = DatabaseApi(self.app.client_manager).get_certificate_authority()
        names = sorted(shown)
        return names, [shown[name] for name in names]
