"""`atomjet profile`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Frame, Overwrite, Reading, Structure, grouped

EXAMPLES = """Examples:

\b
  atomjet profile ethanol.xyz
  atomjet profile water.extxyz --device cuda --backend fast_gpu --trace trace.json --json profile.json
"""


@grouped
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
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Show where the time of one evaluation goes, against what the hardware allows.

    On a GPU by kernels, on a CPU by operators; what is worth doing first stands on top.
    """
    import torch

    from atomjet.bench.profile import profile_engine
    from atomjet.bench.profile_table import ncu_command, table
    from atomjet.data import System
    from atomjet.writing import write_atomically

    options.check_positive(copies=copies, threads=threads)
    for output in (json_file, trace):
        if output is not None:
            options.check_output(output, file, overwrite)
    torch.set_num_threads(threads)
    atoms, engine = inputs.structure_and_engine(file, frame, reading, computing, quiet=True)  # the report says it
    made = profile_engine(engine, System.from_ase([atoms] * copies), trace)
    print(table(made))
    command = ncu_command(made, [argument for argument in sys.argv[1:] if argument != "--debug"])
    if command is not None:
        print(f"\nfor the heaviest kernels in detail:\n  {command}")
    if trace is not None:
        print(f"wrote {trace}")
    if json_file is not None:
        write_atomically(json_file, json.dumps(made.to_json(), indent=1) + "\n")
        print(f"wrote {json_file}")
