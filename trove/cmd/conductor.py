"""trove-conductor: receives what agents report."""

from __future__ import annotations

import sys

import cotyledon
from cotyledon import oslo_config_glue

from trove import conf as trove_conf
from trove.common import exception
from trove.conductor import exporter, service
from trove.drivers import factory
from trove.rpc import transport


def main() -> int:
    """Run until told to end; what is missing in the configuration is told before the start."""
    conf = trove_conf.load(sys.argv[1:], prog="trove-conductor")
    transport.prepare(conf)
    try:
        factory.resolve_keys(conf)
        service.check(conf)
    except (exception.ConfigurationError, exception.DriverError) as e:
        sys.exit(f"trove-conductor: {e}")
    processes = cotyledon.ServiceManager()
    processes.add(service.ConductorService, workers=conf.conductor.workers, args=(conf,))
    if exporter.is_enabled(conf):
        processes.add(exporter.ExporterService, workers=1, args=(conf,))
    oslo_config_glue.setup(processes, conf)
    processes.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
