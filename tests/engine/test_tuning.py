"""The table of how kernels are tiled, and the search that fills it."""

from pathlib import Path

import pytest
import torch

from atomjet import Engine
from atomjet.data import Capacity
from atomjet.data.capacity import LONG_ROW
from atomjet.engine import Settings, tuner, tuning
from atomjet.errors import AtomJetError, BackendError, ConfigError
from atomjet.models.contract import Segment
from atomjet.models.painn import tuning as painn_tuning
from atomjet.neighbors import search
from tests.potentials import random_painn

pytest.importorskip("triton")
from atomjet.models.painn.fast_gpu import FastGpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAME = tuning.device_name(torch.device(DEVICE))


def tuned(monkeypatch, choices, times, one=None):
    """Tune on one and on two pairs of atoms, whose evaluations take these times in turn."""
    drawn, times = tuner.molecules, iter(times)
    for name in ("molecules", "box"):  # both few and sparse: one entry
        monkeypatch.setattr(tuner, name, lambda engine, size: drawn(engine, 4 if size == 32 else 2))
    monkeypatch.setattr(tuner, "CLUSTER", 2)
    monkeypatch.setattr(painn_tuning, "ROUNDS", choices)
    (found,) = tuner.tune(one or engine(layers=1), (32,), timer=lambda work, device: next(times))
    assert next(times, None) is None
    return found


@pytest.fixture(autouse=True)
def own_table(tmp_path: Path, monkeypatch):
    """No table of whoever runs the tests."""
    monkeypatch.setattr(tuning, "user_table", lambda: tmp_path / "own" / "tuned.json")
    tuning.users_own.cache_clear()
    yield tmp_path / "own" / "tuned.json"
    tuning.users_own.cache_clear()


def engine(layers=2):
    model = random_painn(features=16, layers=layers, num_radial=6, cutoff=3.0)
    return Engine(model, Settings(DEVICE, "fast_gpu", "high"))


def test_entry_is_written_looked_up_and_used(own_table):
    plain = engine().stages
    key = plain.backend.tuning.key
    assert key == "painn 16 float32"
    entry = {"update": {"rows": 32}, "message": {"unknown": 3}, "no_kernel": {"rows": 1}}
    tuning.write_table(own_table, NAME, key, {"256 sparse": entry})
    tuning.write_table(own_table, NAME, key, {"32 sparse": {"update": {"rows": 64}}})
    stages = engine().stages
    for atoms, rows in ((20, 64), (200, 32)):
        capacity = Capacity(1, atoms, 64, atoms)
        tiles, default = (one.backend_for(capacity).tuning.tiles(capacity) for one in (stages, plain))
        assert tiles["update"] == default["update"] | {"rows": rows}
        assert tiles["message"] == default["message"]
        assert stages.backend_for(capacity).chains is stages.backend.chains
    large = Capacity(1, 1000, 64, 1000)
    assert stages.backend_for(large) is stages.backend
    assert stages.bytes_of(large) == plain.bytes_of(large)


def test_sizes():
    keys = [tuning.entry_key(Capacity(1, atoms, 40 * atoms, atoms)) for atoms in (1, 32, 200, 5000, 10**6)]
    assert keys == ["32 dense", "32 dense", "256 dense", "16384 dense", "16384 dense"]
    assert tuning.entry_key(Capacity(64, 1280, 16 * 1280, 20)) == "2048 sparse"


def test_an_entry_for_boxes_is_not_used_for_molecules(own_table):
    key = engine().stages.backend.tuning.key
    tuning.write_table(own_table, NAME, key, {"256 dense": {"update": {"rows": 32}}})
    stages = engine().stages
    dense, sparse = Capacity(1, 200, 10000, 200), Capacity(10, 200, 3200, 20)
    assert stages.backend_for(dense).tuning.tiles(dense)["update"]["rows"] == 32
    assert stages.backend_for(sparse) is stages.backend


def test_tune_keeps_the_fastest_in_the_mean(monkeypatch):
    rounds = (("update", {"rows": (16, 32)}), ("update", {"warps": (8, 4)}), ("nothing", {"rows": (1,)}))
    defaults, rows = [3.0, 30.0], [2.5, 25.0, 2.0, 20.0]
    warps, noise = [2.0, 22.0, 1.5, 10.0], [1.495, 9.98]
    found = tuned(monkeypatch, rounds, [*defaults, *rows, *warps, *noise])
    assert (found.key, found.before, found.after, found.refused) == ("32 sparse", (3.0, 30.0), (1.5, 10.0), 0)
    assert found.choices == {"update": {"rows": 32, "warps": 4}}


def test_tune_refuses_what_is_slower_at_either_size(monkeypatch):
    found = tuned(monkeypatch, (("update", {"rows": (16, 32)}),), [3.0, 30.0, 3.1, 15.0, 1.0, 30.3])
    assert (found.choices, found.after, found.refused) == ({}, (3.0, 30.0), 2)


def test_kernels_without_choices_are_left_alone(monkeypatch):
    one = engine()
    assert {kernel for kernel, _ in one.stages.backend.tuning.rounds} == {"message", "message_back", "update"}
    one.stages.backend.update = None  # others than those that have choices
    monkeypatch.setattr(tuner, "Probe", lambda *arguments: Probe())
    found = tuned(monkeypatch, (("update", {"rows": (16, 32)}),), [], one)
    assert (found.choices, found.refused) == ({}, 0)


class Probe:
    """Nothing that is timed."""

    before, capacity = 1.0, Capacity(1, 2, 64, 2)


def test_tune_refuses_what_is_wrong(monkeypatch):
    right = FastGpu.segments

    def segments(self, graph, conditions, workspace):
        found = right(self, graph, conditions, workspace)
        if self.tiles is None:
            return found
        return [*found, Segment(lambda: workspace.gradients.mul_(1.0 + 2 * tuner.EQUAL))]

    monkeypatch.setattr(FastGpu, "segments", segments)
    found = tuned(monkeypatch, (("update", {"rows": (16, 32), "warps": (4,)}),), [2.0, 20.0, 1.0, 10.0, 1.0, 10.0])
    assert (found.refused, found.choices, found.after) == (2, {}, (2.0, 20.0))
    with pytest.raises(BackendError, match="backend fast_pytorch has nothing to tune"):
        next(tuner.tune(Engine(random_painn(), Settings("cpu", "fast_pytorch"))))


def test_boxes_are_sane():
    one = engine()
    pieces, box = tuner.molecules(one, 256), tuner.box(one, 256)
    assert (pieces.num_atoms, box.num_atoms) == (256, 256)
    assert (pieces.counts().tolist(), bool(pieces.pbc.any()), bool(box.pbc.all())) == ([20] * 12 + [16], False, True)
    for system in (pieces, box):
        assert search(system, 1.4).num_edges == 0
    assert search(pieces, 5.0).num_edges < LONG_ROW * 256 < search(box, 5.0).num_edges
    for atoms in (8, 33, 257, 2049):  # filled, whatever their number
        density = atoms / abs(float(torch.linalg.det(tuner.box(one, atoms).cell[0])))
        assert 0.085 < density < 0.101


def test_shipped_table_is_whole():
    """For Hopper's, entries that are looked up, with whole cuts that the kernels know."""
    table = tuning.read_table(Path(tuning.__file__).with_name("tuned.json"))
    assert {device.split()[1] for device in table} == {"H100", "H200"}
    tiles = engine().stages.backend.tuning.tiles(Capacity(1, 32, 64, 32))
    known = {f"{size} {kind}" for size in tuning.SIZES for kind in ("sparse", "dense")}
    for models in table.values():
        assert models["painn 128 float16"]
        for entries in models.values():
            assert set(entries) <= known
            for kernel, chosen in (item for entry in entries.values() for item in entry.items()):
                assert set(chosen) == set(tiles[kernel])


def test_damaged_table_is_named(own_table):
    own_table.parent.mkdir()
    own_table.write_text("{")
    with pytest.raises(ConfigError, match=r"tuned.json is not a table of `atomjet tune` \(.*delete it, and tune again"):
        tuning.read_table(own_table)
    own_table.write_text('{"version": 7, "devices": {}}')
    with pytest.raises(AtomJetError, match="version 7, not 2"):
        engine()


def test_command(own_table, monkeypatch, capsys):
    from atomjet.cli import options
    from atomjet.cli.main import main

    monkeypatch.setattr(options, "load_engine", lambda *arguments: engine())
    found = tuner.Tuned("painn 16 float32", "32 sparse", (0.1, 0.2), (0.1, 0.1), {"update": {"rows": 32}}, 0)
    monkeypatch.setattr(tuner, "tune", lambda engine, sizes: iter([found]))
    assert main(["tune", "--size", "32"]) == 0
    assert "update rows 32" in capsys.readouterr().out
    assert tuning.read_table(own_table) == {NAME: {"painn 16 float32": {"32 sparse": {"update": {"rows": 32}}}}}
    assert main(["tune", "--size", "33"]) == 2
    assert "size 33 is no size of the table" in capsys.readouterr().err
    assert main(["tune", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(str(size) in told for size in tuning.SIZES)
