"""Relaxation: minima found, cells, constraints, and what is refused."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read

from atomjet.adapters.ase import AtomJetCalculator
from atomjet.errors import ConfigError, SimulationError, StructureError
from atomjet.locking import only_writer
from atomjet.md import RelaxSettings, relax


def stretched() -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[1] += [0.0, 0.2, 0.1]
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize("optimizer", ["auto", "bfgs", "lbfgs", "fire"])
def test_molecule_reaches_its_minimum(tmp_path: Path, optimizer: str):
    atoms = stretched()
    seen = []
    converged, last = relax(atoms, RelaxSettings(optimizer=optimizer), tmp_path / "way.traj", report=seen.append)
    assert converged
    assert last == seen[-1]
    assert last.fmax < 0.01 < seen[0].fmax
    assert last.energy < seen[0].energy
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() == last.fmax
    assert len(read(tmp_path / "way.traj", ":")) == len(seen)


def test_too_few_steps_do_not_converge():
    converged, last = relax(stretched(), RelaxSettings(steps=1))
    assert not converged
    assert last.step == 1


class Rounded(EMT):
    """Forces that are exact to 1e-3 eV/Å only, as those of a short floating type are to less."""

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = np.round(self.results["forces"], 3)


def test_forces_that_are_not_exact_enough_end_it():
    atoms = stretched()
    atoms.positions = atoms.positions @ np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2)[0]
    atoms.calc = Rounded()
    converged, last = relax(atoms, RelaxSettings(fmax=1e-7, steps=5000, optimizer="fire"))
    assert not converged
    assert last.noise == pytest.approx(1e-3, rel=0.5)
    assert last.step < 1000
    converged, last = relax(stretched(), RelaxSettings(fmax=1e-7, steps=5000, optimizer="fire"))
    assert converged
    assert last.noise is None


def test_cell_relaxes_to_zero_or_the_given_pressure():
    volumes = []
    for pressure in (None, 5.0):
        atoms = bulk("Cu", cubic=True, a=3.9)
        atoms.calc = EMT()
        converged, _ = relax(atoms, RelaxSettings(cell=True, pressure=pressure, fmax=1e-3))
        assert converged
        now = -np.trace(atoms.get_stress(voigt=False)) / 3 / 0.0062415091
        assert now == pytest.approx(pressure or 0.0, abs=0.02)
        volumes.append(atoms.get_volume())
    assert volumes[0] > volumes[1]


def test_fixed_atoms_stay():
    atoms = stretched()
    atoms.set_constraint(FixAtoms([0]))
    start = atoms.positions[0].copy()
    assert relax(atoms, RelaxSettings())[0]
    np.testing.assert_array_equal(atoms.positions[0], start)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(StructureError, match="cell relaxation needs three periodic directions"):
        relax(stretched(), RelaxSettings(cell=True))
    with pytest.raises(StructureError, match="no atoms"):
        relax(Atoms(), RelaxSettings())
    for values, message in [
        ({"fmax": 0.0}, "fmax 0.0 eV/Å must be above 0"),
        ({"steps": -1}, "steps -1 is negative"),
        ({"optimizer": "newton"}, "choose auto, bfgs, lbfgs, fire"),
        ({"pressure": 1.0}, "relax the cell too"),
    ]:
        with pytest.raises(ConfigError, match=message):
            RelaxSettings(**values)


class Hole(EMT):
    """Pulls two atoms together, and refuses them where they are nearer than 0.9 Å."""

    error: BaseException = StructureError("atom 0 and atom 1 are too near")

    def calculate(self, atoms=None, properties=None, system_changes=()):
        self.atoms, self.results = atoms.copy(), {}
        apart = atoms.positions[1] - atoms.positions[0]
        distance = np.linalg.norm(apart)
        if distance < 0.9:
            raise self.error
        pull = 3.0 * apart / distance
        self.results = {"energy": 3.0 * distance, "free_energy": 3.0 * distance, "forces": np.array([pull, -pull])}


@pytest.mark.parametrize("cell", [False, True])
def test_the_last_good_structure_is_kept_when_the_next_is_refused(cell: bool):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.5]], calculator=Hole(), cell=[9, 9, 9], pbc=cell)
    if cell:  # the stress of nothing
        atoms.calc.get_stress = lambda atoms=None: np.zeros(6)
    way = []
    with pytest.raises(
        SimulationError, match=r"broke down after step \d+, where the largest force was 3 eV/Å: atom 0 and atom 1"
    ):
        relax(atoms, RelaxSettings(cell=cell), report=lambda step: way.append(atoms.positions.copy()))
    assert len(way) > 1
    np.testing.assert_array_equal(atoms.positions, way[-1])
    assert atoms.get_distance(0, 1) >= 0.9


def test_what_interrupts_leaves_the_last_good_structure():
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.5]], calculator=Hole())
    atoms.calc.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        relax(atoms, RelaxSettings())
    assert 0.9 <= atoms.get_distance(0, 1) < 1.5


def test_a_structure_that_is_refused_as_given_is_the_callers_mistake():
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.5]], calculator=Hole())
    with pytest.raises(StructureError, match="too near"):
        relax(atoms, RelaxSettings())


def test_two_relaxations_on_one_trajectory_are_refused(tmp_path: Path):
    with only_writer(tmp_path / "a.traj"):
        with pytest.raises(ConfigError, match=r"another run is working on .*a\.traj \(process"):
            relax(stretched(), RelaxSettings(), tmp_path / "a.traj")
        assert not (tmp_path / "a.traj").exists()
    relax(stretched(), RelaxSettings(), tmp_path / "a.traj")
    assert [file.name for file in tmp_path.iterdir()] == ["a.traj"]


def test_the_logarithm_of_the_cell_says_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    import scipy.linalg

    real = scipy.linalg.logm

    def talkative(matrix):
        print("logm result may be inaccurate, approximate err = 1e-13")  # older versions print, newer ones warn
        warnings.warn("logm result may be inaccurate", RuntimeWarning, stacklevel=2)
        return real(matrix)

    monkeypatch.setattr(scipy.linalg, "logm", talkative)
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.calc = EMT()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert relax(atoms, RelaxSettings(cell=True))[0]
    assert capfd.readouterr().out == ""


def test_only_chosen_axes_of_a_cell_relax():
    atoms = bulk("Cu", cubic=True, a=3.9)
    atoms.calc = EMT()
    assert relax(atoms, RelaxSettings(cell=True, axes="xy", fmax=1e-3))[0]
    lengths = atoms.cell.lengths()
    assert lengths[2] == 3.9
    assert lengths[0] == pytest.approx(lengths[1])
    assert lengths[0] < 3.55  # less than at rest, for it is stretched along z
    stress = atoms.get_stress()
    np.testing.assert_allclose(stress[:2], 0, atol=1e-3)
    assert abs(stress[2]) > 0.02


def graphene(pbc) -> Atoms:
    a = 2.42
    atoms = Atoms(
        "C2", [[0, 0, 0], [0, a / 3**0.5, 0]], cell=[[a, 0, 0], [a / 2, a * 3**0.5 / 2, 0], [0, 0, 20]], pbc=pbc
    )
    atoms.calc = AtomJetCalculator("organic-xtb", device="cpu", precision="float64", remarks=False)
    return atoms


def test_a_slab_relaxes_as_with_vacuum_about_it():
    """Without a third periodic direction there is no stress; for a while there is one, and a vacuum."""
    slab, whole = graphene([True, True, False]), graphene(True)
    slab.cell[2] = 0
    ended = [relax(atoms, RelaxSettings(cell=True, axes="xy", steps=4)) for atoms in (slab, whole)]
    assert ended[0][1].energy == pytest.approx(ended[1][1].energy, abs=1e-8)
    assert ended[0][1].step == 4
    np.testing.assert_allclose(slab.cell.array[:2], whole.cell.array[:2], atol=1e-8)
    np.testing.assert_allclose(slab.positions, whole.positions, atol=1e-8)
    assert abs(slab.cell[0, 0] - 2.42) > 1e-3
    assert slab.pbc.tolist() == [True, True, False]
    assert not slab.cell.array[2].any()
    assert slab.get_potential_energy() == pytest.approx(ended[0][1].energy, abs=1e-8)


def test_cells_that_cannot_be_strained_so():
    slab = graphene([True, True, False])
    with pytest.raises(StructureError, match=r"needs three periodic directions.*\[True, True, False\]; give --cell xy"):
        relax(slab, RelaxSettings(cell=True))
    with pytest.raises(StructureError, match=r"needs y and z to be periodic"):
        relax(slab, RelaxSettings(cell=True, axes="yz"))
    slab.rotate(30, "x", rotate_cell=True)
    with pytest.raises(StructureError, match="without a component along z; turn the structure"):
        relax(slab, RelaxSettings(cell=True, axes="xy"))
    slab = graphene([True, True, False])
    slab.calc = EMT()
    with pytest.raises(StructureError, match="gives no stress for pbc"):
        relax(slab, RelaxSettings(cell=True, axes="xy"))
    with pytest.raises(ConfigError, match="cell axes 'yx' are not known; choose x, y, z, xy"):
        RelaxSettings(cell=True, axes="yx")
    with pytest.raises(ConfigError, match="cell axes xy have no effect while the cell is fixed"):
        RelaxSettings(axes="xy")


def test_the_space_group_is_kept_where_asked_for():
    """Body-centred copper is no minimum, so that a small strain grows, unless it is taken out and none may come."""
    pytest.importorskip("spglib")
    lengths = []
    for fix_symmetry in (True, False):
        atoms = bulk("Cu", "bcc", a=2.87, cubic=True)
        atoms.set_cell(atoms.cell.array * [[1.001], [1], [1]], scale_atoms=True)
        atoms.calc = EMT()
        settings = RelaxSettings(cell=True, fix_symmetry=fix_symmetry, fmax=1e-3, steps=200)
        assert relax(atoms, settings)[0]
        assert not atoms.constraints
        lengths.append(atoms.cell.lengths())
    assert np.ptp(lengths[0]) < 1e-8
    assert np.ptp(lengths[1]) > 2e-3  # drifts away from it
    with pytest.raises(StructureError, match="keeping the symmetry needs three periodic directions"):
        relax(stretched(), RelaxSettings(fix_symmetry=True))


def test_keeping_the_symmetry_without_spglib(monkeypatch):
    monkeypatch.setitem(sys.modules, "spglib", None)
    atoms = bulk("Cu")
    atoms.calc = EMT()
    with pytest.raises(ConfigError, match=r"needs spglib: pip install 'atomjet\[phonons\]'"):
        relax(atoms, RelaxSettings(fix_symmetry=True))
