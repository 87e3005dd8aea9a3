"""The definition of the neighbour list: every pair of atoms with every image that could come within the cutoff, tested.

For structure s with cell h (rows), the list holds all (i, j, S) with |x_j - x_i + S h| < cutoff, S whole numbers along the
periodic directions and zero along the others, except i = j with S = 0. Any cell: triclinic, left-handed, flat, smaller than the
cutoff. Arithmetic in float64 whatever the type of the positions, so that every algorithm takes the same side at the cutoff.

Plain tensor operations over the whole batch at once, on any device.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.errors import StructureError
from atomjet.ops.edge_vectors import Edges, edge_vectors

PAIRS_AT_ONCE = 4_000_000
"""Candidates tested together: about 300 MB of temporaries."""

MAX_IMAGES = 2_000_000
"""More images of one cell than this mean a cell far too thin for the cutoff."""

RESOLVED = 1e-3
"""Coarsest step between neighboring floating-point numbers that coordinates may have, as a share of the cutoff."""

SURELY_RESOLVED = 1e11
"""Position, Å, up to which float64 needs no check: the step is 1.5e-5 Å there, which serves any cutoff above 0.015 Å."""


def check_resolution(system: System, cutoff: float) -> None:
    """Refuse coordinates that are not finite, or so large that numbers of their type are no finer than a fraction of the cutoff.

    Raises:
        StructureError: names the first such atom.
    """
    limit = RESOLVED * cutoff / torch.finfo(system.dtype).eps
    far = ~(system.positions.detach().abs().amax(1) <= limit)
    if not bool(far.any()):
        return
    system.check_positions()
    atom = int(far.nonzero()[0])
    position, dtype = [float(f"{x:.5g}") for x in system.positions[atom].tolist()], str(system.dtype)[6:]
    finer = ", or give float64" if system.dtype == torch.float32 else ""
    raise StructureError(
        f"{system.place(atom)}: position {position} is too far out: {dtype} resolves {RESOLVED} of the cutoff of {cutoff} Å only "
        f"up to {limit:.3g} Å; move the structure to the origin, or wrap it into its cell{finer}"
    )


def brute_force(system: System, cutoff: float) -> Graph:
    """Search all pairs of each structure; time and candidates grow with atoms² x images of the largest structure."""
    cell = complete_cells(system)
    inverse = torch.linalg.inv(cell)
    reach = image_reach(system, inverse, cutoff)
    positions = system.positions.double()
    # How many whole cells each atom lies outside its own: images are counted around the wrapped positions.
    fractions = torch.einsum("nk,nka->na", positions, inverse[system.system_index])
    outside = torch.where(system.pbc[system.system_index], fractions.floor(), 0.0).long()

    counts = system.counts()
    first = torch.cumsum(counts, 0) - counts
    images = (2 * reach + 1).prod(1)
    candidates = (counts * images)[system.system_index]
    found = [
        _test(system, cell, reach, first, images, outside, start, stop, candidates, cutoff)
        for start, stop in _blocks(candidates)
    ]
    centers, neighbors, shifts = (torch.cat(part) for part in zip(*found, strict=True))
    return assemble(system, centers, neighbors, shifts, cutoff)


def complete_cells(system: System) -> Tensor:
    """(S, 3, 3) float64 cells whose missing (not periodic) rows are unit vectors orthogonal to all others."""
    eye = torch.eye(3, dtype=torch.float64, device=system.device)
    cell = torch.where(system.pbc.any(1)[:, None, None], system.cell.double(), eye)
    partly = system.pbc.any(1) & ~system.pbc.all(1)
    if bool(partly.any()):
        cell[partly] = _completed(cell[partly], system.pbc[partly])
    return cell


def _completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """Fill the rows that are not periodic, one after the other, with a unit vector orthogonal to all others."""
    eye = torch.eye(3, dtype=torch.float64, device=cell.device)
    for axis in range(3):
        # Project each unit vector out of the other rows and keep the longest remainder. Rows may be of any lengths.
        others = torch.nn.functional.normalize(cell[:, [k for k in range(3) if k != axis]], dim=2)
        _, values, vectors = torch.linalg.svd(others)
        significant = values > 1e-12 * values.amax(1, keepdim=True).clamp(min=1e-300)
        basis = vectors[:, :2] * significant[:, :, None]
        remainder = eye - eye @ basis.transpose(1, 2) @ basis
        longest = remainder.norm(dim=2).argmax(1)
        normal = torch.nn.functional.normalize(remainder[torch.arange(len(cell), device=cell.device), longest], dim=1)
        cell[:, axis] = torch.where(pbc[:, axis, None], cell[:, axis], normal)
    return cell


def image_reach(system: System, inverse: Tensor, cutoff: float) -> Tensor:
    """(S, 3) images to look at in each direction: the distance between lattice planes is 1 / |column of the inverse|."""
    planes = torch.floor(cutoff * inverse.norm(dim=1)) + 1
    reach = torch.where(system.pbc, planes, 0.0)
    images = (2 * reach + 1).prod(1)
    if bool((images > MAX_IMAGES).any()):
        structure = int((images > MAX_IMAGES).nonzero()[0])
        raise StructureError(
            f"{system.name(structure)}: its cell is so thin that {int(images[structure])} images lie within {cutoff} Å "
            f"(limit {MAX_IMAGES}); check the cell, or repeat it along its short direction"
        )
    return reach.long()


def canonical_order(centers: Tensor, neighbors: Tensor, shifts: Tensor, atoms: int) -> Tensor:
    """(E,) where edges in any order must be taken from to stand in that of a `Graph`."""
    order = torch.arange(len(centers), device=centers.device)
    for key in (shifts[:, 2], shifts[:, 1], shifts[:, 0], centers * atoms + neighbors):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def assemble(system: System, centers: Tensor, neighbors: Tensor, shifts: Tensor, cutoff: float) -> Graph:
    """Make the `Graph` from edges in canonical order."""
    edges = Edges(centers, neighbors, shifts, system.system_index[centers])
    vectors = edge_vectors(system.positions.double(), system.cell.double(), edges)
    degrees = torch.bincount(centers, minlength=system.num_atoms)
    row_ptr = torch.cat([degrees.new_zeros(1), torch.cumsum(degrees, 0)])
    return Graph(
        centers=centers,
        neighbors=neighbors,
        shifts=shifts,
        vectors=vectors.to(system.dtype),
        row_ptr=row_ptr,
        atomic_numbers=system.atomic_numbers,
        system_index=system.system_index,
        charge=system.charge,
        spin=system.spin,
        cutoff=float(cutoff),
        task=system.task,
        charge_given=system.charge_given,
        spin_given=system.spin_given,
    )


def _blocks(candidates: Tensor) -> list[tuple[int, int]]:
    """Divide the atoms into runs of at most `PAIRS_AT_ONCE` candidates (or one atom)."""
    total = int(candidates.sum())
    if total <= PAIRS_AT_ONCE:
        return [(0, len(candidates))]
    block = torch.div(torch.cumsum(candidates, 0) - candidates, PAIRS_AT_ONCE, rounding_mode="floor")
    sizes = torch.unique_consecutive(block, return_counts=True)[1].tolist()
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return list(pairwise(edges))


def _test(
    system: System,
    cell: Tensor,
    reach: Tensor,
    first: Tensor,
    images: Tensor,
    outside: Tensor,
    start: int,
    stop: int,
    candidates: Tensor,
    cutoff: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of centers start ... stop - 1, in canonical order; return those within the cutoff."""
    device = system.device
    number = candidates[start:stop]
    center = torch.repeat_interleave(torch.arange(start, stop, device=device), number)
    begin = torch.cumsum(number, 0) - number
    rank = torch.arange(len(center), device=device) - torch.repeat_interleave(begin, number)
    structure = system.system_index[center]
    neighbor = first[structure] + rank // images[structure]
    image = rank % images[structure]
    span = 2 * reach[structure] + 1
    wrapped = torch.stack(
        [image // (span[:, 1] * span[:, 2]), image // span[:, 2] % span[:, 1], image % span[:, 2]], dim=1
    )
    shift = wrapped - reach[structure] + outside[center] - outside[neighbor]
    positions = system.positions.double()
    vector = positions[neighbor] - positions[center] + torch.einsum("ek,eka->ea", shift.double(), cell[structure])
    near = (vector.square().sum(1) < cutoff**2) & ((center != neighbor) | (shift != 0).any(1))
    return center[near], neighbor[near], shift[near]
