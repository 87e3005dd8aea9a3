# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""By how much scalar channels of a structure's atoms exceed, per atom, what they shall sum to.

    shift_s = (Σ over the atoms n of structure s of x_n - target_s) / number of atoms        channels [from, to) of l = 0

x (N̂, 9, C) float32, shift (Ŝ, C) float32, zero in other channels. The shift is linear in x: its derivative takes from x̄ the
same without a target. Sums in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def channel_balance_kernel(
    x,
    system_ptr,
    target,
    shift,
    less,
    START: tl.constexpr,
    STOP: tl.constexpr,
    WIDTH: tl.constexpr,
    TARGET: tl.constexpr,
    FIRST: tl.constexpr,
    C: tl.constexpr,
    ATOMS: tl.constexpr,
):
    """One structure a program."""
    s = tl.program_id(0).to(tl.int64)
    first = tl.load(system_ptr + s)
    stop = tl.load(system_ptr + s + 1)
    if first >= stop:
        return
    c = START + tl.arange(0, WIDTH)
    total = tl.zeros((ATOMS, WIDTH), tl.float32)
    for start in range(first, stop, ATOMS):
        n = (start + tl.arange(0, ATOMS).to(tl.int64))[:, None]
        total += tl.load(x + n * (9 * C) + c[None, :], (n < stop) & (c[None, :] < STOP), 0.0)
    surplus = tl.sum(total, 0)
    if TARGET:
        surplus -= (tl.load(target + s) - less).to(tl.float32)
    if FIRST:
        every = tl.arange(0, C)
        tl.store(shift + s * C + every, tl.zeros((C,), tl.float32), (every < START) | (every >= STOP))
    tl.store(shift + s * C + c, surplus / (stop - first).to(tl.float32), c < STOP)


def launch(
    *,
    x: Tensor,
    system_ptr: Tensor,
    target: Tensor | None,
    less: int,
    channels: tuple[int, int],
    shift: Tensor,
    first: bool,
    atoms: int,
) -> None:
    """Enqueue.

    Args:
        x: (N̂, 9, C) float32. system_ptr: (Ŝ + 1,).
        target: (Ŝ,) whole numbers, of which `less` is taken; None for zero.
        channels: from and to. shift: (Ŝ, C) float32, filled there.
        first: whether to fill the other channels with zeros; further ranges of the same shift follow.
        atoms: those of the largest structure, about.
    """
    start, stop = channels
    tile = max(32, min(1024, triton.next_power_of_2(atoms)))
    channel_balance_kernel[(shift.shape[0],)](
        x=x,
        system_ptr=system_ptr,
        target=system_ptr if target is None else target,
        shift=shift,
        less=less,
        START=start,
        STOP=stop,
        WIDTH=triton.next_power_of_2(stop - start),
        TARGET=target is not None,
        FIRST=first,
        C=x.shape[2],
        ATOMS=tile,
        num_warps=max(1, tile // 32),
    )
