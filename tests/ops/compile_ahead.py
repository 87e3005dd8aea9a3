"""Compile two kernels ahead for a GPU that is not there; print which were compiled, and what their work has done."""

import json

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from atomjet.ops.compile_ahead import compile_ahead


class Driver:
    """Says of which kind the GPU would be."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@triton.jit
def double_kernel(x, y, N: tl.constexpr, DOUBLE: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) * (2 if DOUBLE else 1))


if __name__ == "__main__":
    driver.set_active(Driver())
    compiled = []
    knobs.runtime.jit_post_compile_hook = lambda **given: compiled.append(given["repr"].split("[")[0])
    x, y, turns = torch.ones(16), torch.zeros(16), []

    def work():
        for double in (True, False, True):
            double_kernel[(1,)](x, y, N=16, DOUBLE=double)
        turns.append(len(compiled))

    compile_ahead(work, torch.device("cuda"))
    cache = double_kernel.device_caches[0][0]
    print(
        json.dumps(
            {"compiled": compiled, "during": turns, "kept": len(cache), "hook": repr(knobs.runtime.jit_cache_hook)}
        )
    )
