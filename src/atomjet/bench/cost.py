"""Declared cost of operators: bytes that must move and floating point operations.

Only those listed here have a cost; of the others a profile says the time and nothing more. Bytes count every input once and
the result once, as if nothing stayed in a cache between operators. Of operators the shapes of their inputs say how much that is; of
kernels, which a profiler sees by name alone, the sizes of the model and of what it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from atomjet.models.cost import Cost

ELEMENTWISE = {
    # name: operations per element of the largest input
    "add": 1,
    "add_": 1,
    "sub": 1,
    "mul": 1,
    "mul_": 1,
    "div": 1,
    "neg": 1,
    "rsub": 1,
    "pow": 1,
    "square": 1,
    "addcmul": 2,
    "addcmul_": 2,
    "clone": 0,
    "copy_": 0,
    "fill_": 0,
    "zero_": 0,
    "sqrt": 1,
    "sqrt_": 1,
    "exp": 10,
    "cos": 10,
    "sin": 10,
    "sigmoid": 10,
    "silu": 11,
    "silu_backward": 14,
    "where": 1,
    "lt": 1,
    "abs": 1,
    "masked_fill_": 1,
    "sum": 1,
    "linalg_vector_norm": 2,
}


def declared(name: str, shapes: list[list[int]], element: int) -> Cost | None:
    """Cost of an operator (aten::NAME) on inputs of these shapes, `element` bytes a number; None where none is declared."""
    operator = name.removeprefix("aten::")
    sizes = [prod(shape) if shape else 0 for shape in shapes]
    if operator in ("mm", "addmm", "bmm"):
        a, b = [shape for shape in shapes if len(shape) >= 2][-2:]
        batch, (rows, inner), columns = prod(a[:-2]), a[-2:], b[-1]
        return Cost(
            element * batch * (rows * inner + inner * columns + rows * columns), 2.0 * batch * rows * inner * columns
        )
    if operator in ELEMENTWISE and sizes:
        # In place or not, one result of the largest input's size; sums and norms write next to nothing.
        result = 0 if operator in ("sum", "linalg_vector_norm") else max(sizes)
        return Cost(element * (sum(sizes) + result), float(ELEMENTWISE[operator] * max(sizes)), "arithmetic")
    if operator == "index_select" and len(shapes) >= 3:
        rows, width = sizes[2], prod(shapes[0][1:])
        return Cost(element * 2 * rows * width + 8 * rows, 0.0, "arithmetic")
    if operator == "index" and shapes and shapes[0]:
        return None  # the indices' shapes are not recorded
    if operator in ("index_add_", "index_add") and len(shapes) >= 4:
        added = sizes[3]
        return Cost(element * (added + 2 * sizes[0]) + 8 * sizes[2], float(added), "arithmetic")
    if operator == "segment_reduce" and sizes:
        return Cost(element * sizes[0], float(sizes[0]), "arithmetic")
    return None


def cost_of(name: str, costs: Mapping[str, Cost]) -> Cost | None:
    """Cost of a kernel by its name in a profile; forms of a kernel for one generation of GPUs have the same cost."""
    name = name.replace("_hopper_kernel", "_kernel")
    return next((cost for kernel, cost in costs.items() if name.startswith(kernel)), None)
