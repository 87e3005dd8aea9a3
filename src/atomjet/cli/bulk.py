"""`atomjet predict IN.parquet -o OUT.parquet`: any number of structures in the memory of a few, resumable."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from atomjet.cli import options
from atomjet.cli.arguments import Computing, Executing, Reading
from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from atomjet import Engine
    from atomjet.adapters.parquet import ParquetReader, Row
    from atomjet.distill.bulk import ModelSettings
    from atomjet.distill.executors import Executor
    from atomjet.distill.journal import Journal

MOST_NAMED = 20
"""Rows that are named when they are skipped; more are counted."""


@dataclass
class Plan:
    """Which rows are computed together, and which not at all.

    Attributes:
        reading: options on structures that are refused, or warned of.
        groups: numbers of rows that are one batch, and their numbers of atoms; batch after batch.
        refusals: why a row is not computed.
        remarks: how many rows each warning concerns, by what it warns of.
        first_remarks: the warning of the first of these rows.
    """

    reading: Reading
    groups: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    refusals: dict[int, str] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    first_remarks: dict[str, str] = field(default_factory=dict)

    def take(self, engine: Engine, row: Row) -> Atoms | None:
        """The structure of a row as it is to be computed; None where it is refused.

        Raises:
            StructureError: it is refused, and `--skip` is not given.
        """
        from atomjet.adapters.structure_checks import apply_conditions, foreign_task, remarks_for

        atoms, refusal = row.atoms, row.refusal
        if atoms is not None:
            remarks = apply_conditions(atoms, self.reading.charge, self.reading.spin) | remarks_for(engine, atoms)
            if foreign_task(engine, atoms):
                atoms.info["task"] = ""
            if remarks and self.reading.strict:
                refusal, remarks = f"{'; '.join(remarks.values())} (without --strict a warning)", {}
            for subject, remark in remarks.items():
                self.remarks[subject] += 1
                self.first_remarks.setdefault(subject, f"{row.name}: {remark}")
        if not refusal:
            return atoms
        self.refuse(row.number, row.name, refusal)
        return None

    def refuse(self, number: int, name: str, refusal: str) -> None:
        """Note that a row is not computed, and say so.

        Raises:
            StructureError: `--skip` is not given.
        """
        from atomjet.errors import StructureError

        if not self.reading.skip:
            raise StructureError(f"{name}: {refusal}; --skip writes such rows with the reason in the column error")
        if len(self.refusals) < MOST_NAMED:
            print(f"skipped {one_line(f'{name}: {refusal}')}", file=sys.stderr)
        self.refusals[number] = refusal

    def warn(self) -> None:
        """One line for each subject of the warnings."""
        for subject, count in self.remarks.items():
            options.warn(self.first_remarks[subject] + (f"; likewise {count - 1} more rows" if count > 1 else ""))


@dataclass
class Summary:
    """What is printed at the end: how many rows and atoms, and the extremes."""

    rows: int = 0
    atoms: int = 0
    energy: list[tuple[float, str]] = field(default_factory=list)
    force: tuple[float, str] = (0.0, "")

    def add(self, name: str, energy: float, forces: np.ndarray) -> None:
        """Take a row: eV, and (N, 3) eV/Å."""
        self.rows += 1
        self.atoms += len(forces)
        self.energy = sorted([*self.energy, (energy / len(forces), name)])
        self.energy = [self.energy[0], self.energy[-1]]
        self.force = max(self.force, (float((forces**2).sum(1).max() ** 0.5), name))

    def print(self) -> None:
        """Three lines."""
        print(f"{self.rows} rows, {self.atoms} atoms")
        if self.rows:
            (low, where_low), (high, where_high) = self.energy
            print(f"energy / eV/atom: {low:.6f} ({where_low}) ... {high:.6f} ({where_high})")
            print(f"largest force / eV/Å: {self.force[0]:.4f} ({self.force[1]})")


def settings_of(computing: Computing, executor: Executor | None = None) -> ModelSettings:
    """What an engine is made from, here or on the devices of an executor."""
    from atomjet.distill.bulk import ModelSettings

    device = computing.device if executor is None else executor.device
    return ModelSettings(computing.model, device, computing.backend, computing.precision, computing.task)


def takes(file: Path, output: Path | None, part: str | None, csv: Path | None, plot: Path | None) -> bool:
    """Whether rows go from Parquet to Parquet and nowhere else.

    Raises:
        ConfigError: they do not, but a part of them is asked for.
    """
    from atomjet.adapters.structure_output import is_parquet
    from atomjet.errors import ConfigError

    straight = is_parquet(file) and is_parquet(output) and csv is None and plot is None
    if part is not None and not straight:
        raise ConfigError(f"--part {part} is for .parquet to .parquet, without --csv and --plot; leave it out")
    return straight


def predict_parquet(
    file: Path, output: Path, part: str | None, reading: Reading, computing: Computing, executing: Executing
) -> None:
    """Compute every row of a file and write it with its results; goes on where a run that was killed has left off.

    Results reach the disk batch by batch, in a folder beside the output that goes when the output is there. With `part`, "K/N",
    only the rows of the K-th of N parts, counted from 0.
    """
    from atomjet.adapters.parquet import ParquetReader
    from atomjet.locking import only_writer

    folder = output.with_name(f".{output.name}.partial")
    with ParquetReader(file, _part(part)) as source, only_writer(output):
        plan = Plan(reading)
        with options.executor_of(executing, computing.device) as executor:
            keys = _compute(source, plan, computing, executing, folder, executor)
        plan.warn()
        summary = _write(source, plan, keys, folder, output)
        shutil.rmtree(folder, ignore_errors=True)
    summary.print()
    print(f"wrote {output}: {source.rows} rows")
    if plan.refusals:
        named = sorted(plan.refusals)[:MOST_NAMED]
        rows = ", ".join(map(str, named)) + (", ..." if len(plan.refusals) > MOST_NAMED else "")
        print(f"skipped {len(plan.refusals)} of {source.rows} rows: {rows}; the column error says why")
        raise typer.Exit(1)


def _part(text: str | None) -> tuple[int, int]:
    """ "3/16" as numbers; all rows where no part is given."""
    from atomjet.errors import ConfigError

    part, _, parts = (text or "0/1").partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise ConfigError(f"--part {text} is not K/N with K from 0 to N - 1, such as 0/16")
    return int(part), int(parts)


def _compute(
    source: ParquetReader,
    plan: Plan,
    computing: Computing,
    executing: Executing,
    folder: Path,
    executor: Executor | None,
) -> list[bytes]:
    """Bring what is missing into the journal; returns the keys of the batches."""
    from atomjet.distill.bulk import engine_of, run_batches
    from atomjet.distill.executors import Here
    from atomjet.progress import track
    from atomjet.stopping import stoppable

    settings = settings_of(computing, executor)
    if executor is None:
        engine = engine_of(settings)
        print(one_line(engine.describe()), flush=True)
    else:
        engine = options.load_engine_beside(executing, computing)
    with stoppable(), track("predict", source.rows) as advance:
        try:
            return run_batches(settings, _batches(source, plan, engine, advance), folder, executor or Here(), advance)
        except BaseException:
            if folder.exists():
                print(f"what is computed is kept in {folder}; run the same again to go on", file=sys.stderr)
            raise


def _batches(
    source: ParquetReader, plan: Plan, engine: Engine, advance: Callable[..., None]
) -> Iterator[Sequence[Atoms]]:
    """Structures that are computed together; the plan takes down which rows they are."""
    import numpy as np

    from atomjet.adapters import predictions
    from atomjet.adapters.parquet import rows_of
    from atomjet.engine.streams import groups

    first = source.first
    for batch in source.batches():
        taken = [(row.number, plan.take(engine, row)) for row in rows_of(batch, first)]
        good = [(number, atoms) for number, atoms in taken if atoms is not None]
        advance(len(taken) - len(good))
        for group in groups([len(atoms) for _, atoms in good], predictions.ATOMS_AT_ONCE):
            part = [good[k][1] for k in group]
            plan.groups.append((np.array([good[k][0] for k in group]), np.array([len(atoms) for atoms in part])))
            yield part
        first += batch.num_rows


def _write(source: ParquetReader, plan: Plan, keys: Sequence[bytes], folder: Path, output: Path) -> Summary:
    """Read again, and write each row with what the journal says of it."""
    from atomjet.adapters import parquet
    from atomjet.distill.journal import Journal
    from atomjet.writing import appears_whole

    summary, first = Summary(), source.first
    with Journal(folder) as journal, appears_whole(output) as beside, parquet.ParquetWriter(beside) as writer:
        waiting, names = _results(plan, keys, journal), _columns(keys, journal)
        own = next(waiting, None)
        for batch in source.batches():
            ids = batch.column("id").to_pylist() if "id" in batch.schema.names else [None] * batch.num_rows
            found: dict[str, list[Any]] = {name: [None] * batch.num_rows for name in names}
            for k in range(batch.num_rows):
                row = parquet.Row(first + k, ids[k], None)
                results: dict[str, Any] = {"error": plan.refusals.get(row.number)}
                if own is not None and own[0] == row.number:
                    results, own = own[1], next(waiting, None)
                    if results["error"] is not None:
                        plan.refuse(row.number, row.name, results["error"])
                    else:
                        summary.add(row.name, results["energy"], results["forces"])
                for name, value in results.items():
                    found[name][k] = value
            writer.write(parquet.with_results(batch, first, parquet.result_columns(found)))
            first += batch.num_rows
    return summary


def _columns(keys: Sequence[bytes], journal: Journal) -> tuple[str, ...]:
    """Names of the columns of results: those of an ensemble have spreads."""
    records = (journal[key] for key in keys)
    computed = (
        record for record in records if "error" not in record and len(record["refused"]) < len(record["energy"])
    )
    ensemble = "forces_spread" in next(computed, {})  # others hold refusals alone, which have none
    return ("energy", "forces", "stress", "error", *(("energy_spread", "forces_spread") if ensemble else ()))


def _results(plan: Plan, keys: Sequence[bytes], journal: Journal) -> Iterator[tuple[int, dict[str, Any]]]:
    """Results of each row that was handed out, with the row's number, in order."""
    import numpy as np

    for (rows, counts), key in zip(plan.groups, keys, strict=True):
        record = journal[key]
        for name in ("forces", "forces_spread"):
            if name in record:
                record[name] = np.split(record[name], np.cumsum(counts)[:-1])
        for k, number in enumerate(rows.tolist()):
            reason = record.get("error") or record["refused"].get(str(k))
            if reason:
                yield number, {"error": reason}
                continue
            values = {name: record[name][k] for name in record if name != "refused"}
            if not np.isfinite(values["stress"]).all():
                values["stress"] = None
            yield number, {**values, "error": None}
