"""The limit on neighbours that a model was trained with: which edges count, and what is said of it."""

import warnings

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet import Engine, System
from atomjet.engine import Settings
from atomjet.models.base import General
from atomjet.models.escn_md import edges, neighbor_limit
from atomjet.models.escn_md.fast_pytorch import FastPyTorch
from atomjet.neighbors import search
from tests.models.escn_md.foreign import GOLDEN, atoms_of, golden
from tests.potentials import random_escn_md


def frames():
    """Rows of many lengths: crystals with shells of equal distance and without, a molecule, images of a tiny cell, one atom."""
    salt, copper, tiny = (
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("Cu", cubic=True),
        Atoms("H", cell=[1.1, 1.3, 1.2], pbc=True),
    )
    copper.rattle(0.05, seed=1)
    return [salt, molecule("CH3CH2OH"), copper, Atoms("Ne"), tiny, bulk("Cu")]


def counted(graph, limit):
    """The rule as it is said, atom by atom."""
    stay = []
    for first, last in zip(graph.row_ptr[:-1].tolist(), graph.row_ptr[1:].tolist(), strict=True):
        squares = graph.vectors[first:last].square().sum(1)
        far = squares.sort().values[limit] + 0.01 if limit < len(squares) else torch.inf
        stay.append(squares <= far)
    return torch.cat(stay)


@pytest.fixture(scope="module")
def graph():
    return search(System.from_ase(frames()), 6.0)


@pytest.mark.parametrize("limit", [1, 5, 12, 18, 30, 77, 78, 79, 300])
def test_the_rule(graph, limit):
    found = neighbor_limit.weights(graph, limit)
    assert torch.equal(found == 1, counted(graph, limit))
    assert bool(((found == 0) | (found == 1)).all())
    assert found.dtype == graph.vectors.dtype


def test_whole_shells_stay():
    """fcc has shells of 12, 6, 24, 12 and 24 neighbours: with 13 that count, the 14th nearest is in the second."""
    graph = search(System.from_ase(bulk("Cu", a=3.6)), 6.0)
    assert graph.num_edges == 78
    for limit, stay in ((11, 12), (12, 18), (13, 18), (17, 18), (18, 42), (77, 78)):
        assert int(neighbor_limit.weights(graph, limit).sum()) == stay


def test_where_it_cannot_bind(graph):
    longest = graph.longest_row
    assert longest == int((graph.row_ptr[1:] - graph.row_ptr[:-1]).max())
    assert neighbor_limit.weights(graph, longest) is None
    assert neighbor_limit.weights(graph, 0) is None
    assert neighbor_limit.weights(graph, longest - 1) is not None
    assert graph.with_vectors(graph.vectors.float()).__dict__["longest_row"] == longest  # not asked of the device again
    alone = search(System.from_ase(Atoms("Ne")), 6.0)
    assert neighbor_limit.weights(alone, 1) is None
    empty = neighbor_limit.within_limit(alone.vectors, alone.centers, alone.row_ptr, 1)
    assert empty.shape == (0,)


@pytest.mark.parametrize("compiled", [False, True])
def test_backends_agree(monkeypatch, compiled):
    """The definition differentiated by autograd, and both ways of `fast_pytorch`: sums over rows and over reverse edges too."""
    monkeypatch.setattr(edges, "compiles", lambda weight: compiled)
    model = random_escn_md(charge_channels=(0, 3), max_neighbors=25)
    graph = search(model.complete(System.from_ase(frames()), "omat"), model.cutoff)
    exact = General(model).energies_and_gradients(graph)
    for made, true in zip(FastPyTorch(model).energies_and_gradients(graph), exact, strict=True):
        assert (made - true).abs().max() <= 1e-10 * true.abs().max()
    gone = ~counted(graph, 25)
    assert bool((exact[1][gone] == 0).all())
    assert bool((exact[1][~gone].abs().sum(1) > 0).all())
    # Some edge counts while its reverse does not: that is where sums that pair them go wrong.
    assert bool((gone != gone[graph.reverse]).any())


def test_one_warning_for_each_structure():
    engine = Engine(random_escn_md(max_neighbors=30), Settings("cpu"), task="omat")
    copper, water = bulk("Cu", cubic=True), molecule("H2O")
    with pytest.warns(UserWarning, match="neighbours within") as seen:
        engine.predict([water, copper, water, bulk("Cu", cubic=True), bulk("Al", cubic=True)])
    assert [str(warning.message).partition(":")[0] for warning in seen] == ["structure 1", "structure 3", "structure 4"]
    assert str(seen[0].message) == (
        "structure 1: atom 0 has 78 neighbours within 6 Å, of which this model takes about the nearest 30 (its max_neighbors), "
        "as in its training; the energy is not smooth where one neighbour takes another's place"
    )
    copper.rattle(0.01)
    engine.predict(copper)  # warnings are errors here: a step further it is the same structure
    for _ in range(4):  # and after several, far from where it began
        copper.positions += 0.2
        engine.predict([water, copper])
    other = bulk("Cu", "bcc", a=2.3, cubic=True) * (2, 1, 1)  # as many atoms of copper, in another crystal
    with pytest.warns(UserWarning, match=r"structure 1: atom 0 has \d+ neighbours within"):
        engine.predict([copper, other])
    Engine(random_escn_md(max_neighbors=78), Settings("cpu"), task="omat").predict(copper)


def test_it_is_not_ignored():
    """Against the same weights without a limit, where fairchem's golden numbers are reproduced with it."""
    entry = next(entry for entry in golden("uma_limit")["structures"] if entry["name"] == "copper")
    engine = atomjet.load(GOLDEN / "uma_limit.pt", device="cpu", precision="float64")
    assert engine.model.config.max_neighbors == 30
    model = random_escn_md(**engine.model.config.model_copy(update={"max_neighbors": 0}).model_dump())
    model.load_state_dict(engine.model.state_dict())
    unlimited = Engine(model, engine.settings).predict(atoms_of(entry)).energy
    with warnings.catch_warnings(action="ignore"):
        assert abs(float(engine.predict(atoms_of(entry)).energy - unlimited)) / len(entry["numbers"]) > 1e-3
