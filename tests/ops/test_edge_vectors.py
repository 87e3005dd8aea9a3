import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from atomjet import System
from atomjet.neighbors import brute_force
from atomjet.ops.edge_vectors import Edges, edge_vectors


@pytest.fixture
def case():
    """Two structures, one periodic with several images of each atom, one open, and one empty."""
    generator = torch.Generator().manual_seed(0)
    positions = 2 * torch.rand(5, 3, generator=generator, dtype=torch.float64)
    cell = torch.stack([1.2 * torch.eye(3) + 0.2, torch.zeros(3, 3), torch.eye(3)]).double()
    pbc = torch.tensor([[True, True, False], [False] * 3, [True] * 3])
    system = System(positions, torch.ones(5), cell=cell, pbc=pbc, system_index=[0, 0, 1, 1, 1])
    graph = brute_force(system, 1.9)
    edges = Edges(graph.centers, graph.neighbors, graph.shifts, system.system_index[graph.centers])
    return system, graph, edges


def test_vectors(case):
    system, graph, edges = case
    assert graph.num_edges > 12
    assert torch.equal(edge_vectors(system.positions, system.cell, edges), graph.vectors)


def test_derivatives(case):
    system, _, edges = case
    inputs = (system.positions.requires_grad_(), system.cell.clone().requires_grad_())

    def energies(positions, cell):
        lengths = edge_vectors(positions, cell, edges).square().sum(1)
        return torch.exp(-lengths)

    def vectors(positions, cell):
        return edge_vectors(positions, cell, edges)

    assert gradcheck(vectors, inputs)
    assert gradgradcheck(vectors, inputs)
    assert gradcheck(energies, inputs)
    assert gradgradcheck(energies, inputs)


def test_graphs_lead_back_to_positions(case):
    """What a search finds can be differentiated in the positions that it was given."""
    system, _, edges = case
    positions = system.positions.clone().requires_grad_()
    graph = brute_force(system.with_positions(positions), 1.9)
    graph.lengths.sum().backward()
    again = system.positions.clone().requires_grad_()
    edge_vectors(again, system.cell, edges).norm(dim=1).sum().backward()
    assert torch.equal(positions.grad, again.grad)
