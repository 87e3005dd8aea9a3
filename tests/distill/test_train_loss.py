import math

import numpy as np
import pytest
import torch

from atomjet.data import Graph
from atomjet.distill.batches import FrameStore
from atomjet.distill.loss import (
    Batch,
    HessianRows,
    energies_and_forces,
    energy_loss,
    force_loss,
    hessian_loss,
    huber,
    losses,
    pairwise_to_atoms,
)
from atomjet.distill.train_config import TrainConfig
from atomjet.models.base import forces_from_gradients
from atomjet.models.painn import PaiNN, PaiNNConfig
from tests.distill.labelled import labelled_frames

CONFIG = TrainConfig(epochs=1, energy_delta=0.1, force_delta=0.5, hessian_delta=1.0, force_cap=5.0)


def batch_of(energy, forces, counts) -> Batch:
    counts = torch.tensor(counts)
    system_index = torch.repeat_interleave(torch.arange(len(counts)), counts)
    nothing = torch.zeros(0, dtype=torch.int64)
    atoms = int(counts.sum())
    graph = Graph(
        centers=nothing,
        neighbors=nothing,
        shifts=torch.zeros(0, 3, dtype=torch.int64),
        vectors=torch.zeros(0, 3),
        row_ptr=torch.zeros(atoms + 1, dtype=torch.int64),
        atomic_numbers=torch.ones(atoms, dtype=torch.int64),
        system_index=system_index,
        charge=torch.zeros_like(counts),
        spin=torch.zeros_like(counts),
        cutoff=5.0,
    )
    lengths = torch.tensor(forces).norm(dim=1)
    strongest = torch.stack([lengths[system_index == s].max() for s in range(len(counts))])
    return Batch(
        graph, torch.tensor(energy), torch.tensor(forces), counts.to(torch.float64), strongest, len(counts), atoms
    )


def test_huber_is_square_then_length():
    square = torch.tensor([0.0, 0.04, 0.25, 4.0], dtype=torch.float64, requires_grad=True)
    found = huber(square, 0.5)
    assert found.tolist() == pytest.approx([0.0, 0.04, 0.25, 2.0 - 0.25])
    (slope,) = torch.autograd.grad(found.sum(), square)
    assert slope.tolist() == pytest.approx([1.0, 1.0, 1.0, 1 / (2 * 2.0)])


def test_energy_and_force_losses_by_hand():
    # Two frames, of 1 and 2 atoms; one label of 20 eV/Å, four times the cap.
    forces = [[0.0, 0.0, 0.0], [0.0, 20.0, 0.0], [1.0, 0.0, 0.0]]
    batch = batch_of([1.0, 2.0], np.array(forces), [1, 2])
    energies = torch.tensor([1.05, 3.0], dtype=torch.float64)
    per_frame = [0.05**2 / 0.2, 0.25 * (0.5 - 0.05)]
    assert float(energy_loss(energies, batch, CONFIG)) == pytest.approx(sum(per_frame) / 2)
    predicted = torch.tensor([[0.3, 0.0, 0.0], [3.0, 16.0, 0.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
    per_atom = [0.3**2 / 1.0, 0.25 * (5.0 - 0.25), 2.0 - 0.25]
    assert float(force_loss(predicted, batch, CONFIG)) == pytest.approx(sum(per_atom) / 3)


def test_energies_have_a_cap_of_their_own_where_one_is_given():
    forces = [[0.0, 0.0, 0.0], [0.0, 20.0, 0.0], [1.0, 0.0, 0.0]]
    batch = batch_of([1.0, 2.0], np.array(forces), [1, 2])
    energies = torch.tensor([1.05, 3.0], dtype=torch.float64)
    lower = CONFIG.model_copy(update={"energy_cap": 2.0})
    assert float(energy_loss(energies, batch, lower)) == pytest.approx((0.05**2 / 0.2 + 0.1 * (0.5 - 0.05)) / 2)


def test_hessian_loss_by_hand():
    # F = -k (x_1 - x_0) through one pair of edges: rows of H are known.
    r = torch.tensor([[0.2, 0.0, 0.0], [-0.2, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    base = batch_of([0.0], np.zeros((2, 3)), [2]).graph
    graph = Graph(
        **{
            **base.__dict__,
            "centers": torch.tensor([0, 1]),
            "neighbors": torch.tensor([1, 0]),
            "vectors": r,
            "row_ptr": torch.tensor([0, 1, 2]),
        }
    )
    k = 30.0
    forces = pairwise_to_atoms(graph, 0.5 * k * r)  # E = k/2 |r|², half of it from each direction
    assert forces.detach().numpy() == pytest.approx(np.array([[k * 0.2, 0, 0], [-k * 0.2, 0, 0]]))
    direction = torch.zeros(2, 3, dtype=torch.float64)
    direction[0, 0] = 1.0
    teacher = torch.tensor([[28.0, 0.0, 0.0], [-30.5, 0.0, 0.0]], dtype=torch.float64)
    labels = HessianRows(direction, teacher, torch.ones(2, dtype=torch.float64), atoms=2)
    # The row is (k, 0, 0) on the atom itself, (-k, 0, 0) on the other: errors 2 and 0.5; the cap is 5 / 0.1 = 50.
    expected = ((2.0 - 0.5) + 0.5**2 / 2) / 2
    assert float(hessian_loss(forces, r, graph, labels, CONFIG)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def small() -> tuple[PaiNN, FrameStore]:
    torch.manual_seed(0)
    model = PaiNN(PaiNNConfig(features=8, layers=2, num_radial=6, cutoff=4.0))
    return model.double(), FrameStore(labelled_frames(), np.zeros(100), 4.0, torch.device("cpu"))


def in_float64(batch: Batch) -> Batch:
    tensors = {name: value.double() for name, value in batch.__dict__.items() if torch.is_tensor(value)}
    return Batch(**{**batch.__dict__, **tensors, "graph": batch.graph.with_vectors(batch.graph.vectors.double())})


def test_forces_are_those_of_the_inference_code(small):
    model, store = small
    batch = in_float64(store.batch(np.array([0, 13, 2])))
    _, forces, vectors = energies_and_forces(model, batch.graph)
    (gradients,) = torch.autograd.grad(
        model.atomic_energies(batch.graph.with_vectors(v := vectors.detach().requires_grad_())).sum(), v
    )
    torch.testing.assert_close(forces, forces_from_gradients(batch.graph, gradients), rtol=1e-12, atol=1e-12)


def test_student_hessian_row_is_the_difference_of_forces(small):
    model, store = small
    batch = in_float64(store.batch(np.array([1, 14])))
    _, forces, vectors = energies_and_forces(model, batch.graph)
    direction = torch.zeros_like(forces)
    moved = {0: (4, 1), 1: (9 + 2, 2)}  # frame -> atom in the batch, axis
    for atom, axis in moved.values():
        direction[atom, axis] = 1.0
    (slopes,) = torch.autograd.grad(forces, vectors, direction)
    rows = pairwise_to_atoms(batch.graph, slopes)
    h = 1e-4
    shift = direction[batch.graph.neighbors] - direction[batch.graph.centers]
    plus, minus = (
        energies_and_forces(model, batch.graph.with_vectors(batch.graph.vectors + s * h * shift))[1] for s in (1, -1)
    )
    # Moving coordinate a changes the forces of its own frame by minus row a.
    torch.testing.assert_close(rows, -(plus - minus).detach() / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("term", ["energy_weight", "force_weight", "hessian_weight"])
def test_gradient_of_each_term_with_respect_to_weights(small, term):
    model, store = small
    weights = {"energy_weight": 0.0, "force_weight": 0.0, "hessian_weight": 0.0, term: 1.0}
    config = TrainConfig(epochs=1, force_delta=10.0, hessian_delta=0.01, energy_delta=10.0, **weights)
    batch = in_float64(store.batch(np.array([1, 14])))
    direction = torch.zeros_like(batch.forces)
    direction[4, 1] = direction[11, 2] = 1.0
    labels = HessianRows(direction, torch.ones_like(direction), torch.ones(12, dtype=torch.float64), 12)
    batch = Batch(**{**batch.__dict__, "hessian": labels})
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(losses(model, batch, config)[0], parameters, allow_unused=True)
    rng = torch.Generator().manual_seed(1)
    steps = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    expected = sum(float((g * s).sum()) for g, s in zip(gradients, steps, strict=True) if g is not None)
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, s in zip(parameters, steps, strict=True):
                p.add_(s, alpha=sign * 1e-6)
        found.append(float(losses(model, batch, config)[0].detach()))
        with torch.no_grad():
            for p, s in zip(parameters, steps, strict=True):
                p.add_(s, alpha=-sign * 1e-6)
    difference = (found[0] - found[1]) / 2e-6
    assert math.isclose(difference, expected, rel_tol=1e-4)
    assert abs(expected) > 1e-6
