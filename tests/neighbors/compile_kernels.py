"""Compile the kernels of the search for GPUs, on any machine, which the interpreter does not; print their names."""

from atomjet.neighbors import all_pairs, canonical, cell_list, cell_order, few_atoms, rows
from atomjet.neighbors.cells import Cells
from tests.compiling import compiled

WIDE = dict.fromkeys(("positions", "cell", "cutoff", "frames", "home", "scale", "given", "wrapped"), "*fp64")
LONG = dict.fromkeys(("pool", "used", "sums", "needed_edges"), "*i64")
COUNTS = ("tiles", "pool_size", "pool_free", "table_size", "table_free", "systems", "blocks", "atoms", "max_edges")
TYPES = WIDE | LONG | dict.fromkeys(COUNTS, "i32") | {"vectors": "*fp32"}


def name_of(kernel, capability, warps, registers=None, types=None, **constants):
    """The kernel's name, once it is compiled; pointers whose type is not given are to int32."""
    options = {"num_warps": warps, "enable_fp_fusion": False, "maxnreg": registers}
    if "PDL" in kernel.arg_names:
        constants["PDL"] = capability >= 90
    return compiled(kernel, constants, TYPES | (types or {}), "*i32", capability, **options).metadata.name


if __name__ == "__main__":
    for capability, size in ((80, 16), (90, 32), (90, 64)):
        cut = {"ALL": size, "COLUMNS": 16, "ROWS": 32, "FILL_ROWS": 8, "SLOTS": size}
        print(name_of(few_atoms.all_pairs_kernel, capability, 4, **cut))
    for pieces, count, fill, warps in ((1, 8, 8, 4), (4, 4, 2, 1), (8, 8, 4, 1)):
        print(name_of(all_pairs.all_pairs_count_kernel, 90, 1, ROWS=count, PIECES=pieces))
        print(name_of(rows.rows_kernel, 90, 4, PIECES=pieces))
        print(name_of(all_pairs.all_pairs_fill_kernel, 90, warps, ROWS=fill, SLOTS=32, PIECES=pieces))
    for kernel in (cell_order.cells_frame_kernel, cell_order.cells_grid_kernel, cell_list.cells_table_kernel):
        print(name_of(kernel, 90, 1))
    for kernel in (
        cell_order.cells_box_kernel,
        cell_order.cells_bin_kernel,
        cell_order.cells_scatter_kernel,
        cell_order.cells_order_kernel,
    ):
        print(name_of(kernel, 90, 4, LANES=Cells.LANES))
    print(name_of(cell_order.cells_scan_kernel, 90, 16, CELLS=Cells.SCAN))
    for count, split in (Cells.SHARED, Cells.WHOLE):
        print(name_of(cell_list.cells_count_kernel, 90, 1, Cells.REGISTERS, ROWS=count, SPLIT=split))
    for kernel in (canonical.degrees_kernel, canonical.starts_kernel):
        print(name_of(kernel, 90, 8, types={"sums": "*i32"}))
    for renumbered in (False, True):
        cut = {"RENUMBERED": renumbered, "SLOTS": 32, "OTHERS": 32}
        print(name_of(canonical.edges_kernel, 80, 1, types={"buffer": "*i64", "room": "i32"}, **cut))
    for slots in (16, 128):
        print(name_of(cell_list.cells_fill_kernel, 90, 1, SLOTS=slots))
