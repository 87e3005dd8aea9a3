"""Compile eSCN-MD's kernels that hold tiles in shared memory, for GPUs, on any machine; print what they take as JSON."""

import json

from atomjet.ops import atom_wise_gpu, grouped_product_gpu, radial_network_gpu, task_head_gpu
from atomjet.ops import node_to_edge_wigner_permute_gpu as pack
from tests.compiling import compiled

WHOLE = (
    "row_ptr",
    "num_atoms",
    "system_ptr",
    "tile_ptr",
    "slots",
    "system_index",
    "tasks",
    "words",
    "knots",
    "reverse",
    "status",
)
MATRICES = ("gate", "first", "second", "gate_back", "first_back", "second_back", "weights", "x16", "y16", "packed_bar")
NUMBERS = {
    "epsilon": "fp32",
    "tasks_known": "i32",
    "start": "i32",
    "skip": "i32",
    "systems": "i32",
    "edges": "i32",
    "rows": "i32",
}
TYPES = {**dict.fromkeys(WHOLE, "*i32"), **dict.fromkeys(MATRICES, "*fp16"), **NUMBERS, "atoms": "i32"}
TYPES |= {"rests": "*i16", "pages": "*i64"}
SIZES = {"SIZE": 6488064, "X_0": 768, "X_1": 1024, "X_2": 512, "Y_0": 640, "Y_1": 512, "Y_2": 256}


def kernels():
    """Name, kernel, constants, types and options of each."""
    size = {"C": 128, "H": 128, "WIDTH": 32}
    for atoms in (16, 32):
        options = {"num_warps": 4, "num_stages": 2}
        yield f"atoms {atoms}", atom_wise_gpu.atom_wise_fwd_kernel, size | {"ATOMS": atoms}, {}, options
        back = size | {"ATOMS": atoms, "SHIFTED": True}
        yield f"atoms back {atoms}", atom_wise_gpu.atom_wise_bwd_kernel, back, {}, options
    head = size | {"ATOMS": 16, "SHIFTED": True, "BIT": 256}
    yield "head", task_head_gpu.task_head_kernel, head, {}, {"num_warps": 4, "num_stages": 2}
    halves = {"x": "*fp16", "y": "*fp16"}
    for backward in (False, True):
        tiles = {"BACKWARD": backward, "ROWS": 128, "COLUMNS": 128, "DEPTH": 64}
        options = {"num_warps": 4, "num_stages": 3}
        yield f"product {backward}", grouped_product_gpu.grouped_product_kernel, SIZES | tiles, halves, options
    singles = {"x": "*fp32", "y": "*fp32", "weights": "*fp32"}
    tiles = {"BACKWARD": True, "ROWS": 128, "COLUMNS": 128, "DEPTH": 32}
    options = {"num_warps": 8, "num_stages": 3}
    yield "product high", grouped_product_gpu.grouped_product_kernel, SIZES | tiles, singles, options
    for channels, mmax, single in ((128, 2, False), (64, 1, False), (64, 2, True)):
        one = {"C": 128, "CHANNELS": channels, "MMAX": mmax, "SINGLE": single}
        kinds = {"words": "*fp32", "rests": "*fp32", "packed_bar": "*fp32"} if single else {}
        name = f"pack back {channels} {mmax} {single}"
        yield name, pack.node_to_edge_wigner_permute_bwd_kernel, one, kinds, {"num_warps": 1}
    network = {"K": 32, "H": 128, "OUTPUTS": 1536, "EDGES": 16, "COLUMNS": 64, "SINGLE": False}
    kinds = {**dict.fromkeys(("gaussians", "third"), "*fp16"), **dict.fromkeys(("neighbors", "atomic_numbers"), "*i32")}
    kinds |= {"num_edges": "*i32", "width": "fp32", "channels": "i32"}
    options = {"num_warps": 4, "num_stages": 2}
    yield "network", radial_network_gpu.radial_network_kernel, network, kinds, options


if __name__ == "__main__":
    found = {}
    for capability in (80, 90):
        for name, kernel, constants, types, options in kernels():
            made = compiled(kernel, constants, TYPES | types, "*fp32", capability, **options)
            found[f"{name} {capability}"] = made.metadata.shared
    print(json.dumps(found))
