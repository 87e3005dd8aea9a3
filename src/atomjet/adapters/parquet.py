"""Parquet (pyarrow): structures and what was computed of them as columns, read and written in batches of rows.

One row is one structure of N atoms. Lists are flat, atom after atom, row after row:

    id          of any type; the number of the row where there is none
    numbers     list of N integers, atomic numbers
    positions   list of 3N numbers, Å (or N lists of three)
    cell        list of 9 numbers, Å, the three vectors one after the other; null: none
    pbc         list of 3 booleans; null: not periodic
    charge      integer, e; null: not said            spin   integer, 2S + 1; null: not said       task   text
    energy      eV                                    forces list of 3N numbers, eV/Å
    stress      list of 9 numbers, eV/Å³; null without three periodic directions
    error       text: why nothing was computed; else null
    info, arrays   text: JSON of whatever else ASE keeps of the structure, and by atom

Other columns stay as they are; energy, forces and stress that a file brought become label_energy, label_forces, label_stress.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from atomjet.errors import ConfigError, StructureError

try:
    import pyarrow as arrow
    from pyarrow import compute, parquet
except ImportError:  # this file is imported only where Parquet is asked for
    raise ConfigError("Parquet files need pyarrow: pip install 'atomjet[parquet]', or use extxyz") from None

Array = NDArray[Any]

BATCH_BYTES, BATCH_ROWS = 16_000_000, 1024
"""Rows are read together as far as they take so much memory, and no more than so many."""

GROUP_BYTES = 32_000_000
"""Bytes of a row group that is written."""

STRUCTURE = ("numbers", "positions", "cell", "pbc", "charge", "spin", "task")
RESULTS = ("energy", "forces", "stress", "error")
LABELS = ("energy", "forces", "stress")
"""Columns that a prediction replaces, and keeps as `label_...`."""


@dataclass(frozen=True)
class Row:
    """A row of a file: its number from 0, its id, and the structure or why there is none."""

    number: int
    id: Any
    atoms: Atoms | None
    refusal: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return (
            f"row {self.number}" if self.id is None or self.id == self.number else f"row {self.number} (id {self.id})"
        )


class ParquetReader:
    """A file of structures that is read in batches.

    Args:
        path: of the file.
        part: k and n: only the k-th of n equal parts of the rows, counted from 0.

    Attributes:
        first: number of the first row.
        rows: how many.
        schema: of the columns.

    Raises:
        StructureError: no such file, no Parquet, no rows, or no columns `numbers` and `positions` of the right types.
    """

    def __init__(self, path: str | Path, part: tuple[int, int] = (0, 1)) -> None:
        self.path = Path(path)
        try:
            self._file = parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except FileNotFoundError:
            raise StructureError(f"{path}: no such file") from None
        except arrow.ArrowException as error:
            raise StructureError(f"{path}: is no Parquet file ({_one_line(error)}); write it again") from None
        self.schema, everything = self._file.schema_arrow, self._file.metadata.num_rows
        _check_schema(self.path, self.schema)
        if not everything:
            raise StructureError(f"{path}: holds no structures")
        self.first, self._end = (everything * k // part[1] for k in (part[0], part[0] + 1))
        self.rows = self._end - self.first
        if not self.rows:
            raise StructureError(f"{path}: has {everything} rows, so one of {part[1]} parts is empty; take fewer parts")

    def batches(self) -> Iterator[Any]:
        """Record batches, in order."""
        groups = [self._file.metadata.row_group(k) for k in range(self._file.metadata.num_row_groups)]
        ends = np.cumsum([group.num_rows for group in groups])
        most = int(BATCH_BYTES * ends[-1] / max(sum(group.total_byte_size for group in groups), 1))
        wanted = [k for k, group in enumerate(groups) if self.first < ends[k] and ends[k] - group.num_rows < self._end]
        place = int(ends[wanted[0]] - groups[wanted[0]].num_rows) if wanted else 0
        try:
            for batch in self._file.iter_batches(max(1, min(BATCH_ROWS, most)), wanted):
                low, high = max(0, self.first - place), min(batch.num_rows, self._end - place)
                place += batch.num_rows
                if low < high:
                    yield batch.slice(low, high - low)
        except (arrow.ArrowException, OSError) as error:
            raise StructureError(f"{self.path}: is damaged ({_one_line(error)}); write it again") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ParquetReader:
        """Use as a context that closes the file."""
        return self

    def __exit__(self, exception: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()


def rows_of(batch: Any, first: int) -> Iterator[Row]:
    """Structures of a batch whose first row has the number `first`; `info` holds charge, spin and task where the row has them."""
    count = batch.num_rows
    ids = batch.column("id").to_pylist() if "id" in batch.schema.names else range(first, first + count)
    lists = {name: _ragged(batch, name) for name in ("numbers", "positions", "cell", "pbc")}
    conditions = {name: _column(batch, name) for name in ("charge", "spin", "task")}
    for k, own in enumerate(ids):
        numbers, positions, cell, pbc = (lists[name][k] for name in ("numbers", "positions", "cell", "pbc"))
        refusal = _refusal(numbers, positions, cell, pbc)
        if refusal:
            yield Row(first + k, own, None, refusal)
            continue
        atoms = Atoms(numbers, positions.reshape(-1, 3))
        if len(cell):
            atoms.cell = cell.reshape(3, 3)
        if len(pbc):
            atoms.pbc = pbc
        atoms.info = {name: values[k] for name, values in conditions.items() if values[k] is not None}
        yield Row(first + k, own, atoms)


def read_structures(path: str | Path) -> Iterator[Row]:
    """Every row with all there is: energy, forces and stress as results, other columns in `info`.

    Raises:
        StructureError: see `ParquetReader`.
    """
    with ParquetReader(path) as file:
        first, known = 0, {*STRUCTURE, *RESULTS, "info", "arrays", "label_forces"}
        rest = [name for name in file.schema.names if name not in known]
        for batch in file.batches():
            others = batch.select(rest).to_pylist()
            remembered = [_column(batch, name) for name in ("info", "arrays")]
            labels = [_column(batch, name) for name in (*LABELS, "label_forces")]
            for k, row in enumerate(rows_of(batch, first)):
                if row.atoms is not None:
                    _remember(row.atoms, others[k], *(values[k] for values in remembered))
                    _take_results(row.atoms, *(values[k] for values in labels))
                yield row
            first += batch.num_rows


def write_structures(path: str | Path, frames: Sequence[Atoms]) -> None:
    """Write structures with their results, in row groups."""
    labelled = [f"label_{name}" for name in LABELS if any(_label(atoms, name) is not None for atoms in frames)]
    computed = any(atoms.calc is not None and atoms.calc.results for atoms in frames)
    numbered = any("id" not in atoms.info for atoms in frames)
    id_type = arrow.int64() if numbered else arrow.array([atoms.info["id"] for atoms in frames]).type
    with ParquetWriter(path) as file:
        for first in range(0, max(1, len(frames)), BATCH_ROWS):
            part = frames[first : first + BATCH_ROWS]
            ids = range(first, first + len(part)) if numbered else [atoms.info["id"] for atoms in part]
            columns = {"id": arrow.array(ids, id_type), **_structure_columns(part)}
            columns |= _computed_columns(part) if computed else {}
            columns |= {name: _label_column(part, name) for name in labelled}
            columns |= _remembered_columns(part, numbered)
            file.write(arrow.RecordBatch.from_pydict(columns))


def result_columns(results: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Columns of results, each a value or None for every row: energy, eV, forces (N, 3), eV/Å, stress (3, 3), eV/Å³, error; of an
    ensemble also energy_spread, eV/atom, and forces_spread (N,), eV/Å.
    """
    types = {"error": arrow.string(), "energy": arrow.float64(), "energy_spread": arrow.float64()}
    return {
        name: arrow.array(values, types[name]) if name in types else _list_column(values, arrow.float64())
        for name, values in results.items()
    }


def with_results(batch: Any, first: int, columns: dict[str, Any]) -> Any:
    """A batch that was read, its rows numbered from `first` where they have no id, with columns of results."""
    names = batch.schema.names
    columns_read = {} if "id" in names else {"id": arrow.array(range(first, first + batch.num_rows), arrow.int64())}
    for name, values in zip(names, batch.columns, strict=True):
        if name not in columns:
            columns_read[name] = values
        elif name in LABELS and f"label_{name}" not in names:
            columns_read[f"label_{name}"] = values
    return arrow.RecordBatch.from_pydict(columns_read | columns)


class ParquetWriter:
    """A file that takes batches of the same columns, and writes them in row groups."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._batches, self._size = Path(path), [], 0
        self._file: Any = None

    def write(self, batch: Any) -> None:
        """Take a batch."""
        self._batches.append(batch)
        self._size += batch.nbytes
        if self._size >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            table = arrow.Table.from_batches(self._batches)
            if self._file is None:
                self._file = parquet.ParquetWriter(self.path, table.schema, compression="zstd")
            self._file.write_table(table)
            self._batches, self._size = [], 0

    def __enter__(self) -> ParquetWriter:
        """Use as a context that writes the rest and closes the file."""
        return self

    def __exit__(self, exception: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write the rest, unless there was an error, and close."""
        if exception is None:
            self._flush()
        if self._file is not None:
            self._file.close()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_schema(path: Path, schema: Any) -> None:
    for name in ("numbers", "positions"):
        if name not in schema.names:
            there = ", ".join(schema.names[:20]) or "none"
            raise StructureError(f"{path}: has no column {name!r}; it needs numbers and positions, and has {there}")
    wanted = {"numbers": arrow.types.is_integer, "positions": arrow.types.is_floating, "cell": arrow.types.is_floating}
    for name, right in (wanted | {"pbc": arrow.types.is_boolean}).items():
        if name not in schema.names:
            continue
        value_type, depth = schema.field(name).type, 0
        while _is_list(value_type):
            value_type, depth = value_type.value_type, depth + 1
        if not depth or not (right(value_type) or arrow.types.is_null(value_type)):
            what = {"numbers": "integers", "pbc": "booleans"}.get(name, "floating-point numbers")
            raise StructureError(f"{path}: column {name!r} is of type {schema.field(name).type}, not a list of {what}")
    for name in ("charge", "spin"):
        found = schema.field(name).type if name in schema.names else None
        if found is not None and not (arrow.types.is_integer(found) or arrow.types.is_null(found)):
            raise StructureError(f"{path}: column {name!r} is of type {found}, not of integers")


def _is_list(data_type: Any) -> bool:
    return any(
        is_one(data_type) for is_one in (arrow.types.is_list, arrow.types.is_large_list, arrow.types.is_fixed_size_list)
    )


def _column(batch: Any, name: str) -> list[Any]:
    return batch.column(name).to_pylist() if name in batch.schema.names else [None] * batch.num_rows


def _ragged(batch: Any, name: str) -> list[Array]:
    """A column of lists, or of lists of lists, as flat arrays; empty ones where it is null or missing."""
    if name not in batch.schema.names:
        return [np.zeros(0)] * batch.num_rows
    values, lengths = _flat(batch.column(name))
    return np.split(values, np.cumsum(lengths)[:-1])


def _flat(column: Any) -> tuple[Array, Array]:
    """All values, and how many each row has."""
    if not _is_list(column.type):
        return column.to_numpy(zero_copy_only=False), np.ones(len(column), int)
    lengths = compute.call_function("list_value_length", [column]).fill_null(0).to_numpy(zero_copy_only=False)
    values, inner = _flat(column.flatten())
    ends = np.concatenate([[0], np.cumsum(inner)])
    return values, np.diff(ends[np.concatenate([[0], np.cumsum(lengths)])])


def _refusal(numbers: Array, positions: Array, cell: Array, pbc: Array) -> str:
    """Why a row is no structure; "" where it is."""
    if not len(numbers):
        return "numbers is empty or null: it has no atoms"
    known = (numbers >= 0) & (numbers < len(chemical_symbols))
    if not known.all():
        atom = int(np.argmin(known))
        return f"atom {atom}: atomic number {numbers[atom]:g} is that of no element; correct it"
    for name, values, wanted in (
        ("positions", positions, (3 * len(numbers),)),
        ("cell", cell, (0, 9)),
        ("pbc", pbc, (0, 3)),
    ):
        if len(values) not in wanted:
            return f"{name} has {len(values)} values, not {wanted[-1]} for {len(numbers)} atoms"
    return ""


def _remember(atoms: Atoms, others: dict[str, Any], info: str | None, arrays: str | None) -> None:
    """What else the row says."""
    atoms.info |= {name: value for name, value in others.items() if value is not None}
    if "label_stress" in atoms.info:
        atoms.info["label_stress"] = _voigt(atoms.info["label_stress"])
    if info is not None:
        atoms.info |= json.loads(info)
    for name, values in json.loads(arrays or "{}").items():
        atoms.set_array(name, np.array(values))


def _take_results(atoms: Atoms, energy: float | None, forces: Any, stress: Any, label_forces: Any) -> None:
    results: dict[str, Any] = {} if energy is None else {"energy": energy}
    for name, values in (("forces", forces), ("label_forces", label_forces)):
        flat = np.ravel(values) if values is not None else np.zeros(0)
        if len(flat) == 3 * len(atoms):
            if name == "forces":
                results[name] = flat.reshape(-1, 3)
            else:
                atoms.set_array(name, flat.reshape(-1, 3))
    if stress is not None and np.size(stress) == 9:
        results["stress"] = _voigt(stress)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)


def _voigt(stress: Any) -> Array:
    return full_3x3_to_voigt_6_stress(np.reshape(stress, (3, 3)))


def _full(stress: Any) -> Array:
    return voigt_6_to_full_3x3_stress(stress) if np.shape(stress) == (6,) else np.asarray(stress)


def _list_column(values: Sequence[Array | None], value_type: Any) -> Any:
    """Flat lists; null for None."""
    flat = [np.zeros(0) if one is None else np.ravel(one) for one in values]
    ends = np.concatenate([[0], np.cumsum([len(one) for one in flat])]).astype(np.int32)
    mask = arrow.array([one is None for one in values], arrow.bool_())
    joined = np.concatenate([np.zeros(0), *flat]) if flat else np.zeros(0)
    return arrow.ListArray.from_arrays(arrow.array(ends), arrow.array(joined).cast(value_type), mask=mask)


def _structure_columns(frames: Sequence[Atoms]) -> dict[str, Any]:
    """Columns that say what the structures are."""
    cells = [atoms.cell.array if np.any(atoms.cell.array) else None for atoms in frames]
    numbers = {name: [_whole(atoms.info.get(name)) for atoms in frames] for name in ("charge", "spin")}
    return {
        "numbers": _list_column([atoms.numbers for atoms in frames], arrow.uint8()),
        "positions": _list_column([atoms.positions for atoms in frames], arrow.float64()),
        "cell": _list_column(cells, arrow.float64()),
        "pbc": _list_column([atoms.pbc if atoms.pbc.any() else None for atoms in frames], arrow.bool_()),
        **{name: arrow.array(values, arrow.int32()) for name, values in numbers.items()},
        "task": arrow.array([atoms.info.get("task") for atoms in frames], arrow.string()),
    }


def _computed_columns(frames: Sequence[Atoms]) -> dict[str, Any]:
    """Columns of the results of structures, as far as they have any."""
    results = [{} if atoms.calc is None or atoms.calc.check_state(atoms) else atoms.calc.results for atoms in frames]
    found = {name: [one.get(name) for one in results] for name in ("energy", "forces")}
    found["stress"] = [None if one.get("stress") is None else _full(one["stress"]) for one in results]
    return result_columns({**found, "error": [None] * len(frames)})


def _whole(value: Any) -> int | None:
    """A charge or spin; None where it is not said, or is no whole number, which `info` keeps as it is."""
    return (
        int(value) if isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer()) else None
    )


def _label(atoms: Atoms, name: str) -> Any:
    return atoms.arrays.get("label_forces") if name == "forces" else atoms.info.get(f"label_{name}")


def _label_column(frames: Sequence[Atoms], name: str) -> Any:
    values = [_label(atoms, name.removeprefix("label_")) for atoms in frames]
    if name == "label_energy":
        return arrow.array(values, arrow.float64())
    if name == "label_stress":
        values = [None if one is None else _full(one) for one in values]
    return _list_column(values, arrow.float64())


def _remembered_columns(frames: Sequence[Atoms], numbered: bool) -> dict[str, Any]:
    """JSON of `info` and `arrays` as far as no other column holds them and JSON can."""
    held = {"charge", "spin", "task", "label_energy", "label_stress"} | (set() if numbered else {"id"})
    by_structure = [
        {key: value for key, value in atoms.info.items() if key not in held or _lost(key, value)} for atoms in frames
    ]
    by_atom = [
        {name: v for name, v in atoms.arrays.items() if name not in ("numbers", "positions", "label_forces")}
        for atoms in frames
    ]
    return {
        name: arrow.array([_json(one) for one in each], arrow.string())
        for name, each in (("info", by_structure), ("arrays", by_atom))
    }


def _lost(key: str, value: Any) -> bool:
    return key in ("charge", "spin") and _whole(value) is None


def _json(values: dict[str, Any]) -> str | None:
    """What JSON can say of it: arrays as lists, nothing of objects."""
    found = {}
    for key, value in values.items():
        try:
            found[str(key)] = json.loads(json.dumps(value, default=lambda array: array.tolist()))
        except (AttributeError, TypeError, ValueError):
            continue
    return json.dumps(found) if found else None
