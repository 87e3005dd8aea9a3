"""Compile PaiNN's kernels for Hopper on any machine; print what they take as JSON."""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from atomjet.ops import painn_update_hopper

WIDE = ("biases", "q", "mu", "energies")


def compiled(kernel, channels):
    """The kernel for compute capability 9.0."""
    constants = {"F": channels, "CHAINED": True}
    types = {"num_atoms": "*i32", "epsilon": "fp32", "seed": "fp32", **dict.fromkeys(WIDE, "*fp32")}
    types["weights"] = f"tensordesc<fp16[{channels}, {channels}],{gl.NVMMASharedLayout(128, 16, 2)}>"
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp16") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if signature[name].startswith("*") and name != "num_atoms"
    }
    source = GluonASTSource(kernel, signature, values, aligned)
    options = {"num_warps": channels // 16, "launch_pdl": True}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    found = {}
    for part in ("fwd", "last", "bwd"):
        for channels in painn_update_hopper.CHANNELS:
            kernel = compiled(getattr(painn_update_hopper, f"painn_update_{part}_hopper_kernel"), channels)
            found[f"{part} {channels}"] = {
                "shared": kernel.metadata.shared,
                "products": kernel.asm["ptx"].count("wgmma.mma_async"),
            }
    print(json.dumps(found))
