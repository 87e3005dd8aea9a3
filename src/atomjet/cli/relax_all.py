"""`atomjet relax --all`: every structure of a file, in batches."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atomjet.cli import options

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.adapters.structure_files import Frame as Structured
    from atomjet.md.relax import RelaxSettings
    from atomjet.md.relax_many import Relaxed

MOST_NAMED = 10
"""Structures that are named one by one of those that failed."""


def relax_all(
    engine: Engine, frames: list[Structured], settings: RelaxSettings, output: Path, tasks: Mapping[int, object]
) -> None:
    """Relax every frame at its own cell; write all that could be computed, in their order, with energy and forces.

    Args:
        engine: computes.
        frames: those without structure were refused, and say why.
        settings: fmax and steps count.
        output: gets the structures, also those of an interrupted run.
        tasks: what frames said of themselves to other programs, by number; put back.

    Raises:
        Exit: with status 1 if any frame was refused or did not converge.
    """
    from atomjet.md.relax_many import relax_many
    from atomjet.progress import track
    from atomjet.stopping import stoppable

    structured = [frame for frame in frames if frame.atoms is not None]
    results: dict[int, Relaxed] = {}
    started = time.perf_counter()
    with stoppable() as heard, track("relax", len(structured)) as advance:
        try:
            atoms = [frame.atoms for frame in structured if frame.atoms is not None]
            for result in relax_many(engine, atoms, settings.fmax, settings.steps):
                results[structured[result.index].number] = result
                advance()
        except BaseException:  # ctrl-C, or a device that failed: what is done is not lost
            heard()
            _write(output, results, tasks, len(frames))
            raise
    seconds = time.perf_counter() - started
    failed = {frame.number: frame.refusal for frame in frames if frame.atoms is None}
    for number, result in results.items():
        if result.error is not None:
            failed[number] = f"{result.error} (after {result.steps} steps)" if result.steps else result.error
        elif not result.converged:
            failed[number] = f"not converged after {result.steps} steps: largest force {result.fmax:.4g} eV/Å"
    _write(output, results, tasks, len(frames))
    _summary(results, len(failed), settings.fmax, seconds)
    options.warn_uncertain(engine, [(f"frame {number}", results[number].atoms) for number in sorted(results)])
    for number in sorted(failed)[:MOST_NAMED]:
        print(f"frame {number}: {failed[number]}", file=sys.stderr)
    if len(failed) > MOST_NAMED:
        print(
            f"and {len(failed) - MOST_NAMED} more: {', '.join(map(str, sorted(failed)[MOST_NAMED:]))}", file=sys.stderr
        )
    if failed:
        raise typer.Exit(1)


def _write(output: Path, results: dict[int, Relaxed], tasks: Mapping[int, object], number: int) -> None:
    from atomjet.adapters.structure_output import write_structures

    finished = [_labelled(results[k], tasks.get(k)) for k in sorted(results) if results[k].energy == results[k].energy]
    if finished:
        write_structures(output, finished)
        print(f"wrote {output}: {len(finished)} of {number} frames", flush=True)


def _labelled(result: Relaxed, task: object) -> Atoms:
    """The structure with what became of it."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = result.atoms
    atoms.calc = SinglePointCalculator(atoms, energy=result.energy)
    atoms.info |= {"fmax": result.fmax, "steps": result.steps, "converged": result.converged}
    if result.spread is not None:
        atoms.arrays["forces_spread"] = result.spread
    if task is not None:
        atoms.info["task"] = task
    return atoms


def _summary(results: dict[int, Relaxed], failed: int, fmax: float, seconds: float) -> None:
    steps = [result.steps for result in results.values() if result.converged]
    rate = f", {len(results) / seconds:.1f} a second" if seconds > 0 and results else ""
    print(f"{len(steps)} structures converged below {fmax:g} eV/Å, {failed} did not; {seconds:.1f} s{rate}")
    if steps:
        print(f"steps: mean {sum(steps) / len(steps):.1f}, most {max(steps)}")
