"""Parquet files of structures: written and read back, made by others, damaged, and by way of the other formats."""

from pathlib import Path

import ase.io
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomjet.adapters.parquet import ParquetReader, read_structures, rows_of, write_structures
from atomjet.adapters.structure_files import read_frames
from atomjet.adapters.structure_output import check_format
from atomjet.adapters.structure_output import write_structures as write_any
from atomjet.errors import StructureError


def structures() -> list[Atoms]:
    generator = np.random.default_rng(1)
    found = [molecule("CH3CH2OH"), bulk("Cu", cubic=True), fcc111("Al", (1, 1, 2), vacuum=6.0), Atoms("H")]
    found[0].info = {"charge": -1, "spin": 2, "task": "omol", "name": "ethanol", "weights": [1.5, 2.0]}
    found[1].set_initial_magnetic_moments([0.5, 0, 0, 1])
    found[2].set_tags([3, 4])
    found[2].info = {"site": {"fcc": [0.5, 0.25]}}
    for atoms in found[:3]:
        results = {"energy": generator.normal(), "forces": generator.normal(size=(len(atoms), 3))}
        if atoms.pbc.all():
            results["stress"] = generator.normal(size=6)
        atoms.calc = SinglePointCalculator(atoms, **results)
    found[0].info["label_energy"] = -1.25
    found[0].arrays["label_forces"] = generator.normal(size=(9, 3))
    return found


def same(first: Atoms, second: Atoms) -> None:
    assert first == second  # positions, numbers, cell, pbc
    for name, values in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], values)
    results = {} if first.calc is None else first.calc.results
    assert set(results) == set({} if second.calc is None else second.calc.results)
    for name, value in results.items():
        np.testing.assert_array_equal(second.calc.results[name], value)
    assert {key: value for key, value in second.info.items() if key != "id"} == first.info


def test_what_is_written_reads_back_to_the_last_bit(tmp_path):
    write_structures(tmp_path / "a.parquet", structures())
    rows = list(read_structures(tmp_path / "a.parquet"))
    assert [(row.number, row.id) for row in rows] == [(k, k) for k in range(4)]
    for before, row in zip(structures(), rows, strict=True):
        same(before, row.atoms)


def test_columns_are_those_that_are_documented(tmp_path):
    write_structures(tmp_path / "a.parquet", structures())
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    ethanol, copper = structures()[:2]
    assert table["numbers"][0] == ethanol.numbers.tolist()
    assert table["positions"][0] == ethanol.positions.ravel().tolist()
    assert table["cell"][1] == copper.cell.array.ravel().tolist()
    assert (table["cell"][0], table["pbc"][0], table["pbc"][1], table["pbc"][2]) == (
        None,
        None,
        [True] * 3,
        [True, True, False],
    )
    assert (table["charge"], table["spin"], table["task"]) == (
        [-1, *[None] * 3],
        [2, *[None] * 3],
        ["omol", *[None] * 3],
    )
    assert table["energy"][3] is None
    assert table["forces"][1] == copper.get_forces().ravel().tolist()
    assert table["stress"][1] == copper.get_stress(voigt=False).ravel().tolist()
    assert table["stress"][2] is None
    assert table["label_energy"] == [-1.25, None, None, None]
    assert table["error"] == [None] * 4


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_other_formats_come_back_from_parquet(tmp_path, name):
    """Labels as ASE keeps them: what the other format says is what it said before."""
    frames = [atoms for atoms in structures() if atoms.calc is not None]
    write_any(tmp_path / name, frames)
    first = [frame.atoms for frame in read_frames(tmp_path / name)]
    write_any(tmp_path / "b.parquet", first)
    second = [frame.atoms for frame in read_frames(tmp_path / "b.parquet")]
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before.positions, after.positions)
        np.testing.assert_array_equal(before.cell.array, after.cell.array)
        for key in ("energy", "forces", "stress"):
            np.testing.assert_array_equal(after.calc.results.get(key), before.calc.results.get(key))
        assert after.info.get("charge") == before.info.get("charge")
        assert after.info.get("name") == before.info.get("name")
    write_any(tmp_path / "again.extxyz", second)
    assert len(ase.io.read(tmp_path / "again.extxyz", ":")) == len(frames)


def test_columns_of_others_are_kept_as_info_and_nested_positions_are_read(tmp_path):
    water, methane = molecule("H2O"), molecule("CH4")
    table = arrow.table(
        {
            "id": ["a/1", "a/2"],
            "numbers": arrow.array([water.numbers, methane.numbers], arrow.list_(arrow.int64())),
            "positions": arrow.array(
                [water.positions.tolist(), methane.positions.tolist()], arrow.list_(arrow.list_(arrow.float32(), 3))
            ),
            "smiles": ["O", None],
        }
    )
    parquet.write_table(table, tmp_path / "others.parquet")
    first, second = read_structures(tmp_path / "others.parquet")
    assert first.name == "row 0 (id a/1)"
    assert first.atoms.info == {"id": "a/1", "smiles": "O"}
    assert second.atoms.info == {"id": "a/2"}
    np.testing.assert_array_equal(second.atoms.positions, methane.positions.astype(np.float32))
    with ParquetReader(tmp_path / "others.parquet") as file:
        (batch,) = file.batches()
        assert [len(row.atoms) for row in rows_of(batch.slice(1), 1)] == [5]


def bad(numbers, positions, **more) -> arrow.Table:
    types = {"cell": arrow.list_(arrow.float64()), "pbc": arrow.list_(arrow.bool_())}
    columns = {
        "numbers": arrow.array([numbers], arrow.list_(arrow.int32())),
        "positions": arrow.array([positions], arrow.list_(arrow.float64())),
    }
    return arrow.table(columns | {name: arrow.array([value], types[name]) for name, value in more.items()})


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (bad(None, [0.0] * 3), "numbers is empty or null: it has no atoms"),
        (bad([], []), "numbers is empty or null: it has no atoms"),
        (bad([1, 1], [0.0] * 5), "positions has 5 values, not 6 for 2 atoms"),
        (bad([1], None), "positions has 0 values, not 3 for 1 atoms"),
        (bad([1, 200], [0.0] * 6), "atom 1: atomic number 200 is that of no element; correct it"),
        (bad([1, None], [0.0] * 6), "atom 1: atomic number nan is that of no element; correct it"),
        (bad([1], [0.0] * 3, cell=[1.0] * 3), "cell has 3 values, not 9 for 1 atoms"),
        (bad([1], [0.0] * 3, pbc=[True]), "pbc has 1 values, not 3 for 1 atoms"),
    ],
)
def test_a_bad_row_says_why(tmp_path, table, text):
    parquet.write_table(table, tmp_path / "bad.parquet")
    (row,) = read_structures(tmp_path / "bad.parquet")
    assert (row.atoms, row.refusal) == (None, text)


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path):
    (tmp_path / "text.parquet").write_text("no")
    parquet.write_table(arrow.table({"a": [1], "b": [2]}), tmp_path / "else.parquet")
    parquet.write_table(arrow.table({"numbers": ["H"], "positions": [[0.0]]}), tmp_path / "words.parquet")
    parquet.write_table(arrow.table({"numbers": [[1]], "positions": [["x"]]}), tmp_path / "letters.parquet")
    table = arrow.table({"numbers": [[1]], "positions": [[0.0] * 3], "charge": [0.5]})
    parquet.write_table(table, tmp_path / "half.parquet")
    for name, text in {
        "absent": "no such file",
        "text": "is no Parquet file",
        "else": "has no column 'numbers'; it needs numbers and positions, and has a, b",
        "words": "column 'numbers' is of type string, not a list of integers",
        "letters": r"column 'positions' is of type list<\w+: string>, not a list of floating-point numbers",
        "half": "column 'charge' is of type double, not of integers",
    }.items():
        with pytest.raises(StructureError, match=text):
            list(read_structures(tmp_path / f"{name}.parquet"))
    whole = tmp_path / "whole.parquet"
    write_structures(whole, [molecule("CH3CH2OH")] * 500)
    content = bytearray(whole.read_bytes())
    content[200:1200] = bytes(1000)
    whole.write_bytes(content)
    with pytest.raises(StructureError, match=r"whole\.parquet: is damaged"):
        list(read_structures(whole))


def test_parquet_is_taken_as_a_format_that_keeps_results(tmp_path):
    check_format(tmp_path / "a.parquet", structures(), results=True)
    write_any(tmp_path / "a.parquet", structures())
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
