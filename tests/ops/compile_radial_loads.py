"""Compile, on any machine, the kernels that read radial tables, and print how many of their loads are 16 bytes wide, as JSON."""

import json

import torch

from atomjet.ops import edge_degrees_gpu
from atomjet.ops import node_to_edge_wigner_permute_gpu as pack
from tests.compiling import as_launched

CHANNELS, MMAX = 128, 2


def whole(*shape, dtype=torch.int32):
    return torch.zeros(shape, dtype=dtype)


def single(*shape):
    return torch.zeros(shape)


def arguments():
    """Edges of one atom that has none, as both kernels of `pack` take them; nothing is computed."""
    edges = {
        "frames": single(1, 36),
        "row_ptr": whole(2),
        "reverse": whole(1),
        "num_atoms": whole(1),
        "knots": whole(1),
    }
    edges |= {"pages": whole(1, 2, dtype=torch.int64), "tables": whole(1024, dtype=torch.int16)}
    return edges


def launches(rows):
    """Name and launch of each; `rows` as the kernels are given it."""
    edges, y = arguments(), single(1, 9, CHANNELS)
    packed = whole(1, 9, 2 * CHANNELS, dtype=torch.float16)
    both = edges | {"y": y, "start": 7, "rows": rows, "mmax": MMAX}
    yield "pack", lambda: pack.launch_fwd(**both, packed=packed)
    back = {"packed_bar": packed, "share": single(1, 2), "y_bar": y[None], "gathered": single(1, 1, 4)}
    yield "pack backward", lambda: pack.launch_bwd(**both, **back)
    del edges["reverse"]
    structure = {
        "elements": y[0],
        "atomic_numbers": whole(1),
        "structures": y[0],
        "system_index": whole(1),
        "slots": whole(1),
    }
    degrees = edges | {"rows": rows, "rescale": 1.0}
    yield "degrees", lambda: edge_degrees_gpu.launch_fwd(**degrees, **structure, x=y)
    back = {"vectors": single(1, 3), "weights": None, "gathered": single(1, 1, 4), "gradients": single(1, 1, 4)}
    back |= {"x_bar": y, "cutoff": 6.0, "status": whole(1), "bit": 1}
    yield "degrees backward", lambda: edge_degrees_gpu.launch_bwd(**degrees, **back)


if __name__ == "__main__":
    found = {}
    for rows in (0, 2**33):  # none, and far from the tables
        for name, launch in launches(rows):
            found[f"{name}, rows at {rows}"] = as_launched(launch, 90).asm["ptx"].count("ld.global.v4")
    print(json.dumps(found))
