"""The fused kernels of PaiNN, one by one, against their plain definitions: outputs poisoned, rows beyond those in use untouched."""

import pytest
import torch
from ase.build import bulk, molecule

from atomjet import System, neighbor_list
from atomjet.data import Capacity, GraphBuffers

pytest.importorskip("triton")
from atomjet.ops import painn_message, painn_update, radial_table

FEATURES = 32
NAN = float("nan")
FLOAT32 = 3e-6  # relative to the largest value; sums of some hundred float32 numbers
DEVICES = ["cpu"] if not torch.cuda.is_available() else ["cuda"]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def graph(device):
    """Two molecules and a crystal with many images, in a buffer with room to spare."""
    frames = [molecule("CH3OH"), bulk("C"), molecule("H2O")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    found = neighbor_list(System.from_ase(frames), 3.5)
    room = Capacity(5, found.num_atoms + 7, found.num_edges + 29, 6)
    return GraphBuffers.from_graph(found.with_vectors(found.vectors.float()).to(device), room)


def random(*shape, device, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(device)


def table(device, dtype=torch.float32):
    weight = random(20, 3 * FEATURES, device=device, seed=3).double()
    at = torch.linspace(0, 3.5, 20, dtype=torch.float64, device=device)
    return radial_table.tabulate(
        lambda d: torch.exp(-((d[:, None] - at) ** 2)) @ weight * (3.5 - d[:, None]) ** 2, 3.5, device, dtype
    )


def in_use(graph):
    return int(graph.system_ptr[-1]), int(graph.row_ptr[-1])


def edges_of(graph):
    return painn_message.Edges(
        graph.row_ptr, graph.neighbors, graph.vectors, graph.atomic_numbers, graph.system_ptr[-1:]
    )


def close(a, b, relative=FLOAT32):
    a, b = a.double(), b.detach().double()
    assert float((a - b).abs().max()) < relative * float(b.abs().max())


TABLES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["wide", "narrow"])


@TABLES
@pytest.mark.parametrize("tiles", [painn_message.Tiles(8, 32, 1), painn_message.Tiles(1, 16, 1)], ids=str)
def test_message(graph, device, tiles, dtype):
    atoms, edges = in_use(graph)
    room, filters = graph.capacity.atoms, table(device, dtype)
    c, mu_sent = random(room, 3 * FEATURES, device=device), random(room, 3, FEATURES, device=device)
    q, mu = random(room, FEATURES, device=device, seed=1), random(room, 3, FEATURES, device=device, seed=2)
    c[atoms:], mu_sent[atoms:], before = NAN, NAN, (q.clone(), mu.clone())
    painn_message.launch_fwd(edges_of(graph), filters, q, c, mu_sent, q, mu, tiles, False)
    vectors, neighbors = graph.vectors[:edges].double(), graph.neighbors[:edges].long()
    w, _ = radial_table.reference(filters, torch.linalg.vector_norm(vectors, dim=1))
    w = w / filters.scales
    row_ptr = graph.row_ptr[: atoms + 1].long()
    a, b = painn_message.reference(vectors, row_ptr, neighbors, w, c[:atoms].double(), mu_sent[:atoms].double())
    close(q[:atoms], before[0][:atoms] + a)
    close(mu[:atoms], before[1][:atoms] + b)
    assert torch.equal(q[atoms:], before[0][atoms:])
    assert torch.equal(mu[atoms:], before[1][atoms:])


@TABLES
@pytest.mark.parametrize("tiles", [painn_message.Tiles(8, 16, 1), painn_message.Tiles(1, 16, 1)], ids=str)
def test_message_backwards(graph, device, tiles, dtype):
    """Against autograd of the definition, contracted with arbitrary derivatives of its outputs."""
    atoms, edges = in_use(graph)
    room, filters = graph.capacity.atoms, table(device, dtype)
    c, mu_sent = random(room, 3 * FEATURES, device=device), random(room, 3, FEATURES, device=device)
    q_bar, mu_bar = random(room, FEATURES, device=device, seed=1), random(room, 3, FEATURES, device=device, seed=2)
    given = [x[:atoms].double().requires_grad_() for x in (c, mu_sent)]
    vectors = graph.vectors[:edges].double().requires_grad_()
    w, slope = radial_table.reference(filters, torch.linalg.vector_norm(vectors.detach(), dim=1))
    w, slope = w / filters.scales, slope / filters.scales
    lengths = torch.linalg.vector_norm(vectors, dim=1)[:, None]
    w = w + slope * (lengths - lengths.detach())  # the table's value with the table's slope, for autograd
    row_ptr, neighbors = graph.row_ptr[: atoms + 1].long(), graph.neighbors[:edges].long()
    a, b = painn_message.reference(vectors, row_ptr, neighbors, w, *given)
    total = (a * q_bar[:atoms]).sum() + (b * mu_bar[:atoms]).sum()
    c_bar, mu_through, gradients = torch.autograd.grad(total, [*given, vectors])

    parts = torch.full((2, graph.capacity.edges, 4), NAN, device=device)
    total_mu = mu_bar.clone()
    painn_message.launch_bwd(
        edges_of(graph), filters, c, mu_sent, q_bar, mu_bar, total_mu, parts, True, 0.25, tiles, False, None, parts
    )
    close(c[:atoms], c_bar)
    close(total_mu[:atoms], mu_bar[:atoms] + mu_through)
    close(4 * parts.sum(0)[:edges, :3], gradients[graph.reverse[:edges].long()])
    assert bool(parts[:, :edges, 3].eq(0).all())
    painn_message.launch_bwd(
        edges_of(graph),
        filters,
        c,
        mu_sent,
        q_bar,
        mu_bar,
        total_mu,
        parts.zero_(),
        False,
        1.0,
        tiles,
        False,
        None,
        parts,
    )
    assert bool(parts[:, edges:].eq(0).all())


def chain(device, last):
    """The definition's, in float64, and the kernels', of the same numbers in two halves."""
    count = 7 if last else 11
    matrices = random(count, FEATURES, FEATURES, device=device) / FEATURES**0.5
    biases, split = random(6 if last else 8, FEATURES, device=device), painn_update.halves(matrices)
    exact = painn_update.Chain(matrices.double(), matrices.mT.double(), biases.double(), 1e-3)
    return exact, painn_update.Chain(split, split.mT.contiguous(), biases, 1e-3)


def test_update_and_back(device):
    """A layer's update and the next context, there and back."""
    atoms, room = 21, 40
    exact, one = chain(device, last=False)
    q, mu = random(room, FEATURES, device=device, seed=1), random(room, 3, FEATURES, device=device, seed=2)
    start = [x[:atoms].double().requires_grad_() for x in (q, mu)]
    q_after, mu_after = painn_update.reference_mixing(exact, *start, last=False)
    c_after = painn_update.reference_context(exact, q_after)

    def poison(*shape):
        return torch.full(shape, NAN, device=device)

    kept = painn_update.Saved(poison(room, 3, 2 * FEATURES), *(poison(room, FEATURES) for _ in range(4)))
    c, sent = poison(room, 3 * FEATURES), poison(room, 3, FEATURES)
    count = torch.tensor([atoms], dtype=torch.int32, device=device)
    painn_update.launch_fwd(count, one, q, mu, kept, c, sent, painn_update.Tiles(16, 4), False)
    close(q[:atoms], q_after)
    close(mu[:atoms], mu_after)
    close(sent[:atoms], mu_after)
    close(c[:atoms], c_after)
    assert bool(c[atoms:].isnan().all())

    bars = [random(*x.shape, device=device, seed=5).double() for x in (q_after, mu_after, c_after)]
    outputs = (q_after, mu_after, c_after)
    total = torch.stack([(x * bar).sum() for x, bar in zip(outputs, bars, strict=True)]).sum()
    q_exact, mu_exact = torch.autograd.grad(total, start)
    q[:atoms], mu[:atoms], c[:atoms] = (bar.float() for bar in bars)
    q_bar, mu_bar = poison(room, FEATURES), poison(room, 3, FEATURES)
    painn_update.launch_bwd(count, one, q, mu, kept, c, q_bar, mu_bar, painn_update.Tiles(16, 4), False)
    close(q[:atoms], q_exact, 1e-5)
    close(mu[:atoms], mu_exact, 1e-5)
    assert torch.equal(q_bar[:atoms], q[:atoms])
    assert torch.equal(mu_bar[:atoms], mu[:atoms])


def test_the_turn(device):
    """The last update with the readout: energies, and back to its inputs."""
    atoms, room = 19, 32
    exact, one = chain(device, last=True)
    q, mu = random(room, FEATURES, device=device, seed=1), random(room, 3, FEATURES, device=device, seed=2)
    start = [x[:atoms].double().requires_grad_() for x in (q, mu)]
    energies = painn_update.reference_readout(exact, painn_update.reference_mixing(exact, *start, last=True)[0])
    q_exact, mu_exact = torch.autograd.grad(energies.sum(), start)
    found = torch.full((room,), NAN, device=device)
    q_bar, mu_bar = torch.full_like(q, NAN), torch.full_like(mu, NAN)
    count = torch.tensor([atoms], dtype=torch.int32, device=device)
    painn_update.launch_last(count, one, q, mu, found, q_bar, mu_bar, 4.0, painn_update.Tiles(16, 4), False)
    close(found[:atoms], energies.detach())
    close(q[:atoms], 4 * q_exact, 1e-5)
    close(mu[:atoms], 4 * mu_exact, 1e-5)
    assert torch.equal(q_bar[:atoms], q[:atoms])
    assert bool(found[atoms:].isnan().all())


def test_halves_keep_the_digits(device):
    """22 of 24, also of small numbers; of the smallest those down to 2⁻³⁶."""
    x = random(1, 64, 64, device=device).double()
    for scale in (1e3, 1.0, 1e-3, 1e-5):
        high, low = painn_update.halves(scale * x).double()
        assert float((high + low / painn_update.LOWER.value - scale * x[0]).abs().max()) < 3e-7 * scale + 2.0**-36


def test_what_half_precision_cannot_hold_is_not_a_number(device):
    _, one = chain(device, last=True)
    q, mu = random(16, FEATURES, device=device), random(16, 3, FEATURES, device=device)
    q[3, 5], mu[7, 1, 2] = 1e5, -1e5
    energies = torch.zeros(16, device=device)
    q_bar, mu_bar = torch.zeros_like(q), torch.zeros_like(mu)
    count = torch.tensor([16], dtype=torch.int32, device=device)
    painn_update.launch_last(count, one, q, mu, energies, q_bar, mu_bar, 4.0, painn_update.Tiles(16, 4), False)
    assert energies.isnan().nonzero().flatten().tolist() == [3, 7]
    assert q_bar.isnan().any(1).nonzero().flatten().tolist() == [3, 7]
    assert mu_bar.isnan().any(2).any(1).nonzero().flatten().tolist() == [3, 7]
