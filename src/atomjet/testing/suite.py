# ruff: noqa: D102
"""What every model family inherits: a test class makes an engine in float64, and everything below must hold for it.

Tolerances are named here once, each with its reason, and are the same for every family.
"""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell, molecule

from atomjet import System
from atomjet.models.base import General
from atomjet.neighbors import neighbor_list

SYMMETRY = 1e-10  # relative; rounding of float64 through some thousand operations
BATCH = 1e-12  # relative; sums run in the same order whatever else is in the batch, products may block differently
DIFFERENCE = 1e-6  # relative; central differences with h = 3e-4 Å, extrapolated, lose about 9 digits
NET_FORCE = 1e-9  # eV/Å
CUTOFF_STEP = 1e-9  # eV, for a pair moved by 1e-6 Å across the cutoff
BACKENDS = 1e-10  # relative


def structures():
    """Molecules, crystals with few and many images, a slab, a wire; elements H, C, N, O."""
    ethanol = molecule("CH3CH2OH")
    crystal = bulk("C", "diamond", a=3.6)
    triclinic = Atoms("OCNH", [[0, 0, 0], [1.4, 0.3, 0.2], [2.6, 1.5, 0.4], [-3.0, 1.1, 5.7]], pbc=True)
    triclinic.cell = [[4.1, 0, 0], [1.9, 3.7, 0], [-1.1, 1.6, -4.4]]  # left-handed
    slab = bulk("C", "diamond", a=3.6, cubic=True)
    slab.pbc = (True, True, False)
    wire = Atoms("CO", [[0, 0, 0], [0, 0.3, 1.2]], cell=[0, 0, 2.6], pbc=(False, False, True))
    frames = [ethanol, crystal, triclinic, slab, wire]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.08, seed=seed)
    return frames


NAMES = ("ethanol", "crystal", "triclinic", "slab", "wire")


def rotation(seed, improper):
    """A random orthogonal matrix with determinant -1 if improper, else 1."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if (np.linalg.det(q) < 0) == improper else -q


def close(a, b, relative):
    """Largest difference, relative to the largest value."""
    a, b = torch.as_tensor(a).cpu(), torch.as_tensor(b).cpu()
    scale = max(float(b.abs().max()), 1e-3)
    assert float((a - b).abs().max()) <= relative * scale, float((a - b).abs().max()) / scale


def predict(engine, structures):
    """The prediction, brought to the CPU."""
    return engine.predict(structures).to("cpu")


class Conformance:
    """Inherit, beside a fixture `engine` (float64)."""

    tells_left_from_right = False

    @pytest.fixture(params=range(len(NAMES)), ids=NAMES)
    def atoms(self, request):
        return structures()[request.param]

    @pytest.mark.parametrize("improper", [False, True], ids=["rotation", "inversion"])
    def test_equivariance(self, engine, atoms, improper):
        if improper and self.tells_left_from_right:
            pytest.skip("this architecture is equivariant to rotations only")
        turn = rotation(3, improper)
        turned = atoms.copy()
        turned.positions, turned.cell = atoms.positions @ turn.T, atoms.cell.array @ turn.T
        before, after = predict(engine, atoms), predict(engine, turned)
        close(after.energy, before.energy, SYMMETRY)
        close(after.forces, before.forces.numpy() @ turn.T, SYMMETRY)
        if atoms.pbc.all():
            close(after.stress[0], turn @ before.stress[0].numpy() @ turn.T, SYMMETRY)

    def test_translation_and_wrapping(self, engine, atoms):
        moved = atoms.copy()
        moved.positions += [3.7, -11.2, 5.1]
        moved.positions += (
            atoms.pbc * np.arange(-2, 3 * len(atoms) - 2).reshape(-1, 3) % 5 * atoms.pbc
        ) @ atoms.cell.array
        close(predict(engine, moved).energy, predict(engine, atoms).energy, SYMMETRY)
        close(predict(engine, moved).forces, predict(engine, atoms).forces, SYMMETRY)

    def test_permutation(self, engine, atoms):
        order = np.random.default_rng(5).permutation(len(atoms))
        before, after = predict(engine, atoms), predict(engine, atoms[order])
        close(after.energy, before.energy, SYMMETRY)
        close(after.forces, before.forces[order], SYMMETRY)

    def test_batch_equals_single(self, engine):
        frames = structures()
        batch = predict(engine, frames + frames[::-1])
        for index, atoms in enumerate(frames + frames[::-1]):
            single = predict(engine, atoms)
            close(batch.energy[index], single.energy[0], BATCH)
            close(batch.forces_of(index), single.forces, BATCH)
            if atoms.pbc.all():
                close(batch.stress[index], single.stress[0], BATCH)
            else:
                assert bool(batch.stress[index].isnan().all())

    def test_supercell(self, engine):
        for atoms in structures()[1:3]:
            matrix = np.array([[1, 1, 0], [0, 2, 0], [0, 1, 3]])
            large = make_supercell(atoms, matrix)
            small, big = predict(engine, atoms), predict(engine, large)
            close(big.energy / len(large), small.energy / len(atoms), SYMMETRY)
            close(big.stress, small.stress, SYMMETRY)

    def test_forces_are_minus_the_gradient(self, engine, atoms):
        forces = predict(engine, atoms).forces.numpy()
        rng = np.random.default_rng(0)
        for _ in range(6):
            direction = rng.normal(size=forces.shape)
            slope = _slope(engine, atoms, lambda h, d=direction: _displaced(atoms, h * d))
            expected = -float((forces * direction).sum())
            assert abs(slope - expected) < DIFFERENCE * np.linalg.norm(forces) * np.linalg.norm(direction)

    def test_stress_is_the_strain_derivative(self, engine, atoms):
        if not atoms.pbc.all():
            pytest.skip("stress needs three periodic directions")
        stress = predict(engine, atoms).stress[0].numpy()
        for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5
            slope = _slope(engine, atoms, lambda h, s=strain: _strained(atoms, h * s), h=2e-4)
            assert abs(slope / atoms.get_volume() - stress[a, b]) < DIFFERENCE * np.abs(stress).max()

    def test_net_force_and_torque(self, engine, atoms):
        forces = predict(engine, atoms).forces
        assert float(forces.sum(0).abs().max()) < NET_FORCE
        if not atoms.pbc.any():
            assert np.abs(np.cross(atoms.positions, forces.numpy()).sum(0)).max() < 10 * NET_FORCE

    def test_smooth_at_the_cutoff(self, engine):
        for symbols in ("CC", "CH", "HH", "OH", "NO"):
            at = [Atoms(symbols, [[0, 0, 0], [0, 0, engine.cutoff + h]]) for h in (-0.5e-6, 0.5e-6)]
            third = [Atoms(symbols + "C", [*a.positions, [1.1, 0, -0.2]]) for a in at]
            for inside, outside in (at, third):
                step = predict(engine, inside).energy - predict(engine, outside).energy
                assert abs(float(step)) < CUTOFF_STEP

    def test_a_meaningless_cell_is_ignored(self, engine):
        atoms = structures()[0]
        boxed = atoms.copy()
        boxed.cell = np.eye(3)
        plain, same = predict(engine, atoms), predict(engine, boxed)
        close(same.energy, plain.energy, BATCH)
        close(same.forces, plain.forces, BATCH)

    def test_isolated_atoms(self, engine):
        one = predict(engine, Atoms("C"))
        far = predict(engine, Atoms("CC", [[0, 0, 0], [0, 0, engine.cutoff + 1]]))
        close(far.energy, 2 * one.energy, BATCH)
        assert not bool(one.forces.any())
        assert not bool(far.forces.any())

    def test_deterministic(self, engine):
        frames = structures()
        runs = [predict(engine, frames) for _ in range(3)]
        for run in runs[1:]:
            assert torch.equal(run.energy, runs[0].energy)
            assert torch.equal(run.forces, runs[0].forces)

    def test_equals_general(self, engine, atoms):
        """The backend's derivatives, edge by edge, against autograd of the definition with the same weights."""
        system = System.from_ase([atoms, atoms], device=engine.device)
        graph = neighbor_list(engine.model.complete(system, engine.task), engine.cutoff)
        energies, gradients = engine.evaluator.energies_and_gradients(graph)
        expected_energies, expected_gradients = General(engine.model).energies_and_gradients(graph)
        close(energies, expected_energies, BACKENDS)
        close(gradients, expected_gradients, BACKENDS)


def _displaced(atoms, by):
    moved = atoms.copy()
    moved.positions += by
    return moved


def _strained(atoms, strain):
    deformed = atoms.copy()
    deformed.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    deformed.positions = atoms.positions @ (np.eye(3) + strain)
    return deformed


def _slope(engine, atoms, deform, h=3e-4):
    """dE/dh at zero by central differences at h and h/2, extrapolated to fourth order."""

    def central(h):
        plus, minus = engine.predict([deform(h), deform(-h)]).energy.tolist()
        return (plus - minus) / (2 * h)

    return (4 * central(h / 2) - central(h)) / 3
