# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Screened repulsion of nuclei within kernels that walk over edges; equation and definition: `zbl.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.ops.zbl import SCREENED

C_1, C_2, C_3, C_4 = (tl.constexpr(c) for c, _ in SCREENED)
E_1, E_2, E_3, E_4 = (tl.constexpr(e) for _, e in SCREENED)


@triton.jit
def zbl(length, strength, screening, start, end):
    """V and dV/dd of some pairs."""
    x = length * screening
    one = C_1 * tl.exp(-E_1 * x)
    two = C_2 * tl.exp(-E_2 * x)
    three = C_3 * tl.exp(-E_3 * x)
    four = C_4 * tl.exp(-E_4 * x)
    screened = one + two + three + four
    slope = -screening * (E_1 * one + E_2 * two + E_3 * three + E_4 * four)
    per_width = 1.0 / (end - start)
    t = tl.minimum(tl.maximum((length - start) * per_width, 0.0), 1.0)
    switch = 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t))
    rest = t * (1.0 - t)
    bare = strength / length
    change = (slope - screened / length) * switch - (30.0 * per_width) * rest * rest * screened
    return bare * screened * switch, bare * change
