"""The steps that a GPU runs compiled, as written, on the CPU: against the dense form and autograd; and in half precision."""

import copy

import pytest
import torch
from ase.build import bulk, molecule

import atomjet
from atomjet import System
from atomjet.models.base import General, forces_from_gradients
from atomjet.models.escn_md import edges, edges_compiled, radial_factors
from atomjet.models.escn_md.chunks import divide
from atomjet.models.escn_md.fast_pytorch import FastPyTorch
from atomjet.neighbors import search
from tests.potentials import random_escn_md

EXACT = 1e-10  # relative to the largest value; float64 through some thousand operations
HALF = 1e-3  # force error of half precision as a share of the root mean square


@pytest.fixture
def compiled_edges(monkeypatch):
    """Choose the compiled edges where nothing is compiled."""
    monkeypatch.setattr(edges, "compiles", lambda weight: True)


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


def test_equals_autograd(compiled_edges):
    model = random_escn_md(charge_channels=(0, 3))
    graph = graph_of(model, frames())
    energies, gradients = FastPyTorch(model).energies_and_gradients(graph)
    true_energies, true_gradients = General(model).energies_and_gradients(graph)
    close(energies, true_energies)
    close(gradients, true_gradients)


@pytest.mark.parametrize("keep", [True, False])
def test_in_chunks(compiled_edges, monkeypatch, keep):
    model = random_escn_md()
    graph = graph_of(model, frames())
    whole = FastPyTorch(model).energies_and_gradients(graph)
    monkeypatch.setattr("atomjet.models.escn_md.memory.edges_at_once", lambda *_, **__: 37)
    monkeypatch.setattr("atomjet.models.escn_md.memory.saves_outputs", lambda *_: keep)
    chunks = FastPyTorch(model).energies_and_gradients(graph)
    for one, other in zip(whole, chunks, strict=True):
        close(one, other, 1e-12)


def test_no_edges_at_all(compiled_edges):
    model = random_escn_md()
    energies, gradients = FastPyTorch(model).energies_and_gradients(graph_of(model, molecule("H")))
    close(energies, General(model).energies_and_gradients(graph_of(model, molecule("H")))[0])
    assert gradients.shape == (0, 3)


@pytest.fixture
def half(compiled_edges, monkeypatch):
    """Products of half precision on a CPU as a GPU makes them: sums in float32."""
    monkeypatch.setattr(edges_compiled, "_product", lambda x, weight, out: out.copy_(x.float() @ weight.float()))


def share_of_error(model, precision, frames):
    """Force error of float32 weights at a precision against float64, as a share of the root mean square force."""
    graph = graph_of(model, frames)
    _, exact = General(model).energies_and_gradients(graph)
    forces = forces_from_gradients(graph, exact)
    backend = FastPyTorch(copy.deepcopy(model).float(), precision)
    _, made = backend.energies_and_gradients(graph.with_vectors(graph.vectors.float()))
    error = forces_from_gradients(graph, made.double()) - forces
    return float(error.square().mean().sqrt() / forces.square().mean().sqrt())


@pytest.mark.parametrize("table_bytes", [2**31, 0], ids=["tables", "networks"])
def test_half_precision(half, monkeypatch, table_bytes):
    monkeypatch.setattr(radial_factors, "TABLE_BYTES", table_bytes)
    model = random_escn_md(channels=32, hidden_channels=32, edge_channels=32, layers=3, num_radial=16)
    assert 1e-5 < share_of_error(model, "default", frames()[:2]) < HALF


def test_tables_are_the_networks(half):
    """In float32 nothing but the expansion about a knot is left."""
    model = random_escn_md()
    graph = graph_of(model, bulk("NaCl", "rocksalt", a=5.6))
    tables = radial_factors.Tables(model, torch.float32)
    elements = (11, 17)
    made = tables.of(elements)
    assert made is tables.of(elements)
    radial = radial_factors.TabulatedRadial(model, made, elements, graph, graph.lengths)
    network = model.edge_degree
    numbers = graph.atomic_numbers
    z = torch.cat(
        [
            model.radial_basis(graph.lengths),
            model.source_embedding(numbers)[graph.neighbors],
            model.target_embedding(numbers)[graph.centers],
        ],
        dim=1,
    )
    chunks, _ = divide(model, FastPyTorch(model).blends, graph, 10**6)
    values = torch.cat([radial.degree(chunk) for chunk in chunks])
    assert (values - network(z)).abs().max() < 1e-5


def test_beyond_half_precision(half):
    model = random_escn_md()
    with torch.no_grad():
        for block in model.blocks:
            block.conv_1.m0.weights *= 1e5
    with pytest.raises(atomjet.AtomJetError, match="left the range of half precision .* use precision='high'"):
        share_of_error(model, "default", bulk("Cu", cubic=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("precision", "bound"), [("default", 3e-3), ("high", 1e-5)])
def test_on_a_gpu(precision, bound):
    """Compiled once for all sizes; the same digits from call to call. Forces are small here: much cancels between neighbours."""
    model = random_escn_md(channels=128, hidden_channels=128, edge_channels=128, layers=4, num_radial=32)
    exact = copy.deepcopy(model).cuda()
    backend = FastPyTorch(copy.deepcopy(model).float().cuda(), precision)
    counts = []
    for repeat in (2, 3, 4):
        atoms = bulk("C", "fcc", a=3.8, cubic=True) * (repeat, 2, 2)
        atoms.rattle(0.1, seed=repeat)
        graph = graph_of(model, atoms).to("cuda")
        forces = forces_from_gradients(graph, General(exact).energies_and_gradients(graph)[1])
        given = graph.with_vectors(graph.vectors.float())
        (_, one), (_, other) = (backend.energies_and_gradients(given) for _ in range(2))
        assert torch.equal(one, other)
        error = forces_from_gradients(graph, one.double()) - forces
        assert error.square().mean() < bound**2 * forces.square().mean()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[1] == counts[2]
