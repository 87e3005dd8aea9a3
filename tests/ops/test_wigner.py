"""Rotations of spherical harmonics, and the two ops that carry features to the edges' frames and back, with their derivatives."""

import pytest
import torch

from atomjet.ops.node_to_edge_wigner_permute import node_to_edge_wigner_permute, node_to_edge_wigner_permute_backward
from atomjet.ops.permute_wigner_inv_edge_to_node import (
    permute_wigner_inv_edge_to_node,
    permute_wigner_inv_edge_to_node_backward,
)
from atomjet.ops.segment_sum import scatter_add_, scatter_sum
from atomjet.ops.wigner import degrees, generators, m_major, rotations_to_y, wigner_blocks, wigner_matrices

CPU = torch.device("cpu")


def directions(count, seed=0):
    """Random, and along every axis both ways: the y axis is where charts of rotations have their singular points."""
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)
    nearly = torch.tensor([[1e-9, 1, 0], [0, -1, 1e-9], [1, -1e-12, 0], [1, 1e-12, 0]], dtype=torch.float64)
    return torch.nn.functional.normalize(torch.cat([x, axes, -axes, nearly]), dim=1)


def test_rotations():
    e = directions(20)
    r = rotations_to_y(e)
    assert torch.allclose(
        r @ e[:, :, None], torch.tensor([0.0, 1, 0]).double()[:, None].expand(len(e), 3, 1), atol=1e-15
    )
    assert torch.allclose(r @ r.mT, torch.eye(3).double().expand_as(r), atol=1e-14)
    assert torch.allclose(torch.linalg.det(r), torch.ones(len(e)).double())
    # Read backwards, an edge has the same frame turned by π about x.
    assert torch.allclose(rotations_to_y(-e[:20]), torch.tensor([1.0, -1, -1]).double()[:, None] * r[:20], atol=1e-15)


@pytest.mark.parametrize("degree", range(1, 7))
def test_blocks_represent_rotations(degree):
    a, b = rotations_to_y(directions(10, 1)), rotations_to_y(directions(10, 2))
    one, two, both = (wigner_blocks(r, degree)[degree] for r in (a, b, a @ b))
    assert torch.allclose(one @ two, both, atol=1e-13)
    assert torch.allclose(one @ one.mT, torch.eye(2 * degree + 1).double().expand_as(one), atol=1e-13)


def test_second_degree_is_that_of_the_convention():
    """Coefficients xz, xy, y² - (x² + z²)/2, yz, (z² - x²)/2 of a direction turn into those of the turned direction."""

    def harmonics(e):
        x, y, z = e.unbind(1)
        root = 3**0.5
        columns = [root * x * z, root * x * y, y**2 - (x**2 + z**2) / 2, root * y * z, root / 2 * (z**2 - x**2)]
        return torch.stack(columns, dim=1)

    r, e = rotations_to_y(directions(8, 3)), directions(8, 4)
    turned = (r @ e[:, :, None]).squeeze(2)
    assert torch.allclose((wigner_blocks(r, 2)[2] @ harmonics(e)[:, :, None]).squeeze(2), harmonics(turned), atol=1e-14)


@pytest.mark.parametrize("axis", range(3))
def test_generators(axis):
    angle = 1e-4
    w = torch.zeros(3, 3, dtype=torch.float64)
    w[(axis + 2) % 3, (axis + 1) % 3], w[(axis + 1) % 3, (axis + 2) % 3] = angle, -angle
    turns = torch.stack([torch.linalg.matrix_exp(w), torch.linalg.matrix_exp(-w)])
    full = [torch.block_diag(*[block[k] for block in wigner_blocks(turns, 4)]) for k in range(2)]
    slope = (full[0] - full[1]) / (2 * angle)
    assert torch.allclose(slope, generators(4, torch.float64, CPU)[axis], atol=1e-6)


def test_order_of_rows():
    assert m_major(2, 2) == [0, 2, 6, 3, 7, 1, 5, 8, 4]
    assert m_major(3, 1) == [0, 2, 6, 12, 3, 7, 13, 1, 5, 11]
    assert degrees(2) == [0, 1, 1, 1, 2, 2, 2, 2, 2]
    blocks = wigner_blocks(rotations_to_y(directions(3)), 3)
    matrices = wigner_matrices(blocks, 1)
    assert matrices.shape == (13, 10, 16)
    assert torch.equal(matrices[:, 7, 1:4], blocks[1][:, 0])


@pytest.fixture
def edges():
    """Five nodes with seven edges, one node without, one edge from a node to itself; features of three channels."""
    generator = torch.Generator().manual_seed(5)
    centers, neighbors = torch.tensor([0, 0, 1, 3, 3, 3, 4]), torch.tensor([1, 4, 0, 3, 4, 4, 0])
    r = rotations_to_y(directions(1, 6)[:7])
    x = torch.randn(5, 9, 3, generator=generator, dtype=torch.float64)
    o = torch.randn(7, 9, 3, generator=generator, dtype=torch.float64)
    f = torch.rand(7, generator=generator, dtype=torch.float64)
    return centers, neighbors, r, x, o, f


def turned(r, w):
    """Wigner matrices after a small turn w (E, 3) of every frame."""
    k = torch.zeros(len(r), 3, 3, dtype=r.dtype)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        k = k + w[:, a, None, None] * (
            torch.eye(3)[c][:, None] * torch.eye(3)[b] - torch.eye(3)[b][:, None] * torch.eye(3)[c]
        )
    return wigner_matrices(wigner_blocks(torch.linalg.matrix_exp(k) @ r, 2), 2)


def torque(turn):
    order = m_major(2, 2)
    return torch.einsum("eab,kab->ek", turn, generators(2, torch.float64, CPU)[:, order][:, :, order])


def test_node_to_edge_backward(edges):
    centers, neighbors, r, x, _, _ = edges
    w = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    y = node_to_edge_wigner_permute(x, turned(r, w), neighbors, centers)
    assert y.shape == (7, 9, 6)
    y_bar = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
    x_bar, w_bar = torch.autograd.grad((y * y_bar).sum(), (x, w))
    with torch.no_grad():
        ours, turn = node_to_edge_wigner_permute_backward(y_bar, y, turned(r, w), neighbors, centers, 5)
    assert torch.allclose(ours, x_bar, atol=1e-13)
    assert torch.allclose(torque(turn), w_bar, atol=1e-13)


def test_edge_to_node_backward(edges):
    centers, _, r, _, o, f = edges
    w = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    o.requires_grad_(), f.requires_grad_()
    x = permute_wigner_inv_edge_to_node(o, turned(r, w), f, torch.tensor([0, 2, 3, 3, 6, 7]), centers)
    assert x.shape == (5, 9, 3)
    assert not x[2].any()
    x_bar = torch.cos(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)
    expected = torch.autograd.grad((x * x_bar).sum(), (o, f, w))
    with torch.no_grad():
        o_bar, f_bar, turn = permute_wigner_inv_edge_to_node_backward(x_bar, o, turned(r, w), f, centers)
    for ours, theirs in zip((o_bar, f_bar, torque(turn)), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-13)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_scatter(count):
    index = torch.tensor([3, 0, 3, 1, 0, 3, 3])[:count]
    values = torch.arange(float(count * 2)).reshape(count, 2)
    out = scatter_sum(values, index, 5)
    for row in range(5):
        assert torch.equal(out[row], values[index == row].sum(0))
    twice = out.clone()
    scatter_add_(twice, values, index)
    assert torch.equal(twice, 2 * out)
