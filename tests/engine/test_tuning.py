"""The table of how kernels are cut, and the search that fills it."""

from pathlib import Path

import pytest
import torch

from atomjet import Engine
from atomjet.data import Capacity
from atomjet.data.padded import DENSE
from atomjet.engine import Settings, tuner, tuning
from atomjet.errors import AtomJetError, BackendError, ConfigError
from atomjet.neighbors import search
from tests.potentials import random_painn

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAME = tuning.device_name(torch.device(DEVICE))
_box = tuner.box


def small(monkeypatch):
    """Tune on four atoms."""
    for name in ("box", "molecules"):
        monkeypatch.setattr(tuner, name, lambda engine, size: _box(engine, 4))


@pytest.fixture(autouse=True)
def own_table(tmp_path: Path, monkeypatch):
    """No table of whoever runs the tests."""
    monkeypatch.setattr(tuning, "user_table", lambda: tmp_path / "own" / "tuned.json")
    tuning._users_own.cache_clear()
    yield tmp_path / "own" / "tuned.json"
    tuning._users_own.cache_clear()


def engine():
    return Engine(random_painn(features=16, layers=2, num_radial=6, cutoff=3.0), Settings(DEVICE, "fast_gpu", "high"))


def test_entry_is_written_looked_up_and_used(own_table):
    plain = engine().stages
    key = tuning.model_key(random_painn(features=16), plain.evaluator)
    assert key == "painn 16 float32"
    entry = {"update": {"rows": 32}, "message": {"unknown": 3}, "no_kernel": {"rows": 1}}
    tuning.write_table(own_table, NAME, key, {"256 sparse": entry})
    tuning.write_table(own_table, NAME, key, {"32 sparse": {"update": {"rows": 64}}})
    stages = engine().stages
    for atoms, rows in ((20, 64), (100, 32)):
        capacity = Capacity(1, atoms, 64, atoms)
        cut = stages.evaluator_for(capacity).tiles_for(capacity)
        assert cut.update.rows == rows
        assert cut.update.warps == plain.evaluator.tiles_for(capacity).update.warps
        assert cut.message == plain.evaluator.tiles_for(capacity).message
        assert stages.evaluator_for(capacity).chains is stages.evaluator.chains
    large = Capacity(1, 1000, 64, 1000)
    assert stages.evaluator_for(large) is stages.evaluator
    assert stages.bytes_of(large) == plain.bytes_of(large)


def test_sizes():
    keys = [tuning.entry_key(Capacity(1, atoms, 40 * atoms, atoms)) for atoms in (1, 32, 33, 5000, 10**6)]
    assert keys == ["32 dense", "32 dense", "256 dense", "16384 dense", "16384 dense"]
    assert tuning.entry_key(Capacity(64, 1280, 16 * 1280, 20)) == "2048 sparse"


def test_an_entry_for_boxes_is_not_used_for_molecules(own_table):
    key = tuning.model_key(random_painn(features=16), engine().stages.evaluator)
    tuning.write_table(own_table, NAME, key, {"256 dense": {"update": {"rows": 32}}})
    stages = engine().stages
    dense, sparse = Capacity(1, 100, 5000, 100), Capacity(5, 100, 1600, 20)
    assert stages.evaluator_for(dense).tiles_for(dense).update.rows == 32
    assert stages.evaluator_for(sparse) is stages.evaluator


def test_tune_keeps_the_fastest_that_is_right(monkeypatch):
    monkeypatch.setattr(
        tuner, "CHOICES", (("update", {"rows": (16, 32)}), ("update", {"warps": (8, 4)}), ("nothing", {"rows": (1,)}))
    )
    times = iter([3.0, 2.5, 2.0, 2.2, 1.0, 0.998])  # the last is better by what is noise
    one = engine()
    small(monkeypatch)
    (found,) = tuner.tune(one, (32,), timer=lambda work, device: next(times))
    assert (found.key, found.before, found.after, found.refused) == ("32 sparse", 3.0, 1.0, 0)
    assert found.choices == {"update": {"rows": 32, "warps": 4}}


def test_kernels_that_cannot_be_cut_are_left_alone(monkeypatch):
    monkeypatch.setattr(tuner, "CHOICES", (("update", {"rows": (16, 32)}),))
    small(monkeypatch)
    one = engine()
    assert one.stages.evaluator.uncut == ()
    one.stages.evaluator.uncut = ("update",)
    (found,) = tuner.tune(one, (32,), timer=lambda work, device: 1.0)
    assert (found.choices, found.refused) == ({}, 0)


def test_tune_refuses_what_is_wrong(monkeypatch):
    monkeypatch.setattr(tuner, "CHOICES", (("update", {"rows": (16, 32), "warps": (4,)}),))
    monkeypatch.setattr(tuner, "EQUAL", float("nan"))
    small(monkeypatch)
    (found,) = tuner.tune(engine(), (32,), timer=lambda work, device: 1.0)
    assert (found.refused, found.choices, found.after) == (2, {}, 1.0)
    with pytest.raises(BackendError, match="backend fast_pytorch has nothing to tune"):
        next(tuner.tune(Engine(random_painn(), Settings("cpu", "fast_pytorch"))))


def test_boxes_are_sane():
    one = engine()
    pieces, box = tuner.molecules(one, 256), tuner.box(one, 256)
    assert (pieces.num_atoms, box.num_atoms) == (256, 256)
    assert (pieces.counts().tolist(), bool(pieces.pbc.any()), bool(box.pbc.all())) == ([20] * 12 + [16], False, True)
    for system in (pieces, box):
        assert search(system, 1.4).num_edges == 0
    assert search(pieces, 5.0).num_edges < DENSE * 256 < search(box, 5.0).num_edges


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
    found = tuner.Tuned("32 sparse", 0.2, 0.1, {"update": {"rows": 32}}, 0)
    monkeypatch.setattr(tuner, "tune", lambda engine, sizes: iter([found]))
    assert main(["tune", "--size", "32"]) == 0
    assert "update rows 32" in capsys.readouterr().out
    assert tuning.read_table(own_table) == {NAME: {"painn 16 float32": {"32 sparse": {"update": {"rows": 32}}}}}
    assert main(["tune", "--size", "33"]) == 2
    assert "size 33 is no size of the table" in capsys.readouterr().err
    assert main(["tune", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(str(size) in told for size in tuning.SIZES)
