"""What ``trove-status upgrade check`` looks at."""

from __future__ import annotations

from oslo_config import cfg
from oslo_db import exception as db_exception
from oslo_upgradecheck import upgradecheck

from trove.common import crypto, exception
from trove.db import base, migrations


class Checks(upgradecheck.UpgradeCommands):
    """The checks; each opens what it needs, so that one failure does not hide the others."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration that the command line is parsed into before any check."""
        super().__init__()
        self._conf = conf

    def check_schema(self) -> upgradecheck.Result:
        """Tell whether the schema is the one that this release needs."""
        try:
            current = migrations.current_version(base.Database.from_config(self._conf))
        except (exception.TroveError, db_exception.DBError) as e:
            return upgradecheck.Result(upgradecheck.Code.FAILURE, f"no database: {e}")
        head = migrations.head_version()
        if current == head:
            return upgradecheck.Result(upgradecheck.Code.SUCCESS)
        return upgradecheck.Result(
            upgradecheck.Code.FAILURE,
            f"the schema is at {current}, this release needs {head}: run 'trove-manage db sync'",
        )

    def check_keys(self) -> upgradecheck.Result:
        """Tell whether the keys that protect instances' keys are configured."""
        try:
            crypto.KeyRing.from_config(self._conf.guest.key_encryption_keys)
        except exception.ConfigurationError as e:
            return upgradecheck.Result(upgradecheck.Code.FAILURE, e.message)
        return upgradecheck.Result(upgradecheck.Code.SUCCESS)

    _upgrade_checks = (("Database schema", check_schema), ("Key-encryption keys", check_keys))
