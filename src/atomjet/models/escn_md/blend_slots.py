"""Blends of experts where kernels find them: matrices in numbered slots, leased to the calls that use them.

A slot holds, for each layer, the matrices of conv_1 and conv_2 for m = 0, 1, 2, (outputs, inputs) one after the other; those of
m > 0 as one real matrix on (m, -m), [[W_1, -W_2], [W_2, W_1]]. New blends are made several at a time. What no call holds is
kept until its slot is needed, least recently used first. Slots stay where they are, so a CUDA graph that reads them stays
valid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from atomjet.models.escn_md.experts import MixtureKey
from atomjet.ops.grouped_product_gpu import Parts

if TYPE_CHECKING:
    from atomjet.models.escn_md.general import EscnMd

FEWEST, MOST = 4, 256
"""Slots: at least, at most."""

SHARE = 0.03
"""Share of the device's memory that all slots together may take, between FEWEST and MOST of them."""

AT_ONCE = 16
"""Blends that are made together."""


@dataclass
class Lease:
    """Some slots, each with what it must hold."""

    slots: BlendSlots
    taken: dict[int, MixtureKey]

    def renew(self) -> bool:
        """See `conditions.Lease`."""
        return self.slots.renew(self.taken)

    def release(self) -> None:
        """See `conditions.Lease`."""
        self.slots.release(self.taken)


class BlendSlots:
    """All slots of a model.

    Attributes:
        weights: (slots, size) float16 or float32. embeddings: (slots, C) float32, of charge, spin and task.
        parts: for each layer those of conv_1 and conv_2.
    """

    def __init__(self, model: EscnMd, total_bytes: int, dtype: torch.dtype = torch.float16) -> None:
        self.model = model
        self.parts, size = _layout(model)
        number = max(FEWEST, min(MOST, int(SHARE * total_bytes) // (dtype.itemsize * size)))
        device = model.sphere_embedding.weight.device
        self.weights = torch.zeros(number, size, dtype=dtype, device=device)
        self.embeddings = torch.zeros(number, model.config.channels, dtype=torch.float32, device=device)
        self._loaded: OrderedDict[MixtureKey, int] = OrderedDict()
        self._held = [0] * number
        self._lock = RLock()

    def take(self, keys: Sequence[MixtureKey]) -> tuple[list[int], Lease] | None:
        """A slot for each key, loaded, and a lease of all; None where calls hold too many."""
        with self._lock:
            taken = {self._loaded[key]: key for key in keys if key in self._loaded}
            new = [key for key in dict.fromkeys(keys) if key not in self._loaded]
            places = self._free(len(new), taken)
            if places is None:
                return None
            for key in [key for key, slot in self._loaded.items() if slot in set(places)]:
                del self._loaded[key]
            for first in range(0, len(new), AT_ONCE):
                self._load(new[first : first + AT_ONCE], places[first : first + AT_ONCE])
            if new and self.weights.is_cuda:
                torch.cuda.current_stream(self.weights.device).synchronize()  # they are read on other streams
            self._loaded.update(zip(new, places, strict=True))
            for key in keys:
                self._loaded.move_to_end(key)
                taken[self._loaded[key]] = key
            for slot in taken:
                self._held[slot] += 1
            return [self._loaded[key] for key in keys], Lease(self, taken)

    def renew(self, taken: dict[int, MixtureKey]) -> bool:
        """Hold these once more, if they are still there."""
        with self._lock:
            there = all(self._loaded.get(key) == slot for slot, key in taken.items())
            if there:
                for slot, key in taken.items():
                    self._held[slot] += 1
                    self._loaded.move_to_end(key)
            return there

    def release(self, taken: dict[int, MixtureKey]) -> None:
        """Give up one hold of each."""
        with self._lock:
            for slot in taken:
                self._held[slot] -= 1

    def _free(self, count: int, taken: dict[int, MixtureKey]) -> list[int] | None:
        """So many slots that nothing holds: empty ones, then the least recently used."""
        if not count:
            return []
        used = set(self._loaded.values())
        order = [slot for slot in range(len(self._held)) if slot not in used] + list(self._loaded.values())
        free = [slot for slot in order if not self._held[slot] and slot not in taken]
        return free[:count] if len(free) >= count else None

    @torch.no_grad()
    def _load(self, keys: list[MixtureKey], places: list[int]) -> None:
        """Make blends; in float64 up to the coefficients, which are few and decide everything."""
        model, config = self.model, self.model.config
        embeddings, alpha = coefficients(model, keys)
        index = torch.tensor(places, device=self.weights.device)
        self.embeddings[index] = embeddings.float()
        found = []
        orders = config.mmax + 1
        for number, layer in enumerate(model.mixed_linears):
            weights = layer.weights.float()
            blend = (alpha.float() @ weights.flatten(1)).unflatten(1, weights.shape[1:])
            if number % orders:
                w_1, w_2 = blend.chunk(2, dim=1)
                blend = torch.cat([torch.cat([w_1, -w_2], dim=2), torch.cat([w_2, w_1], dim=2)], dim=1)
            found.append(blend.to(self.weights.dtype).flatten(1))
        self.weights[index] = torch.cat(found, dim=1)


def coefficients(model: EscnMd, keys: Sequence[MixtureKey]) -> tuple[Tensor, Tensor]:
    """Embeddings (B, C) and how much of each expert (B, K) keys of systems take; float64."""
    said = {key[1:] for key in keys}  # mostly few, however many compositions
    known = {one: model.system_embedding(*one) for one in said}
    embedding = torch.stack([known[key[1:]] for key in keys])
    if not model.config.experts:  # one map for all systems, as it is
        return embedding, embedding.new_ones(len(keys), 1)
    x = embedding
    if model.config.composition != "none":
        shares = torch.zeros(len(keys), model.config.max_z, dtype=torch.float64)
        for row, key in zip(shares, keys, strict=True):
            total = sum(count for _, count in key.composition) + (model.config.composition == "mean_with_zero")
            for number, count in key.composition:
                row[number] = count / total
        x = torch.cat([shares.to(x.device) @ model.composition_embedding.weight.double(), x], dim=1)
    for layer in model.routing:
        x = silu(linear(x, layer.weight.double(), layer.bias.double()))  # type: ignore[arg-type]
    return embedding, torch.softmax(x, dim=1) + 0.005


def _layout(model: EscnMd) -> tuple[list[tuple[Parts, Parts]], int]:
    """Where the matrices of each layer stand, and numbers of a slot."""
    orders, shapes = model.config.mmax + 1, []
    for number, layer in enumerate(model.mixed_linears):
        outputs, inputs = layer.weights.shape[1:]
        shapes.append((outputs, inputs) if number % orders == 0 else (outputs, 2 * inputs))
    size = sum(outputs * inputs for outputs, inputs in shapes)
    starts, at = [], 0
    for first in range(0, len(shapes), orders):
        group = shapes[first : first + orders] + [(0, 0)] * (3 - orders)
        starts.append((tuple(n for n, _ in group), tuple(n for _, n in group), at))
        at += sum(outputs * inputs for outputs, inputs in group)
    parts = [Parts(outputs, inputs, start, size) for outputs, inputs, start in starts]  # type: ignore[arg-type]
    return list(zip(parts[::2], parts[1::2], strict=True)), size
