"""The steps that a GPU runs compiled, as written, on the CPU: against the dense form and autograd; and in half precision."""

import pytest
from ase.build import bulk, molecule

from atomjet import System
from atomjet.models.base import General
from atomjet.models.escn_md import fast_pytorch
from atomjet.models.escn_md.fast_pytorch import FastPyTorch
from atomjet.neighbors import search
from tests.potentials import random_escn_md

EXACT = 1e-10  # relative to the largest value; float64 through some thousand operations
HALF = 1e-3  # force error of half precision as a share of the root mean square


@pytest.fixture
def fused(monkeypatch):
    """Choose the fused edges where nothing is compiled."""
    monkeypatch.setattr(fast_pytorch, "can_compile", lambda device: True)


def graph_of(model, frames, task="omat"):
    return search(model.complete(System.from_ase(frames), task), model.cutoff)


def frames():
    """Unlike systems, one without edges, one with several images of a neighbour."""
    salt, water, alone = bulk("NaCl", "rocksalt", a=5.6), molecule("H2O"), molecule("H")
    water.info |= {"task": "omol", "charge": 1, "spin": 2}
    made = [salt, water, alone, bulk("Cu", cubic=True), water.copy()]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
    return made


def close(a, b, relative=EXACT):
    assert float((a - b).abs().max()) <= relative * float(b.abs().max())


def test_equals_autograd(fused):
    model = random_escn_md(charge_channels=(0, 3))
    graph = graph_of(model, frames())
    energies, gradients = FastPyTorch(model).energies_and_gradients(graph)
    true_energies, true_gradients = General(model).energies_and_gradients(graph)
    close(energies, true_energies)
    close(gradients, true_gradients)


@pytest.mark.parametrize("keep", [True, False])
def test_in_pieces(fused, monkeypatch, keep):
    model = random_escn_md()
    graph = graph_of(model, frames())
    whole = FastPyTorch(model).energies_and_gradients(graph)
    monkeypatch.setattr("atomjet.models.escn_md.memory.edges_at_once", lambda *_, **__: 37)
    monkeypatch.setattr("atomjet.models.escn_md.memory.keeps", lambda *_: keep)
    pieces = FastPyTorch(model).energies_and_gradients(graph)
    for one, other in zip(whole, pieces, strict=True):
        close(one, other, 1e-12)


def test_no_edges_at_all(fused):
    model = random_escn_md()
    energies, gradients = FastPyTorch(model).energies_and_gradients(graph_of(model, molecule("H")))
    close(energies, General(model).energies_and_gradients(graph_of(model, molecule("H")))[0])
    assert gradients.shape == (0, 3)
