"""What is written: tried first, whole or not at all, and equal when it is read back."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from atomjet.adapters.structure_output import check_format, sample_of, write_structures
from atomjet.errors import StructureError

INFO = {
    "newline": "a\nb",
    "quoted": "say \"a\" and 'b'",
    "equals": "a=b",
    "backslash": "a\\b\\",
    "empty": "",
    "number": "12",
    "truth": "T",
    "list of texts": ["a b", "c\n"],
    "nested": {"a": {"b": [1, 2]}},
    "nothing": None,
    "json": "_JSON [1]",
    "flag": True,
    "count": 3,
}


def test_info_reads_back_equal(tmp_path: Path):
    atoms = molecule("H2O")
    atoms.info = dict(INFO) | {"empty array": np.zeros(0), "vector": np.arange(3), "big": 2**70}
    write_structures(tmp_path / "a.extxyz", [atoms, atoms])
    for back in read(tmp_path / "a.extxyz", ":"):
        assert {key: back.info[key] for key in INFO} == INFO
        assert back.info["empty array"].size == 0
        assert back.info["vector"].tolist() == [0, 1, 2]
        assert back.info["big"] == 2**70


def test_keys_that_mean_something_else_are_renamed(tmp_path: Path):
    atoms = molecule("H2O")
    atoms.info = {"energy": "text", "Lattice": "text", "a=b": 1, "a\nb": 2}
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    write_structures(tmp_path / "a.extxyz", [atoms])
    back = read(tmp_path / "a.extxyz")
    assert back.get_potential_energy() == -1.0
    assert back.info == {"info_energy": "text", "info_Lattice": "text", "a_b": 1, "a_b_": 2}


def test_words_of_columns_stay_one_word(tmp_path: Path):
    atoms = molecule("H2O")
    atoms.set_array("residue", np.array(["A LA", "", "B"]))
    write_structures(tmp_path / "a.extxyz", [atoms])
    assert read(tmp_path / "a.extxyz").arrays["residue"].tolist() == ["ALA", "_", "B"]


def test_results_of_other_positions_are_not_written(tmp_path: Path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((3, 3)))
    atoms.positions += 0.1
    write_structures(tmp_path / "a.extxyz", [atoms])
    assert read(tmp_path / "a.extxyz").calc is None


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.extxyz"
    write_structures(path, [molecule("H2O")])
    before = path.read_bytes()
    bad = molecule("CH4")
    bad.positions = bad.positions.astype(object)  # type: ignore[assignment]
    bad.arrays["positions"] = np.array([["x"] * 3] * 5)
    with pytest.raises(StructureError, match="ASE cannot write it"):
        write_structures(path, [molecule("H2O"), bad])
    assert path.read_bytes() == before
    assert [made.name for made in tmp_path.iterdir()] == ["a.extxyz"]


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "link.xyz").symlink_to(tmp_path / "real.xyz")
    write_structures(tmp_path / "link.xyz", [molecule("H2O")])
    assert (tmp_path / "link.xyz").is_symlink()
    assert len(read(tmp_path / "real.xyz")) == 3


def test_names_with_an_at_sign(tmp_path: Path):
    write_structures(tmp_path / "a@b.xyz", [molecule("H2O")])
    assert [made.name for made in tmp_path.iterdir()] == ["a@b.xyz"]


def test_formats_are_tried_before_anything_is_computed(tmp_path: Path):
    with pytest.raises(StructureError, match="a.nonsense: ASE writes no format of that name"):
        check_format(tmp_path / "a.nonsense")
    with pytest.raises(StructureError, match="a.cif: format cif keeps no energies and forces"):
        check_format(tmp_path / "a.cif", results=True)
    with pytest.raises(StructureError, match=f"^{tmp_path / 'a.vasp'}: ASE cannot write it"):
        check_format(tmp_path / "a.vasp", [molecule("H2O")])
    check_format(tmp_path / "a.vasp", [molecule("H2O", vacuum=3.0)])
    assert not list(tmp_path.iterdir())


def test_the_sample_has_each_kind_once():
    plain, noted = molecule("H2O"), molecule("CH4")
    noted.info["note"] = "a"
    assert sample_of([plain, plain, noted, plain]) == [plain, noted]
