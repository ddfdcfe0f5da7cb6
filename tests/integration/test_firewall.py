"""Who may connect to an instance of this machine is really enforced by nftables."""

import contextlib
import logging
import os
import pathlib
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest
from oslo_config import cfg

from tests.fixtures.local import conf, short_dir
from trove.drivers.network import base, egress, firewall
from trove.drivers.network.local import LocalNetwork

__all__ = ["conf", "short_dir"]

_NFT = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _why_not() -> str | None:
    """Return why this machine lets nobody change rules; None when it does."""
    if _NFT is None:
        return "there is no program nft: install nftables"
    done = subprocess.run([_NFT, "list", "tables"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else None


needs_nftables = pytest.mark.skipif(_why_not() is not None, reason=f"nftables: {_why_not()}")


@pytest.fixture
def engine() -> Iterator[tuple[str, int]]:
    """Give address and port of something that listens on an address of its own."""
    address = f"127.53.{os.getpid() % 250}.7"
    with socket.create_server((address, 0)) as listener:
        yield listener.getsockname()


@pytest.fixture
def network(conf: cfg.ConfigOpts) -> Iterator[LocalNetwork]:
    """Give the driver, and remove its ports with their rules."""
    conf.set_override("address_pool", "127.53.0.0/16", group="local")
    made = LocalNetwork(conf)
    yield made
    for port in made.list_ports():
        made.delete_port(port.id)


def can_connect(source: str, engine: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(engine, timeout=5, source_address=(source, 0)):
            return True
    except ConnectionRefusedError:
        return False


def make_port(
    network: LocalNetwork, engine: tuple[str, int], cidrs: list[str] | None = None
) -> base.Port:
    return network.create_port(
        instance_id=str(uuid.uuid4()),
        project_id="p",
        nic=None,
        access={"allowed_cidrs": cidrs or ["0.0.0.0/0"]},
        engine_port=engine[1],
    )


def send_much(client: socket.socket) -> None:
    # what is sent first is answered by a reset, which the next finds
    for _ in range(50):
        client.sendall(b"x")


@contextlib.contextmanager
def listening(port: base.Port, engine_port: int) -> Iterator[tuple[str, int]]:
    with socket.create_server((port.address, engine_port)) as listener:
        yield listener.getsockname()


def rules_of(conf: cfg.ConfigOpts) -> firewall.Firewall:
    return firewall.Firewall(pathlib.Path(conf.local.state_dir))


@pytest.fixture
def tables(conf: cfg.ConfigOpts) -> Callable[[], frozenset[str]]:
    """Give what lists the instances that have a table."""
    return rules_of(conf).list_instances


def short(port: base.Port) -> str:
    return port.instance_id.replace("-", "")


@needs_nftables
def test_only_allowed_networks_reach_the_engine(
    network: LocalNetwork, engine: tuple[str, int], tables: Callable[[], frozenset[str]]
) -> None:
    port = make_port(network, engine)
    with listening(port, engine[1]) as target:
        assert can_connect("127.0.0.1", target)
        assert short(port) not in tables()
        network.update_access(
            port.id,
            access={"is_public": False, "allowed_cidrs": ["127.54.1.0/24", "127.54.9.9"]},
            engine_port=engine[1],
        )
        assert [
            can_connect(source, target)
            for source in ("127.54.1.1", "127.54.9.9", "127.54.9.8", "127.0.0.1")
        ] == [True, True, False, False]
        # its agent comes from the address itself
        assert can_connect(port.address, target)
        # neither other ports of the address nor the port of other addresses are meant
        with socket.create_server((port.address, 0)) as other:
            assert can_connect("127.0.0.1", other.getsockname())
        assert can_connect("127.0.0.1", engine)


@needs_nftables
def test_all_ports_of_an_engine_have_the_same_rules(
    network: LocalNetwork, engine: tuple[str, int]
) -> None:
    port = make_port(network, engine)
    with (
        socket.create_server((port.address, 0)) as second,
        listening(port, engine[1]) as target,
    ):
        network.update_access(
            port.id,
            access={"allowed_cidrs": ["127.54.1.0/24"]},
            engine_port=engine[1],
            more_ports=(second.getsockname()[1],),
        )
        for each in (target, second.getsockname()):
            assert can_connect("127.54.1.1", each)
            assert not can_connect("127.0.0.1", each)


@needs_nftables
def test_connections_end_when_their_network_is_excluded(
    network: LocalNetwork, engine: tuple[str, int]
) -> None:
    port = make_port(network, engine, ["127.0.0.0/8"])
    with (
        listening(port, engine[1]) as target,
        socket.create_connection(target, timeout=5) as client,
    ):
        network.update_access(
            port.id, access={"allowed_cidrs": ["10.0.0.0/8"]}, engine_port=engine[1]
        )
        with pytest.raises(ConnectionError):
            send_much(client)


@needs_nftables
def test_a_list_without_networks_of_the_addresss_family_admits_nobody(
    network: LocalNetwork, engine: tuple[str, int]
) -> None:
    port = make_port(network, engine, ["fd00::/8"])
    with listening(port, engine[1]) as target:
        assert not can_connect("127.0.0.1", target)


@needs_nftables
def test_rules_go_with_the_port_and_with_the_restriction(
    network: LocalNetwork, engine: tuple[str, int], tables: Callable[[], frozenset[str]]
) -> None:
    first, second = (make_port(network, engine, ["127.54.0.0/16"]) for _ in range(2))
    assert {short(first), short(second)} <= tables()
    network.delete_port(first.id)
    network.update_access(
        second.id, access={"allowed_cidrs": ["0.0.0.0/0", "::/0"]}, engine_port=engine[1]
    )
    assert not {short(first), short(second)} & tables()


@needs_nftables
def test_what_the_machine_lost_comes_back_and_what_is_left_over_goes(
    conf: cfg.ConfigOpts,
    network: LocalNetwork,
    engine: tuple[str, int],
    tables: Callable[[], frozenset[str]],
) -> None:
    port, left_over = make_port(network, engine, ["127.54.0.0/16"]), str(uuid.uuid4())
    rules = rules_of(conf)
    rules.forget(port.instance_id)
    rules.allow(left_over, "127.53.1.1", [engine[1]], ["127.54.0.0/16"])
    assert short(port) not in tables()
    network.refresh()
    assert short(port) in tables()
    assert left_over.replace("-", "") not in tables()
    with listening(port, engine[1]) as target:
        assert not can_connect("127.0.0.1", target)


@needs_nftables
def test_another_service_of_the_machine_keeps_its_rules(
    network: LocalNetwork, engine: tuple[str, int], tmp_path: pathlib.Path
) -> None:
    others = firewall.Firewall(tmp_path)
    instance_id = str(uuid.uuid4())
    others.allow(instance_id, "127.53.1.2", [engine[1]], ["127.54.0.0/16"])
    try:
        network.refresh()
        assert others.list_instances() == {instance_id.replace("-", "")}
    finally:
        others.forget(instance_id)
    assert not others.list_instances()


def test_without_a_firewall_the_rules_are_stored_and_one_line_says_so(
    conf: cfg.ConfigOpts, engine: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    conf.set_override("use_firewall", False, group="local")
    conf.set_override("address_pool", "127.53.0.0/16", group="local")
    network = LocalNetwork(conf)
    caplog.set_level(logging.INFO)
    port = make_port(network, engine, ["127.54.0.0/16"])
    network.update_access(
        port.id,
        access={"is_public": True, "allowed_cidrs": ["127.55.0.0/16"]},
        engine_port=engine[1],
    )
    found = LocalNetwork(conf).find_port(port.instance_id)
    assert found is not None
    assert found.is_public
    with listening(port, engine[1]) as target:
        assert can_connect("127.0.0.1", target)
    assert caplog.text.count("stored but not enforced") == 1


@needs_nftables
def test_processes_of_a_user_reach_what_they_are_to_and_nothing_else() -> None:
    # nobody has this number, so that nobody's processes are kept from anything
    uid = 54321 + os.getpid() % 1000
    with (
        socket.create_server(("127.0.0.1", 0)) as wanted,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = [each.getsockname()[1] for each in (wanted, other)]
        limits = egress.Egress(uid, [egress.Endpoint(host="localhost", port=ports[0])])

        def reached(number: int) -> list[bool]:
            scripts = [f"exec 3<>/dev/tcp/127.0.0.1/{port}" for port in ports]
            runs = [
                subprocess.run(["bash", "-c", each], user=number, capture_output=True, check=False)
                for each in scripts
            ]
            return [run.returncode == 0 for run in runs]

        limits.enforce()
        try:
            assert reached(uid) == [True, False]
            assert reached(uid + 1000) == [True, True]
            # again, as after a restart
            egress.Egress(uid, [egress.Endpoint(host="127.0.0.1", port=ports[1])]).enforce()
            assert reached(uid) == [False, True]
        finally:
            firewall.change(f"delete table inet trove_egress_{uid}")
