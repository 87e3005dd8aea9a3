# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""The mean of an ensemble's members in buffers of fixed size, and how far they are apart; float64.

With the M members' numbers x_k, and differences from the first so that equal members give their own numbers and zeros:

    mean            x = x_0 + 1/M Σ_k (x_k - x_0)           of energies, stresses, forces
    spread          √(1/M Σ_k |F_k - F|²)                   of each atom's force
    energy spread   √(1/M Σ_k (E_k - E)²) / atoms           of each structure

The definition is `Prediction.mean_of`. An energy that is NaN in one member is NaN in the mean.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from atomjet.data import GraphBuffers, PredictionBuffers

BLOCK = 256
"""Numbers of a program."""


@triton.jit(do_not_specialize=["length", "systems", "atoms", "stride"])
def ensemble_mean_kernel(
    each, out, system_ptr, length, systems, atoms, stride, MEMBERS: tl.constexpr, BLOCK: tl.constexpr
):
    """Programs for all numbers, then for spreads of forces, then for those of energies."""
    program = tl.program_id(0)
    means, of_atoms = tl.cdiv(length, BLOCK), tl.cdiv(atoms, BLOCK)
    lanes = tl.arange(0, BLOCK).to(tl.int64)
    if program < means:
        i = program * BLOCK + lanes
        inside = i < length
        first = tl.load(each + i, inside, 0.0)
        shift = tl.zeros((BLOCK,), tl.float64)
        for k in tl.static_range(1, MEMBERS):
            shift += tl.load(each + k * stride + i, inside, 0.0) - first
        # The status is the last member's, which has seen what the others have.
        status = tl.load(each + (MEMBERS - 1) * stride)
        tl.store(out + i, tl.where(i == 0, status, first + shift / MEMBERS), inside)
    elif program < means + of_atoms:
        i = (program - means) * BLOCK + lanes
        inside = i < atoms
        forces = each + 1 + 10 * systems + atoms + 3 * i
        total = tl.zeros((BLOCK,), tl.float64)
        for axis in tl.static_range(3):
            first = tl.load(forces + axis, inside, 0.0)
            shift = tl.zeros((BLOCK,), tl.float64)
            for k in tl.static_range(1, MEMBERS):
                shift += tl.load(forces + k * stride + axis, inside, 0.0) - first
            shift = shift / MEMBERS
            total += shift * shift
            for k in tl.static_range(1, MEMBERS):
                apart = tl.load(forces + k * stride + axis, inside, 0.0) - first - shift
                total += apart * apart
        tl.store(out + length + i, tl.sqrt(total / MEMBERS), inside)
    else:
        s = (program - means - of_atoms) * BLOCK + lanes
        inside = s < systems
        first = tl.load(each + 1 + s, inside, 0.0)
        shift = tl.zeros((BLOCK,), tl.float64)
        for k in tl.static_range(1, MEMBERS):
            shift += tl.load(each + k * stride + 1 + s, inside, 0.0) - first
        shift = shift / MEMBERS
        total = shift * shift
        for k in tl.static_range(1, MEMBERS):
            apart = tl.load(each + k * stride + 1 + s, inside, 0.0) - first - shift
            total += apart * apart
        number = tl.load(system_ptr + s + 1, inside, 1) - tl.load(system_ptr + s, inside, 0)
        tl.store(out + length + atoms + s, tl.sqrt(total / MEMBERS) / number.to(tl.float64), inside)


def launch(graph: GraphBuffers, each: Tensor, out: PredictionBuffers) -> None:
    """Enqueue mean and spreads.

    Args:
        graph: says how many atoms the structures have.
        each: (M, 1 + 10 Ŝ + 4 N̂) float64, the buffer of each member's prediction.
        out: with spreads; filled.
    """
    capacity, (members, length) = out.capacity, each.shape
    programs = triton.cdiv(length, BLOCK) + triton.cdiv(capacity.atoms, BLOCK) + triton.cdiv(capacity.systems, BLOCK)
    ensemble_mean_kernel[(programs,)](
        each=each,
        out=out.buffer,
        system_ptr=graph.system_ptr,
        length=length,
        systems=capacity.systems,
        atoms=capacity.atoms,
        stride=each.stride(0),
        MEMBERS=members,
        BLOCK=BLOCK,
        num_warps=4,
    )
