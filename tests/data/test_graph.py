"""The reverse edges of a `Graph`: for shifts of any size; refused where the edges do not come in both directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import atomjet
from atomjet import AtomJetCalculator, Engine, System, neighbor_list
from atomjet.engine import Settings
from tests.neighbors.cases import CELLS, batch, place
from tests.potentials import random_painn


def check(graph):
    reverse = graph.reverse
    assert torch.equal(graph.centers[reverse], graph.neighbors)
    assert torch.equal(graph.neighbors[reverse], graph.centers)
    assert torch.equal(graph.shifts[reverse], -graph.shifts)
    assert torch.equal(reverse[reverse], torch.arange(graph.num_edges))


@pytest.mark.parametrize("cells", [10**3, 10**5, 10**7, 10**11])
def test_an_atom_cells_away(cells):
    """Its shifts count all those cells."""
    x = np.random.default_rng(0).uniform(0, 4, (30, 3))
    x[3, 1] += 4.0 * cells
    system = batch((x, np.eye(3) * 4, (True,) * 3), (x[:5], np.eye(3) * 2, (True,) * 3))
    graph = neighbor_list(system, 3.0)
    assert int(graph.shifts.abs().max()) >= cells - 1
    check(graph)


def test_many_atoms_and_wide_shifts():
    """Their numbers multiplied leave 64 bits: 20,000 atoms, 2,000 cells."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 60, (20_000, 3))
    x[7] += 2000 * 60
    check(neighbor_list(batch((x, np.eye(3) * 60, (True,) * 3)), 2.0))


def test_several_images_of_one_pair():
    for name in CELLS:
        check(neighbor_list(batch((place(CELLS[name], 5, 2, 1), CELLS[name], (True, False, True))), 3.0))


def test_forces_do_not_depend_on_the_cell_an_atom_is_in():
    box = Atoms(cell=[7.5, 7.5, 7.5], pbc=True)
    rng = np.random.default_rng(1)
    for corner in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 360), rng.normal(size=3))
        water.positions += 3.7 * np.array(corner)
        box += water
    moved = box.copy()
    moved.positions[4] += 1e5 * box.cell[0]
    engine = Engine(random_painn(cutoff=3.5), Settings("cpu", "fast_pytorch", "float64"))
    for atoms in (box, moved):
        atoms.calc = AtomJetCalculator(engine)
    np.testing.assert_allclose(moved.get_forces(), box.get_forces(), atol=1e-8)


@pytest.mark.parametrize("what", ["rows of some atoms", "an edge lost", "another order"])
def test_no_reverse_no_answer(what):
    graph = neighbor_list([molecule("CH3CH2OH"), molecule("H2O")], 3.0)
    keep = {
        "rows of some atoms": (graph.centers < 4).nonzero()[:, 0],
        "an edge lost": torch.arange(1, graph.num_edges),
        "another order": torch.arange(graph.num_edges).flip(0),
    }[what]
    edges = {name: getattr(graph, name)[keep] for name in ("centers", "neighbors", "shifts", "vectors")}
    with pytest.raises(
        atomjet.AtomJetError, match=r"edge \d+, from atom \d+ to atom \d+ .* has no reverse .*neighbor_list"
    ):
        _ = replace(graph, **edges).reverse


def test_no_edges():
    assert neighbor_list(System(torch.zeros(1, 3), [1]), 3.0).reverse.tolist() == []


def test_the_definition_needs_all_rows():
    engine = Engine(random_painn(elements=(1, 6)), Settings("cpu", "general"))
    graph = neighbor_list(molecule("CH4"), engine.cutoff)
    some = {name: getattr(graph, name)[:8] for name in ("centers", "neighbors", "shifts", "vectors")}
    with pytest.raises(atomjet.AtomJetError, match="row_ptr ends at 20, but there are 8 edges: the graph lacks rows"):
        engine.evaluator.energies_and_gradients(replace(graph, **some))
