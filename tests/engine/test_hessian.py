"""Hessians against differences of forces in float64, for both families; what they say of rigid motions."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import atomjet
from atomjet.engine import Engine, Settings
from atomjet.errors import StructureError
from atomjet.models.escn_md import EscnMd, EscnMdConfig


def by_differences(engine, atoms, step):
    """Fourth-order central differences of the forces."""
    number = 3 * len(atoms)
    frames = []
    for k in range(number):
        for size in (1, -1, 2, -2):
            moved = atoms.copy()
            places = moved.positions.reshape(-1)
            places[k] += size * step
            frames.append(moved)
    f = engine.predict(frames).forces.reshape(number, 4, number).numpy()
    return -(8 * (f[:, 0] - f[:, 1]) - (f[:, 2] - f[:, 3])) / (12 * step)


def shaken(atoms):
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, atoms.positions.shape)
    return atoms


def check(engine, exact, atoms, step):
    found = engine.hessian(atoms).numpy()
    assert found.dtype == np.float64
    assert np.array_equal(found, found.T)
    expected = by_differences(exact, atoms, step)
    assert np.abs(found - expected).max() < 1e-7 * np.abs(expected).max()
    rigid = found.reshape(len(atoms), 3, len(atoms), 3).sum(2)  # all atoms moved alike: no force
    assert np.abs(rigid).max() < 1e-10


@pytest.mark.parametrize("precision", ["default", "float64"])
def test_painn_whatever_the_precision_asked_for(precision):
    engine = atomjet.load("organic-xtb", device="cpu", precision=precision)
    exact = atomjet.load("organic-xtb", device="cpu", precision="float64")
    check(engine, exact, shaken(molecule("CH3OH")), 1e-4)


@pytest.mark.parametrize("atoms", [molecule("CH3OH"), bulk("Si") * (2, 1, 1)], ids=["molecule", "crystal"])
def test_escn_md(atoms):
    torch.manual_seed(0)
    config = EscnMdConfig(
        channels=16, hidden_channels=16, edge_channels=16, layers=2, experts=3, tasks=("omat",), max_z=20, cutoff=4.0
    )
    engine = Engine(EscnMd(config), Settings("cpu", "fast_pytorch", "float64"), None, "omat")
    check(engine, engine, shaken(atoms), 1e-3)


def test_rows_in_pieces_where_memory_is_short(monkeypatch):
    engine = atomjet.load("organic-xtb", device="cpu", precision="float64")
    atoms = shaken(molecule("H2O"))
    whole = engine.hessian(atoms)
    monkeypatch.setattr("atomjet.engine.engine.free_bytes", lambda device: 1)
    torch.testing.assert_close(engine.hessian(atoms), whole, rtol=0, atol=1e-12)


def test_an_atom_alone_and_two_structures():
    engine = atomjet.load("organic-xtb", device="cpu")
    assert not engine.hessian(molecule("O")).any()
    with pytest.raises(StructureError, match="2 structures given; a Hessian is of one"):
        engine.hessian([molecule("H2O")] * 2)
