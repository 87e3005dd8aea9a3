"""Kernels of eSCN-MD's edges against their definitions in float64: in Triton's interpreter where there is no GPU."""

import json
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule

from atomjet import System, neighbor_list
from atomjet.data import GraphBuffers

pytest.importorskip("triton")
from atomjet.ops import (
    channel_balance_gpu,
    edge_frames,
    grouped_product_gpu,
    neighbor_limit_gpu,
    radial_network_gpu,
    radial_pages,
    so2_gate_gpu,
)
from atomjet.ops import node_to_edge_wigner_permute_gpu as pack
from atomjet.ops import permute_wigner_inv_edge_to_node_gpu as unpack
from atomjet.ops.node_to_edge_wigner_permute import node_to_edge_wigner_permute, node_to_edge_wigner_permute_backward
from atomjet.ops.permute_wigner_inv_edge_to_node import (
    permute_wigner_inv_edge_to_node,
    permute_wigner_inv_edge_to_node_backward,
)
from atomjet.ops.wigner import generators, m_major, wigner_blocks, wigner_matrices
from tests.compiling import printed
from tests.potentials import random_escn_md

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHANNELS, CUTOFF, KNOTS = 32, 2.7, 2048
LAST = KNOTS - 1
FACTOR = {1: (0, 1, 2, 3, 4, 3, 4), 2: (0, 1, 2, 3, 4, 3, 4, 5, 5)}
HALF = 2e-3
"""Of the norm: one rounding to half precision, and what a table rounds."""


@pytest.fixture(scope="module")
def graph():
    frames = [bulk("C"), molecule("H2O"), molecule("N2")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    graph = neighbor_list(System.from_ase(frames), CUTOFF).to(DEVICE)
    return graph.with_vectors(graph.vectors.float())


@pytest.fixture(scope="module")
def buffers(graph):
    return GraphBuffers.from_graph(graph)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def relative(found, exact):
    assert bool(found.isfinite().all())
    return float((found.double() - exact).norm() / exact.norm())


def poisoned(*shape, dtype=torch.float32):
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


@pytest.fixture(scope="module")
def frames_of_edges(graph, buffers):
    """Frames, pages and knots by the kernel."""
    frames = poisoned(graph.num_edges, edge_frames.FRAME)
    pages = torch.zeros(graph.num_edges, 2, dtype=torch.int64, device=DEVICE)
    knots = torch.zeros(graph.num_edges, dtype=torch.int32, device=DEVICE)
    edge_frames.launch(
        row_ptr=buffers.row_ptr,
        num_atoms=buffers.owned,
        neighbors=buffers.neighbors,
        reverse=buffers.reverse,
        vectors=buffers.vectors,
        atomic_numbers=buffers.atomic_numbers,
        weights=None,
        radial_pages=torch.zeros(10, 10, dtype=torch.int64, device=DEVICE),
        cutoff=CUTOFF,
        last_knot=LAST,
        frames=frames,
        pages=pages,
        knots=knots,
    )
    return frames, pages, knots


def matrices(frames, mmax):
    """(E, R, 9) from frames."""
    blocks = [torch.ones_like(frames[:, :1, None]), frames[:, :9].view(-1, 3, 3), frames[:, 9:34].view(-1, 5, 5)]
    return wigner_matrices(blocks, mmax).double()


def turns(mmax):
    order = m_major(2, 2)
    found = generators(2, torch.float64, torch.device(DEVICE))[[0, 2]][:, order][:, :, order]
    return found[:, : 5 + 2 * mmax]


def test_frames(graph, frames_of_edges):
    frames, _, knots = frames_of_edges
    exact, places = edge_frames.reference(graph.vectors.double(), graph.reverse, CUTOFF, LAST)
    assert torch.equal(knots, places)
    torch.testing.assert_close(frames.double(), exact, rtol=0, atol=2e-6)
    rotations = frames[:, :9].view(-1, 3, 3)
    directions = torch.nn.functional.normalize(graph.vectors, dim=1)
    torch.testing.assert_close(rotations[:, 1], directions, rtol=0, atol=1e-6)
    signs = torch.tensor(edge_frames.REVERSED, device=DEVICE)[:, None]
    whole = wigner_matrices(wigner_blocks(rotations.double(), 2), 2)
    torch.testing.assert_close(whole[graph.reverse], signs * whole, rtol=0, atol=1e-12)
    assert torch.equal(frames[graph.reverse, 34:], frames[:, 34:])


def test_across_the_axis():
    """Where y is zero either way round, both edges of a pair still have frames that are each other's."""
    vectors = torch.tensor([[1.0, 0.0, 0.5], [-1.0, -0.0, -0.5]], device=DEVICE)
    frames, _ = edge_frames.reference(vectors, torch.tensor([1, 0], device=DEVICE), CUTOFF, LAST)
    torch.testing.assert_close(
        frames[1, :9].view(3, 3), torch.diag(frames.new_tensor([1.0, -1, -1])) @ frames[0, :9].view(3, 3)
    )


@pytest.mark.parametrize(("mmax", "single"), [(1, False), (2, False), (2, True)])
def test_pack_and_its_derivative(graph, buffers, frames_of_edges, mmax, single):
    frames, pages, knots = frames_of_edges
    rows, width = 5 + 2 * mmax, (4 + mmax) * 2 * CHANNELS
    waves = torch.linspace(0.5, 2, width, dtype=torch.float64, device=DEVICE)
    table = radial_pages.paged(
        radial_pages.tabulate([lambda x: torch.cos(x[:, None] * waves)], CUTOFF, torch.device(DEVICE), KNOTS, single)
    )
    y = normal(graph.num_atoms, 9, CHANNELS)
    edges = {"frames": frames, "row_ptr": buffers.row_ptr, "num_atoms": buffers.owned, "reverse": buffers.reverse}
    edges |= {"pages": pages, "knots": knots, "tables": table, "start": 0, "mmax": mmax}
    kind = torch.float32 if single else torch.float16
    packed = poisoned(graph.num_edges, rows, 2 * CHANNELS, dtype=kind)
    pack.launch_fwd(y=y, **edges, packed=packed, split=3)
    wigner, place = matrices(frames, mmax), list(FACTOR[mmax])
    turned = node_to_edge_wigner_permute(y.double(), wigner, graph.neighbors, graph.centers)
    value, slope = radial_pages.reference(table, 0, width, knots, frames[:, 35].double(), KNOTS)
    value, slope = (x.unflatten(1, (4 + mmax, 2 * CHANNELS))[:, place] for x in (value, slope))
    assert relative(packed, turned * value) < (1e-6 if single else HALF)

    packed_bar = normal(graph.num_edges, rows, 2 * CHANNELS, seed=1, dtype=kind)
    share = normal(graph.num_edges, seed=2)
    y_bar, gathered = poisoned(2, graph.num_atoms, 9, CHANNELS), torch.zeros(2, graph.num_edges, 4, device=DEVICE)
    both = torch.stack([share, share[graph.reverse]], dim=1).contiguous()
    pack.launch_bwd(packed_bar=packed_bar, share=both, y=y, **edges, y_bar=y_bar, gathered=gathered)
    bar = packed_bar.double() * share.double()[:, None, None]
    exact, _ = node_to_edge_wigner_permute_backward(
        bar * value, turned, wigner, graph.neighbors, graph.centers, graph.num_atoms
    )
    assert relative(y_bar.sum(0), exact) < 1e-5
    # An atom counts at its own edge what belongs to the reverse: what both edges of a pair have together is the same.
    along = (bar * turned * slope).sum((1, 2))
    found = gathered.double().sum(0)
    assert relative(found[:, 0] + found[graph.reverse, 0], along + along[graph.reverse]) < 1e-5
    whole = matrices(frames, 2)
    full = node_to_edge_wigner_permute(y.double(), whole, graph.neighbors, graph.centers)
    torque = torch.einsum("kab,eac,ebc->ke", turns(mmax), bar * value, full)
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64, device=DEVICE)  # about x and z, in the reverse's frame
    for which, name in ((0, 1), (1, 2)):
        ours, exact_one = found[:, name], torque[which]
        # The reverse's frame is turned by π about x.
        exact_both, both = (x + signs[which] * x[graph.reverse] for x in (exact_one, ours))
        assert relative(both, exact_both) < 1e-5


@pytest.mark.parametrize("mmax", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_unpack_and_its_derivative(graph, buffers, frames_of_edges, mmax, dtype):
    frames, _, _ = frames_of_edges
    rows = 5 + 2 * mmax
    o, bias = normal(graph.num_edges, rows, CHANNELS, dtype=dtype), normal(3, CHANNELS, seed=1)
    x, out = normal(graph.num_atoms, 9, CHANNELS, seed=2), poisoned(graph.num_atoms, 9, CHANNELS)
    edges = {"frames": frames, "row_ptr": buffers.row_ptr, "num_atoms": buffers.owned, "mmax": mmax}
    unpack.launch_fwd(o=o, bias=bias, x=x, out=out, **edges)
    whole = o.double()
    whole[:, :3] += bias.double()
    wigner, envelope = matrices(frames, mmax), frames[:, 34].double()
    exact = x.double() + permute_wigner_inv_edge_to_node(whole, wigner, envelope, graph.row_ptr, graph.centers)
    assert relative(out, exact) < 1e-6

    x_bar, unit = normal(graph.num_atoms, 9, CHANNELS, seed=3), torch.full((graph.num_atoms,), 4.0, device=DEVICE)
    o_bar, share = poisoned(*o.shape, dtype=torch.float16), poisoned(graph.num_edges, 2)
    gathered = torch.zeros(2, graph.num_edges, 4, device=DEVICE)
    unpack.launch_bwd(
        x_bar=x_bar,
        unit=unit,
        o=o,
        bias=bias,
        **edges,
        reverse=buffers.reverse,
        o_bar=o_bar,
        share=share,
        gathered=gathered,
    )
    exact_bar, envelope_bar, _ = permute_wigner_inv_edge_to_node_backward(
        x_bar.double(), whole, wigner, envelope, graph.centers
    )
    assert relative(o_bar.double() * share[:, :1, None].double(), exact_bar) < HALF
    assert torch.equal(share[graph.reverse, 1], share[:, 0])
    turned = torch.bmm(matrices(frames, 2), x_bar.double()[graph.centers])
    torque = envelope * torch.einsum("kab,eac,ebc->ke", turns(mmax), whole, turned)
    found = gathered.double().sum(0)
    assert relative(found[:, 3], envelope_bar) < 1e-5
    assert relative(found[:, 1:3], torque.T) < 1e-5


@pytest.mark.parametrize("mmax", [1, 2])
def test_gate_and_its_derivative(mmax):
    edges, rows = 13, 5 + 2 * mmax
    h, bias = normal(edges, 2 + rows, CHANNELS, dtype=torch.float16), normal(5, CHANNELS, seed=1)
    q, h_bar = (poisoned(edges + 3, n, CHANNELS, dtype=torch.float16) for n in (rows, 2 + rows))
    q_bar = normal(edges, rows, CHANNELS, seed=2, dtype=torch.float16)
    count = torch.tensor([edges], dtype=torch.int32, device=DEVICE)
    so2_gate_gpu.launch_fwd(h=h, bias=bias, num_edges=count, q=q, mmax=mmax)
    so2_gate_gpu.launch_bwd(q_bar=q_bar, h=h, bias=bias, num_edges=count, h_bar=h_bar, mmax=mmax)
    x = h.double().requires_grad_(True)
    shifted = torch.cat([x[:, :5] + bias.double(), x[:, 5:]], dim=1)
    gates = torch.sigmoid(shifted[:, :2])
    degrees = torch.tensor([0, 1, 0, 1, 0, 1, 1, 1], device=DEVICE)[: rows - 1]
    exact = torch.cat([torch.nn.functional.silu(shifted[:, 2:3]), shifted[:, 3:] * gates[:, degrees]], dim=1)
    (exact_bar,) = torch.autograd.grad((exact * q_bar.double()).sum(), x)
    assert relative(q[:edges], exact.detach()) < HALF
    assert relative(h_bar[:edges], exact_bar) < HALF
    assert bool(q[edges:].isnan().all())
    so2_gate_gpu.launch_bwd(q_bar=q_bar, h=h, bias=bias, num_edges=count, h_bar=h, mmax=mmax)
    assert torch.equal(h, h_bar[:edges])


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("skip", "dtype"), [(0, torch.float16), (40, torch.float16), (0, torch.float32)])
def test_products_take_the_weights_of_their_structure(backward, skip, dtype):
    rows = [5, 0, 70, 33]
    edge_ptr = torch.tensor([0, *rows]).cumsum(0)
    parts = grouped_product_gpu.Parts((64, 32, 16), (32, 64, 32), 64, 64 + 64 * 32 + 32 * 64 + 16 * 32)
    weights = normal(3, parts.size, dtype=dtype)
    slots = torch.tensor([2, 0, 1, 0], dtype=torch.int32, device=DEVICE)
    widths = (sum(parts.outputs), sum(parts.inputs)) if backward else (sum(parts.inputs), sum(parts.outputs))
    room = int(edge_ptr[-1]) + 21
    x, y = normal(room, widths[0], seed=1, dtype=dtype), poisoned(room, widths[1], dtype=dtype)
    # Every structure has one atom.
    row_ptr, system_ptr = edge_ptr.to(DEVICE, torch.int32), torch.arange(5, dtype=torch.int32, device=DEVICE)
    where = {"row_ptr": row_ptr, "system_ptr": system_ptr, "tile_ptr": torch.zeros(5, dtype=torch.int32, device=DEVICE)}
    grouped_product_gpu.launch_tiles(**where, rows=32, skip=skip)
    grouped_product_gpu.launch(
        x=x, weights=weights, parts=parts, backward=backward, y=y, **where, slots=slots, rows=32, skip=skip, columns=32
    )
    exact = grouped_product_gpu.reference(x.double(), weights, parts, backward, slots, edge_ptr)
    assert relative(y[skip : edge_ptr[-1]], exact[skip : edge_ptr[-1]]) < (HALF if dtype == torch.float16 else 1e-5)
    assert bool(y[:skip].isnan().all())
    assert bool(y[edge_ptr[-1] :].isnan().all())


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_networks_without_tables(graph, buffers, dtype):
    model = random_escn_md(channels=16, edge_channels=12, num_radial=9, layers=1, cutoff=CUTOFF, mmax=1).to(DEVICE)
    network, outputs = model.blocks[0].radial, 10 * 16
    rows = torch.zeros(graph.num_edges * 3 * outputs, dtype=dtype, device=DEVICE)
    pages = torch.full((graph.num_edges, 2), radial_pages.MISSING_PAGE, device=DEVICE)
    pages[1] = 0
    radial_network_gpu.launch(
        vectors=buffers.vectors,
        neighbors=buffers.neighbors,
        reverse=buffers.reverse,
        pages=pages,
        atomic_numbers=buffers.atomic_numbers,
        num_edges=buffers.row_ptr[-1:],
        weights=radial_network_gpu.weights_of(model, network),
        rows=rows,
    )
    lengths = graph.vectors.double().norm(dim=1)
    of_atoms = model.source_embedding.weight[graph.atomic_numbers[graph.neighbors]]
    of_atoms = torch.cat([of_atoms, model.target_embedding.weight[graph.atomic_numbers[graph.centers]]], dim=1)
    with torch.no_grad():
        values = [network(torch.cat([model.radial_basis(lengths + s), of_atoms], dim=1)) for s in (0, 1e-5, -1e-5)]
    places, none = torch.arange(graph.num_edges, device=DEVICE), lengths.new_zeros(graph.num_edges)
    found = radial_pages.reference(rows, 0, outputs, places, none, graph.num_edges)
    kept = places != 1
    assert relative(found[0][kept], values[0][kept]) < (1e-6 if dtype == torch.float32 else 3e-5)
    assert relative(found[1][kept], ((values[1] - values[2]) / 2e-5)[kept]) < (1e-6 if dtype == torch.float32 else 1e-3)
    assert not bool(rows.view(graph.num_edges, -1)[1].any())


def test_shift_of_channels():
    x, counts = normal(9, 9, CHANNELS), [4, 5]
    ptr = torch.tensor([0, 4, 9], dtype=torch.int32, device=DEVICE)
    shift = poisoned(2, CHANNELS)
    charge = torch.tensor([1, -2], dtype=torch.int32, device=DEVICE)
    launch = {"x": x, "system_ptr": ptr, "shift": shift, "atoms": 5}
    channel_balance_gpu.launch(**launch, target=charge, less=0, channels=(1, 4), first=True)
    channel_balance_gpu.launch(**launch, target=None, less=1, channels=(6, 8), first=False)
    exact = torch.zeros(2, CHANNELS, dtype=torch.float64, device=DEVICE)
    for s, part in enumerate(x[:, 0].double().split(counts)):
        exact[s, 1:4] = (part[:, 1:4].sum(0) - charge[s]) / counts[s]
        exact[s, 6:8] = part[:, 6:8].mean(0)
    torch.testing.assert_close(shift.double(), exact, rtol=1e-5, atol=1e-6)


def test_limit_of_neighbors():
    vectors = normal(200, 3)
    vectors[150] = vectors[20]
    row_ptr = torch.tensor([0, 90, 90, 97, 200], dtype=torch.int32, device=DEVICE)
    count = torch.tensor([4], dtype=torch.int32, device=DEVICE)
    for limit in (7, 20, 103):
        weights = poisoned(200)
        neighbor_limit_gpu.launch(
            row_ptr=row_ptr, num_atoms=count, vectors=vectors, weights=weights, limit=limit, slack=0.01
        )
        assert torch.equal(weights, neighbor_limit_gpu.reference(vectors, row_ptr, limit, 0.01))


@pytest.mark.slow
def test_kernels_fit_into_multiprocessors():
    """Compiled on any machine: shared memory of a program, which the interpreter does not know, on Ampere and on Hopper."""
    found = json.loads(printed(Path(__file__).with_name("compile_escn_md.py")))
    assert len(found) == 24
    for name, size in found.items():
        assert size <= 1024 * (163 if name.endswith("80") else 227), name


@pytest.mark.slow
def test_tables_are_read_in_words_of_16_bytes():
    """Four channels at a time, whether or not edges have rows of their own: a scalar argument that nothing is known of makes four
    loads of each."""
    found = json.loads(printed(Path(__file__).with_name("compile_radial_loads.py")))
    features, factors = 9, {"pack": 12, "pack backward": 12, "degrees": 3, "degrees backward": 3}
    for where in (0, 2**33):
        for name, count in factors.items():
            own = 2 if name == "degrees" else features  # embeddings of element and structure; features of the atom
            assert found[f"{name}, rows at {where}"] == own + count, name
