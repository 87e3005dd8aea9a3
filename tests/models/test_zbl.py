"""PaiNN with the repulsion of nuclei inside, on its backends, in its file, and left out."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii

from atomjet import Engine
from atomjet.data.elements import COVALENT_RADII
from atomjet.engine import Settings
from atomjet.models import load, tensor_file
from atomjet.models.painn import PaiNN, PaiNNConfig
from tests.potentials import random_painn

SWITCH = (0.7, 1.3)
RADII = {1: 0.31, 6: 0.76, 8: 0.66}


def repulsion(first, second, distance):
    """eV, from the published formula and the radii of Cordero et al."""
    x = distance * (first**0.23 + second**0.23) / (0.88534 * 0.5291772105638411)
    screened = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x)
    screened += 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    share = distance / (RADII[first] + RADII[second])
    t = np.clip((share - SWITCH[0]) / (SWITCH[1] - SWITCH[0]), 0, 1)
    return 14.399645 * first * second / distance * screened * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)


def engine(backend="general", zbl=SWITCH, **config):
    return Engine(random_painn(zbl=zbl, **config), Settings("cpu", backend, "float64"))


def methanol():
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_adds_the_repulsion_of_all_pairs_half_to_each_atom(backend):
    atoms = methanol()
    found, without = (engine(backend, zbl).predict(atoms) for zbl in (SWITCH, None))
    expected = np.zeros(len(atoms))
    for i, j in combinations(range(len(atoms)), 2):
        expected[[i, j]] += 0.5 * repulsion(*atoms.numbers[[i, j]].tolist(), atoms.get_distance(i, j))
    assert expected.sum() > 5
    added = (found.atomic_energies - without.atomic_energies).numpy()
    np.testing.assert_allclose(added, expected, rtol=1e-6, atol=1e-7)


def test_both_backends_are_the_same_function():
    crystal = Atoms("CO", [[0, 0, 0], [0.1, 0, 1.1]], cell=[2.4, 2.5, 2.6], pbc=True)
    for atoms in (methanol(), crystal):
        general, fast = (engine(backend).predict(atoms) for backend in ("general", "fast_pytorch"))
        for name in ("energy", "forces", "stress"):
            expected = getattr(general, name)
            torch.testing.assert_close(getattr(fast, name), expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_hessian_is_the_difference_of_forces():
    atoms, one = methanol(), engine(layers=2)
    found, step = one.hessian(atoms).numpy(), 1e-4
    for component in (0, 7):
        sides = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.flat[component] += sign * step
            sides.append(one.predict(moved).forces.numpy().ravel())
        np.testing.assert_allclose(found[component], (sides[1] - sides[0]) / (2 * step), atol=2e-3)


def test_never_reaches_beyond_the_cutoff():
    """Two caesium atoms are bonded at 4.9 Å: of a model that sees 3 Å nothing may jump there."""
    model = engine(zbl=(0.7, 1.0), cutoff=3.0)
    nearly, beyond = (float(model.predict(Atoms("Cs2", [[0, 0, 0], [0, 0, d]])).energy) for d in (3 - 1e-7, 3 + 1e-7))
    assert nearly == pytest.approx(beyond, abs=1e-9)
    alone, near = (
        float(engine(zbl=zbl, cutoff=3.0).predict(Atoms("Cs2", [[0, 0, 0], [0, 0, 2]])).energy)
        for zbl in (None, (0.7, 1.0))
    )
    assert near - alone > 5


def test_radii_are_those_of_ase():
    assert list(COVALENT_RADII) == covalent_radii[1:97].tolist()


def test_travels_with_the_file(tmp_path):
    model = random_painn(zbl=SWITCH)
    tensor_file.write(tmp_path / "m.safetensors", model, {"name": "m"})
    read, _ = load.read(tmp_path / "m.safetensors")
    assert read.config.zbl == SWITCH
    settings = Settings("cpu", "general", "float64")
    found, expected = (Engine(one, settings).predict(methanol()) for one in (read, model))
    assert torch.equal(found.forces, expected.forces)


def test_models_without_it_are_written_as_before():
    model = PaiNN(PaiNNConfig(features=4, layers=1))
    assert "zbl" not in json.loads(model.config.model_dump_json())
    assert not [name for name in model.state_dict() if "zbl" in name]
    assert PaiNNConfig.model_validate_json(model.config.model_dump_json()).zbl is None


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ((1.0, 0.7), "needs two shares, the smaller first, got [1.0, 0.7]"),
        ((0.0, 1.0), "greater than 0"),
        ((0.7, 2.5), "less than or equal to 2"),
    ],
)
def test_a_switch_that_cannot_be_is_refused(switch, words):
    with pytest.raises(ValueError, match="zbl") as error:
        PaiNNConfig(zbl=switch)
    assert words in str(error.value)
