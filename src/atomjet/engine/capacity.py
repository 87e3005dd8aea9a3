"""How much memory a call needs, and whether that much is free: known before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from atomjet.data import Capacity
from atomjet.errors import StructureError

SHARE = 0.9
"""Share of the free memory that a call may take."""

MARGIN = 1.06
"""Edges that buffers are made for, as a multiple of those counted, or of those that a mean density says: distances fluctuate."""

MIN_EDGES, FEW_EDGES = 64, 32768
"""Buffers for edges grow by doubling between these."""


def free_bytes(device: torch.device) -> int | None:
    """Memory that a call could take on this device; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch holds but does not use is free for PyTorch.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def fits(needed: int, free: int | None) -> bool:
    """Whether a call that needs so many bytes may start."""
    return free is None or needed <= SHARE * free


def refusal(
    atoms: int, edges: int, needed: int, free: int | None, device: torch.device, labels: Sequence[int] | None = None
) -> StructureError:
    """The error for one structure (of several, the one with this label) that does not fit into the free memory."""
    which = "" if labels is None else f"structure {labels[0]}: "
    fitting = int(atoms * SHARE * (free or 0) / max(needed, 1))
    hint = f", of up to some {fitting} atoms at this density" if fitting else ""
    return StructureError(
        f"{which}{atoms} atoms with {edges} edges need {needed / 2**30:.2f} GiB on {device}, "
        f"{(free or 0) / 2**30:.2f} GiB are free; use another backend or device, or a smaller structure{hint}"
    )


def size_class(number: int, small: int = 256) -> int:
    """The next size up that buffers are made for.

    Sizes grow geometrically, so that few sets of buffers serve every structure: by halves of a power of two up to `small`, by
    quarters up to 32 times that, then by eighths, where what is not used would cost memory.
    """
    if number <= 4:
        return max(number, 1)
    parts = 2 if number <= small else 4 if number <= 32 * small else 8
    step = max(1, (1 << ((number - 1).bit_length() - 1)) // parts)
    return -(-number // step) * step


def choose(systems: int, atoms: int, largest: int, edges: int, images: bool = False) -> Capacity:
    """The smallest buffers that are made for so much; `largest` is the number of atoms of the largest structure."""
    rounded = size_class(atoms)
    return Capacity(size_class(systems), rounded, _edge_class(edges), min(size_class(largest), rounded), images)


def grown(capacity: Capacity, needed: int) -> Capacity:
    """A capacity with `needed` edges, as a search that ran out of them has counted, and a margin."""
    return replace(capacity, edges=_edge_class(max(math.ceil(needed * MARGIN), capacity.edges + 1)))


def _edge_class(edges: int) -> int:
    """Powers of two up to FEW_EDGES: edges not in use take a few bytes and no time."""
    return max(MIN_EDGES, 1 << (edges - 1).bit_length() if edges <= FEW_EDGES else size_class(edges, 0))
