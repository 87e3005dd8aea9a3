"""`fast_gpu` of PaiNN against the definition in float64: in Triton's interpreter where there is no GPU."""

import pytest
import torch
from ase.build import bulk, molecule

from atomjet import System, neighbor_list
from atomjet.data import Capacity, GraphBuffers
from atomjet.errors import BackendError
from atomjet.models.base import General
from tests.potentials import random_painn

pytest.importorskip("triton")
from atomjet.models.painn.fast_gpu import FastGpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the norm. The models are random and rough: they magnify rounding ten times as much as a trained one.
BOUNDS = {"high": 1e-4, "default": 5e-3}
CONFIGS = {
    "gaussian": {"features": 32},
    "padded channels, bessel": {"features": 24, "layers": 2, "radial_basis": "bessel", "num_radial": 8},
    "one layer, repulsion": {"features": 32, "layers": 1, "zbl": (0.7, 1.1)},
    "shared, repulsion": {
        "features": 32,
        "layers": 2,
        "shared_filters": True,
        "shared_interactions": True,
        "zbl": (0.8, 1.5),
        "epsilon": 1e-2,
    },
}


def frames():
    every = [molecule("CH3OH"), bulk("C"), molecule("H2O")]
    for seed, atoms in enumerate(every):
        atoms.rattle(0.05, seed=seed)
    return every


def graph_of(structures, cutoff=3.5):
    return neighbor_list(System.from_ase(structures), cutoff).to(DEVICE)


def narrow(graph):
    return graph.with_vectors(graph.vectors.float())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("precision", BOUNDS)
def test_equals_the_definition(config, precision):
    model = random_painn(cutoff=3.5, **CONFIGS[config]).to(DEVICE)
    graph = graph_of(frames())
    energies, gradients = General(model).energies_and_gradients(graph)
    fast = FastGpu(random_painn(cutoff=3.5, **CONFIGS[config]).float().to(DEVICE), precision)
    ours, our_gradients = fast.energies_and_gradients(narrow(graph))
    assert float((our_gradients - gradients).norm() / gradients.norm()) < BOUNDS[precision]
    assert float((ours - energies).norm() / energies.norm()) < BOUNDS[precision]


def test_structures_do_not_feel_each_other():
    """Neither their number nor a NaN in one of them reaches the others."""
    fast = FastGpu(random_painn(features=32, layers=2, cutoff=3.5).float().to(DEVICE))
    first, second = frames()[0], frames()[2]
    alone, alone_gradients = fast.energies_and_gradients(narrow(graph_of([second])))
    both = narrow(graph_of([first, second]))
    edges = int((both.centers < len(first)).sum())
    vectors = both.vectors.clone()
    vectors[:edges] = float("nan")
    energies, gradients = fast.energies_and_gradients(both.with_vectors(vectors))
    assert torch.equal(energies[len(first) :], alone)
    assert torch.equal(gradients[edges:], alone_gradients)
    assert bool(energies[: len(first)].isnan().all())


def test_atoms_without_neighbors():
    model = random_painn(cutoff=3.5, features=32)
    graph = graph_of([molecule("H"), molecule("O")])
    padded = GraphBuffers.from_graph(narrow(graph))
    # There is room for one edge, for those who read ahead.
    assert (graph.num_edges, padded.neighbors.shape[0], padded.vectors.shape[0]) == (0, 1, 1)
    energies, gradients = FastGpu(model.float().to(DEVICE), "high").energies_and_gradients(narrow(graph))
    exact, _ = General(model.double().to(DEVICE)).energies_and_gradients(graph)
    torch.testing.assert_close(energies.double(), exact, atol=1e-5, rtol=1e-5)
    assert gradients.shape == (0, 3)


def test_memory_is_known():
    fast = FastGpu(random_painn(features=32, layers=3).float().to(DEVICE))
    capacity = Capacity(2, 50, 700, 25)
    workspace = fast.workspace(capacity)
    tensors = [workspace.q, workspace.mu, workspace.q_bar, workspace.mu_bar, workspace.energies, workspace.gradients]
    tensors += [*workspace.context, *workspace.mu_sent, *(tensor for kept in workspace.saved for tensor in kept)]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == fast.bytes_of(capacity)


def test_float64_is_refused():
    with pytest.raises(BackendError, match="for float64 use 'fast_pytorch'"):
        FastGpu(random_painn(features=32).float().to(DEVICE), "float64")


def test_more_channels_than_shared_memory_holds_are_refused():
    with pytest.raises(BackendError, match=r"serves up to 128 features, this model has 130; use 'fast_pytorch'"):
        FastGpu(random_painn(features=130, layers=1).float().to(DEVICE))
