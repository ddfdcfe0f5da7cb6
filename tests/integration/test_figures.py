"""From an engine to Prometheus, the API and the openstack client: the whole way, for real."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from prometheus_client import parser

from tests.fixtures.engine import needs_mariadb
from tests.fixtures.stack import NO_RATES, Stack, destroy_stack, free_port, make_stack
from tests.fixtures.waiting import wait_until

pytestmark = needs_mariadb

TOKEN = "a-token-of-the-test"


@pytest.fixture(scope="module")
def port() -> int:
    """Give the port that figures are served on."""
    return free_port()


@pytest.fixture(scope="module")
def stack(port: int) -> Iterator[Stack]:
    """Give a service that serves figures, with short intervals."""
    made = make_stack(
        {
            "api": NO_RATES,
            "guest": {"heartbeat_interval_s": 1},
            "prometheus": {"port": port, "token": TOKEN, "cache_s": 0.1},
        }
    )
    yield made
    destroy_stack(made)


def _samples(port: int) -> dict[tuple[str, str | None], float]:
    """Scrape; returns values by name and instance."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (likewise)
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("instance")): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_an_engine_counts_is_seen_everywhere(stack: Stack, port: int) -> None:
    rest = stack.rest()
    user = {"name": "ann", "password": "s3cret-Word", "databases": [{"name": "shop"}]}
    instance_id = rest.create("orders", databases=[{"name": "shop"}], users=[user])
    address = rest.wait_active(instance_id)["addresses"][0]["address"]
    with pymysql.connect(
        host=address,
        user="ann",
        password="s3cret-Word",
        database="shop",
        ssl={"ca": str(stack.state_dir / "ca.pem")},
        autocommit=True,
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE t (n INT)")
        for number in range(500):
            cursor.execute(f"INSERT INTO t VALUES ({number})")

    def scraped() -> dict[tuple[str, str | None], float] | None:
        found = _samples(port)
        done = found.get(("trove_instance_commands_total", instance_id), 0) > 500
        counted = found.get(("trove_heartbeats_stored_total", None), 0) >= 2
        return found if done and counted else None

    found = wait_until(scraped, timeout_s=60, what="figures at the endpoint") or {}
    assert found["trove_instance_up", instance_id] == 1
    assert found["trove_instance_disk_total_bytes", instance_id] == 2**30
    assert found["trove_instance_connections_max", instance_id] > 0

    shown: dict[str, Any] = stack.openstack(
        *("database", "instance", "metrics", "show", "orders", "-f", "json")
    )
    assert shown["commands_total"] > 500
    assert shown["service_status"] == "HEALTHY"
    rows = stack.openstack(
        *("database", "instance", "query", "list", "orders"),
        *("--order-by", "calls", "--limit", "1", "-f", "json"),
    )
    assert [(row["Query"], row["Calls"]) for row in rows] == [("INSERT INTO `t` VALUES (?)", 500)]

    rest.delete(instance_id)
    rest.wait_gone(instance_id)
    wait_until(
        lambda: ("trove_instance_up", instance_id) not in _samples(port),
        timeout_s=30,
        what="an end of the figures",
    )
