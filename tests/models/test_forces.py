"""Sums of one evaluation by kernels against their plain definition, outputs poisoned."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from atomjet import System, neighbor_list
from atomjet.data import Capacity, Conditions, GraphBuffers, PredictionBuffers, SystemBuffers
from atomjet.models.contract import Atomic

pytest.importorskip("triton")
from atomjet.models import forces as edge_forces

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(DEVICE)


@pytest.mark.parametrize("of_reverse", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_forces_and_sums(of_reverse, rows):
    frames = [molecule("CH3OH"), bulk("C"), molecule("H2O")]
    found = neighbor_list(System.from_ase(frames), 3.5)
    room = Capacity(5, found.num_atoms + 7, found.num_edges + 29, 6)
    graph = GraphBuffers.from_graph(found.with_vectors(found.vectors.float()).to(DEVICE), room)
    atoms, edges = found.num_atoms, found.num_edges
    system = SystemBuffers.empty(graph.capacity, DEVICE)
    tasks = Conditions(np.array([[0] * 3, [0] * 3, [1, 0, 2], [0] * 3], np.int32))
    system.fill(System.from_ase(frames, device=DEVICE), tasks)
    out = PredictionBuffers.empty(graph.capacity, DEVICE)
    out.buffer.fill_(NAN)
    energies = random(graph.capacity.atoms)
    gradients = random(2, graph.capacity.edges, 4)
    gradients[:, edges:] = NAN
    references = random(rows, 119, seed=4).double()
    closest = torch.full((119, 119), 0.3, dtype=torch.float64, device=DEVICE)
    virials = torch.full((6, graph.capacity.atoms), NAN, dtype=torch.float64, device=DEVICE)
    found = Atomic(energies, gradients, of_reverse)
    given = (system, graph, found, references, closest, virials, out)
    edge_forces.launch(*given)
    forces, atomic, virial = edge_forces.reference(system, graph, found, references)
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


def test_a_number_that_is_not_finite_is_seen_in_the_energy_of_its_structure_alone():
    frames = [molecule("H2O"), molecule("CH4"), molecule("CO")]
    found = neighbor_list(System.from_ase(frames), 3.5)
    graph = GraphBuffers.from_graph(found.to(DEVICE))
    system = SystemBuffers.empty(graph.capacity, DEVICE)
    system.fill(System.from_ase(frames, device=DEVICE))
    closest = torch.zeros(119, 119, dtype=torch.float64, device=DEVICE)
    virials = torch.zeros(6, graph.capacity.atoms, dtype=torch.float64, device=DEVICE)
    references = torch.zeros(1, 119, dtype=torch.float64, device=DEVICE)
    for value, component in ((NAN, 0), (float("inf"), 1), (-float("inf"), 2)):
        gradients = random(1, graph.capacity.edges, 4)
        gradients[0, int(found.row_ptr[4]), component] = value  # of methane
        out = PredictionBuffers.empty(graph.capacity, DEVICE)
        edge_forces.launch(
            system, graph, Atomic(random(graph.capacity.atoms), gradients, True), references, closest, virials, out
        )
        assert float(out.status) == 0
        assert out.energy.isfinite().tolist() == [True, False, True]
        broken = (~out.forces.isfinite().all(1)).nonzero().flatten().tolist()
        assert broken
        assert set(broken) <= {3, 4, 5, 6, 7}
