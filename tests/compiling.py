"""Compile kernels for GPUs on any machine; the interpreter accepts more than the compiler."""

import os
import subprocess
import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def compiled(kernel, constants, types, rest, capability, kind=ASTSource, **options):
    """The kernel for a compute capability; pointers are aligned, and what has no type of its own is of type `rest`."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, rest) for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if signature[name].startswith("*") and not name.startswith("num_")
    }
    source = kind(kernel, signature, values, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def printed(script: Path) -> str:
    """What a script that compiles prints, in a process of its own, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
