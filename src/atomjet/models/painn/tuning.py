"""The tiles of PaiNN's kernels, and what `atomjet tune` tries of them."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

from atomjet.data import Capacity
from atomjet.models.contract import CapturedBackend, Choices, TuningSpace
from atomjet.models.painn.general import PaiNN
from atomjet.ops import painn_message, painn_update

MESSAGE = {"edges": (1, 2, 4, 8, 16), "channels": (32, 64, 128), "warps": (1, 2)}
REGISTERS = {"registers": (0, 96, 112, 128, 144)}
ROUNDS = (
    ("message", MESSAGE),
    ("message", REGISTERS),
    ("message_back", MESSAGE),
    ("message_back", REGISTERS),
    ("update", {"rows": (16, 32), "warps": (4, 8)}),
)
"""Kernel and its choices, one round after the other."""


class Tiles(NamedTuple):
    """How the kernels are divided into programs for one size of system."""

    message: painn_message.Tiles = painn_message.Tiles()
    message_back: painn_message.Tiles = painn_message.Tiles()
    update: painn_update.Tiles = painn_update.Tiles()


class Tiled(CapturedBackend, Protocol):
    """A backend whose kernels have these tiles."""

    model: PaiNN
    tiles: Tiles | None

    def tiles_for(self, capacity: Capacity) -> Tiles:
        """Return those that are used for buffers of such a size."""
        ...


def space(backend: Tiled, updates: bool) -> TuningSpace:
    """What there is to choose; `updates` says whether the updates' kernels have choices."""
    dtype = str(backend.storage_dtype).removeprefix("torch.")
    config = backend.model.config

    def tiles(capacity: Capacity) -> Choices:
        return {kernel: part._asdict() for kernel, part in backend.tiles_for(capacity)._asdict().items()}

    def with_tiles(capacity: Capacity, choices: Choices) -> CapturedBackend:
        other = copy.copy(backend)
        other.tiles = changed(backend.tiles_for(capacity), choices)
        return other

    rounds = tuple(one for one in ROUNDS if updates or one[0] != "update")
    return TuningSpace(f"painn {config.features} {dtype}", rounds, tiles, with_tiles)


def changed(tiles: Tiles, choices: Choices) -> Tiles:
    """Other tiles; choices that the kernels do not know are left out."""
    for kernel, values in choices.items():
        part = getattr(tiles, kernel, None)
        if part is not None:
            known = {name: value for name, value in values.items() if name in part._fields}
            tiles = tiles._replace(**{kernel: part._replace(**known)})
    return tiles
