"""Radial factors of edges for `edges_compiled.py`: from the networks themselves, or from tables of them.

For a pair of elements a radial network is a function of the distance alone. In half precision it is tabulated: value, slope and
curvature at each of `KNOTS` distances, made in float64; an edge takes the nearest knot and expands about it. That is closer to the
network than a network of half precision would be (its errors are the same for all edges, and add up), and no product is needed,
neither forward nor backward. Above some number of elements, and in any other type, the networks themselves are evaluated.

Both are `RadialFactors`; what they accumulate in the backward pass becomes dE/dd in `along`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from threading import Lock
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.models.escn_md import edge_ops
from atomjet.models.escn_md.chunks import Chunk
from atomjet.models.escn_md.compiled import Compiled
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.escn_md.unified_radial import NetworkFactors

KNOTS = 2048
"""Points of a table, even from 0 to the cutoff: with 6 Å, no distance is further than 0.0015 Å from one."""

STEP = 1e-3
"""Step of the differences that give slopes and curvatures, Å: in float64, of fourth order, exact to nine digits."""

TABLE_BYTES = 2 * 1024**3
"""Bytes of all cached tables together (UMA-S: 107 MB for a pair of elements)."""

pack, pack_backward = Compiled(edge_ops.pack), Compiled(edge_ops.pack_backward)
pack_tabulated = Compiled(edge_ops.pack_tabulated)
pack_tabulated_backward = Compiled(edge_ops.pack_tabulated_backward)


class RadialFactors(Protocol):
    """Radial factors of the edges of one call."""

    def degree(self, chunk: Chunk) -> Tensor:
        """The network of the edge degrees, (e, 3 C)."""
        ...

    def degree_backward(self, chunk: Chunk, bar: Tensor, share: Tensor) -> None:
        """dE/dnetwork (e, 3 C), to be weighed by share (e,)."""
        ...

    def pack(self, layer: int, chunk: Chunk, y: Tensor, wigner: Tensor) -> Tensor:
        """`edge_ops.pack` with the factors of a layer."""
        ...

    def pack_backward(
        self, layer: int, chunk: Chunk, bar: Tensor, y: Tensor, wigner: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """dE/dpacked (e, 18 C) to ȳ of neighbor and center (e, 9, 2, C) and torques (2, e), all to be weighed by share (e,)."""
        ...

    def along(self) -> Tensor:
        """dE/dd (E,) through the radial factors."""
        ...


class Table(NamedTuple):
    """A network tabulated."""

    values: Tensor  # (pairs KNOTS, outputs) in the type of the model
    changes: Tensor  # (pairs KNOTS, 2, outputs) slope and curvature in storage type


class Tables:
    """Radial networks tabulated for sets of elements, least recently used first out."""

    def __init__(self, model: EscnMd, storage_dtype: torch.dtype) -> None:
        self.model, self.storage_dtype = model, storage_dtype
        self.networks = [model.edge_degree, *(block.radial for block in model.blocks)]
        outputs = sum(network[6].out_features for network in self.networks)  # type: ignore[index, union-attr]
        self.bytes_of_pair = KNOTS * outputs * (4 + 2 * storage_dtype.itemsize)  # type: ignore[operator]
        self._cached: OrderedDict[tuple[int, ...], list[Table]] = OrderedDict()
        self._lock = Lock()

    def bytes_of(self, elements: tuple[int, ...]) -> int:
        """Memory of the tables of a set of elements; zero for one that is not tabulated."""
        size = len(elements) ** 2 * self.bytes_of_pair
        return size if size <= TABLE_BYTES else 0

    def of(self, elements: tuple[int, ...]) -> list[Table] | None:
        """A table for each network, its pairs of elements by (neighbor, center); None where they would be too large."""
        if not self.bytes_of(elements):
            return None
        with self._lock:
            if elements not in self._cached:
                total = sum(self.bytes_of(key) for key in self._cached)
                while self._cached and total + self.bytes_of(elements) > TABLE_BYTES:
                    total -= self.bytes_of(self._cached.popitem(last=False)[0])
                self._cached[elements] = [self._made(network, elements) for network in self.networks]  # type: ignore[arg-type]
            self._cached.move_to_end(elements)
            return self._cached[elements]

    def _made(self, network: torch.nn.Module, elements: tuple[int, ...]) -> Table:
        model, network = self.model, copy.deepcopy(network).double()
        device = model.source_embedding.weight.device
        lengths = torch.linspace(0, model.cutoff, KNOTS, dtype=torch.float64, device=device)
        found: list[tuple[Tensor, Tensor]] = []
        for source in elements:
            for target in elements:
                shares = [model.source_embedding.weight[source], model.target_embedding.weight[target]]
                rest = torch.cat(shares).double().expand(KNOTS, -1)

                at = [
                    network(torch.cat([model.radial_basis(lengths + k * STEP), rest], dim=1)) for k in (-2, -1, 0, 1, 2)
                ]
                values = at[2]
                slopes = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * STEP)
                curvatures = (16 * (at[1] + at[3]) - 30 * at[2] - at[0] - at[4]) / (12 * STEP**2)
                found.append((values, torch.stack([slopes, curvatures], dim=1)))
        values, changes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Table(values.to(model.source_embedding.weight.dtype), changes.to(self.storage_dtype))


class TabulatedRadial:
    """Radial factors of one call from tables."""

    def __init__(
        self, model: EscnMd, tables: list[Table], elements: tuple[int, ...], graph: Graph, lengths: Tensor
    ) -> None:
        self.tables, self.channels = tables, model.config.channels
        spacing = model.cutoff / (KNOTS - 1)
        nearest = torch.round(lengths / spacing)
        self.offsets = lengths - nearest * spacing
        rank = torch.zeros(model.config.max_z, dtype=torch.int64, device=lengths.device)
        rank[list(elements)] = torch.arange(len(elements), device=lengths.device)
        ranks = rank[graph.atomic_numbers]
        pair = ranks[graph.neighbors] * len(elements) + ranks[graph.centers]
        self.knots = pair * KNOTS + nearest.long()
        self.along_bar = torch.zeros_like(lengths)

    def degree(self, chunk: Chunk) -> Tensor:
        """See `RadialFactors`."""
        knots, offsets = self.knots[chunk.edges], self.offsets[chunk.edges, None]
        values, changes = self.tables[0]
        return values[knots] + offsets * changes[knots, 0]

    def degree_backward(self, chunk: Chunk, bar: Tensor, share: Tensor) -> None:
        """See `RadialFactors`."""
        knots, offsets = self.knots[chunk.edges], self.offsets[chunk.edges, None]
        changes = self.tables[0].changes
        slope = changes[knots, 0] + offsets * changes[knots, 1]
        self.along_bar[chunk.edges] += share * (bar * slope).sum(1)

    def pack(self, layer: int, chunk: Chunk, y: Tensor, wigner: Tensor) -> Tensor:
        """See `RadialFactors`."""
        knots, offsets = self.knots[chunk.edges], self.offsets[chunk.edges]
        return pack_tabulated(y, wigner, *self.tables[layer + 1], knots, offsets, chunk.pairs)

    def pack_backward(
        self, layer: int, chunk: Chunk, bar: Tensor, y: Tensor, wigner: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `RadialFactors`."""
        knots, offsets = self.knots[chunk.edges], self.offsets[chunk.edges]
        y_bar, torque, along = pack_tabulated_backward(
            bar, y, wigner, *self.tables[layer + 1], knots, offsets, chunk.pairs
        )
        self.along_bar[chunk.edges] += share * along
        return y_bar, torque

    def along(self) -> Tensor:
        """See `RadialFactors`."""
        return self.along_bar


class NetworkRadial:
    """Radial factors of one call from the networks, in the type of the model."""

    def __init__(self, factors: NetworkFactors) -> None:
        self.factors = factors

    def degree(self, chunk: Chunk) -> Tensor:
        """See `RadialFactors`."""
        return self.factors.values(0, chunk)

    def degree_backward(self, chunk: Chunk, bar: Tensor, share: Tensor) -> None:
        """See `RadialFactors`."""
        self.factors.backward(0, chunk, bar.to(share.dtype), share)

    def pack(self, layer: int, chunk: Chunk, y: Tensor, wigner: Tensor) -> Tensor:
        """See `RadialFactors`."""
        return pack(y, wigner, self.factors.values(layer + 1, chunk), chunk.pairs)

    def pack_backward(
        self, layer: int, chunk: Chunk, bar: Tensor, y: Tensor, wigner: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `RadialFactors`."""
        values = self.factors.values(layer + 1, chunk)
        y_bar, torque, values_bar = pack_backward(bar, y, wigner, values, chunk.pairs)
        self.factors.backward(layer + 1, chunk, values_bar, share)
        return y_bar, torque

    def along(self) -> Tensor:
        """See `RadialFactors`."""
        return self.factors.along()
