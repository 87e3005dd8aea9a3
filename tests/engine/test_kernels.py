"""The real kernels behind the engine: in Triton's interpreter with a tiny model, and on a GPU where there is one."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read

import atomjet
from atomjet import Engine, System
from atomjet.engine import Settings, streams
from atomjet.md import MDSettings, simulate_replicas
from atomjet.md.device import Replicas
from atomjet.md.motion import HALTED
from atomjet.models import load, registry
from tests.potentials import random_painn

pytest.importorskip("triton")

FORCES = {"default": 1e-3, "high": 1e-5}  # of the force rms: products of 10 bits, and of float32
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ON = "cuda" if torch.cuda.is_available() else "cpu"


def tiny():
    return random_painn(features=16, layers=2, num_radial=6, cutoff=3.0, elements=(1, 6, 8))


def test_dynamics_through_the_kernels_equal_those_through_ase(tmp_path):
    from atomjet import AtomJetCalculator
    from atomjet.md import simulate

    model, settings = tiny(), MDSettings(4, temperature=50.0, log_interval=2, trajectory_interval=4)
    engine = Engine(model, Settings(ON, "fast_gpu", "high"))
    simulate_replicas(engine, molecule("CH4"), settings, tmp_path / "ours.traj", quiet=True)
    other = molecule("CH4")
    other.calc = AtomJetCalculator(Engine(model, Settings("cpu", "fast_pytorch", "high")))
    simulate(other, settings, tmp_path / "theirs.traj", quiet=True)
    a, b = read(tmp_path / "ours.traj", "-1"), read(tmp_path / "theirs.traj", "-1")
    np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)
    np.testing.assert_allclose(a.get_velocities(), b.get_velocities(), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ on a GPU only


def student():
    """The packaged one."""
    return load.read(registry.locate("organic-xtb"))[0]


def gpu_engine(model, capture=True, precision="default", **settings):
    engine = Engine(model, Settings("cuda", "fast_gpu", precision, **settings))
    if not capture:
        engine.use(engine.stages, capture=False)
    return engine


def water(repeat, seed=0):
    """A box of molecules turned at random, 10 Å³ an atom."""
    rng = np.random.default_rng(seed)
    box = Atoms(cell=[3.107 * n for n in repeat], pbc=True)
    for place in np.ndindex(*repeat):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += 3.107 * (np.array(place) + 0.5)
        box += one
    return box


def equal(a, b):
    return all(
        torch.equal(torch.nan_to_num(getattr(a, n)), torch.nan_to_num(getattr(b, n)))
        for n in ("energy", "forces", "stress")
    )


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("precision", ["default", "high"])
def test_accuracy_on_the_gpu(precision):
    model, rng = student(), np.random.default_rng(0)
    every = [molecule("CH3CH2OH"), molecule("C6H6"), molecule("CH3COOH"), water((3, 3, 3))]
    for atoms in every:
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
    exact = Engine(model, Settings("cuda", "general", "float64")).predict(every)
    engine = gpu_engine(model, precision=precision)
    for _ in range(3):  # launched, captured, replayed
        ours = engine.predict(every)
        rms = float(exact.forces.square().mean().sqrt())
        assert float((ours.forces - exact.forces).square().mean().sqrt()) < FORCES[precision] * rms
    assert ours.forces.device.type == "cpu"
    assert engine.predict(System.from_ase(every, device="cuda")).forces.device.type == "cuda"
    assert "CUDA graphs" in engine.describe()
    assert "without" not in engine.describe()


@pytest.mark.gpu
@gpu
def test_captured_equals_eager_along_a_trajectory(monkeypatch):
    model, rng = student(), np.random.default_rng(0)
    monkeypatch.setattr("atomjet.data.capacity.DENSITY", 0.02)  # overflows on the way
    captured, eager = gpu_engine(model), gpu_engine(model, capture=False)
    every = [molecule("CH3CH2OH"), water((2, 2, 3)), water((1, 1, 1)), water((7, 7, 7))]
    for turn in range(12):
        for atoms in every:
            atoms.positions += rng.normal(scale=0.01, size=(len(atoms), 3))
            if turn % 4 == 3 and atoms.pbc.all():
                atoms.set_cell(atoms.cell * 0.99, scale_atoms=True)  # neighbours come in
            a, b = captured.predict(atoms), eager.predict(atoms)
            assert equal(a, b)
            assert equal(captured.predict(System.from_ase(atoms, device="cuda")).to("cpu"), b)
        assert equal(captured.predict(every), eager.predict(every))


@pytest.mark.gpu
@gpu
def test_buffers_with_room_to_spare_add_nothing():
    engine, alone = gpu_engine(student()), []
    grid = np.array([[i, j, k] for i in range(3) for j in range(3) for k in range(3)]) * 1.9
    sizes = [Atoms("H" * n, grid[np.random.default_rng(n).permutation(27)[:n]]) for n in (17, 20, 24)]
    for atoms in sizes:
        alone.append(gpu_engine(student()).predict(atoms))
    for _ in range(3):
        for atoms, expected in zip(sizes, alone, strict=True):
            assert equal(engine.predict(atoms), expected)


@pytest.mark.gpu
@gpu
def test_threads_and_streams_on_the_gpu(monkeypatch):
    monkeypatch.setattr(streams, "ATOMS_AT_ONCE", 300)
    engine = gpu_engine(student())
    # Kernels that are tiled for a batch add up in another order than for one of its structures.
    engine.use(replace(engine.stages, tuning=None))
    every = [molecule(n) for n in ("CH3CH2OH", "C6H6", "H2O", "CH4", "C2H6")] * 12 + [water((2, 2, 2)), bulk("C")]
    alone = [engine.predict(atoms).forces for atoms in every]
    assert torch.equal(engine.predict(every).forces, torch.cat(alone))
    wrong = []

    def work(first):
        for turn in range(40):
            k = (7 * first + turn) % len(every)
            if not torch.equal(engine.predict(every[k]).forces, alone[k]):
                wrong.append(k)
        if not torch.equal(engine.predict(every).forces, torch.cat(alone)):
            wrong.append(-1)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.gpu
@gpu
def test_results_on_the_device_stay_whoever_takes_the_buffers_next():
    """A call returns while its result is still copied out of the buffers: the next must not write there before, on any stream."""
    engine, atoms = gpu_engine(student()), water((6, 6, 6))
    system = System.from_ase(atoms, device="cuda")
    moved = [system.with_positions(system.positions + 0.01 * k * torch.sin(system.positions)) for k in range(6)]
    alone = [engine.predict(one).forces.clone() for one in moved]
    streams_ = [torch.cuda.Stream() for _ in range(3)]
    for turn in range(30):
        with torch.cuda.stream(streams_[turn % 3]):
            first = engine.predict(moved[turn % 6])
        frame = atoms.copy()
        frame.positions[:] = moved[(turn + 1) % 6].positions.cpu()
        second = engine.predict(frame)
        torch.cuda.synchronize()
        assert torch.equal(first.forces, alone[turn % 6])
        assert torch.equal(second.forces.cuda(), alone[(turn + 1) % 6])


@pytest.mark.gpu
@gpu
def test_memory_is_what_the_model_says():
    engine, atoms = gpu_engine(student()), water((12, 12, 12))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    evaluation = engine.reserve([atoms])
    taken = torch.cuda.memory_allocated() - before
    said = engine.stages.bytes_of(evaluation.capacity)
    assert 0.9 * taken < said < 1.1 * taken
    with pytest.raises(atomjet.AtomJetError, match=r"atoms with .* edges need .* GiB on cuda"):
        engine.reserve([water((12, 12, 12)) * (13, 13, 13)])  # 160 GiB


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_dynamics_on_the_gpu_are_resumed_bit_by_bit(tmp_path, ensemble, monkeypatch):
    engine = gpu_engine(student())
    atoms = molecule("CH3CH2OH")
    settings = MDSettings(120, ensemble=ensemble, temperature=300.0, timestep=0.5)
    simulate_replicas(engine, atoms.copy(), settings, tmp_path / "whole.traj", replicas=3, quiet=True)
    simulate_replicas(engine, atoms.copy(), settings, tmp_path / "again.traj", replicas=3, quiet=True)
    short = MDSettings(55, ensemble=ensemble, temperature=300.0, timestep=0.5)
    simulate_replicas(engine, atoms.copy(), short, tmp_path / "cut.traj", replicas=3, quiet=True)
    simulate_replicas(engine, atoms.copy(), settings, tmp_path / "cut.traj", replicas=3, resume=True, quiet=True)
    slow = gpu_engine(student(), capture=False)
    simulate_replicas(slow, atoms.copy(), settings, tmp_path / "eager.traj", replicas=3, quiet=True)
    for replica in range(3):
        whole = (tmp_path / f"whole-{replica:04d}.csv").read_bytes()
        for name in ("again", "cut", "eager"):
            assert (tmp_path / f"{name}-{replica:04d}.csv").read_bytes() == whole
    for frame, other in zip(
        read(tmp_path / "whole-0001.traj", ":"), read(tmp_path / "cut-0001.traj", ":"), strict=True
    ):
        np.testing.assert_array_equal(frame.positions, other.positions)
        np.testing.assert_array_equal(frame.get_velocities(), other.get_velocities())


@pytest.mark.gpu
@gpu
def test_exploding_replica_leaves_the_others_bitwise_alone_on_the_gpu():
    engine = gpu_engine(student())
    ends = []
    for push in (0.0, 1.0):
        start = [molecule("CH3CH2OH") for _ in range(3)]
        velocities = start[1].get_velocities()
        velocities[5, 2] += push * 6.0
        start[1].set_velocities(velocities)
        moved = Replicas(engine, start, MDSettings(200), [21] * 3, rows=10)
        moved.evaluate()
        moved.advance(200)
        seen = moved.request(0).wait()
        while (seen.flags & HALTED).any():
            moved.settle(seen)
            moved.advance(200 - int(seen.steps.max()))
            seen = moved.request(0).wait()
        n = len(start[0])
        ends.append((seen.positions[:n].copy(), seen.positions[2 * n :].copy(), seen.steps.copy(), seen.flags.copy()))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])
    assert ends[1][2][0] == ends[1][2][2] == 200
