"""Other libraries' searches find the definition's edges where they say that they serve, and say where they do not."""

import re
import sys

import pytest
import torch

from atomjet.bench import geometries, searches, timed_calls
from atomjet.bench.accuracy import same_edges
from atomjet.bench.contender import Unavailable
from atomjet.bench.page import headlines
from atomjet.bench.peers import searches as peers
from atomjet.bench.report import tables
from atomjet.bench.result import Result
from atomjet.bench.run import Budget, run_suite
from atomjet.bench.suites import OTHER_SEARCHES, SUITES, Case
from atomjet.data import System
from atomjet.engine import Engine, Settings
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.neighbors import brute_force

ON = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CUTOFF = 3.0


def box(pbc=True, triclinic=False, copies=1, turned=False, outside=False):
    """Water, 81 atoms in 9.3 Å; copies in boxes of other sizes; turned: axes exchanged."""
    water = geometries.water(81, triclinic=triclinic)
    positions, cell = water.positions, water.cell
    if outside:
        positions = (
            positions
            + torch.arange(81)[:, None].remainder(5).double() @ torch.tensor([[1.0, -1, 2]]).double() @ cell[0]
        )
    if turned:
        positions, cell = positions[:, [1, 2, 0]], cell[:, :, [1, 2, 0]]
    scales = [1 + 0.1 * k for k in range(copies)]
    return System(
        torch.cat([scale * positions for scale in scales]),
        water.atomic_numbers.repeat(copies),
        torch.cat([scale * cell for scale in scales]),
        torch.tensor(pbc).expand(copies, 3).clone(),
        torch.arange(copies).repeat_interleave(81),
    )


SYSTEMS = {
    "molecule": lambda: geometries.molecules(20, 1),
    "molecules": lambda: geometries.molecules(20, 3),
    "box": box,
    "outside": lambda: box(outside=True),
    "triclinic": lambda: box(triclinic=True),
    "turned": lambda: box(triclinic=True, turned=True),
    "boxes": lambda: box(copies=2),
    "slab": lambda: box(pbc=[True, True, False]),
}
SERVED = {
    "vesin_torch": {"molecule", "box", "outside", "triclinic", "turned", "slab"},
    "torchmd_net": {"molecule", "molecules", "box", "outside", "triclinic", "boxes"},
}
SERVED["vesin_torch_pairs"] = SERVED["vesin_torch"]


def installed(name):
    if name in ("vesin_torch", "vesin_torch_pairs"):
        pytest.importorskip("vesin_torch", exc_type=ImportError)
    else:
        pytest.importorskip("torchmdnet.extensions.warp_ops.neighbors", exc_type=ImportError)


@pytest.fixture
def engine():
    torch.manual_seed(0)
    return Engine(PaiNN(PaiNNConfig(features=16, layers=1, num_radial=8, cutoff=CUTOFF)), Settings(str(ON), "general"))


def race(engine, names, system):
    about = {"suite": "neighbors", "model": "tiny", "precision": "default", "settings": names}
    about["provenance"] = {"device": str(ON), "device_type": ON.type, "time": "today"}
    made = Result(about)
    cases = [Case("one", lambda: system)]
    run_suite(SUITES["neighbors"], cases, names, engine, made, Budget(60.0), 5, say=lambda line: None)
    return made


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("name", SERVED)
def test_a_call_finds_the_definitions_edges_of_any_positions(name, kind):
    installed(name)
    systems = timed_calls.moved(SYSTEMS[kind]().to(ON), 3)
    if kind not in SERVED[name]:
        with pytest.raises(Unavailable, match="one structure at a time|torchmd-net knows boxes"):
            searches.build(name, systems, CUTOFF)
        return
    made = searches.build(name, systems, CUTOFF)
    for system in (systems[2], systems[0]):
        made.call(system)
        assert same_edges(made.graph(system), brute_force(system, CUTOFF))


@pytest.mark.parametrize("strategy", ["brute", "cell"])
@pytest.mark.parametrize("kind", ["molecule", "molecules", "box", "outside"])
def test_each_strategy_of_torchmd_net_finds_them(monkeypatch, strategy, kind):
    installed("torchmd_net")
    assert strategy in peers.strategies_for(SYSTEMS[kind]())
    monkeypatch.setattr(peers, "strategies_for", lambda system: [strategy])
    systems = timed_calls.moved(SYSTEMS[kind]().to(ON), 2)
    made = searches.build("torchmd_net", systems, CUTOFF)
    assert f"strategy {strategy} in float64" in made.includes
    assert same_edges(made.graph(systems[1]), brute_force(systems[1], CUTOFF))


def test_more_pairs_than_there_is_room_for_are_an_error(monkeypatch):
    installed("torchmd_net")
    near, far = geometries.molecules(20, 1).to(ON), geometries.molecules(20, 1).to(ON)
    far = far.with_positions(10 * far.positions)
    said = r"torchmd-net found \d+ pairs and had room for 64; make SPARE larger"
    with pytest.raises(RuntimeError, match=said):
        searches.build("torchmd_net", [far, near], CUTOFF)
    made = searches.build("torchmd_net", [far], CUTOFF)
    with pytest.raises(RuntimeError, match=said):
        made.graph(near)


@pytest.mark.parametrize("name", SERVED)
def test_a_race_with_others(engine, name):
    installed(name)
    made = race(engine, ["vesin", name, "search"], box())
    assert [(row["setting"], row["status"], row["reason"]) for row in made.rows] == [
        (setting, "ok", "") for setting in ("vesin", name, "search")
    ]
    assert len({row["accuracy"]["edges"] for row in made.rows}) == 1
    assert "in no order" in tables(made)
    assert [row[1:3] for row in headlines(made)] == [["`search`", "`vesin`"], ["`search`", f"`{name}`"]]


@pytest.mark.skipif(ON.type != "cuda", reason="needs a CUDA device")
def test_the_device_is_the_clock_of_searches_on_it(engine):
    made = race(engine, ["brute_force", "captured"], box())
    assert made.clock == "device"
    one, several = made.rows
    assert one["status"] == several["status"] == "ok"
    # Replays are enqueued one after the other, so what the host waits for at the end is shared among them.
    assert max(several["samples"][0]["device"]) < min(one["samples"][0]["device"])
    assert all(
        wall > device for wall, device in zip(one["samples"][0]["wall"], one["samples"][0]["device"], strict=True)
    )


def test_one_that_loses_edges_has_no_speed(engine):
    """In a box narrower than two cutoffs an atom sees several images of another; torchmd-net knows the nearest."""
    installed("torchmd_net")
    thin = System(
        torch.tensor([[0.0, 0, 0], [2.0, 0.1, 0]]).double(), torch.tensor([1, 1]), 4 * torch.eye(3), torch.tensor(True)
    )
    good, bad = race(engine, ["vesin", "torchmd_net"], thin).rows
    assert good["status"] == "ok"
    assert bad["status"] == "inaccurate"
    assert "samples" not in bad


@pytest.mark.parametrize(
    ("name", "module", "says"),
    [
        ("vesin_torch", "vesin_torch", "vesin-torch cannot be loaded .*; pip install vesin-torch"),
        ("vesin_torch_pairs", "vesin_torch", "vesin-torch cannot be loaded .*; pip install vesin-torch"),
        (
            "torchmd_net",
            "torchmdnet",
            "torchmd-net cannot be imported .*; pip install --no-deps torchmd-net warp-lang",
        ),
    ],
)
def test_one_that_is_not_installed_is_skipped_with_the_remedy(engine, monkeypatch, name, module, says):
    for known in [one for one in sys.modules if one.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    (row,) = race(engine, [name], geometries.molecules(10, 1)).rows
    assert row["status"] == "skipped"
    assert re.fullmatch(says, row["reason"])


def test_a_replay_leaves_its_results_where_the_capture_put_them(monkeypatch):
    """A graph without a device: what is captured runs once, and again with every replay."""
    monkeypatch.setattr(peers, "synchronize", lambda device: None)
    monkeypatch.setattr(peers, "captured", lambda work: work() or work)
    given, kept = torch.tensor([1]), torch.tensor([0])
    run = peers.replayed_work(lambda: (kept.copy_(given),), torch.device("cuda"))
    given[0] = 2
    (found,) = run()
    assert found is kept
    assert int(found) == 2


def test_what_torchmd_net_does_not_serve(monkeypatch):
    monkeypatch.setattr(peers, "ALL_PAIRS", 100)
    assert peers.strategies_for(box()) == ["brute", "cell"]
    assert peers.strategies_for(geometries.molecules(20, 10)) == ["cell"]
    for system in (box(copies=2), box(triclinic=True, copies=2)):
        with pytest.raises(Unavailable, match="serve one rectangular box or none; all pairs of more than 100 atoms"):
            peers.strategies_for(system)


def test_all_names_that_the_suite_knows_can_be_built_or_say_why_not():
    suite = SUITES["neighbors"]
    assert set(OTHER_SEARCHES) < set(suite.names)
    assert not set(OTHER_SEARCHES) & set(suite.default_names(torch.device("cuda")).split(","))
    systems = timed_calls.moved(geometries.molecules(10, 1).to(ON), 2)
    for name in suite.names:
        try:
            made = searches.build(name, systems, CUTOFF)
        except Unavailable:
            continue
        assert same_edges(made.graph(systems[1]), brute_force(systems[1], CUTOFF))
