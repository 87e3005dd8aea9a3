"""Runs through ASE with a cheap calculator: what is recorded, and that a cut run ends as the undisturbed one does."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.calculators.tip3p import TIP3P
from ase.constraints import FixAtoms, FixBondLengths, Hookean, MirrorForce
from ase.io import read

from atomjet.errors import ConfigError, SimulationError, StructureError
from atomjet.md import MDSettings, simulate
from atomjet.md.checkpoint import Checkpoint
from atomjet.md.observables import COLUMNS, drift, read_log
from atomjet.md.run import checkpoint_path

ENSEMBLES = ("nve", "nvt", "npt")


class Copper(MorsePotential):
    """A pair potential without memory: equal positions give equal forces to the last bit, as our models do on a CPU."""

    def __init__(self) -> None:
        super().__init__(epsilon=0.343, rho0=3.894, r0=2.866, rcut1=3.0, rcut2=3.5)


def copper(repeat: int = 1) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, repeat)
    atoms.rattle(0.05, seed=1)
    atoms.calc = Copper()
    return atoms


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.calc = Copper()
    return atoms


class Killed(Exception):
    """Stands for the moment after which nothing more is written."""


def run_and_kill(path: Path, settings: MDSettings, at_step: int) -> None:
    """Run with a checkpoint after every step and drop everything in the calculation after `at_step` steps."""

    class Calculator(Copper):
        def calculate(self, *args, **kwargs):
            # Only Python's own buffers are lost, as with kill -9: files keep what was flushed.
            if dynamics_step(path) >= at_step:
                raise Killed
            super().calculate(*args, **kwargs)

    atoms = copper()
    atoms.calc = Calculator()
    with pytest.raises(Killed):
        simulate(atoms, settings, path, checkpoint_seconds=0.0, quiet=True)


def dynamics_step(path: Path) -> int:
    return Checkpoint.load(checkpoint_path(path)).step if checkpoint_path(path).exists() else -1


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_run_records_frames_rows_and_the_end(tmp_path: Path, ensemble: str):
    path = tmp_path / "run.traj"
    atoms = copper()
    summary = simulate(atoms, MDSettings(23, ensemble=ensemble, timestep=2.0, trajectory_interval=5), path, quiet=True)
    frames = read(path, ":")
    assert [frame.info["step"] for frame in frames] == [0, 5, 10, 15, 20, 23]
    rows = read_log(tmp_path / "run.csv")
    assert tuple(rows) == COLUMNS
    assert rows["step"].tolist() == [0, 10, 20, 23]
    np.testing.assert_allclose(rows["time_fs"], rows["step"] * 2.0)
    np.testing.assert_allclose(rows["total_eV"], rows["potential_eV"] + rows["kinetic_eV"], atol=2e-8)
    assert rows["temperature_K"][0] == pytest.approx(300.0)
    assert frames[2].get_potential_energy() == pytest.approx(rows["potential_eV"][1], abs=1e-8)
    assert frames[2].get_kinetic_energy() == pytest.approx(rows["kinetic_eV"][1], abs=1e-8)
    np.testing.assert_array_equal(frames[-1].positions, atoms.positions)
    np.testing.assert_array_equal(frames[-1].get_velocities(), atoms.get_velocities())
    np.testing.assert_array_equal(frames[-1].get_forces(), atoms.get_forces())
    assert summary.steps == 23
    assert np.isfinite(summary.drift) == (ensemble == "nve")
    assert (np.ptp(rows["volume_A3"]) > 0) == (ensemble == "npt")


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("killed_at", [0, 13, 20])
def test_killed_run_ends_as_the_undisturbed_one(tmp_path: Path, ensemble: str, killed_at: int):
    settings = MDSettings(33, ensemble=ensemble, timestep=2.0, log_interval=4, trajectory_interval=5)
    simulate(copper(), settings, tmp_path / "whole.traj", quiet=True)
    run_and_kill(tmp_path / "cut.traj", settings, killed_at)
    with open(tmp_path / "cut.traj", "ab") as file:
        file.write(b"half a frame")
    with open(tmp_path / "cut.csv", "a") as file:
        file.write("24,48.000")
    summary = simulate(copper(), settings, tmp_path / "cut.traj", resume=True, quiet=True)
    assert summary.resumed_at == killed_at
    assert (tmp_path / "cut.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_killed_before_anything_was_recorded(tmp_path: Path):
    settings = MDSettings(8, ensemble="nvt")
    simulate(copper(), settings, tmp_path / "whole.traj", quiet=True)
    run_and_kill(tmp_path / "cut.traj", settings, 0)
    first = Checkpoint.load(checkpoint_path(tmp_path / "cut.traj"))
    assert first.recorded[0].trajectory_size == 0  # the files that are there are not vouched for
    (tmp_path / "cut.traj").write_bytes(b"")
    simulate(copper(), settings, tmp_path / "cut.traj", resume=True, quiet=True)
    assert (tmp_path / "cut.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_longer_run_continues_a_finished_one(tmp_path: Path, ensemble: str):
    # 17 is no multiple of the intervals, so the short run ends with a record that the long one does not have. More than
    # 42 frames make the trajectory's list of frames move.
    short, whole = (MDSettings(n, ensemble=ensemble, log_interval=2, trajectory_interval=2) for n in (17, 90))
    simulate(copper(), short, tmp_path / "grown.traj", quiet=True)
    assert len(read(tmp_path / "grown.traj", ":")) == 10
    simulate(copper(), short, tmp_path / "grown.traj", resume=True, quiet=True)  # nothing left to do
    assert len(read(tmp_path / "grown.traj", ":")) == 10
    simulate(copper(), whole, tmp_path / "grown.traj", resume=True, quiet=True)
    simulate(copper(), whole, tmp_path / "whole.traj", quiet=True)
    assert (tmp_path / "grown.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for grown, straight in zip(read(tmp_path / "grown.traj", ":"), read(tmp_path / "whole.traj", ":"), strict=True):
        np.testing.assert_array_equal(grown.positions, straight.positions)
        np.testing.assert_array_equal(grown.get_velocities(), straight.get_velocities())


def test_resume_under_other_conditions_is_refused(tmp_path: Path):
    simulate(copper(), MDSettings(10, timestep=1.0), tmp_path / "a.traj", quiet=True)
    before = (tmp_path / "a.traj").read_bytes()
    with pytest.raises(ConfigError, match=r"cannot resume at step 10 .*temperature 300.0 -> 310.*timestep 1.0 -> 2.0"):
        simulate(copper(), MDSettings(20, timestep=2.0, temperature=310), tmp_path / "a.traj", resume=True, quiet=True)
    with pytest.raises(ConfigError, match=r"cannot resume .*\(structure "):
        simulate(copper(2), MDSettings(20, timestep=1.0), tmp_path / "a.traj", resume=True, quiet=True)
    with pytest.raises(ConfigError, match="steps 5 is fewer than the 10"):
        simulate(copper(), MDSettings(5, timestep=1.0), tmp_path / "a.traj", resume=True, quiet=True)
    with pytest.raises(ConfigError, match="model not given -> other"):
        simulate(
            copper(),
            MDSettings(20, timestep=1.0),
            tmp_path / "a.traj",
            resume=True,
            request={"model": "other"},
            quiet=True,
        )
    assert (tmp_path / "a.traj").read_bytes() == before


def test_files_in_the_way(tmp_path: Path):
    path = tmp_path / "a.traj"
    with pytest.raises(ConfigError, match=r"does not end in \.traj"):
        simulate(copper(), MDSettings(1), tmp_path / "a.xyz", quiet=True)
    simulate(copper(), MDSettings(1), path, resume=True, quiet=True)  # nothing there yet: it starts
    with pytest.raises(ConfigError, match="exists already; go on with resume"):
        simulate(copper(), MDSettings(1), path, quiet=True)
    checkpoint_path(path).unlink()
    with pytest.raises(ConfigError, match="cannot resume"):
        simulate(copper(), MDSettings(1), path, resume=True, quiet=True)
    simulate(copper(), MDSettings(1), path, overwrite=True, quiet=True)
    checkpoint_path(path).write_bytes(checkpoint_path(path).read_bytes()[:200])
    with pytest.raises(ConfigError, match="not a whole checkpoint"):
        simulate(copper(), MDSettings(1), path, resume=True, quiet=True)
    simulate(copper(), MDSettings(1), path, overwrite=True, quiet=True)
    os.truncate(path, 100)
    with pytest.raises(ConfigError, match="100 bytes where its checkpoint knows"):
        simulate(copper(), MDSettings(1), path, resume=True, quiet=True)


def test_a_checkpoint_of_an_earlier_version_that_names_the_model_is_gone_on_from(tmp_path: Path):
    weights = {"weights": "abc"}
    simulate(copper(), MDSettings(4), tmp_path / "whole.traj", request=weights, quiet=True)
    path = tmp_path / "cut.traj"
    simulate(copper(), MDSettings(2), path, request=weights | {"model": "organic-xtb"}, quiet=True)
    with pytest.raises(ConfigError, match="weights abc -> other"):
        simulate(copper(), MDSettings(4), path, request={"weights": "other"}, resume=True, quiet=True)
    assert simulate(copper(), MDSettings(4), path, request=weights, resume=True, quiet=True).resumed_at == 2
    assert path.read_bytes() == (tmp_path / "whole.traj").read_bytes()


def test_explosion_stops_the_run_and_keeps_what_was_good(tmp_path: Path):
    atoms = copper()
    atoms.set_momenta(np.zeros((len(atoms), 3)))
    # Atom 3 is thrown at its neighbour with 20 keV.
    atoms.set_velocities(np.where(np.arange(len(atoms))[:, None] == 3, 25.0, 0.0) * np.ones(3))
    with pytest.raises(SimulationError, match=r"at step 0: temperature .* the hottest is atom 3 \(Cu\)"):
        simulate(atoms, MDSettings(50, keep_velocities=True), tmp_path / "hot.traj", quiet=True)

    class Bomb(Copper):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 12:
                self.results["forces"][5] = [np.nan, 0.0, 0.0]

    atoms = copper()
    atoms.calc = Bomb()
    with pytest.raises(SimulationError, match=r"at step 12: .* of atom 5 \(Cu\) is not finite"):
        simulate(atoms, MDSettings(50, trajectory_interval=3), tmp_path / "bomb.traj", quiet=True)
    assert [frame.info["step"] for frame in read(tmp_path / "bomb.traj", ":")] == [0, 3, 6, 9]


def test_an_explosion_names_temperature_energy_and_remedy(tmp_path: Path):
    class Heater(Copper):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] *= -60.0  # uphill, ever faster

    atoms = copper()
    atoms.calc = Heater()
    with pytest.raises(SimulationError) as caught:
        simulate(atoms, MDSettings(2000, timestep=2.0), tmp_path / "a.traj", quiet=True)
    words = (
        r"the run exploded at step [1-9]\d*: .*, limit .* \(temperature [\d.e+]+ K, potential energy -?[\d.e+]+ eV\); "
    )
    assert re.match(words + "take a shorter timestep", str(caught.value)), str(caught.value)

    class Silent(Copper):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["energy"] = self.results["free_energy"] = np.nan

    atoms.calc = Silent()
    with pytest.raises(SimulationError, match="the potential energy is nan eV"):
        simulate(atoms, MDSettings(5), tmp_path / "b.traj", quiet=True)


def test_atoms_too_close_name_the_force(tmp_path: Path):
    atoms = copper()
    atoms.positions[1] = atoms.positions[0] + 0.3
    with pytest.raises(SimulationError, match=r"force on atom [01] \(Cu\) is .* eV/Å, limit 200 eV/Å"):
        simulate(atoms, MDSettings(5), tmp_path / "close.traj", quiet=True)
    assert not (tmp_path / "close.traj").exists()


def test_structures_that_a_run_cannot_be_done_with(tmp_path: Path):
    with pytest.raises(
        StructureError, match=r"npt needs a cell periodic in three directions.*atoms\.center\(vacuum=10"
    ):
        simulate(ethanol(), MDSettings(1, ensemble="npt"), tmp_path / "a.traj", quiet=True)
    with pytest.raises(StructureError, match="no atoms"):
        simulate(Atoms(), MDSettings(1), tmp_path / "a.traj", quiet=True)
    with pytest.raises(ConfigError, match="no velocities to keep"):
        simulate(ethanol(), MDSettings(1, keep_velocities=True), tmp_path / "a.traj", quiet=True)
    for mass in (0.0, -1.0, np.nan, np.inf):
        wrong = copper()
        wrong.set_masses([63.5, 63.5, mass, *wrong.get_masses()[3:]])
        with pytest.raises(StructureError, match=r"atom 2 \(Cu\) has the mass .* masses must be finite and above 0"):
            simulate(wrong, MDSettings(1), tmp_path / "a.traj", quiet=True)
    uncounted = copper()
    uncounted.set_constraint(MirrorForce(0, 1))
    with pytest.raises(StructureError, match="MirrorForce does not say how many degrees of freedom"):
        simulate(uncounted, MDSettings(1), tmp_path / "a.traj", quiet=True)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="checkpoint_seconds"):
            simulate(copper(), MDSettings(1), tmp_path / "a.traj", checkpoint_seconds=seconds, quiet=True)
    fixed = copper()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match="hold atoms fixed"):
        simulate(fixed, MDSettings(1, ensemble="npt"), tmp_path / "a.traj", quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_fixed_atoms_stay_and_resume_exactly(tmp_path: Path, ensemble: str):
    def held() -> Atoms:
        atoms = copper()
        atoms.set_constraint(FixAtoms([0, 2]))
        return atoms

    settings = [MDSettings(n, ensemble=ensemble, timestep=2.0) for n in (20, 40)]
    atoms = held()
    start = atoms.positions.copy()
    simulate(atoms, settings[1], tmp_path / "whole.traj", quiet=True)
    np.testing.assert_array_equal(atoms.positions[[0, 2]], start[[0, 2]])
    assert np.abs(atoms.positions[1] - start[1]).max() > 1e-3
    for wanted in settings:
        simulate(held(), wanted, tmp_path / "cut.traj", resume=True, quiet=True)
    assert (tmp_path / "cut.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()


def rigid_waters() -> Atoms:
    water = molecule("H2O")
    atoms = Atoms()
    for place in ([0.0, 0, 0], [3.5, 0, 0], [0, 3.5, 0.5]):
        copy = water.copy()
        copy.translate(place)
        atoms += copy
    atoms.set_constraint(FixBondLengths([(k + a, k + b) for k in (0, 3, 6) for a, b in ((0, 1), (0, 2), (1, 2))]))
    atoms.calc = TIP3P(rc=9.0)
    return atoms


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_rigid_waters_stay_rigid_and_resume_exactly(tmp_path: Path, ensemble: str):
    settings = [MDSettings(n, ensemble=ensemble, timestep=1.0, log_interval=1) for n in (7, 16)]
    atoms = rigid_waters()
    simulate(atoms, settings[1], tmp_path / "whole.traj", quiet=True)
    for k in (0, 3, 6):
        assert atoms.get_distance(k, k + 1) == pytest.approx(0.9685, abs=1e-3)
        assert atoms.get_distance(k, k + 1) == pytest.approx(rigid_waters().get_distance(k, k + 1), abs=1e-10)
    if ensemble == "nve":
        np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-10)
        assert read_log(tmp_path / "whole.csv")["total_eV"].std() < 1e-3
    for wanted in settings:
        simulate(rigid_waters(), wanted, tmp_path / "cut.traj", resume=True, quiet=True)
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for cut, whole in zip(read(tmp_path / "cut.traj", ":"), read(tmp_path / "whole.traj", ":"), strict=True):
        np.testing.assert_array_equal(cut.positions, whole.positions)
        np.testing.assert_array_equal(cut.get_velocities(), whole.get_velocities())


def test_kept_velocities_obey_the_constraints(tmp_path: Path):
    atoms = copper()
    atoms.set_constraint([FixAtoms([0]), Hookean(1, 2, k=5.0, rt=4.0)])
    atoms.set_momenta(np.ones((len(atoms), 3)), apply_constraint=False)
    simulate(atoms, MDSettings(0, keep_velocities=True), tmp_path / "a.traj", quiet=True)
    assert not read(tmp_path / "a.traj").get_momenta()[0].any()
    assert read(tmp_path / "a.traj").get_momenta()[1:].all()


def test_a_run_is_found_again_however_its_path_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    simulate(copper(), MDSettings(10), "runs/a.traj", quiet=True)
    simulate(copper(), MDSettings(20), tmp_path / "runs" / ".." / "runs" / "a.traj", resume=True, quiet=True)
    monkeypatch.chdir(tmp_path / "runs")
    summary = simulate(copper(), MDSettings(30), "./a.traj", "a.csv", resume=True, quiet=True)
    assert summary.resumed_at == 20
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert simulate(copper(), MDSettings(40), tmp_path / "moved/a.traj", resume=True, quiet=True).resumed_at == 30
    with pytest.raises(ConfigError, match=r"log a\.csv -> b\.csv"):
        simulate(copper(), MDSettings(50), tmp_path / "moved/a.traj", tmp_path / "moved/b.csv", resume=True, quiet=True)


def test_two_runs_on_one_output_are_refused(tmp_path: Path):
    path = tmp_path / "a.traj"

    class Second(Copper):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            for again in ({"resume": True}, {"overwrite": True}, {}):
                with pytest.raises(ConfigError, match=r"another run is working on .*a\.traj \(process \d+ on "):
                    simulate(copper(), MDSettings(5), path, quiet=True, **again)

    atoms = copper()
    atoms.calc = Second()
    simulate(atoms, MDSettings(5), path, quiet=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "a.traj", "a.traj.checkpoint"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": -1}, "steps -1 is negative"),
        ({"timestep": 0.0}, "timestep 0.0 fs is outside"),
        ({"timestep": 7.0}, "timestep 7.0 fs is outside 0 ... 5 fs"),
        ({"timestep": float("nan")}, "timestep nan fs is not a finite number"),
        ({"temperature": -1.0}, "temperature -1.0 K is below 0 K"),
        ({"temperature": 0.0, "ensemble": "nvt"}, "cannot be held in nvt"),
        ({"ensemble": "nph"}, "choose one of nve, nvt, npt"),
        ({"pressure": 1.0}, "has no effect in nve; use ensemble npt"),
        ({"friction": 1.0, "ensemble": "npt"}, "has no effect in npt; use ensemble nvt"),
        ({"friction": 0.0, "ensemble": "nvt"}, "friction 0.0 1/ps is outside"),
        ({"log_interval": 0}, "log_interval 0 is below 1 step"),
        ({"seed": -3}, "seed -3 is negative"),
        ({"steps": 1.5}, "steps 1.5 is not a whole number"),
        ({"steps": 10**15}, "steps 1000000000000000 is more than 1000000000000"),
        ({"trajectory_interval": float("nan")}, "trajectory_interval nan is not a whole number"),
        ({"temperature": float("inf")}, "temperature inf K is not a finite number"),
        ({"temperature": "hot"}, "temperature hot K is not a finite number"),
        ({"pressure": 1e6, "ensemble": "npt"}, "pressure 1000000.0 GPa is outside -10000 ... 10000 GPa"),
    ],
)
def test_settings_without_sense_are_refused(values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        MDSettings(**({"steps": 10} | values))


def test_long_timestep_with_hydrogen_is_said():
    assert MDSettings(1, timestep=2.0).check(copper()) == []
    assert "long for hydrogen" in MDSettings(1, timestep=2.0).check(ethanol())[0]


def test_nve_conserves_the_energy(tmp_path: Path):
    errors = []
    for timestep in (4.0, 2.0):
        path = tmp_path / f"{timestep}.traj"
        atoms = copper()
        atoms.calc = EMT()
        simulate(atoms, MDSettings(int(800 / timestep), timestep=timestep, log_interval=1), path, quiet=True)
        errors.append(read_log(path.with_suffix(".csv"))["total_eV"].std())
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)  # velocity Verlet is of second order


def test_drift_is_a_slope_per_atom_and_picosecond():
    time_fs = np.linspace(0.0, 2000.0, 50)
    assert drift(time_fs, 3.0 + 0.012 * time_fs * 1e-3, atoms=6) == pytest.approx(2.0)
    assert np.isnan(drift(time_fs[:2], time_fs[:2], atoms=1))


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_thermostats_hold_the_temperature_of_few_atoms(tmp_path: Path, ensemble: str):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    friction = 20.0 if ensemble == "nvt" else None
    settings = MDSettings(2000, timestep=3.0, ensemble=ensemble, friction=friction, log_interval=1)
    simulate(atoms, settings, tmp_path / "a.traj", quiet=True)
    rows = read_log(tmp_path / "a.csv")
    kelvin = rows["temperature_K"][300:]
    # Of four atoms nine or twelve components are free: counting twelve for nine would give 400 K. The temperature
    # forgets itself within about 100 fs, so 5 ps are some 50 samples of a spread of 300 K * sqrt(2/9).
    assert kelvin.mean() == pytest.approx(300.0, abs=4 * 300 * np.sqrt(2 / 9) / np.sqrt(50))
    assert 0.5 < kelvin.std() / (300 * np.sqrt(2 / 9)) < 1.6
    if ensemble == "npt":
        # In nvt, at the tabulated lattice constant, it is -0.35 GPa.
        assert abs(rows["pressure_GPa"][300:].mean()) < 0.2


def test_numbers_of_numpy_are_numbers():
    settings = MDSettings(np.int64(5), temperature=np.float32(300), ensemble="nvt", friction=np.float64(2))
    plain = MDSettings(5, temperature=300.0, ensemble="nvt", friction=2.0)
    assert json.dumps(settings.identity()) == json.dumps(plain.identity())
