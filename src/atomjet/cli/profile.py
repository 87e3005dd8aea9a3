"""`atomjet profile`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from atomjet.cli import options
from atomjet.cli.options import (
    DEFAULT_MODEL,
    Backend,
    Charge,
    Device,
    Frame,
    Model,
    Overwrite,
    Precision,
    Seed,
    Spin,
    Structure,
    Task,
)

EXAMPLES = """Examples:

\b
  atomjet profile ethanol.xyz
  atomjet profile water.extxyz --device cuda --backend fast_gpu --trace trace.json --json profile.json
"""


def profile(
    file: Structure,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Every figure.", metavar="J", show_default=False)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="For chrome://tracing or ui.perfetto.dev.", show_default=False)
    ] = None,
    copies: Annotated[int, typer.Option("--copies", help="Evaluate the structure this many times in one batch.")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="On a CPU.")] = 1,
    frame: Frame = -1,
    charge: Charge = None,
    spin: Spin = None,
    overwrite: Overwrite = False,
    model: Model = DEFAULT_MODEL,
    device: Device = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    task: Task = None,
    seed: Seed = 0,
) -> None:
    """Show where the time of one evaluation goes, against what the hardware allows.

    On a GPU by kernels, on a CPU by operators; what is worth doing first stands on top.
    """
    import torch

    from atomjet.bench.profile import ncu_command, profile_engine, spoken
    from atomjet.data import System

    options.check_positive(copies=copies, threads=threads)
    for output in (json_file, trace):
        if output is not None:
            options.check_output(output, file, overwrite)
    atoms = options.read_frame(file, frame, seed, charge, spin)
    torch.set_num_threads(threads)
    engine = options.load_engine(model, device, backend, precision, task, quiet=True)  # the report says it
    made = profile_engine(engine, System.from_ase([atoms] * copies), trace)
    print(spoken(made))
    command = ncu_command(made, [argument for argument in sys.argv[1:] if argument != "--debug"])
    if command is not None:
        print(f"\nfor the heaviest kernels in detail:\n  {command}")
    if trace is not None:
        print(f"wrote {trace}")
    if json_file is not None:
        json_file.write_text(json.dumps(made.to_json(), indent=1) + "\n")
        print(f"wrote {json_file}")
