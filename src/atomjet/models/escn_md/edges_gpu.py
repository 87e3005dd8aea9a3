"""The passes over the edges of an eSCN-MD in fused kernels, over buffers of fixed size: see `fast_gpu` for the order of launches.

They are those of `edges.Edges`, without tensors of their own: each reads and writes the workspace. X̄ stands for dE/dX.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atomjet.data import ConditionBuffers, GraphBuffers, Status
from atomjet.models.escn_md.blend_slots import BlendSlots
from atomjet.models.escn_md.blocks import Block
from atomjet.models.escn_md.general import RESCALE, EscnMd
from atomjet.models.escn_md.memory import total_bytes
from atomjet.models.escn_md.neighbor_limit import DEGENERACY
from atomjet.models.escn_md.pair_tables import PairTables
from atomjet.models.escn_md.workspace import Workspace
from atomjet.ops import (
    edge_degrees_gpu,
    edge_frames,
    grouped_product_gpu,
    neighbor_limit_gpu,
    radial_network_gpu,
    so2_gate_gpu,
)
from atomjet.ops import node_to_edge_wigner_permute_gpu as pack
from atomjet.ops import permute_wigner_inv_edge_to_node_gpu as unpack
from atomjet.ops.grouped_product_gpu import Parts

NO_LIMIT = 2**30
"""Neighbours of an atom, more than any has: for models that have no limit."""

SPARE, ROUND = 1.02, 256
"""Rows that cuBLAS multiplies, as a multiple of those found before; and what their number is rounded up to."""


class GpuEdgeWeights:
    """What calls share of the passes over edges.

    Attributes:
        slots: blends of experts. tables: radial networks by pairs of elements. networks: themselves, for pairs without tables.
        elements: (Z, C) float32 embeddings. biases: of m = 0, of both convolutions of each layer.
    """

    def __init__(self, model: EscnMd, storage_dtype: torch.dtype) -> None:
        config = model.config
        self.mmax, self.channels, self.hidden = config.mmax, config.channels, config.hidden_channels
        self.cutoff, self.max_neighbors = model.cutoff, config.max_neighbors
        blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
        memory = total_bytes(model.sphere_embedding.weight.device)
        self.slots = BlendSlots(model, memory, storage_dtype)
        self.tables = PairTables(model, memory, single=storage_dtype == torch.float32)
        self.elements = model.sphere_embedding.weight.detach().float()
        self.biases = [
            (b.conv_1.m0.bias.detach().float(), b.conv_2.m0.bias.detach().float())  # type: ignore[union-attr]
            for b in blocks
        ]
        networks = [model.edge_degree, *(block.radial for block in blocks)]
        self.networks = [radial_network_gpu.weights_of(model, network) for network in networks]  # type: ignore[arg-type]

    @property
    def row_of_network(self) -> tuple[int, torch.dtype]:
        """Numbers of an edge's row of a layer's network, and their type."""
        return 3 * 2 * (4 + self.mmax) * self.channels, self.tables.first.dtype


class GpuEdges:
    """The edges of one evaluation over fixed buffers; every pass is enqueued, and waits for nothing."""

    def __init__(
        self, weights: GpuEdgeWeights, graph: GraphBuffers, conditions: ConditionBuffers, w: Workspace
    ) -> None:
        self.weights, self.graph, self.conditions, self.w = weights, graph, conditions, w
        self.num_atoms, self.num_edges = graph.owned, graph.row_ptr[-1:]
        self.width = weights.channels
        self.hidden = weights.hidden
        self.rows = 5 + 2 * weights.mmax
        pinned = w.blend is not None and w.blend.is_cuda
        self.found = torch.zeros(1, dtype=torch.int32, pin_memory=pinned)
        self.dense_rows, self.rows_at = w.capacity.edges, 0
        if w.rows is not None:
            self.rows_at = (w.rows.data_ptr() - weights.tables.first.data_ptr()) // 4

    def degrees(self) -> None:
        """What is found once a call, and the first features of atoms: x[0]."""
        b, w, graph, conditions = self.weights, self.w, self.graph, self.conditions
        w.gathered.zero_()
        if w.blend is not None:
            torch.index_select(b.slots.weights, 0, conditions.slot[:1], out=w.blend)  # 13 MB, a few µs
            self.divide()
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
            limit=b.max_neighbors or NO_LIMIT,
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
            cutoff=b.cutoff,
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

    def divide(self) -> None:
        """How many rows cuBLAS multiplies, which cannot look how many there are: as many as the buffers hold, where every kernel is
        launched; in a CUDA graph about as many as were found before it. Those beyond, if there are any, are the other kernel's.
        """
        capacity = self.w.capacity.edges
        self.dense_rows = capacity
        if not self.num_edges.is_cuda:
            return
        if torch.cuda.is_current_stream_capturing():
            likely = int(SPARE * int(self.found))
            if likely:
                self.dense_rows = min(capacity, -(-likely // ROUND) * ROUND)
        else:
            self.found.copy_(self.num_edges, non_blocking=True)

    def messages(self, layer: int) -> None:
        """y to middle, which is x and the sums of messages."""
        b, w = self.weights, self.w
        self._convolve(layer)
        unpack.launch_fwd(
            o=w.o[layer],
            bias=b.biases[layer][1],
            frames=w.frames,
            row_ptr=self.graph.row_ptr,
            num_atoms=self.num_atoms,
            x=w.x[layer],
            out=w.middle[layer],
            mmax=b.mmax,
            channels=self.width // w.tiles.parts,
        )

    def _convolve(self, layer: int) -> None:
        """y to h and o: into the edges' frames, and through both convolutions with the gate between."""
        b, w = self.weights, self.w
        first, second = b.slots.parts[layer]
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

    def messages_backward(self, layer: int) -> None:
        """x̄ to ȳ: out of the edges' frames, through both convolutions and the gate between, and back into the atoms."""
        b, w, graph = self.weights, self.w, self.graph
        first, second = b.slots.parts[layer]
        if w.capacity.recompute and layer + 1 < len(w.h):  # those of the last layer are still there
            self._convolve(layer)
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

    def degrees_backward(self) -> None:
        """x̄ of the first features to gradients of edges."""
        b, w = self.weights, self.w
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
            cutoff=b.cutoff,
            split=w.tiles.split,
        )

    def _edges(self) -> dict[str, Any]:
        """What both directions of `pack` are given."""
        b, w = self.weights, self.w
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
                weights=self.weights.networks[number],
                rows=w.rows,
            )

    def _view(self, buffer: Tensor, rows: int, width: int, which: int = 0) -> Tensor:
        """(Ê, rows, width) of a temporary, the first or the second in it."""
        size = self.w.capacity.edges * rows * width
        first = which * (len(buffer) // 2)
        return buffer[first : first + size].view(-1, rows, width)

    def _product(self, parts: Parts, x: Tensor, y: Tensor, backward: bool) -> None:
        w, graph = self.w, self.graph
        x, y = x.flatten(1), y.flatten(1)
        skip = 0
        if w.blend is not None:
            skip = self.dense_rows
            _dense_product(parts, x[:skip], w.blend[0], y[:skip], backward)
        grouped_product_gpu.launch(
            x=x,
            weights=self.weights.slots.weights,
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
    """The products of one blend by cuBLAS, over all rows of x."""
    at, x_at, y_at = parts.start, 0, 0
    for outputs, inputs in zip(parts.outputs, parts.inputs, strict=True):
        if outputs:
            matrix = blend[at : at + outputs * inputs].view(outputs, inputs)
            read, written = (outputs, inputs) if backward else (inputs, outputs)
            factor = matrix if backward else matrix.T
            torch.mm(x[:, x_at : x_at + read], factor, out=y[:, y_at : y_at + written])
            at, x_at, y_at = at + outputs * inputs, x_at + read, y_at + written
