"""How the kernels of an eSCN-MD are tiled, and all memory that an evaluation of them writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atomjet.data import Capacity
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.ops import edge_frames

FEW, MANY = 512, 2048
"""Atoms up to which rows are too few to fill a GPU, so that each is divided; atoms from which on one program a row is enough."""


@dataclass(frozen=True)
class Tiles:
    """How the kernels are tiled.

    Attributes:
        parts: programs that share the channels of an atom, where edges are summed. parts_back: the same, backward.
        split: programs that share its edges, where nothing is summed over them. splits: where something is.
        channels: of a program that packs. gate_edges: of a program of the gate.
        rows, columns, depth, warps, stages: of the products.
        atoms, atom_warps: of a program of what atoms do alone.
        dense: edges from which on the products of a single structure are cuBLAS's.
    """

    parts: int = 1
    parts_back: int = 1
    rows: int = 128
    columns: int = 128
    depth: int = 64
    warps: int = 4
    stages: int = 3
    atoms: int = 16
    atom_warps: int = 4
    dense: int = 32768
    split: int = 4
    splits: int = 1
    channels: int = 128
    gate_edges: int = 8


@dataclass(frozen=True)
class Workspace:
    """Everything that an evaluation writes; R rows of an edge, L layers.

    Attributes:
        frames (Ê, 36) float32; pages (Ê, 2) int64; knots (Ê,) int32; weights (Ê,), share (Ê, 2) float32: of edges.
        gathered: (parts_back, Ê, 4) float32. gradients: (1, Ê, 4) float32. energies: (N̂,) float32.
        packed: (Ê R 2 max(C, H),): what is packed and what is gated, and their derivatives; between them that of o.
        h, o: of each layer, (Ê, 2 + R, H) and (Ê, R, C); the derivative of h takes its place. With `capacity.recompute` all layers
            have the same h, and the same o in the second half of `packed`; each computes its own again before its backward pass.
        x, y, middle: of each layer, (N̂, 9, C) float32: its input, norm of it, and what stands between edges and atoms.
        last: (N̂, 9, C), after the last layer. x_bar (N̂, 9, C), y_bar (splits, N̂, 9, C), gate_bar: (N̂, 8, C); unit: (N̂,) float32.
        shift, shift_bar: (Ŝ, C) float32. tile_ptr: (Ŝ + 1,) int32.
        blend: (1, size), the weights of a single structure where cuBLAS multiplies.
        rows: (Ê 3 W,), one network's rows of edges whose pairs of elements have no tables; None where all have.
    """

    capacity: Capacity
    tiles: Tiles
    frames: Tensor
    pages: Tensor
    knots: Tensor
    weights: Tensor
    share: Tensor
    gathered: Tensor
    gradients: Tensor
    energies: Tensor
    packed: Tensor
    h: tuple[Tensor, ...]
    o: tuple[Tensor, ...]
    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    middle: tuple[Tensor, ...]
    last: Tensor
    x_bar: Tensor
    y_bar: Tensor
    gate_bar: Tensor
    unit: Tensor
    shift: Tensor
    shift_bar: Tensor
    tile_ptr: Tensor
    blend: Tensor | None
    rows: Tensor | None


def tiles_for(capacity: Capacity, config: EscnMdConfig, storage_dtype: torch.dtype) -> Tiles:
    """How the kernels are tiled for a capacity, with features of edges in a storage type."""
    few, many = capacity.atoms <= FEW, capacity.atoms >= MANY
    single = storage_dtype == torch.float32
    halved = 2 if config.channels >= 128 else 1
    return Tiles(
        parts=halved if few else 1,
        parts_back=halved if few or single else 1,
        split=16 if few else 4 if many else 8,
        splits=8 if few else 1 if many else 2,
        rows=128 if capacity.systems == 1 else 64,
        depth=32 if single else 64,
        warps=8 if single else 4,
        atoms=16 if few else 32,
    )


def allocate(
    config: EscnMdConfig,
    capacity: Capacity,
    tiles: Tiles,
    storage_dtype: torch.dtype,
    device: torch.device,
    blend: int,
    rows: tuple[int, torch.dtype] | None,
) -> Workspace:
    """All memory of an evaluation.

    Args:
        blend: numbers of one structure's weights where cuBLAS multiplies; 0 where it does not.
        rows: numbers of an edge's row of a radial network, and their type, where some pairs of elements have no tables.
    """
    atoms, edges, layers = capacity.atoms, capacity.edges, config.layers
    channels, hidden, coefficients = config.channels, config.hidden_channels, 5 + 2 * config.mmax

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    def stored(*shape: int) -> Tensor:
        return new(*shape, dtype=storage_dtype)

    def per_layer() -> tuple[Tensor, ...]:
        return tuple(new(atoms, 9, channels) for _ in range(layers))

    size, saved = edges * coefficients * max(channels, hidden), 1 if capacity.recompute else layers
    packed = stored(2 * size)
    shared = packed[size : size + edges * coefficients * channels].view(edges, coefficients, channels)
    return Workspace(
        capacity=capacity,
        tiles=tiles,
        frames=new(edges, edge_frames.FRAME),
        pages=torch.empty(edges, 2, dtype=torch.int64, device=device),
        knots=new(edges, dtype=torch.int32),
        weights=new(edges),
        share=new(edges, 2),
        gathered=new(tiles.parts_back, edges, 4),
        gradients=new(1, edges, 4),
        energies=new(atoms),
        packed=packed,
        h=tuple(stored(edges, 2 + coefficients, hidden) for _ in range(saved)) * (layers // saved),
        o=(shared,) * layers if capacity.recompute else tuple(stored(*shared.shape) for _ in range(layers)),
        x=per_layer(),
        y=per_layer(),
        middle=per_layer(),
        last=new(atoms, 9, channels),
        x_bar=new(atoms, 9, channels),
        y_bar=new(tiles.splits, atoms, 9, channels),
        gate_bar=new(atoms, 8, channels),
        unit=new(atoms),
        shift=new(capacity.systems, channels),
        shift_bar=new(capacity.systems, channels),
        tile_ptr=new(capacity.systems + 1, dtype=torch.int32),
        blend=stored(1, blend) if blend else None,
        rows=new(edges * rows[0], dtype=rows[1]) if rows else None,
    )


def bytes_of(workspace: Workspace) -> int:
    """What its tensors take."""
    groups = [value if isinstance(value, tuple) else (value,) for value in vars(workspace).values()]
    tensors = {id(x): x for group in groups for x in group if isinstance(x, Tensor)}
    if workspace.capacity.recompute:
        del tensors[id(workspace.o[0])]  # in `packed`
    return sum(x.numel() * x.element_size() for x in tensors.values())
