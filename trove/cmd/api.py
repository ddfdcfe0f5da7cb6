"""trove-api: serves the REST API."""

from __future__ import annotations

import sys

import cotyledon
from cotyledon import oslo_config_glue

from trove import conf as trove_conf
from trove.api import service
from trove.common import exception
from trove.drivers import factory
from trove.rpc import transport


def main() -> int:
    """Run until told to end; what is missing in the configuration is told before the start."""
    conf = trove_conf.load(sys.argv[1:], prog="trove-api")
    transport.prepare(conf)
    try:
        factory.resolve_keys(conf)
        service.check(conf)
        listener = service.listen(conf)
    except (exception.ConfigurationError, exception.DriverError) as e:
        sys.exit(f"trove-api: {e}")
    processes = cotyledon.ServiceManager()
    processes.add(service.ApiService, workers=conf.api.workers, args=(conf, listener))
    oslo_config_glue.setup(processes, conf)
    processes.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
