"""Compile the kernels that search all pairs for GPUs, on any machine, which the interpreter does not; print their names."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from atomjet.neighbors import all_pairs, few_atoms, rows

WIDE = dict.fromkeys(("positions", "cell", "cutoff", "frames"), "*fp64")
LONG = dict.fromkeys(("pool", "used", "sums", "needed_edges"), "*i64")
COUNTS = ("tiles", "pool_size", "pool_free", "table_size", "table_free", "systems", "blocks", "atoms", "max_edges")
TYPES = WIDE | LONG | dict.fromkeys(COUNTS, "i32") | {"vectors": "*fp32"}


def compiled(kernel, capability, warps, **constants):
    """The kernel for a compute capability; pointers whose type is not given are to int32."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "*i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")}
    options = {"num_warps": warps, "enable_fp_fusion": False}
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


if __name__ == "__main__":
    for capability, size in ((80, 16), (90, 32), (90, 64)):
        cut = {"ALL": size, "COLUMNS": 16, "ROWS": 32, "FILL_ROWS": 8, "SLOTS": size}
        print(compiled(few_atoms.all_pairs_kernel, capability, 4, **cut).metadata.name)
    for pieces in (1, 8):
        print(compiled(all_pairs.all_pairs_count_kernel, 90, 1, ROWS=8, PIECES=pieces).metadata.name)
        print(compiled(rows.rows_kernel, 90, 4, PIECES=pieces).metadata.name)
        print(compiled(all_pairs.all_pairs_fill_kernel, 90, 4, ROWS=8, SLOTS=32, PIECES=pieces).metadata.name)
