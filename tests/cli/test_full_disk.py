"""A disk that gets full: one line that names the file, nothing that was written before is lost, nothing torn stands under its name.

The system's limit on the size of a file stands for the disk: it cuts writes short and refuses them in the same places.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

from tests.killing import Runs


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Labelled frames, whose file is larger than any limit here."""
    path, generator = tmp_path / "in.extxyz", np.random.default_rng(0)
    images = [molecule("H2O") for _ in range(60)]
    for image in images:
        image.positions += 0.05 * generator.standard_normal((3, 3))
    write(path, images)
    return path


def complaint(err: str, file: Path) -> str:
    """The one line, without progress bars and the way on."""
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert line == (
        f"error: cannot write {file}: File too large; make room, or choose another place, and run the same again"
    )
    return line


@pytest.mark.parametrize("name", ["out.extxyz", "out.traj", "out.parquet", "out.csv"])
def test_a_file_that_does_not_fit_is_named_and_not_there(
    runs: Runs, frames: Path, small_model: Path, tmp_path: Path, name: str
):
    output = tmp_path / name
    words = ["predict", frames, "--model", small_model, "--csv" if name.endswith("csv") else "-o", output]
    ended = runs.run(words, largest_file=2000)
    assert ended.status == 2
    complaint(ended.err, output)
    assert sorted(path.name for path in tmp_path.iterdir() if "-" not in path.name) == ["in.extxyz"]


def test_a_picture_that_does_not_fit_is_named_and_not_there(
    runs: Runs, frames: Path, small_model: Path, tmp_path: Path
):
    words = ["predict", frames, "--model", small_model, "-o", tmp_path / "labelled.extxyz"]
    assert runs.run(words).status == 0
    words = ["predict", tmp_path / "labelled.extxyz", "--model", small_model, "--plot", tmp_path / "parity.png"]
    ended = runs.run(words, largest_file=10_000)
    assert ended.status == 2
    assert (
        f"error: cannot write {tmp_path / 'parity.png'}: " in ended.err
        or f"{tmp_path / 'parity.png'}: not all" in ended.err
    )
    assert not (tmp_path / "parity.png").exists()


@pytest.mark.parametrize("limit", [4_400, 7_000])
def test_a_run_goes_on_where_the_disk_got_full(
    runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path, limit: int
):
    words = f"md {ethanol} --steps 12 --temperature 20 --timestep 0.2 --traj-interval 1 --log-interval 1 --model {small_model}"
    assert runs.run([*words.split(), "-o", tmp_path / "whole.traj"]).status == 0
    cut = [*words.split(), "-o", tmp_path / "cut.traj"]
    ended = runs.run(cut, largest_file=limit)
    assert ended.status == 2
    complaint(ended.err, tmp_path / ("cut.traj.checkpoint" if limit < 5000 else "cut.traj"))
    assert not list(tmp_path.glob("*.part"))
    if limit > 5000:
        assert f"to go on with {tmp_path / 'cut.traj'}, repeat the command with --resume" in ended.err
        there = read(tmp_path / "cut.traj", ":")
        assert [atoms.info["step"] for atoms in there] == list(range(len(there)))
        for atoms, same in zip(there, read(tmp_path / "whole.traj", ":"), strict=False):
            assert np.array_equal(atoms.positions, same.positions)
            assert np.array_equal(atoms.get_forces(), same.get_forces())
    assert runs.run([*cut, "--resume"]).status == 0
    assert (tmp_path / "cut.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_log_ends_with_a_whole_row(runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path):
    words = f"md {ethanol} --steps 200 --temperature 20 --timestep 0.2 --traj-interval 1000 --log-interval 1"
    ended = runs.run([*words.split(), "--model", small_model, "-o", tmp_path / "a.traj"], largest_file=7_000)
    assert ended.status == 2
    complaint(ended.err, tmp_path / "a.csv")
    header, *rows = (tmp_path / "a.csv").read_text().split("\n")
    assert rows.pop() == ""
    assert [int(row.split(",")[0]) for row in rows] == list(range(len(rows)))
    assert {row.count(",") for row in rows} == {header.count(",")}


def test_steps_of_a_relaxation_are_whole(runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path):
    words = ["relax", ethanol, "--model", small_model, "--fmax", "1e-5", "-o", tmp_path / "out.xyz"]
    ended = runs.run([*words, "--trajectory", tmp_path / "steps.traj"], largest_file=3_000)
    assert ended.status == 2
    complaint(ended.err, tmp_path / "steps.traj")
    there = read(tmp_path / "steps.traj", ":")
    assert there
    assert all(np.isfinite(atoms.get_forces()).all() for atoms in there)
    assert len(read(tmp_path / "out.xyz")) == 9


def test_output_to_a_full_device_is_one_line(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "atomjet", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: cannot write standard output: No space left on device; make room, or choose another place, and run the same again\n"
    )
