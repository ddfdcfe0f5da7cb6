"""What Prometheus scrapes: parsed by its own library, over HTTP, from the process itself."""

from __future__ import annotations

import datetime
import gzip
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import parser

from tests.fixtures import api as api_fixture
from tests.fixtures import served
from trove import states
from trove.common import concurrency, exception
from trove.conductor import counting, exporter, exposition
from trove.datastores import metrics
from trove.db import base, counters, figures, models

EXPIRY = datetime.timedelta(seconds=90)
START = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
Labels = frozenset[tuple[str, str]]


def _labels(**labels: str) -> Labels:
    return frozenset(labels.items())


class Scrape:
    """A document, read by the library."""

    def __init__(self, text: str) -> None:
        families = list(parser.text_string_to_metric_families(text))
        self.text = text
        self.types = {family.name: family.type for family in families}
        assert len(self.types) == len(families), "the samples of a metric stand together"
        self.samples: dict[str, dict[Labels, float]] = {}
        for family in families:
            for sample in family.samples:
                values = self.samples.setdefault(sample.name, {})
                key = frozenset(sample.labels.items())
                assert key not in values
                values[key] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """Return one sample."""
        return self.samples[name][_labels(**labels)]


def _scrape(database: base.Database, *, now: datetime.datetime = START) -> Scrape:
    document = exposition.render(database, now=now, expiry=EXPIRY)
    text = b"".join(exposition.decompress(document))
    # whoever decompresses it, it is the same
    assert gzip.decompress(document) == text
    return Scrape(text.decode())


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database, start=START)
    made.add_datastore()
    return made


def _instance(api: api_fixture.Api, metrics_text: str | None = None, **heartbeat: Any) -> str:
    instance_id = api.create_instance(active=True, **heartbeat.pop("create", {}))
    api.set_heartbeat(instance_id, boot=1, metrics=metrics_text, **heartbeat)
    return instance_id


def test_every_figure_of_an_instance_is_there_with_its_type_and_labels(
    api: api_fixture.Api,
) -> None:
    everything = {name: float(number) for number, name in enumerate(metrics.METRICS)}
    instance_id = _instance(api, str(everything).replace("'", '"'))
    found = _scrape(api.database)
    labels = {"project": api_fixture.PROJECT, "instance": instance_id, "datastore": "mariadb"}
    assert found.value("trove_instance_up", **labels) == 1
    assert found.value("trove_instance_heartbeat_timestamp_seconds", **labels) == START.timestamp()
    assert found.value("trove_instance_disk_used_bytes", **labels) == 2**29
    assert found.value("trove_instance_disk_total_bytes", **labels) == 2**30
    for name, value in everything.items():
        assert found.value(f"trove_instance_{name}", **labels) == value
        kind = metrics.METRICS[name].kind.value
        assert found.types[f"trove_instance_{name}".removesuffix("_total")] == kind or (
            found.types.get(f"trove_instance_{name}") == kind
        )
        assert f"# TYPE trove_instance_{name} {kind}\n" in found.text
        assert f"# HELP trove_instance_{name} {metrics.METRICS[name].help}\n" in found.text


def test_an_engine_that_is_down_and_an_agent_that_is_silent_are_not_up(
    api: api_fixture.Api,
) -> None:
    crashed = _instance(api, service_status=states.ServiceStatus.CRASHED)
    silent = _instance(api, '{"connections": 1}', received=START - EXPIRY * 1.1)
    building = api.create_instance()
    deleted = _instance(api)
    api.set_instance(deleted, is_deleted=True)
    found = _scrape(api.database)
    up = {dict(key)["instance"]: value for key, value in found.samples["trove_instance_up"].items()}
    assert up == {crashed: 0, silent: 0, building: 0}
    # what nobody knows is not told, and when it was last known is
    assert "trove_instance_connections" not in found.samples
    heard = found.samples["trove_instance_heartbeat_timestamp_seconds"]
    assert {dict(key)["instance"] for key in heard} == {crashed, silent}
    disks = found.samples["trove_instance_disk_used_bytes"]
    assert {dict(key)["instance"] for key in disks} == {crashed}


def test_names_with_every_kind_of_character_are_quoted(api: api_fixture.Api) -> None:
    project = 'a"b\\c\nd\u2028\x85e}f{g=h,i j'
    instance_id = _instance(api)
    api.set_instance(instance_id, project_id=project)
    found = _scrape(api.database)
    labels = {"project": project, "instance": instance_id, "datastore": "mariadb"}
    assert found.value("trove_instance_up", **labels) == 1


def test_the_services_own_work_is_told(api: api_fixture.Api) -> None:
    first = api.create_instance()
    _instance(api)
    with api.database.writer() as session:
        counters.add(
            session,
            {
                exposition.STORED: 41,
                counters.Key(exposition.DROPPED, "stale"): 3,
                counters.Key(exposition.DROPPED, "replayed"): 1,
            },
        )
        counters.add(session, {exposition.STORED: 1})
    later = START + datetime.timedelta(seconds=30)
    found = _scrape(api.database, now=later)
    assert found.value("trove_operations", state="PENDING") == 1
    assert found.value("trove_operations", state="SUCCEEDED") == 1
    assert found.value("trove_operations_due") == 1
    assert found.value("trove_operations_due_seconds") == 30
    assert found.value("trove_notifications_waiting") == 0
    assert found.value("trove_heartbeats_stored_total") == 42
    assert found.value("trove_guest_messages_dropped_total", reason="stale") == 3
    assert found.value("trove_instances", datastore="mariadb", status="HEALTHY") == 1
    assert "# TYPE trove_heartbeats_stored_total counter\n" in found.text
    # one that is being worked on is not due
    with api.database.writer() as session:
        session.execute(
            sa.update(models.Operation)
            .where(models.Operation.resource_id == first)
            .values(lease_until=later + datetime.timedelta(seconds=5))
        )
    assert _scrape(api.database, now=later).value("trove_operations_due") == 0


def test_a_service_without_instances_is_told_of_as_well(database: base.Database) -> None:
    found = _scrape(database)
    assert found.value("trove_operations_due") == 0
    assert found.value("trove_heartbeats_stored_total") == 0
    assert "trove_instance_up" not in found.samples


def test_archives_that_lag_and_proofs_are_told(api: api_fixture.Api) -> None:
    ids = [api.create_instance(active=True) for _ in range(3)]
    old = START - datetime.timedelta(days=30)
    with api.database.writer() as session:
        for instance_id, state in zip(ids, ("active", "active", "closed"), strict=True):
            session.add(
                models.LogArchive(
                    instance_id=instance_id,
                    project_id=api_fixture.PROJECT,
                    state=states.ArchiveStatus(state),
                    storage_driver="filesystem",
                    account_id="p",
                    container="c",
                    prefix="x/",
                    as_of=START - datetime.timedelta(seconds=42),
                    created=START,
                    updated=START,
                )
            )
            version_id = session.scalar(sa.select(models.Instance.datastore_version_id).limit(1))
            session.add(
                models.Backup(
                    project_id=api_fixture.PROJECT,
                    instance_id=instance_id,
                    name="b",
                    status=states.BackupStatus.COMPLETED,
                    kind=states.BackupKind.FULL,
                    datastore_version_id=version_id,
                    manager="mariadb",
                    storage_driver="filesystem",
                    completed=old,
                    verification=states.Verification.PASSED if state == "closed" else None,
                    verified=START if state == "closed" else None,
                    created=old,
                    updated=old,
                )
            )
    # its agent is gone: then its lag matters most
    api.set_heartbeat(ids[1], received=old)
    week = datetime.timedelta(days=7)
    document = exposition.render(api.database, now=START, expiry=EXPIRY, proof_age=week)
    found = Scrape(gzip.decompress(document).decode())
    lags = found.samples["trove_instance_archive_lag_seconds"]
    assert {dict(key)["instance"]: lag for key, lag in lags.items()} == {ids[0]: 42, ids[1]: 42}
    assert found.value("trove_backups", proof="passed") == 1
    assert found.value("trove_backups", proof="none") == 2
    assert found.value("trove_backups", proof="failed") == 0
    assert found.value("trove_instances_unproven") == 2


@pytest.mark.parametrize("piece_bytes", [1, 3, 100, 4096])
def test_the_pieces_of_a_document_are_the_document(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(exposition, "_PIECE_BYTES", piece_bytes)
    texts = [b"", b"a\n", b"long\n" * 2000, bytes(range(256)) * 3, b"", b"end\n" * 5000]
    document = b"".join(gzip.compress(text) for text in texts)
    pieces = list(exposition.decompress(document))
    assert b"".join(pieces) == b"".join(texts)
    assert max(map(len, pieces)) <= piece_bytes
    assert list(exposition.decompress(b"")) == []


def test_thousands_of_instances_come_page_by_page(
    api: api_fixture.Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = _version(api)
    ids = [str(uuid.UUID(int=number + 1)) for number in range(1750)]
    with api.database.writer() as session:
        common: dict[str, Any] = {"project_id": "p", "name": "i", "datastore_version_id": version}
        common["task"] = states.TaskStatus.NONE
        times = {"created": START, "updated": START}
        session.execute(
            sa.insert(models.Instance),
            [
                {"id": each, "flavor_id": "1", "flavor_ram_mib": 256, **common, **times}
                for each in ids
            ],
        )
        session.execute(
            sa.insert(models.InstanceHeartbeat),
            [
                {
                    "instance_id": each,
                    "boot": 1,
                    "service_status": states.ServiceStatus.HEALTHY,
                    "received": START,
                    "metrics": '{"connections": 3, "commands_total": 12345.0}',
                }
                for each in ids
            ],
        )
    largest = 0
    pages = figures.iterate_pages

    def watch(database: base.Database) -> Iterator[Any]:
        nonlocal largest
        for page in pages(database):
            largest = max(largest, len(page))
            yield page

    monkeypatch.setattr(figures, "iterate_pages", watch)
    found = _scrape(api.database)
    assert len(found.samples["trove_instance_commands_total"]) == 1750
    assert sum(found.samples["trove_instance_up"].values()) == 1750
    assert largest == 500


def _version(api: api_fixture.Api) -> str:
    with api.database.reader() as session:
        return str(session.scalars(sa.select(models.DatastoreVersion.id)).one())


# -- counters -----


def test_what_processes_count_is_added_up_and_survives_them(database: base.Database) -> None:
    counted = [{counters.Key("a"): 5}, {counters.Key("a"): 7, counters.Key("b", "x"): 0}]
    processes = [counting.Counting(database, lambda each=each: each) for each in counted]  # type: ignore[misc]
    for process in processes:
        process.flush()
        process.flush()
    counted[0][counters.Key("a")] = 6
    counted[0][counters.Key("b", "y")] = 2
    for process in processes:
        process.stop()
    assert _counters(database) == {("a", ""): 13, ("b", "y"): 2}
    # the next process begins at nothing
    counting.Counting(database, lambda: {counters.Key("a"): 1}).flush()
    assert _counters(database)["a", ""] == 14


def test_what_could_not_be_added_is_added_later(
    sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = counting.Counting(sqlite_database, lambda: {counters.Key("a"): 3})

    def fail(*_: object) -> None:
        raise base.DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(counters, "add", fail)
        with pytest.raises(base.DatabaseError):
            subject.flush()
    subject.flush()
    assert _counters(sqlite_database) == {("a", ""): 3}


def _counters(database: base.Database) -> Mapping[tuple[str, str], int]:
    with database.reader() as session:
        return {tuple(key): value for key, value in counters.read(session)}


# -- HTTP -----


def _figures(api: api_fixture.Api, *, cache_s: float = 0) -> exposition.Exposition:
    return exposition.Exposition(api.database, clock=api.clock, expiry=EXPIRY, cache_s=cache_s)


def _get(url: str, **headers: str) -> tuple[bytes, Mapping[str, str]]:
    request = urllib.request.Request(  # noqa: S310 (a URL of the test)
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (likewise)
        return answer.read(), dict(answer.headers)


def _status(url: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        _get(url, **headers)
    caught.value.close()
    return caught.value.code


def test_scrapers_get_it_compressed_and_others_plain(api: api_fixture.Api) -> None:
    _instance(api)
    with served.serve(exporter.Application(_figures(api), token=None)) as url:
        plain, headers = _get(f"{url}/metrics")
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "Content-Encoding" not in headers
        packed, headers = _get(f"{url}/metrics", Accept_Encoding="deflate, gzip;q=0.9")
        assert headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed) == plain
        assert Scrape(plain.decode()).samples["trove_instance_up"]
        assert _status(f"{url}/") == 404
        assert _status(f"{url}/metrics/") == 404


def test_without_the_token_nothing_is_told(api: api_fixture.Api) -> None:
    with served.serve(exporter.Application(_figures(api), token="s3cret")) as url:
        for header in ("", "Bearer", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cret\xe9"):
            assert _status(f"{url}/metrics", Authorization=header) == 401
        assert _status(f"{url}/metrics") == 401
        assert _get(f"{url}/metrics", Authorization="Bearer s3cret")[0]
        assert _get(f"{url}/metrics", Authorization="bearer  s3cret")[0]


def test_an_answer_is_given_again_until_it_is_old(api: api_fixture.Api) -> None:
    figures_of = _figures(api, cache_s=15)
    first = figures_of.document()
    _instance(api)
    api.clock.advance(14)
    assert figures_of.document() is first
    api.clock.advance(1)
    assert len(figures_of.document()) > len(first)


def test_while_the_backend_is_down_a_scrape_fails_and_the_next_does_not(
    api: api_fixture.Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise base.DatabaseError

    with served.serve(exporter.Application(_figures(api), token=None)) as url:
        with monkeypatch.context() as patch:
            patch.setattr(exposition, "render", fail)
            assert _status(f"{url}/metrics") == 503
        assert _get(f"{url}/metrics")[0]


# -- the process -----


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_the_process_serves_what_is_in_the_database(api: api_fixture.Api) -> None:
    instance_id = _instance(api, '{"connections": 3}', received=datetime.datetime.now(datetime.UTC))
    conf = api_fixture.make_conf()
    conf.set_override(
        "connection",
        api.database.engine.url.render_as_string(hide_password=False),
        group="database",
    )
    conf.set_override("port", _free_port(), group="prometheus")
    exporter.check(conf)
    service = exporter.ExporterService(0, conf)
    service.run()
    try:
        with pytest.raises(exception.ConfigurationError, match="cannot listen"):
            exporter.check(conf)
        text, _ = _get(f"http://127.0.0.1:{conf.prometheus.port}/metrics")
    finally:
        service.terminate()
    labels = {"project": api_fixture.PROJECT, "instance": instance_id, "datastore": "mariadb"}
    assert Scrape(text.decode()).value("trove_instance_connections", **labels) == 3


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "192.0.2.1", "::", "figures.example.org"],  # noqa: S104 (nothing is bound)
)
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    conf = api_fixture.make_conf()
    exporter.check(conf)
    assert not exporter.is_enabled(conf)
    conf.set_override("bind_host", host, group="prometheus")
    exporter.check(conf)
    conf.set_override("port", 1, group="prometheus")
    with pytest.raises(exception.ConfigurationError, match="set a token"):
        exporter.check(conf)


def test_the_clock_of_the_document_is_the_services_own(api: api_fixture.Api) -> None:
    assert isinstance(api.clock, concurrency.ManualClock)
    instance_id = _instance(api)
    subject = _figures(api)
    labels = {"project": api_fixture.PROJECT, "instance": instance_id, "datastore": "mariadb"}
    text = gzip.decompress(subject.document()).decode()
    assert Scrape(text).value("trove_instance_up", **labels) == 1
    api.clock.advance(EXPIRY.total_seconds() + 1)
    text = gzip.decompress(subject.document()).decode()
    assert Scrape(text).value("trove_instance_up", **labels) == 0
