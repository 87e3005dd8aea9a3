"""Compile kernels for GPUs on any machine; the interpreter accepts more than the compiler."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


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


def as_launched(launch, capability):
    """The one kernel that a call of `launch` would run on a GPU of this compute capability, specialised as it would be there.

    Not for the interpreter: in a process of its own.
    """
    target = GPUTarget("cuda", capability, 32)
    backend, made = make_backend(target), []

    def run(kernel, *args, grid, warmup, **named):
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, options = bind(*args, debug=False, **named)
        options, signature, constants, attributes = kernel._pack_args(backend, named, bound, specialization, options)
        source = ASTSource(kernel, signature, constants, attributes)
        made.append(triton.compile(source, target=target, options=options.__dict__))

    with mock.patch.object(JITFunction, "run", run):
        launch()
    (one,) = made
    return one
