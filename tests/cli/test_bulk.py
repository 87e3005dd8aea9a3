"""`atomjet predict IN.parquet -o OUT.parquet`: what is written, what is refused, and runs that are killed."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet.adapters import parquet as adapter
from atomjet.distill import bulk as predictions
from atomjet.distill.journal import read_file
from atomjet.models import tensor_file
from tests.potentials import random_painn


def frames() -> list[Atoms]:
    found = [molecule("H2O"), bulk("C", cubic=True), molecule("CH3CH2OH"), molecule("CH4")]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
        atoms.info["id"] = f"id-{k}"
    return found


def test_rows_have_what_the_engine_says(call, tmp_path, small_model, monkeypatch):
    monkeypatch.setattr("atomjet.adapters.predictions.ATOMS_AT_ONCE", 11)
    monkeypatch.setattr(adapter, "BATCH_ROWS", 3)
    adapter.write_structures(tmp_path / "in.parquet", frames())
    before = parquet.read_table(tmp_path / "in.parquet")
    parquet.write_table(before.append_column("smiles", [["O", None, "CCO", "C"]]), tmp_path / "in.parquet")
    status, out, _ = call("predict", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "--precision", "float64")
    assert status == 0
    assert "4 rows, 25 atoms" in out
    assert f"wrote {tmp_path / 'out.parquet'}: 4 rows" in out
    assert not list(tmp_path.glob(".*"))
    table = parquet.read_table(tmp_path / "out.parquet")
    for name in before.schema.names:
        assert table.column(name).equals(before.column(name))
    found = table.to_pydict()
    assert found["smiles"] == ["O", None, "CCO", "C"]
    assert found["error"] == [None] * 4
    engine = atomjet.load(small_model, device="cpu", precision="float64")
    for k, atoms in enumerate(frames()):
        alone = engine.predict(atoms)
        assert found["energy"][k] == pytest.approx(float(alone.energy[0]), abs=1e-12)
        np.testing.assert_allclose(found["forces"][k], alone.forces.numpy().ravel(), atol=1e-12)
        if atoms.pbc.all():
            np.testing.assert_allclose(found["stress"][k], alone.stress[0].numpy().ravel(), atol=1e-14)
        else:
            assert found["stress"][k] is None


def with_bad_rows(path: Path) -> None:
    """Water; an element that the model does not know; a row without positions; methane."""
    iron = Atoms("HFe", positions=[[0, 0, 0], [0, 0, 1.5]], info={"id": "iron"})
    good = [molecule("H2O"), molecule("CH4")]
    for k, atoms in enumerate(good):
        atoms.info["id"] = f"good-{k}"
    adapter.write_structures(path, [good[0], iron, molecule("CO"), good[1]])
    table = parquet.read_table(path)
    ids = ["good-0", "iron", "torn", "good-1"]
    positions = table.column("positions").to_pylist()
    positions[2] = positions[2][:5]
    columns = {"id": ids, "positions": arrow.array(positions, arrow.list_(arrow.float64()))}
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, [values])
    parquet.write_table(table, path)


def test_bad_rows_are_named_and_skipped_if_asked(call, tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    with_bad_rows(source)
    status, _, err = call("predict", source, "-o", output)
    assert status == 2
    assert (
        "error: row 2 (id torn): positions has 5 values, not 6 for 2 atoms; --skip writes such rows with the reason"
        in err
    )
    assert not output.exists()
    status, out, err = call("predict", source, "-o", output, "--skip")
    assert status == 1
    assert "skipped row 2 (id torn): positions has 5 values, not 6 for 2 atoms" in err
    assert "skipped row 1 (id iron): atom 1: element Fe (Z = 26) is unknown to this model" in err
    assert "skipped 2 of 4 rows: 1, 2; the column error says why" in out
    table = parquet.read_table(output).to_pydict()
    assert table["id"] == ["good-0", "iron", "torn", "good-1"]
    assert [value is None for value in table["energy"]] == [False, True, True, False]
    assert [value is None for value in table["error"]] == [True, False, False, True]
    assert table["error"][1].startswith("atom 1: element Fe (Z = 26) is unknown")


def test_a_row_that_the_model_refuses_ends_the_run_and_what_is_computed_is_kept(call, tmp_path, monkeypatch):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    adapter.write_structures(source, [molecule("H2O"), Atoms("Fe"), molecule("CH4")])
    status, _, err = call("predict", source, "-o", output)
    assert status == 2
    assert "error: row 1: atom 0: element Fe (Z = 26) is unknown to this model" in err
    assert not output.exists()
    monkeypatch.setattr(predictions, "predict_batch", None)  # nothing is computed again
    assert call("predict", source, "-o", output, "--skip")[0] == 1
    assert output.exists()


def test_an_ensemble_whose_first_rows_are_refused(call, tmp_path, monkeypatch):
    monkeypatch.setattr("atomjet.adapters.predictions.ATOMS_AT_ONCE", 2)
    members = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, member in enumerate(members):
        tensor_file.write(member, random_painn(elements=(1, 6, 8), seed=seed), {"name": member.stem})
    assert call("ensemble", *members, "-o", tmp_path / "both.safetensors", model=False)[0] == 0
    near = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.01]])
    adapter.write_structures(tmp_path / "in.parquet", [near, molecule("H2O")])
    words = ["--skip", "--model", tmp_path / "both.safetensors"]
    status, _, err = call("predict", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", *words, model=False)
    assert (status, "skipped row 0: atom 0 and atom 1 are 0.010 Å apart" in err) == (1, True), err
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert [value is None for value in found["energy_spread"]] == [True, False]


def test_labels_of_the_file_are_kept_beside_the_predictions(call, tmp_path):
    table = arrow.table({"numbers": [[1]], "positions": [[0.0, 0, 0]], "energy": [7.0], "error": ["old"]})
    parquet.write_table(table, tmp_path / "in.parquet")
    assert call("predict", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")[0] == 0
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert (found["id"], found["label_energy"], found["error"]) == ([0], [7.0], [None])
    assert found["energy"] != [7.0]


def test_parquet_and_other_formats_say_the_same(call, tmp_path):
    adapter.write_structures(tmp_path / "in.parquet", frames())
    assert call("predict", tmp_path / "in.parquet", "-o", tmp_path / "bulk.parquet", "--precision", "float64")[0] == 0
    for name in ("other.extxyz", "back.parquet"):
        source = tmp_path / ("in.parquet" if name.endswith("extxyz") else "other.extxyz")
        assert call("predict", source, "-o", tmp_path / name, "--precision", "float64")[0] == 0
    first, second = (parquet.read_table(tmp_path / name).to_pydict() for name in ("bulk.parquet", "back.parquet"))
    assert first["id"] == second["id"]
    np.testing.assert_allclose(first["energy"], second["energy"], atol=1e-6)  # extxyz has eight digits of a position
    np.testing.assert_allclose(np.concatenate(first["forces"]), np.concatenate(second["forces"]), atol=1e-6)
    status, out, _ = call("predict", tmp_path / "in.parquet")
    assert status == 0
    assert out.count("eV/Å") > 20  # forces are printed, as of any file


def test_empty_files_and_unknown_executors(call, tmp_path):
    empty = arrow.table(
        {
            "numbers": arrow.array([], arrow.list_(arrow.int8())),
            "positions": arrow.array([], arrow.list_(arrow.float64())),
        }
    )
    parquet.write_table(empty, tmp_path / "in.parquet")
    status, _, err = call("predict", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")
    assert status == 2
    assert "in.parquet: holds no structures" in err
    for words, text in (
        (["--executor", "slurm"], "error: executor 'slurm' is unknown; choose from processes, ray"),
        (["--workers", "0"], "error: workers 0 is not above zero; give 1 or more"),
        (["--ray-address", "a:1"], "error: --ray-address a:1 goes with --executor ray alone; leave it out"),
    ):
        adapter.write_structures(tmp_path / "one.parquet", [molecule("H2O")])
        status, _, err = call("predict", tmp_path / "one.parquet", "-o", tmp_path / "out.parquet", *words)
        assert (status, err.splitlines()[-1]) == (2, text)


def test_parts_of_a_file_make_the_whole(call, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "BATCH_ROWS", 2)
    many = [atoms for _ in range(3) for atoms in frames()][:11]
    adapter.write_structures(tmp_path / "in.parquet", many)
    parquet.write_table(
        parquet.read_table(tmp_path / "in.parquet").drop_columns("id"), tmp_path / "in.parquet", row_group_size=3
    )
    words = ["predict", tmp_path / "in.parquet", "--precision", "float64", "-o"]
    assert call(*words, tmp_path / "whole.parquet")[0] == 0
    for k in range(4):
        assert call(*words, tmp_path / f"part-{k}.parquet", "--part", f"{k}/4")[0] == 0
    parts = [parquet.read_table(tmp_path / f"part-{k}.parquet") for k in range(4)]
    assert [len(part) for part in parts] == [2, 3, 3, 3]
    joined, whole = arrow.concat_tables(parts).to_pydict(), parquet.read_table(tmp_path / "whole.parquet").to_pydict()
    assert joined["id"] == whole["id"] == list(range(11))
    np.testing.assert_allclose(joined["energy"], whole["energy"], rtol=0, atol=1e-12)
    for part in ("4/4", "1", "-1/4", "a/b"):
        status, _, err = call(*words, tmp_path / "no.parquet", "--part", part)
        assert (status, err.splitlines()[-1]) == (
            2,
            f"error: --part {part} is not K/N with K from 0 to N - 1, such as 0/16",
        )
    status, _, err = call(*words, tmp_path / "no.parquet", "--part", "0/20")
    assert (status, err) == (
        2,
        f"error: {tmp_path / 'in.parquet'}: has 11 rows, so one of 20 parts is empty; take fewer parts\n",
    )
    assert call("predict", tmp_path / "in.parquet", "--part", "0/4")[0] == 2
    status, _, err = call(*words, tmp_path / "no.extxyz", "--part", "0/4")
    assert (status, err) == (
        2,
        "error: --part 0/4 is for .parquet to .parquet, without --csv and --plot; leave it out\n",
    )


DIES = """
import os, signal, sys
from atomjet.cli.main import main
from atomjet.distill.journal import JournalWriter

append, keys = JournalWriter.append, []

def counted(self, key, record):
    append(self, key, record)
    keys.append(key)
    if len(keys) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

JournalWriter.append = counted
main(sys.argv[1:])
"""
"""A command that is killed when it has remembered two results."""


def test_a_killed_run_goes_on_and_computes_nothing_twice(call, tmp_path, small_model, monkeypatch):
    many = [atoms for k in range(400) for atoms in frames()]
    generator = np.random.default_rng(0)
    for k, atoms in enumerate(many):
        atoms.positions += generator.normal(0, 0.02, atoms.positions.shape)
        atoms.info["id"] = k
    adapter.write_structures(tmp_path / "in.parquet", many)
    words = ["predict", tmp_path / "in.parquet", "--device", "cpu", "-o"]
    assert call(*words, tmp_path / "alone.parquet")[0] == 0
    output, folder = tmp_path / "out.parquet", tmp_path / ".out.parquet.partial"
    killed = subprocess.run([sys.executable, "-c", DIES, *words, output, "--model", small_model], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    known = {key for path in folder.glob("*.journal") for key, _, _ in read_file(path)}
    monkeypatch.setattr("shutil.rmtree", lambda *given, **more: None)  # the journals stay, to be looked at
    assert call(*words, output)[0] == 0
    keys = [key for path in folder.glob("*.journal") for key, _, _ in read_file(path)]
    assert len(known) == 2
    assert known < set(keys)
    assert len(keys) == len(set(keys))
    assert output.read_bytes() == (tmp_path / "alone.parquet").read_bytes()
