"""What evaluations must do at least: the unit in which families, kernels and operators declare it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Cost(NamedTuple):
    """Bytes moved and operations done by one call. `by` is what computes: matrix "products", or "arithmetic" number by number,
    which is slower on a GPU.
    """

    bytes: float
    flops: float
    by: str = "products"


@dataclass(frozen=True)
class Evaluation:
    """Sizes of one evaluation: S systems, N atoms, E edges, and bytes of a number that travels between atoms."""

    systems: int
    atoms: int
    edges: int
    element: int


@dataclass(frozen=True)
class Work:
    """What a model declares of an evaluation.

    Attributes:
        whole: cost of all of it; None: not declared.
        kernels: cost of all launches of each kernel together, by the kernel's name.
    """

    whole: Cost | None
    kernels: dict[str, Cost]


UNDECLARED = Work(None, {})


def edge_forces(systems: int, atoms: int, edges: int) -> dict[str, Cost]:
    """Cost of what follows the model's gradients with respect to edges: forces, virials, sums of each structure.

    Vector, ends and both gradients of an edge in; force, energy and virial of an atom out. Then energy and virial of an atom in,
    cell and periodic directions in, energy and stress of a structure out.
    """
    return {
        "edge_forces_kernel": Cost(edges * (20 + 24.0) + atoms * 88.0, 60.0 * edges, "arithmetic"),
        "edge_forces_sums_kernel": Cost(atoms * 56.0 + systems * 168.0, 7.0 * atoms + 21.0 * systems, "arithmetic"),
    }
