"""Sums of one evaluation by kernels against their plain definition, outputs poisoned."""

import pytest
import torch
from ase.build import bulk, molecule

from atomjet import System, neighbor_list
from atomjet.data import Capacity, PaddedGraph, PaddedPrediction, PaddedSystem

pytest.importorskip("triton")
from atomjet.models import edge_forces

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(DEVICE)


def test_forces_and_sums():
    frames = [molecule("CH3OH"), bulk("C"), molecule("H2O")]
    found = neighbor_list(System.from_ase(frames), 3.5)
    room = Capacity(5, found.num_atoms + 7, found.num_edges + 29, 6)
    graph = PaddedGraph.from_graph(found.with_vectors(found.vectors.float()).to(DEVICE), room)
    atoms, edges = found.num_atoms, found.num_edges
    system = PaddedSystem.empty(graph.capacity, DEVICE)
    system.fill(System.from_ase(frames, device=DEVICE))
    out = PaddedPrediction.empty(graph.capacity, DEVICE)
    out.buffer.fill_(NAN)
    energies = random(graph.capacity.atoms)
    gradients = random(2, graph.capacity.edges, 4)
    gradients[:, edges:] = NAN
    references = random(119, seed=4).double()
    closest = torch.full((119, 119), 0.3, dtype=torch.float64, device=DEVICE)
    virials = torch.full((6, graph.capacity.atoms), NAN, dtype=torch.float64, device=DEVICE)
    given = (system, graph, energies, gradients, references, closest, virials, out)
    edge_forces.launch(*given)
    forces, atomic, virial = edge_forces.reference(graph, energies, gradients, references)
    torch.testing.assert_close(out.forces[:atoms], forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.atomic_energies[:atoms], atomic, rtol=0, atol=1e-12)
    sums = [atomic[first:last].sum() for first, last in zip(graph.system_ptr[:3], graph.system_ptr[1:4], strict=True)]
    torch.testing.assert_close(out.energy[:3], torch.stack(sums), rtol=0, atol=1e-12)
    volume = abs(float(torch.linalg.det(system.cell[1])))
    torch.testing.assert_close(out.stress[1] * volume, virial[1], rtol=0, atol=1e-12)
    assert bool(out.stress[0].isnan().all())
    assert float(out.status) == 0

    closest[1, 8] = closest[8, 1] = 1.2  # O-H
    edge_forces.launch(*given)
    assert float(out.status) == 64
    assert bool(out.energy[:3].isnan().all())
