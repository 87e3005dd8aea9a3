"""Compile all kernels but the search's for GPUs, on any machine, which the interpreter does not; print what they take as JSON."""

import itertools
import json

from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from atomjet.data import Capacity
from atomjet.md import kernels as md
from atomjet.models import forces as edge_forces
from atomjet.models.painn.fast_gpu import default_tiles
from atomjet.ops import painn_message, painn_update, painn_update_hopper
from tests.compiling import compiled

FEATURES, HALF = 128, "*fp16"
WIDE = ("biases", "q", "mu", "energies", "vectors", "embedding", "mu_bar_sum", "gradients", "table")
WHOLE = ("row_ptr", "neighbors", "num_rows", "kinds", "values", "vu")
NUMBERS = {
    "epsilon": "fp32",
    "seed": "fp32",
    "gain": "fp32",
    "per_length": "fp32",
    "scale": "fp32",
    "start": "fp32",
    "end": "fp32",
    "reach": "fp32",
    "num_edges": "i32",
}
TYPES = {"num_atoms": "*i32", **dict.fromkeys(WIDE, "*fp32"), **dict.fromkeys(WHOLE, "*i32"), **NUMBERS}


def update(part, rows):
    """One of the kernels for Hopper."""
    kernel = getattr(painn_update_hopper, f"painn_update_{part}_hopper_kernel")
    weights = f"tensordesc<fp16[{FEATURES}, {FEATURES}],{gl.NVMMASharedLayout(128, 16, 2)}>"
    constants = {"F": FEATURES, "PDL": True, "ROWS": rows}
    types = TYPES | {"weights": weights}
    return compiled(kernel, constants, types, HALF, 90, GluonASTSource, num_warps=FEATURES // 16, launch_pdl=True)


def messages(atoms, capability):
    """Both kernels in all their forms, tiled as for so many atoms."""
    tiles = default_tiles(Capacity(1, atoms, 20 * atoms, atoms))
    for first, last in itertools.product((True, False), repeat=2):
        forms = [
            (painn_message.painn_message_fwd_kernel, tiles.message, False),
            (painn_message.painn_message_bwd_kernel, tiles.message_back, False),
        ]
        forms += [(painn_message.painn_message_bwd_kernel, tiles.message_back, True)] if first else []
        for kernel, chosen, zbl in forms:
            constants = {"F": FEATURES, "WORDS": 1, "FIRST": first, "LAST": last, "PDL": capability >= 90}
            constants |= {"EDGES": chosen.edges, "CHANNELS": chosen.channels, "ZBL": zbl}
            constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
            options = {"num_warps": chosen.warps, "maxnreg": chosen.registers or None, "launch_pdl": capability >= 90}
            yield compiled(kernel, constants, TYPES, HALF, capability, **options)


def plain_updates(capability, storage):
    """The updates for any GPU, and any precision; matrices come in half precision, as one or as two."""
    types = TYPES | dict.fromkeys(("matrices", "transposed"), HALF)
    for part in ("fwd", "last", "bwd"):
        kernel = getattr(painn_update, f"painn_update_{part}_kernel")
        split = 0 if storage == HALF else 7 if part == "last" else 11
        constants = {"F": FEATURES, "SPLIT": split, "PDL": capability >= 90, "ROWS": 16}
        yield compiled(kernel, constants, types, storage, capability, num_warps=8, launch_pdl=capability >= 90)


def sums(capability):
    """Forces and virials from edges."""
    lines = ("row_ptr", "neighbors", "reverse", "num_atoms", "atomic_numbers", "order", "status", "system_ptr", "pbc")
    types = dict.fromkeys(lines, "*i32") | dict.fromkeys(("vectors", "energies", "gradients"), "*fp32")
    types |= dict.fromkeys(("system_index", "task"), "*i32")
    types |= dict.fromkeys(("edges", "atoms", "elements", "reference_elements"), "i32")
    pdl = {"PDL": capability >= 90}
    for parts, rows, of_reverse in ((1, 1, True), (2, 1, True), (1, 5, False)):
        constants = {"PARTS": parts, "EDGES": 32, "ROWS": rows, "OF_REVERSE": of_reverse, **pdl}
        yield compiled(edge_forces.edge_forces_kernel, constants, types, "*fp64", capability, num_warps=1)
    for atoms in (64, 1024):
        kernel = edge_forces.edge_forces_sums_kernel
        yield compiled(kernel, {"ATOMS": atoms, **pdl}, types, "*fp64", capability, num_warps=atoms // 128 or 1)


def steps(capability):
    """Dynamics."""
    types = dict.fromkeys(("system_index", "system_ptr", "flags"), "*i32") | {"seeds": "*i64", "steps": "*i64"}
    types |= {"systems": "i32", "rows": "i32"}
    for langevin in (False, True):
        constants = {"LANGEVIN": langevin, "ATOMS": 32}
        yield compiled(md.advance_kernel, constants, types, "*fp64", capability, num_warps=1)
    for atoms in (32, 1024):
        warps = 1 if atoms == 32 else 8
        yield compiled(md.finish_kernel, {"ATOMS": atoms}, types, "*fp64", capability, num_warps=warps)


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
    for capability in (80, 90):
        for storage, name in ((HALF, "half"), ("*fp32", "split")):
            shared = [kernel.metadata.shared for kernel in plain_updates(capability, storage)]
            found[f"plain {name} {capability}"] = {"shared": max(shared), "kernels": len(shared)}
        for name, kernels in (("sums", sums(capability)), ("steps", steps(capability))):
            found[f"{name} {capability}"] = {"kernels": len(list(kernels))}
    print(json.dumps(found))
