"""Radial networks tabulated for pairs of elements, made when a pair first occurs, and cached: see `ops/radial_pages`.

Pairs for which there is no memory go without: whoever meets them evaluates the networks (`ops/radial_network_gpu`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atomjet.ops import radial_pages

if TYPE_CHECKING:
    from atomjet.models.escn_md.general import EscnMd

SHARE = 0.4
"""Share of the device's memory that all tables together may take; those of four pairs are allowed in any case."""


class PairTables:
    """Tables of all radial networks, by elements of neighbor and center.

    Attributes:
        first: the tables of one pair, from which kernels count pages; int16, or float32 where values have single precision.
        pages: (Z, Z) int64 on the device.
        starts: where each network's rows begin in a pair's tables, in pages: edge degrees, then layers.
        knots: of every table.
    """

    def __init__(self, model: EscnMd, total_bytes: int, single: bool = False) -> None:
        self.model, self.single = model, single
        networks = [model.edge_degree, *(block.radial for block in model.blocks)]
        self.networks = [copy.deepcopy(network).double() for network in networks]
        device, size = model.sphere_embedding.weight.device, model.config.max_z
        with torch.no_grad():
            self.knots = radial_pages.knots_for(self._functions(1, 1), model.cutoff, device) * (2 if single else 1)
        row = 3 * (4 if single else 2) * self.knots
        sizes = [row * network[6].out_features for network in networks]  # type: ignore[index, union-attr, operator]
        self.starts = [sum(sizes[:k]) // radial_pages.PAGE for k in range(len(sizes))]
        self.bytes_of_pair = sum(sizes)
        self.limit = max(int(SHARE * total_bytes) // self.bytes_of_pair, 4)
        self.pages = torch.full((size, size), radial_pages.MISSING_PAGE, dtype=torch.int64, device=device)
        self._made: dict[tuple[int, int], Tensor] = {}
        self._lock = RLock()
        self.first = self._table(1, 1)
        self._made[1, 1] = self.first
        self.pages[1, 1] = 0

    def add(self, pairs: Iterable[tuple[int, int]]) -> bool:
        """Make what is missing of pairs (neighbor, center), given with their opposites; return whether all have tables."""
        with self._lock:
            missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._made]
            left, without = self.limit - len(self._made), set()
            for source, target in sorted(missing, key=lambda pair: (sorted(pair), pair)):
                if source <= target:  # a pair and its opposite, or neither
                    left -= 1 if source == target else 2
                if left < 0 or (target, source) in without:
                    without.add((source, target))
                    continue
                table = self._table(source, target)
                self._made[source, target] = table
                self.pages[source, target] = radial_pages.pages_between(self.first, table)
            if missing and self.pages.is_cuda:
                torch.cuda.current_stream(self.pages.device).synchronize()  # they are read on other streams
            return not without

    @property
    def full(self) -> bool:
        """Whether a pair may have to go without."""
        return len(self._made) + 1 >= self.limit

    @torch.no_grad()
    def _table(self, source: int, target: int) -> Tensor:
        functions, device = self._functions(source, target), self.pages.device
        return radial_pages.paged(radial_pages.tabulate(functions, self.model.cutoff, device, self.knots, self.single))

    def _functions(self, source: int, target: int) -> list[Callable[[Tensor], Tensor]]:
        """Every network of a pair, as a function of the distance."""
        model = self.model
        shares = [model.source_embedding.weight[source], model.target_embedding.weight[target]]
        rest = torch.cat(shares).double()

        def evaluated(network: torch.nn.Module) -> Callable[[Tensor], Tensor]:
            def function(lengths: Tensor) -> Tensor:
                return network(torch.cat([model.radial_basis(lengths), rest.expand(len(lengths), -1)], dim=1))

            return function

        return [evaluated(network) for network in self.networks]
