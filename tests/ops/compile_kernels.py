"""Compile PaiNN's kernels for GPUs, on any machine, which the interpreter does not; print what they take as JSON."""

import itertools
import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from atomjet.data import Capacity
from atomjet.models.painn.fast_gpu import default_tiles
from atomjet.ops import painn_message, painn_update_hopper

FEATURES = 128
WIDE = ("biases", "q", "mu", "energies", "vectors", "embedding", "mu_bar_sum", "gradients")
WHOLE = ("row_ptr", "neighbors", "num_rows", "kinds", "values")
NUMBERS = {
    "epsilon": "fp32",
    "seed": "fp32",
    "gain": "fp32",
    "per_length": "fp32",
    "scale": "fp32",
    "num_edges": "i32",
    "vu": "*i32",
}
TYPES = {"num_atoms": "*i32", **dict.fromkeys(WIDE, "*fp32"), **dict.fromkeys(WHOLE, "*i32"), **NUMBERS}


def compiled(kind, kernel, constants, types, capability, warps):
    """The kernel for a compute capability; pointers whose type is not given are to half precision."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp16") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if signature[name].startswith("*") and not name.startswith("num_")
    }
    options = {"num_warps": warps, "launch_pdl": capability >= 90}
    return triton.compile(
        kind(kernel, signature, values, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )


def update(part, rows):
    """One of the kernels for Hopper."""
    kernel = getattr(painn_update_hopper, f"painn_update_{part}_hopper_kernel")
    weights = f"tensordesc<fp16[{FEATURES}, {FEATURES}],{gl.NVMMASharedLayout(128, 16, 2)}>"
    constants = {"F": FEATURES, "CHAINED": True, "ROWS": rows}
    return compiled(GluonASTSource, kernel, constants, TYPES | {"weights": weights}, 90, FEATURES // 16)


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
            yield compiled(ASTSource, kernel, constants, TYPES, capability, cut.warps)


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
