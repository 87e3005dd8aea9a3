"""Dynamics on the device, with stand-ins for the kernels: what is recorded, resumed, and what an explosion leaves alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.io import read

from atomjet import AtomJetCalculator, Engine
from atomjet.engine import Settings
from atomjet.errors import ConfigError, SimulationError
from atomjet.locking import only_writer
from atomjet.md import MDSettings, device, device_stepper, replicas, simulate, simulate_replicas
from atomjet.md.checkpoint import Checkpoint
from atomjet.md.device import Replicas
from atomjet.md.observables import read_log
from atomjet.md.run import checkpoint_path
from tests.engine import standins
from tests.potentials import random_painn


def flat_model():
    model = random_painn(features=8, layers=2, num_radial=6, cutoff=3.0, elements=(1, 6, 8))
    for parameter in model.readout[-1].parameters():
        parameter.data *= 0.05
    return model


def engine_through_buffers(model=None, on_overlap="error", **changed):
    engine = Engine(model or flat_model(), Settings("cpu", "fast_pytorch", on_overlap=on_overlap))
    engine.use(standins.stages(engine, **changed))
    return engine


@pytest.fixture(scope="module")
def engine():
    return engine_through_buffers()


def ethanol():
    return molecule("CH3CH2OH")


def run(engine, path, steps, atoms=None, **options):
    given = {"ensemble": "nve", "temperature": 50.0, "log_interval": 3, "trajectory_interval": 5}
    simulation = {
        name: options.pop(name) for name in list(options) if name in ("replicas", "resume", "checkpoint_seconds")
    }
    atoms = ethanol() if atoms is None else atoms
    settings = MDSettings(steps, **given | options)
    return atoms, simulate_replicas(engine, atoms, settings, path, quiet=True, **simulation)


@pytest.mark.parametrize("atoms", [ethanol(), bulk("C", cubic=True)], ids=["molecule", "crystal"])
def test_same_files_as_the_run_through_ase(engine, tmp_path: Path, atoms):
    atoms.rattle(0.02)
    moved, summary = run(engine, tmp_path / "ours.traj", 23, atoms.copy())
    other = atoms.copy()
    other.calc = AtomJetCalculator(Engine(engine.model, engine.settings))
    settings = MDSettings(23, temperature=50.0, log_interval=3, trajectory_interval=5)
    theirs = simulate(other, settings, tmp_path / "theirs.traj", quiet=True)
    a, b = (read(tmp_path / f"{name}.traj", ":") for name in ("ours", "theirs"))
    assert [frame.info for frame in a] == [frame.info for frame in b]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.positions, y.positions, atol=2e-6)
        np.testing.assert_allclose(x.get_velocities(), y.get_velocities(), atol=1e-5)
        np.testing.assert_allclose(x.get_forces(), y.get_forces(), atol=1e-4)
        assert x.get_potential_energy() == pytest.approx(y.get_potential_energy(), abs=1e-5)
        assert ("stress" in x.calc.results) == bool(atoms.pbc.all())
        if atoms.pbc.all():
            np.testing.assert_allclose(x.get_stress(), y.get_stress(), atol=1e-5)
    rows, other_rows = read_log(tmp_path / "ours.csv"), read_log(tmp_path / "theirs.csv")
    for name, values in other_rows.items():
        np.testing.assert_allclose(rows[name], values, rtol=1e-3, atol=1e-3)
    assert rows["step"].tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 23]
    assert (summary.steps, summary.replicas) == (23, 1)
    assert summary.drift == pytest.approx(theirs.drift, abs=1.0)
    np.testing.assert_array_equal(moved.positions, a[-1].positions)


def test_energy_is_conserved(engine, tmp_path: Path):
    run(engine, tmp_path / "a.traj", 200, temperature=300.0, timestep=0.25)
    total = read_log(tmp_path / "a.csv")["total_eV"]
    kinetic = read_log(tmp_path / "a.csv")["kinetic_eV"]
    assert total.std() < 0.02 * kinetic.std()


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
@pytest.mark.parametrize("number", [1, 3])
def test_killed_run_ends_as_the_undisturbed_one(engine, tmp_path: Path, monkeypatch, ensemble, number):
    def names(stem):
        return [
            path.name
            for pair in replicas.replica_paths(Path(f"{stem}.traj"), Path(f"{stem}.csv"), number)
            for path in pair
        ]

    run(engine, tmp_path / "whole.traj", 33, ensemble=ensemble, replicas=number)

    class Killed(Exception):
        pass

    taken, original = [], device_stepper.DeviceStepper.take

    def take(self, snapshot):
        if len(taken) == 4:
            raise Killed
        taken.append(1)
        original(self, snapshot)

    monkeypatch.setattr(device_stepper.DeviceStepper, "take", take)
    with pytest.raises(Killed):
        run(engine, tmp_path / "cut.traj", 33, ensemble=ensemble, replicas=number, checkpoint_seconds=0.0)
    monkeypatch.setattr(device_stepper.DeviceStepper, "take", original)
    assert 0 < Checkpoint.load(checkpoint_path(tmp_path / "cut.traj")).step < 33
    for name in names("cut"):
        with open(tmp_path / name, "ab") as file:
            file.write(b"torn")
    _, summary = run(engine, tmp_path / "cut.traj", 33, ensemble=ensemble, replicas=number, resume=True)
    assert summary.resumed_at > 0
    for cut, whole in zip(names("cut"), names("whole"), strict=True):
        assert (tmp_path / cut).read_bytes() == (tmp_path / whole).read_bytes()


def test_longer_run_continues_a_finished_one(engine, tmp_path: Path):
    run(engine, tmp_path / "grown.traj", 17, ensemble="nvt")
    run(engine, tmp_path / "grown.traj", 40, ensemble="nvt", resume=True)
    run(engine, tmp_path / "whole.traj", 40, ensemble="nvt")
    assert (tmp_path / "grown.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_replicas_differ_and_do_not_disturb_each_other(engine, tmp_path: Path):
    _, summary = run(engine, tmp_path / "many.traj", 20, ensemble="nvt", replicas=3)
    run(engine, tmp_path / "one.traj", 20, ensemble="nvt")
    first, second = (read(tmp_path / f"many-{k:04d}.traj") for k in (0, 1))
    assert summary.replicas == 3
    np.testing.assert_allclose(first.positions, read(tmp_path / "one.traj").positions, atol=1e-6)
    assert np.abs(first.positions - second.positions).max() > 1e-3


def trap(engine, monkeypatch, when):
    """Forces of one atom of replica 1 leap at one step."""

    def one_step(self):
        device.advance(self.motion, self.evaluation.prediction.forces)
        self.evaluation.launch()
        if int(self.motion.steps[1]) == when and int(self.motion.flags[1]) == 0:
            self.evaluation.prediction.forces[len(ethanol()) + 4] = 500.0
        device.finish(self.motion, self.evaluation.prediction)

    monkeypatch.setattr(device.Replicas, "one_step", one_step)


def test_exploding_replica_leaves_the_others_bitwise_alone(tmp_path: Path, monkeypatch):
    engine = engine_through_buffers(backend=standins.Pairs)
    run(engine, tmp_path / "calm.traj", 31, replicas=3)
    trap(engine, monkeypatch, 12)
    message = r"1 of 3 replicas exploded: replica 1: the run exploded at step 13"
    with pytest.raises(device_stepper.ReplicasError, match=message) as caught:
        run(engine, tmp_path / "wild.traj", 31, replicas=3)
    assert caught.value.summary.steps == 31
    for replica in (0, 2):
        for kind in ("traj", "csv"):
            a, b = (tmp_path / f"{name}-{replica:04d}.{kind}" for name in ("calm", "wild"))
            assert a.read_bytes() == b.read_bytes()
    assert read_log(tmp_path / "wild-0001.csv")["step"].tolist() == [0, 3, 6, 9, 12]
    assert [frame.info["step"] for frame in read(tmp_path / "wild-0001.traj", ":")] == [0, 5, 10]


def test_explosion_is_said_in_the_words_of_the_run_through_ase(tmp_path: Path):
    model = random_painn(features=8, layers=2, num_radial=6, cutoff=3.0, elements=(1, 6, 8))
    for parameter in model.readout[-1].parameters():
        parameter.data *= 60
    engine = engine_through_buffers(model)
    atoms = Atoms("HCH", [[0, 0, 0], [0, 0, 1.6], [0, 0.3, 3.3]])
    other = atoms.copy()
    other.calc = AtomJetCalculator(Engine(model, engine.settings))
    settings = {"timestep": 2.0, "temperature": 300.0}
    with pytest.raises(SimulationError) as theirs:
        simulate(other, MDSettings(50, log_interval=3, **settings), tmp_path / "theirs.traj", quiet=True)
    with pytest.raises(SimulationError) as ours:
        run(engine, tmp_path / "ours.traj", 50, atoms, **settings)
    assert str(ours.value) == str(theirs.value)
    assert "at step" in str(ours.value)
    assert "at step 0" not in str(ours.value)


def test_overlap_stops_one_replica_by_name(engine, tmp_path: Path, monkeypatch):
    # A pair that flies together at 0.04 Å/fs in replica 1 only.
    start = device_stepper.starting_frames

    def collide(atoms, settings, number):
        frames = start(atoms, settings, number)
        frames[1].set_velocities(np.sign(atoms.positions - atoms.positions.mean(0)) * [0, 0, -0.02 / units.fs])
        return frames

    monkeypatch.setattr(device_stepper, "starting_frames", collide)
    pair = Atoms("HH", [[0, 0, 0], [0, 0, 0.8]])
    with pytest.raises(
        SimulationError,
        match=r"1 of 2 replicas exploded: replica 1: the run exploded at step \d+: atom 0 and atom 1 are 0.2\d+ Å apart.*"
        r"\(before that step: temperature \d+ K, potential energy -?[\d.]+ eV\); take a shorter timestep",
    ):
        run(engine, tmp_path / "a.traj", 20, pair, replicas=2, timestep=1.0)
    assert read(tmp_path / "a-0000.traj", ":")[-1].info["step"] == 20


@pytest.mark.parametrize("kelvin", [1e5, 3e6])
def test_a_temperature_at_which_nothing_stays_bound_is_said_to_explode(engine, tmp_path: Path, kelvin):
    words = rf"exploded at step 0: temperature is {kelvin:.4g} K, limit 10000 K.*potential energy.*give a temperature below 10000 K"
    with pytest.raises(SimulationError, match=words.replace("+", r"\+")):
        run(engine, tmp_path / "a.traj", 20, temperature=kelvin)
    other = ethanol()
    other.calc = AtomJetCalculator(Engine(engine.model, engine.settings))
    with pytest.raises(SimulationError, match=words.replace("+", r"\+")):
        simulate(other, MDSettings(20, temperature=kelvin), tmp_path / "b.traj", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_too_few_edges_are_found_out_on_the_way(tmp_path: Path, monkeypatch):
    # Eight atoms gather: more pairs come within the cutoff than the first buffer has room for.

    engine = engine_through_buffers()
    corners = 3.2 * np.array([[i, j, k] for i in range(4) for j in range(3) for k in range(3)], dtype=float)
    cloud = Atoms("H36", corners)
    cloud.set_velocities((corners.mean(0) - corners) * 0.02 / units.fs)
    straight = run(engine, tmp_path / "wide.traj", 30, cloud.copy(), keep_velocities=True, timestep=1.0)
    grown = []
    monkeypatch.setattr("atomjet.data.capacity.DENSITY", 0.001)
    tight = engine_through_buffers()
    enlarge = tight.enlarge
    monkeypatch.setattr(tight, "enlarge", lambda evaluation: grown.append(1) or enlarge(evaluation))
    crowded = run(tight, tmp_path / "tight.traj", 30, cloud.copy(), keep_velocities=True, timestep=1.0)
    assert grown
    assert (tmp_path / "wide.csv").read_bytes() == (tmp_path / "tight.csv").read_bytes()
    np.testing.assert_array_equal(straight[0].positions, crowded[0].positions)


def test_unlike_structures_move_together(engine):
    frames = [ethanol(), Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]), bulk("C", cubic=True)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=seed)
    settings = MDSettings(10, temperature=100.0)
    together = Replicas(engine, frames, settings, [20, 1, 20], rows=10)
    together.evaluate()
    together.advance(10)
    seen = together.request(0).wait()
    assert seen.steps.tolist() == [10, 10, 10]
    first = 0
    for atoms in frames:
        alone = Replicas(engine, [atoms], settings, [20], rows=10)
        alone.evaluate()
        alone.advance(10)
        one = alone.request(0).wait()
        np.testing.assert_allclose(seen.positions[first : first + len(atoms)], one.positions, atol=1e-9)
        first += len(atoms)


def test_refusals(engine, tmp_path: Path):
    with pytest.raises(ConfigError, match="replicas 0 is outside 1 ... 400"):
        run(engine, tmp_path / "a.traj", 5, replicas=0)
    resting = ethanol()
    resting.set_velocities(np.zeros((9, 3)))
    with pytest.raises(ConfigError, match="2 replicas that keep their velocities in nve would all be the same"):
        run(engine, tmp_path / "a.traj", 5, resting, replicas=2, keep_velocities=True)
    with (
        only_writer(tmp_path / "a.traj"),
        pytest.raises(ConfigError, match=r"another run is working on .*a\.traj \(process"),
    ):
        run(engine, tmp_path / "a.traj", 5)
    run(engine, tmp_path / "a.traj", 5)
    with pytest.raises(ConfigError, match="a.traj exists already"):
        run(engine, tmp_path / "a.traj", 5)
    with pytest.raises(ConfigError, match="replicas 1 -> 2"):
        run(engine, tmp_path / "a.traj", 9, replicas=2, resume=True)
    near = Atoms("HH", [[0, 0, 0], [0, 0, 0.1]])
    with pytest.raises(ValueError, match="0.100 Å apart"):
        run(engine, tmp_path / "b.traj", 5, near)
    assert not (tmp_path / "b.traj").exists()
    fixed = ethanol()
    plain = Engine(engine.model, Settings("cpu"))
    assert (
        replicas.why_not_on_device(plain, fixed, MDSettings(1)) == "backend fast_pytorch does not work in fixed buffers"
    )
    assert replicas.why_not_on_device(engine, fixed, MDSettings(1, ensemble="npt")) == "npt has no integrator there"
    assert replicas.why_not_on_device(engine, fixed, MDSettings(1)) == ""
    assert torch.is_grad_enabled()
