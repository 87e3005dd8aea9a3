"""`atomjet tune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from atomjet.cli import options
from atomjet.cli.arguments import COMPUTING, Computing, grouped

EXAMPLES = """Examples:

\b
  atomjet tune                       (all sizes: some hundred kernels are compiled, on every core)
  atomjet tune --size 256 --precision high
  atomjet tune -o tuned.json         (elsewhere than where AtomJet looks)
"""


@grouped
def tune(
    size: Annotated[
        list[int] | None,
        typer.Option(
            "--size", help="Atoms: 32, 128, 256, 512, 1024, 2048, 4096 or 16384; may be repeated. Default: all."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Table to write. Default: the user's own, which every run reads."),
    ] = None,
    computing: Computing = COMPUTING,
) -> None:
    """Find the fastest tiles of fast_gpu's kernels on this GPU, and write them to a table.

    Molecules ("sparse") and boxes ("dense") of each size are tuned by themselves, on the
    smallest and the largest that an entry serves. Without it the kernels choose their tiles
    by size. Nothing is tuned unless this is called.
    """
    from atomjet.engine import tuner, tuning
    from atomjet.errors import ConfigError
    from atomjet.progress import track

    options.say_unused("tune", seed=(computing.seed, 0), backend=(computing.backend, "auto"))
    sizes = tuple(size or tuning.SIZES)
    for atoms in sizes:
        if atoms not in tuning.SIZES:
            raise ConfigError(f"size {atoms} is no size of the table; choose of {', '.join(map(str, tuning.SIZES))}")
    engine = options.load_engine(replace(computing, backend="fast_gpu"))
    path = output or tuning.user_table()
    name = tuning.device_name(engine.device)
    print(f"{'atoms':12} {'before/ms':>19} {'after/ms':>19}  choices (times of the smallest and the largest served)")
    with track("tune", 2 * len(sizes)) as advance:
        for found in tuner.tune(engine, sizes):
            choices = "; ".join(
                f"{kernel} " + " ".join(f"{choice} {value}" for choice, value in values.items())
                for kernel, values in found.choices.items()
            )
            before, after = (" ".join(f"{time:9.4f}" for time in times) for times in (found.before, found.after))
            print(f"{found.key:12} {before:>19} {after:>19}  {choices or 'as they are'}", flush=True)
            tuning.write_table(path, name, found.model, {found.key: found.choices})
            advance(note=found.key)
    print(f"wrote {path}")
