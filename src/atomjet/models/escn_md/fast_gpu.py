"""eSCN-MD in fused Triton kernels, for lmax = 2 and mmax = 1 or 2: one row of launches from edges to energies and gradients.

The same function as `general.py`, with the derivative of `fast_pytorch.py`, in buffers of fixed size and without looking at the
host: charge, spin, task and blend of each structure are data (`ConditionBuffers`, `BlendSlots`), so one CUDA graph serves them
all.

    once        frames, places in the radial tables (`edge_frames`), first features (`edge_degrees_gpu`)
    layer       norm; pack: turn and scale both atoms of every edge; product; gate; product; unpack: turn back and sum;
                what atoms do alone (`atom_wise_gpu`); sums of the charge channels
    head        energies, and x̄ = dE/dx, from which the layers are gone through backwards
    last        edge degrees backwards, and dE/d(edge vectors)

- What belongs to edges is in half precision, with precision "high" in float32; what belongs to atoms and all sums in float32. An
  edge's derivatives are in units of a power of two of its center (`share`), so that they keep their digits.
- An atom's program does what its features need in both edges of a pair: nothing is gathered, nothing added atomically, and results
  are the same to the last bit.
- Gradients are those of forces and virials: what belongs to a reverse edge may be counted at the edge itself (see
  `ops/node_to_edge_wigner_permute_gpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from atomjet.data import Capacity, ConditionBuffers, Conditions, Graph, GraphBuffers, Status, System
from atomjet.errors import BackendError
from atomjet.models.contract import Atomic, Segment, TuningSpace
from atomjet.models.escn_md.blend_slots import BlendSlots
from atomjet.models.escn_md.experts import mixture_keys
from atomjet.models.escn_md.general import RESCALE, Block, EscnMd
from atomjet.models.escn_md.memory import total_bytes
from atomjet.models.escn_md.neighbor_limit import DEGENERACY
from atomjet.models.escn_md.pair_tables import PairTables
from atomjet.neighbors import search
from atomjet.ops import (
    atom_wise_gpu,
    channel_balance_gpu,
    degree_norm_gpu,
    edge_degrees_gpu,
    edge_frames,
    grouped_product_gpu,
    neighbor_limit_gpu,
    radial_network_gpu,
    so2_gate_gpu,
    task_head_gpu,
)
from atomjet.ops import node_to_edge_wigner_permute_gpu as pack
from atomjet.ops import permute_wigner_inv_edge_to_node_gpu as unpack
from atomjet.ops.grouped_product_gpu import Parts

OLDEST = (8, 0)
"""Compute capability of the oldest GPU whose tensor cores the kernels are written for."""

WIDTHS = (16, 32, 64, 128, 256)
"""Channels, hidden or not, that the kernels serve."""

NO_LIMIT = 2**30
"""Neighbours of an atom."""

SPARE, ROUND = 1.02, 256
"""Rows that cuBLAS multiplies, of those found before, and whole multiples."""

FEW, MANY = 512, 2048
"""Atoms up to which there are too few rows to fill a GPU, so that each is divided; and from which on one program is enough."""


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
        h, o: of each layer, (Ê, 2 + R, H) and (Ê, R, C); the derivative of h takes its place.
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


class FastGpu:
    """The `fast_gpu` backend of eSCN-MD; holds rearranged copies of the weights.

    Args:
        model: on a CUDA device.
        precision: "default" or "high".
        tiles: how the kernels are tiled; default: by the size of the call.

    Raises:
        BackendError: a model, device or precision that the kernels do not serve.
    """

    tuning: TuningSpace | None = None
    silent_conditions: tuple[int, int, int, int] | None = None
    exchanges: int | None = None

    def __init__(self, model: EscnMd, precision: str = "default", tiles: Tiles | None = None) -> None:
        _check(model, precision)
        self.model, self.precision, self.tiles = model, precision, tiles
        self.storage_dtype = torch.float16 if precision == "default" else torch.float32
        config = model.config
        self.device = model.sphere_embedding.weight.device
        self.mmax = config.mmax
        self.balanced = [
            (channels, name)
            for channels, name in ((config.charge_channels, "charge"), (config.spin_channels, "spin"))
            if channels[1] > channels[0]
        ]
        with torch.no_grad():
            memory = total_bytes(self.device)
            self.slots = BlendSlots(model, memory, self.storage_dtype)
            self.tables = PairTables(model, memory, single=precision == "high")
            self.elements = model.sphere_embedding.weight.detach().float()
            blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
            self.norms = [
                (b.norm_1.affine_weight.detach().float(), b.norm_1.affine_bias.detach().float()) for b in blocks
            ]
            self.biases = [
                (b.conv_1.m0.bias.detach().float(), b.conv_2.m0.bias.detach().float())  # type: ignore[union-attr]
                for b in blocks
            ]
            self.atom_wise = [atom_wise_gpu.weights_of(b.norm_2, b.atom_wise) for b in blocks]
            self.head = _head(model)
            networks = [model.edge_degree, *(block.radial for block in blocks)]
            self.networks = [radial_network_gpu.weights_of(model, network) for network in networks]  # type: ignore[arg-type]

    # ---------------------------------------------------------------------------------------------------------- conditions

    def admit(self, system: System, task: str | None) -> Conditions | None:
        """See `CapturedBackend`; None where calls hold too many blends."""
        completed = self.model.complete(system, task)
        if self.model.config.max_neighbors:  # the device says nothing of it; here it is asked once a composition
            self.model.warn(completed, search(completed, self.model.cutoff))
        keys = mixture_keys(self.model, completed)
        self._tabulate(completed.atomic_numbers, completed.system_index, completed.num_systems)
        held = self.slots.take(keys)
        if held is None:
            return None
        conditions = Conditions.of(completed, self.model.config.tasks)
        conditions.values[3] = held[0]
        return replace(conditions, lease=held[1])

    def _tabulate(self, numbers: Tensor, system_index: Tensor, systems: int) -> bool:
        """Make the tables of all pairs of elements that stand in one structure; return whether there is room for all."""
        size = self.model.config.max_z
        there = np.zeros((systems, size), dtype=bool)
        there[system_index.cpu().numpy(), numbers.cpu().numpy()] = True
        pairs = np.einsum("sa,sb->ab", there.astype(np.int64), there.astype(np.int64))
        return self.tables.add((int(a), int(b)) for a, b in np.argwhere(pairs))

    # ---------------------------------------------------------------------------------------------------------- workspace

    def tiles_for(self, capacity: Capacity) -> Tiles:
        """How the kernels are tiled for so much."""
        if self.tiles is not None:
            return self.tiles
        few, many = capacity.atoms <= FEW, capacity.atoms >= MANY
        single = self.storage_dtype == torch.float32
        halved = 2 if self.model.config.channels >= 128 else 1
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

    def _dense(self, capacity: Capacity, tiles: Tiles) -> bool:
        """Whether cuBLAS multiplies: it does not know how many rows are in use, nor more than one blend."""
        return capacity.systems == 1 and capacity.edges > tiles.dense and self.storage_dtype == torch.float16

    def workspace(self, capacity: Capacity) -> Workspace:
        """See `CapturedBackend`."""
        return self._workspace(capacity, self.device)

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates."""
        found = self._workspace(capacity, torch.device("meta"))
        tensors: list[Tensor] = []
        for value in vars(found).values():
            tensors += (
                [value]
                if isinstance(value, Tensor)
                else [x for x in value if isinstance(x, Tensor)]
                if isinstance(value, tuple)
                else []
            )
        return sum(x.numel() * x.element_size() for x in tensors)

    def _workspace(self, capacity: Capacity, device: torch.device, networks: bool = False) -> Workspace:
        tiles, config = self.tiles_for(capacity), self.model.config
        atoms, edges, layers = capacity.atoms, capacity.edges, config.layers
        channels, hidden, rows = config.channels, config.hidden_channels, 5 + 2 * self.mmax

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        def stored(*shape: int) -> Tensor:
            return new(*shape, dtype=self.storage_dtype)

        def whole(*shape: int) -> Tensor:
            return new(*shape, dtype=torch.int32)

        def per_layer(*shape: int) -> tuple[Tensor, ...]:
            return tuple(new(atoms, 9, channels) for _ in range(layers))

        widest = max(channels, hidden)
        return Workspace(
            capacity=capacity,
            tiles=tiles,
            frames=new(edges, edge_frames.FRAME),
            pages=torch.empty(edges, 2, dtype=torch.int64, device=device),
            knots=whole(edges),
            weights=new(edges),
            share=new(edges, 2),
            gathered=new(tiles.parts_back, edges, 4),
            gradients=new(1, edges, 4),
            energies=new(atoms),
            packed=stored(edges * rows * 2 * widest),
            h=tuple(stored(edges, 2 + rows, hidden) for _ in range(layers)),
            o=tuple(stored(edges, rows, channels) for _ in range(layers)),
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
            tile_ptr=whole(capacity.systems + 1),
            blend=stored(1, self.slots.weights.shape[1]) if self._dense(capacity, tiles) else None,
            rows=new(edges * self._row_of_network, dtype=self.tables.first.dtype) if networks else None,
        )

    @property
    def _row_of_network(self) -> int:
        """Numbers of an edge's row of a layer's network."""
        return 3 * 2 * (4 + self.mmax) * self.model.config.channels

    # ---------------------------------------------------------------------------------------------------------- evaluation

    def segments(self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: Workspace) -> Sequence[Segment]:
        """See `CapturedBackend`."""
        call = _Call(self, graph, conditions, workspace)
        return [Segment(call.launch)]

    def result(self, workspace: Workspace) -> Atomic:
        """See `CapturedBackend`."""
        return Atomic(workspace.energies, workspace.gradients, of_reverse=False)

    @torch.no_grad()
    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å as `forces_from_gradients` and virials take them.

        Raises:
            BackendError: more unlike structures than there are slots for their weights.
        """
        keys = mixture_keys(self.model, graph)
        whole = self._tabulate(graph.atomic_numbers, graph.system_index, graph.num_systems)
        held = self.slots.take(keys)
        if held is None:
            raise BackendError(
                f"{len(set(keys))} kinds of structures at once, weights are kept of {len(self.slots.weights)}; give fewer"
            )
        try:
            padded = GraphBuffers.from_graph(graph)
            conditions = ConditionBuffers.empty(graph.num_systems, graph.num_atoms, self.device)
            conditions.values.copy_(torch.stack([graph.charge, graph.spin, self.model.tasks_of(graph), graph.charge]))
            conditions.values[3] = torch.tensor(held[0], device=self.device)
            conditions.system_index.copy_(graph.system_index)
            workspace = self._workspace(padded.capacity, self.device, networks=not whole)
            _Call(self, padded, conditions, workspace).launch()
            atomic = self.result(workspace)
            gradients = atomic.gradients[0, : graph.num_edges, :3].clone()
            energies = atomic.energies.clone()
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
        finally:
            held[1].release()
        return energies, gradients

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        capacity = Capacity(graph.num_systems, graph.num_atoms, max(graph.num_edges, 1), graph.num_atoms)
        row = self._row_of_network * self.tables.first.element_size() if self.tables.full else 0
        return self.bytes_of(capacity) + (64 + row) * graph.num_edges


class _Call:
    """Enqueues one evaluation over fixed buffers."""

    def __init__(self, backend: FastGpu, graph: GraphBuffers, conditions: ConditionBuffers, w: Workspace) -> None:
        self.backend, self.graph, self.conditions, self.w = backend, graph, conditions, w
        self.num_atoms, self.num_edges = graph.owned, graph.row_ptr[-1:]
        self.width = backend.model.config.channels
        self.hidden = backend.model.config.hidden_channels
        self.rows = 5 + 2 * backend.mmax
        pinned = w.blend is not None and w.blend.is_cuda
        self.found = torch.zeros(1, dtype=torch.int32, pin_memory=pinned)
        self.dense_rows, self.rows_at = w.capacity.edges, 0
        if w.rows is not None:
            self.rows_at = (w.rows.data_ptr() - backend.tables.first.data_ptr()) // 4

    def launch(self) -> None:
        """Enqueue everything."""
        b, w = self.backend, self.w
        layers = b.model.config.layers
        self._start()
        for layer in range(layers):
            self._forward(layer)
        task_head_gpu.launch(
            x=w.last,
            shift=w.shift if b.balanced else None,
            system_index=self.conditions.system_index,
            tasks=self.conditions.task,
            weights=b.head,
            num_atoms=self.num_atoms,
            energies=w.energies,
            x_bar=w.x_bar,
            status=self.graph.status,
            bit=int(Status.RANGE),
            atoms=w.tiles.atoms,
        )
        for layer in reversed(range(layers)):
            self._backward(layer)
        self._networks(0)
        edge_degrees_gpu.launch_bwd(
            rows=self.rows_at,
            x_bar=w.x_bar,
            frames=w.frames,
            pages=w.pages,
            knots=w.knots,
            row_ptr=self.graph.row_ptr,
            num_atoms=self.num_atoms,
            tables=b.tables.first,
            vectors=self.graph.vectors,
            weights=w.weights,
            gathered=w.gathered,
            gradients=w.gradients,
            status=self.graph.status,
            bit=int(Status.RANGE),
            rescale=RESCALE,
            cutoff=b.model.cutoff,
            split=w.tiles.split,
        )

    def _start(self) -> None:
        b, w, graph, conditions = self.backend, self.w, self.graph, self.conditions
        w.gathered.zero_()
        if w.blend is not None:
            torch.index_select(b.slots.weights, 0, conditions.slot[:1], out=w.blend)  # 13 MB, a few µs
            self._divide()
        grouped_product_gpu.launch_tiles(
            row_ptr=graph.row_ptr,
            system_ptr=graph.system_ptr,
            tile_ptr=w.tile_ptr,
            rows=w.tiles.rows,
            skip=0 if w.blend is None else self.dense_rows,
        )
        neighbor_limit_gpu.launch(
            row_ptr=graph.row_ptr,
            num_atoms=self.num_atoms,
            vectors=graph.vectors,
            weights=w.weights,
            limit=b.model.config.max_neighbors or NO_LIMIT,
            slack=DEGENERACY,
        )
        edge_frames.launch(
            row_ptr=graph.row_ptr,
            num_atoms=self.num_atoms,
            neighbors=graph.neighbors,
            reverse=graph.reverse,
            vectors=graph.vectors,
            atomic_numbers=graph.atomic_numbers,
            weights=w.weights,
            radial_pages=b.tables.pages,
            cutoff=b.model.cutoff,
            last_knot=b.tables.knots - 1,
            frames=w.frames,
            pages=w.pages,
            knots=w.knots,
            status=graph.status if w.rows is None else None,
            bit=int(Status.SLOT),
        )
        self._networks(0)
        edge_degrees_gpu.launch_fwd(
            rows=self.rows_at,
            frames=w.frames,
            row_ptr=graph.row_ptr,
            pages=w.pages,
            knots=w.knots,
            num_atoms=self.num_atoms,
            tables=b.tables.first,
            elements=b.elements,
            atomic_numbers=graph.atomic_numbers,
            structures=b.slots.embeddings,
            system_index=conditions.system_index,
            slots=conditions.slot,
            x=w.x[0],
            rescale=RESCALE,
            channels=self.width // w.tiles.parts,
        )

    def _divide(self) -> None:
        """How many rows cuBLAS multiplies, which cannot look how many there are: all that there is room for, where every kernel is
        launched; in a CUDA graph about as many as were found before it. Those beyond, if there are any, are the other kernel's.
        """
        room = self.w.capacity.edges
        self.dense_rows = room
        if not self.num_edges.is_cuda:
            return
        if torch.cuda.is_current_stream_capturing():
            likely = int(SPARE * int(self.found))
            if likely:
                self.dense_rows = min(room, -(-likely // ROUND) * ROUND)
        else:
            self.found.copy_(self.num_edges, non_blocking=True)

    def _forward(self, layer: int) -> None:
        b, w, graph, conditions = self.backend, self.w, self.graph, self.conditions
        weight, bias = b.norms[layer]
        first, second = b.slots.parts[layer]
        degree_norm_gpu.launch_fwd(
            x=w.x[layer],
            shift=w.shift if b.balanced and layer else None,
            weight=weight,
            bias=bias,
            structures=b.slots.embeddings,
            system_index=conditions.system_index,
            slots=conditions.slot,
            num_atoms=self.num_atoms,
            y=w.y[layer],
        )
        packed = self._view(w.packed, self.rows, 2 * self.width)
        self._networks(1 + layer)
        pack.launch_fwd(
            y=w.y[layer],
            **self._edges(),
            start=b.tables.starts[1 + layer],
            packed=packed,
            channels=w.tiles.channels,
            split=w.tiles.split,
        )
        self._product(first, packed, w.h[layer], backward=False)
        gated = self._view(w.packed, self.rows, self.hidden)
        so2_gate_gpu.launch_fwd(
            h=w.h[layer],
            bias=b.biases[layer][0],
            num_edges=self.num_edges,
            q=gated,
            mmax=b.mmax,
            edges=w.tiles.gate_edges,
        )
        self._product(second, gated, w.o[layer], backward=False)
        unpack.launch_fwd(
            o=w.o[layer],
            bias=b.biases[layer][1],
            frames=w.frames,
            row_ptr=graph.row_ptr,
            num_atoms=self.num_atoms,
            x=w.x[layer],
            out=w.middle[layer],
            mmax=b.mmax,
            channels=self.width // w.tiles.parts,
        )
        after = w.x[layer + 1] if layer + 1 < len(w.x) else w.last
        atom_wise_gpu.launch_fwd(
            x=w.middle[layer],
            weights=b.atom_wise[layer],
            num_atoms=self.num_atoms,
            out=after,
            atoms=w.tiles.atoms,
            warps=w.tiles.atom_warps,
        )
        self._balance(after, w.shift, with_target=True)

    def _backward(self, layer: int) -> None:
        """Derivatives of a layer, in the opposite order."""
        self._atoms_backward(layer)
        self._messages_backward(layer)
        self._norm_backward(layer)

    def _atoms_backward(self, layer: int) -> None:
        """What belongs to atoms alone, and the norm before it."""
        b, w, conditions = self.backend, self.w, self.conditions
        shift = w.shift_bar if b.balanced else None
        self._balance(w.x_bar, w.shift_bar, with_target=False)
        atom_wise_gpu.launch_bwd(
            x_bar=w.x_bar,
            shift=shift,
            system_index=conditions.system_index,
            x=w.middle[layer],
            weights=b.atom_wise[layer],
            num_atoms=self.num_atoms,
            z_bar=w.y_bar[0],
            gate_bar=w.gate_bar,
            atoms=w.tiles.atoms,
            warps=w.tiles.atom_warps,
        )
        degree_norm_gpu.launch_bwd(
            y_bar=w.y_bar[:1],
            more=w.gate_bar,
            x=w.middle[layer],
            shift=shift,
            weight=b.atom_wise[layer].norm,
            residual=w.x_bar,
            system_index=conditions.system_index,
            num_atoms=self.num_atoms,
            x_bar=w.x_bar,
            unit=w.unit,
        )

    def _messages_backward(self, layer: int) -> None:
        """Out of the edges' frames, through both convolutions and the gate between, and back into the atoms."""
        b, w, graph = self.backend, self.w, self.graph
        first, second = b.slots.parts[layer]
        o_bar = self._view(w.packed, self.rows, self.width)
        q_bar = self._view(w.packed, self.rows, self.hidden, which=1)
        h_bar = w.h[layer]
        packed_bar = self._view(w.packed, self.rows, 2 * self.width)
        unpack.launch_bwd(
            x_bar=w.x_bar,
            unit=w.unit,
            o=w.o[layer],
            bias=b.biases[layer][1],
            frames=w.frames,
            row_ptr=graph.row_ptr,
            reverse=graph.reverse,
            num_atoms=self.num_atoms,
            o_bar=o_bar,
            share=w.share,
            gathered=w.gathered,
            mmax=b.mmax,
            split=w.tiles.split,
        )
        self._product(second, o_bar, q_bar, backward=True)
        so2_gate_gpu.launch_bwd(
            q_bar=q_bar,
            h=w.h[layer],
            bias=b.biases[layer][0],
            num_edges=self.num_edges,
            h_bar=h_bar,
            mmax=b.mmax,
            edges=w.tiles.gate_edges,
        )
        self._product(first, h_bar, packed_bar, backward=True)
        self._networks(1 + layer)
        pack.launch_bwd(
            packed_bar=packed_bar,
            share=w.share,
            y=w.y[layer],
            **self._edges(),
            start=b.tables.starts[1 + layer],
            y_bar=w.y_bar,
            gathered=w.gathered,
        )

    def _norm_backward(self, layer: int) -> None:
        """The norm of what edges gather."""
        b, w = self.backend, self.w
        degree_norm_gpu.launch_bwd(
            y_bar=w.y_bar,
            more=None,
            x=w.x[layer],
            shift=None,
            weight=b.norms[layer][0],
            residual=w.x_bar,
            system_index=self.conditions.system_index,
            num_atoms=self.num_atoms,
            x_bar=w.x_bar,
            unit=None,
        )

    def _edges(self) -> dict[str, Any]:
        """What both directions of `pack` are given."""
        b, w = self.backend, self.w
        return {
            "frames": w.frames,
            "row_ptr": self.graph.row_ptr,
            "num_atoms": self.num_atoms,
            "reverse": self.graph.reverse,
            "pages": w.pages,
            "knots": w.knots,
            "tables": b.tables.first,
            "rows": self.rows_at,
            "mmax": b.mmax,
        }

    def _networks(self, number: int) -> None:
        """One radial network at the distances of edges whose pairs have no tables, if there are any."""
        w, graph = self.w, self.graph
        if w.rows is not None:
            radial_network_gpu.launch(
                vectors=graph.vectors,
                neighbors=graph.neighbors,
                reverse=graph.reverse,
                pages=w.pages,
                atomic_numbers=graph.atomic_numbers,
                num_edges=self.num_edges,
                weights=self.backend.networks[number],
                rows=w.rows,
            )

    def _view(self, buffer: Tensor, rows: int, width: int, which: int = 0) -> Tensor:
        """(Ê, rows, width) of a temporary, the first or the second in it."""
        size = self.w.capacity.edges * rows * width
        first = which * (len(buffer) // 2)
        return buffer[first : first + size].view(-1, rows, width)

    def _balance(self, x: Tensor, shift: Tensor, with_target: bool) -> None:
        for number, (channels, name) in enumerate(self.backend.balanced):
            channel_balance_gpu.launch(
                x=x,
                system_ptr=self.graph.system_ptr,
                target=getattr(self.conditions, name) if with_target else None,
                less=0 if name == "charge" else 1,
                channels=channels,
                shift=shift,
                first=number == 0,
                atoms=self.w.capacity.atoms_per_system,
            )

    def _product(self, parts: Parts, x: Tensor, y: Tensor, backward: bool) -> None:
        w, graph = self.w, self.graph
        x, y = x.flatten(1), y.flatten(1)
        skip = 0
        if w.blend is not None:
            skip = self.dense_rows
            _dense_product(parts, x[:skip], w.blend[0], y[:skip], backward)
        grouped_product_gpu.launch(
            x=x,
            weights=self.backend.slots.weights,
            parts=parts,
            backward=backward,
            y=y,
            row_ptr=graph.row_ptr,
            system_ptr=graph.system_ptr,
            tile_ptr=w.tile_ptr,
            slots=self.conditions.slot,
            rows=w.tiles.rows,
            skip=skip,
            columns=w.tiles.columns,
            depth=w.tiles.depth,
            warps=w.tiles.warps,
            stages=w.tiles.stages,
        )


def _dense_product(parts: Parts, x: Tensor, blend: Tensor, y: Tensor, backward: bool) -> None:
    """The products of one blend by cuBLAS, over all rows that there is room for."""
    at, x_at, y_at = parts.start, 0, 0
    for outputs, inputs in zip(parts.outputs, parts.inputs, strict=True):
        if outputs:
            matrix = blend[at : at + outputs * inputs].view(outputs, inputs)
            wide, narrow = (outputs, inputs) if backward else (inputs, outputs)
            factor = matrix if backward else matrix.T
            torch.mm(x[:, x_at : x_at + wide], factor, out=y[:, y_at : y_at + narrow])
            at, x_at, y_at = at + outputs * inputs, x_at + wide, y_at + narrow


def _head(model: EscnMd) -> task_head_gpu.Weights:
    (first, second, third) = model.head
    w_1, w_2, w_3 = (layer.weights.detach().float() for layer in (first, second, third))  # type: ignore[union-attr]
    b_1, b_2, b_3 = (layer.bias.detach().float() for layer in (first, second, third))  # type: ignore[union-attr]
    return task_head_gpu.Weights(
        model.norm.affine_weight.detach().float(),
        model.norm.affine_bias.detach().float(),
        atom_wise_gpu.halves(w_1.mT),
        b_1,
        atom_wise_gpu.halves(w_2.mT),
        b_2,
        w_3[:, 0].contiguous(),
        b_3,
        atom_wise_gpu.halves(w_1),
        atom_wise_gpu.halves(w_2),
        model.scales.float(),
    )


def _check(model: EscnMd, precision: str) -> None:
    """Say why the kernels do not serve."""
    config = model.config
    if precision == "float64":
        raise BackendError("backend 'fast_gpu' computes in float32; for precision 'float64' use 'fast_pytorch'")
    if config.lmax != 2 or config.mmax not in (1, 2):
        raise BackendError(
            f"backend 'fast_gpu' is written for lmax 2 with mmax 1 or 2; this model has lmax {config.lmax} and mmax {config.mmax}: "
            "use 'general'"
        )
    for name, width in (("channels", config.channels), ("hidden_channels", config.hidden_channels)):
        if width not in WIDTHS:
            raise BackendError(
                f"backend 'fast_gpu' serves {', '.join(map(str, WIDTHS))} channels; this model has {name} {width}: "
                "use 'fast_pytorch'"
            )
    device = model.sphere_embedding.weight.device
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < OLDEST:
            raise BackendError(
                f"backend 'fast_gpu' needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or higher, this one has "
                f"{found[0]}.{found[1]}; use 'fast_pytorch'"
            )
    elif not isinstance(pack.node_to_edge_wigner_permute_fwd_kernel, InterpretedFunction):
        raise BackendError(f"backend 'fast_gpu' needs a CUDA device, not {str(device)!r}; use 'fast_pytorch'")
