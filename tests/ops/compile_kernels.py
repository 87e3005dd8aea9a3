"""Compile PaiNN's kernels for GPUs, on any machine, which the interpreter does not; print what they take as JSON."""

import itertools
import json

from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from atomjet.data import Capacity
from atomjet.models.painn.fast_gpu import default_tiles
from atomjet.ops import painn_message, painn_update_hopper
from tests.compiling import compiled

FEATURES, HALF = 128, "*fp16"
WIDE = ("biases", "q", "mu", "energies", "vectors", "embedding", "mu_bar_sum", "gradients")
WHOLE = ("row_ptr", "neighbors", "num_rows", "kinds", "values", "vu")
NUMBERS = {
    "epsilon": "fp32",
    "seed": "fp32",
    "gain": "fp32",
    "per_length": "fp32",
    "scale": "fp32",
    "num_edges": "i32",
}
TYPES = {"num_atoms": "*i32", **dict.fromkeys(WIDE, "*fp32"), **dict.fromkeys(WHOLE, "*i32"), **NUMBERS}


def update(part, rows):
    """One of the kernels for Hopper."""
    kernel = getattr(painn_update_hopper, f"painn_update_{part}_hopper_kernel")
    weights = f"tensordesc<fp16[{FEATURES}, {FEATURES}],{gl.NVMMASharedLayout(128, 16, 2)}>"
    constants = {"F": FEATURES, "CHAINED": True, "ROWS": rows}
    types = TYPES | {"weights": weights}
    return compiled(kernel, constants, types, HALF, 90, GluonASTSource, num_warps=FEATURES // 16, launch_pdl=True)


def messages(atoms, capability):
    """Both kernels in all their forms, cut as for so many atoms."""
    tiles = default_tiles(Capacity(1, atoms, 20 * atoms, atoms))
    for first, last in itertools.product((True, False), repeat=2):
        for kernel, cut in (
            (painn_message.painn_message_fwd_kernel, tiles.message),
            (painn_message.painn_message_bwd_kernel, tiles.message_back),
        ):
            constants = {"F": FEATURES, "WORDS": 1, "FIRST": first, "LAST": last, "CHAINED": capability >= 90}
            constants |= {"EDGES": cut.edges, "CHANNELS": cut.channels}
            constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
            options = {"num_warps": cut.warps, "maxnreg": cut.registers or None, "launch_pdl": capability >= 90}
            yield compiled(kernel, constants, TYPES, HALF, capability, **options)


if __name__ == "__main__":
    found = {}
    for part, rows in itertools.product(("fwd", "last", "bwd"), painn_update_hopper.ROWS):
        kernel = update(part, rows)
        found[f"{part} {rows}"] = {
            "shared": kernel.metadata.shared,
            "products": kernel.asm["ptx"].count("wgmma.mma_async"),
        }
    for capability, atoms in ((80, 100), (80, 10_000), (90, 1000)):
        shared = [kernel.metadata.shared for kernel in messages(atoms, capability)]
        found[f"messages {capability} {atoms}"] = {"shared": max(shared), "kernels": len(shared)}
    print(json.dumps(found))
