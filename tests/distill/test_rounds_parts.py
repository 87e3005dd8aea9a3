"""The parts of a round: many structures that move together, packings, carved spheres, which frames are chosen, jobs on devices."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet.distill import walkers as module
from atomjet.distill.choose import Seen, choose
from atomjet.distill.devices import Team
from atomjet.distill.explore import Start, explore
from atomjet.distill.frames import concatenate, make_frames
from atomjet.distill.measure import disagreement, largest, mean_error, spreads
from atomjet.distill.packings import LOOSE, bonds_of, carve, library, liquid_volume, pack_box, squeeze
from atomjet.distill.train_config import PackingsConfig, RoundsConfig
from atomjet.distill.walkers import APART, STRONG, Walkers
from atomjet.engine import Engine, Settings
from atomjet.errors import AtomJetError, ConfigError
from atomjet.models import tensor_file
from atomjet.units import BOLTZMANN, GPA
from tests.potentials import random_painn

NO_BONDS = (torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0))


@pytest.fixture(scope="module")
def organic() -> Engine:
    return atomjet.load("organic-xtb", device="cpu")


def lonely() -> Engine:
    """A model that sees nothing beyond 1 Å: atoms apart are free."""
    return Engine(random_painn(layers=1, cutoff=1.0, elements=(1, 8)), Settings(device="cpu"))


def test_each_structure_has_its_temperature():
    free = [Atoms("O")] * 800
    kelvin = np.repeat([300.0, 900.0], 400)
    walkers = Walkers(lonely(), free, list(kelvin), [False] * 800, *NO_BONDS, 5.0, 0.0, 50.0, seed=1)
    walkers.velocities[:] = 0
    walkers.run(60)  # three times the time in which the start is forgotten
    found = (walkers.masses * walkers.velocities.square()).sum(1) / (3 * BOLTZMANN)
    for target, part in ((300.0, slice(0, 400)), (900.0, slice(400, None))):
        assert float(found[part].mean()) == pytest.approx(target, rel=4 * np.sqrt(2 / 1200) + np.exp(-6))
    assert not walkers.stopped.any()


def test_pressure_is_held_by_the_volume_of_an_ideal_gas(monkeypatch):
    # <V> = (N + 1) kT / P, N = 2. Faster than in earnest: the rate says how soon, not where to.
    kelvin, pressure, volume = 3000.0, 0.5, 3 * BOLTZMANN * 3000.0 / (0.5 * GPA)
    monkeypatch.setattr(module, "BAROSTAT_STEPS", 1)
    monkeypatch.setattr(module, "LARGEST_RESCALING", 1.0)
    monkeypatch.setattr(module, "COMPRESSIBILITY", 0.02 * module.BAROSTAT_TIME / (pressure * GPA))
    side = volume ** (1 / 3)
    gas = [Atoms("H2", [[0, 0, 0], [side / 2] * 3], cell=[side] * 3, pbc=True) for _ in range(26)]
    walkers = Walkers(lonely(), gas, [kelvin] * 26, [True] * 24 + [False] * 2, *NO_BONDS, 1.0, pressure, 50.0, seed=2)
    volumes = []
    for _ in range(40):
        walkers.run(10)
        volumes.append(torch.linalg.det(walkers.system.cell))
    held, free = torch.stack(volumes[10:])[:, :24], torch.stack(volumes)[:, 24:]
    assert float(held.mean()) == pytest.approx(volume, rel=0.15)  # gamma distribution: 58 % wide
    assert float(held.std()) == pytest.approx(volume / np.sqrt(3), rel=0.25)
    assert torch.allclose(free, torch.tensor(volume, dtype=torch.float64))


def test_what_diverges_stops_alone(organic):
    water, broken, squeezed = molecule("H2O"), molecule("H2O"), molecule("H2O")
    squeezed.positions *= 0.7
    together = [water, broken, squeezed]
    bonds = torch.tensor([[0, 1], [0, 2], [3, 4], [3, 5], [6, 7]])
    limits = torch.tensor([9.0, 9.0, 0.5, 9.0, 9.0])  # the bond of the second counts as flown apart
    walkers = Walkers(organic, together, [300.0] * 3, [False] * 3, bonds, limits, 0.5, 0.0, 50.0, seed=3)
    before = walkers.system.positions.clone()
    walkers.run(5)
    assert walkers.stopped.tolist() == [0, APART, STRONG]
    assert torch.equal(walkers.system.positions[6:], before[6:])
    assert not torch.equal(walkers.system.positions[:3], before[:3])
    now = walkers.system.positions.clone()
    walkers.run(5)
    assert torch.equal(walkers.system.positions[3:], now[3:])
    assert bool((walkers.velocities[3:] == 0).all())
    assert torch.isfinite(walkers.system.positions).all()


def test_refused_structures_disagree_infinitely(organic):
    fused = molecule("H2O")
    fused.positions[2] = fused.positions[1]
    system = atomjet.System.from_ase([molecule("CH4"), fused, molecule("NH3")])
    spread = largest(disagreement([organic, organic], system)[0], system)
    assert spread.tolist() == [0.0, np.inf, 0.0]


def test_disagreement_is_the_deviation_from_the_mean(organic):
    other = Engine(random_painn(elements=(1, 6, 8), cutoff=3.0), Settings(device="cpu"))
    frames = [molecule("CH3OH"), molecule("H2O")]
    forces = np.stack([engine.predict(frames).forces.double().numpy() for engine in (organic, other)])
    found, mean = disagreement([organic, other], atomjet.System.from_ase(frames))
    assert np.allclose(found, np.sqrt(np.square(forces - forces.mean(0)).sum(-1).mean(0)), rtol=1e-5)
    assert np.allclose(mean, np.linalg.norm(forces.mean(0), axis=1), rtol=1e-5)


# ------------------------------------------------------------------ packings


def molecules():
    names = ("H2O", "CH3OH", "C6H6")
    return concatenate([make_frames([molecule(name)], "train", "normal_modes", name) for name in names])


@pytest.mark.parametrize("seed", range(8))
def test_packings_are_squeezed_to_their_density_with_molecules_whole(seed):
    frames, config = molecules(), PackingsConfig(molecules=(4, 12), density=(0.9, 1.1))
    usable = library(frames, 200)
    assert usable.tolist() == [0, 1, 2]
    box, index, names, shrink = pack_box(frames, usable, config, np.random.default_rng(seed))
    volume = sum(liquid_volume(box.numbers[index == m]) for m in range(len(names)))
    assert volume / box.get_volume() == pytest.approx(LOOSE)
    inside = [box[index == m].get_all_distances() for m in range(len(names))]
    squeeze(box, index, shrink)
    assert 0.9 <= volume / box.get_volume() <= 1.1
    for m, before in enumerate(inside):
        assert np.allclose(box[index == m].get_all_distances(), before)


def test_held_out_and_broken_molecules_are_not_packed():
    frames = concatenate([molecules(), make_frames([molecule("NH3")], "test", "normal_modes", "N")])
    frames.reactive[1] = True
    assert library(frames, 200).tolist() == [0, 2]


def test_carved_spheres_hold_the_nearest_whole_molecules():
    box = Atoms("OH2" * 8, cell=[10.0] * 3, pbc=True)
    corners = np.stack(np.meshgrid(*[[0.5, 5.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
    water = molecule("H2O").positions
    box.positions = (corners[:, None] + water).reshape(-1, 3)
    box.positions[:3] += [30.0, 0.0, -20.0]  # unwrapped, three cells away
    index = np.repeat(np.arange(8), 3)
    atoms, positions = carve(box, index, center=4, most=10)
    assert len(atoms) == 9
    assert 4 in atoms
    cluster = Atoms(box.numbers[atoms], positions)
    for m in np.unique(index[atoms]):
        assert np.allclose(cluster[index[atoms] == m].get_all_distances(), molecule("H2O").get_all_distances())
    distances = box.get_distances(4, range(24), mic=True)
    nearest = {int(m) for m in index[np.argsort(distances)][:9]}
    assert set(index[atoms]) <= nearest
    found = np.linalg.norm(positions - positions[atoms.tolist().index(4)], axis=1)
    assert found.min() == 0
    assert len(carve(box, index, center=4, most=2)[0]) == 3  # its own molecule at least


def test_packings_are_carved_where_the_students_differ(organic, tmp_path):
    for seed in (0, 1):
        model = random_painn(seed=seed, layers=1, cutoff=3.0, elements=(1, 6, 8)).float()
        tensor_file.write(tmp_path / f"{seed}.safetensors", model, {})
    frames, config = molecules(), PackingsConfig(molecules=(8, 8), density=(0.5, 0.6), carve=12)
    box, index, names, shrink = pack_box(frames, np.array([0]), config, np.random.default_rng(0))
    start = Start(box, tuple(names), 300.0, molecule=index, shrink=shrink)
    settings = RoundsConfig(steps=4, keep_every=2, packings=config, disagreement=(0.01, 1e6))
    models = (str(tmp_path / "0.safetensors"), str(tmp_path / "1.safetensors"))
    seen = explore(models, [start], settings, 1e6, 5, "cpu")
    assert not seen["pbc"].any()
    assert set(seen["count"]) == {12}
    first = seen["positions"][:12].astype(float)
    assert np.array_equal(seen["numbers"][:12], box.numbers[seen["atom"][:12]])
    assert seen["spread"][0] == pytest.approx(
        float(spreads(models, [Atoms(seen["numbers"][:12], first)], "cpu")[0]), rel=1e-3
    )
    again = explore(models, [start], settings, 1e6, 5, "cpu")
    assert all(np.array_equal(seen[name], again[name]) for name in seen)


def test_bonds_are_those_within_molecules():
    pair = molecule("H2O") + molecule("H2O")
    pair.positions[3:] += [0, 0, 0.9]
    assert bonds_of(pair.numbers, pair.positions, np.repeat([0, 1], 3)).tolist() == [[0, 1], [0, 2], [3, 4], [3, 5]]


# ------------------------------------------------------------------ the choice


def seen_of(frames: list[Atoms], spread, force=None, reason=None, start=None) -> Seen:
    count = len(frames)
    record = {
        "start": np.arange(count) if start is None else np.array(start),
        "spread": np.array(spread, float),
        "force": np.zeros(count) if force is None else np.array(force, float),
        "reason": np.zeros(count, int) if reason is None else np.array(reason),
        "count": np.array([len(atoms) for atoms in frames]),
        "numbers": np.concatenate([atoms.numbers for atoms in frames]).astype(np.uint8),
        "positions": np.concatenate([atoms.positions for atoms in frames]).astype(np.float32),
        "atom": np.concatenate([np.arange(len(atoms)) for atoms in frames]),
        "cell": np.array([atoms.cell.array for atoms in frames]),
        "pbc": np.array([atoms.pbc for atoms in frames]),
    }
    return Seen([(record, np.arange(100))])


def test_turned_frames_are_not_chosen_again():
    ethanol = molecule("CH3CH2OH")
    turned, bent = ethanol.copy(), ethanol.copy()
    turned.rotate(70, (1, 2, 3))
    turned.positions += 4
    bent.rattle(0.2, seed=1)
    seen = seen_of([ethanol, turned, bent, molecule("H2O")], [1.0, 0.9, 0.8, 0.7])
    assert choose(seen, RoundsConfig(), 10, 50.0) == ([0, 2, 3], [])


def test_cells_that_differ_are_different_frames():
    cells = [bulk("Cu", a=a, cubic=True) for a in (3.6, 3.6, 3.8)]
    assert choose(seen_of(cells, [1.0, 0.9, 0.8]), RoundsConfig(), 10, 50.0) == ([0, 2], [])


def test_largest_disagreement_first_within_the_bounds():
    frames = []
    for k in range(8):
        frames.append(molecule("CH3OH"))
        frames[-1].rattle(0.3, seed=k)
    spread = [0.2, 0.01, 2.0, 0.9, np.inf, 0.5, 2.5, 9.0]
    force, reason = [1, 1, 1, 60, np.inf, 1, 1, 70], [0, 0, 0, 0, 1, 0, 0, 5]
    start = [0, 1, 2, 3, 4, 5, 2, 6]
    seen = seen_of(frames, spread, force, reason, start)
    settings = RoundsConfig(per_start=1, diverged_share=0.25)
    assert choose(seen, settings, 8, 50.0) == ([6, 5, 0], [7, 4])
    assert choose(seen, settings, 4, 50.0) == ([6, 5, 0], [7])
    assert choose(seen, settings, 2, 50.0) == ([6, 5], [])
    assert choose(seen, RoundsConfig(), 8, 50.0)[0] == [6, 2, 5, 0]


def test_students_are_judged_by_their_mean(organic, tmp_path):
    frame = molecule("CH3OH")
    frame.calc = atomjet.AtomJetCalculator(organic)
    frame.get_forces()
    assert mean_error(("organic-xtb", "organic-xtb"), [frame], "cpu") < 1e-3


# ------------------------------------------------------------------ jobs


def tell(number: int, device: str) -> tuple[int, str, int]:
    if number < 0:
        raise ConfigError(f"number {number} is negative")
    if number == 13:
        os._exit(7)
    print(f"number {number}")
    return number, os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid()


def test_jobs_run_on_each_device_in_a_process_of_its_own(capfd):
    with Team(["cpu:0", "cpu:1"]) as team:
        found = dict(team.run(tell, [(5,), (6,), (7,)], names=["a", "b", "c"]))
        again = dict(team.run(tell, [(8,)]))
    assert [found[place][0] for place in range(3)] == [5, 6, 7]
    assert {found[place][1] for place in range(3)} == {"0", "1"}
    assert os.getpid() not in {found[place][2] for place in range(3)}
    assert again[0][2] in {found[place][2] for place in range(3)}  # not started anew
    assert sorted(capfd.readouterr().out.splitlines()) == ["a: number 5", "b: number 6", "c: number 7", "number 8"]


@pytest.mark.slow
def test_a_job_that_fails_or_whose_process_dies_is_named():
    with Team(["cpu:0", "cpu:1"]) as team, pytest.raises(ConfigError, match="number -1 is negative"):
        list(team.run(tell, [(1,), (-1,)]))
    words = r"the process on cpu:0 died with unlucky \(exit status 7\); run the same again"
    with Team(["cpu:0", "cpu:1"]) as team, pytest.raises(AtomJetError, match=words):
        list(team.run(tell, [(13,), (1,)], names=["unlucky", "b"]))


def test_one_device_runs_jobs_here_and_in_turn():
    allowed = iter([True, True, False])
    found = list(Team(["cpu"]).run(tell, [(1,), (2,), (3,)], more=lambda: next(allowed)))
    assert [(place, result[0], result[2]) for place, result in found] == [(0, 1, os.getpid()), (1, 2, os.getpid())]


def sleep(seconds: float, path: str, device: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(seconds)


ORPHANS = """
from atomjet.distill.devices import Team
from tests.distill.test_rounds_parts import sleep
if __name__ == "__main__":
    list(Team(["cpu:0", "cpu:1"]).run(sleep, [(3600.0, {path!r}), (3600.0, {path!r} + "2")]))
"""


@pytest.mark.slow
def test_jobs_end_with_a_parent_that_is_killed(tmp_path):
    path = tmp_path / "pid"
    (tmp_path / "run.py").write_text(ORPHANS.format(path=str(path)))
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], env=environment)
    while not (path.exists() and path.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int(path.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(6000):  # long before its hour is over, and long enough for any machine
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the job goes on without its parent")
