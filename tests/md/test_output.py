"""Blocks of frames as ASE reads and writes them, the thread that writes them, and what it does with a full disk."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read
from ase.io.trajectory import TrajectoryWriter

from atomjet.md import output
from atomjet.md.checkpoint import Recorded
from atomjet.md.frames import VARYING, FrameTemplate
from atomjet.md.observables import ROW, Observables
from atomjet.md.output import Appender, ReplicaOutput
from atomjet.md.recorder import Recorder


def labelled() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["name"] = "salt"
    atoms.set_tags([1, 2])
    atoms.set_momenta(np.zeros((2, 3)))
    return atoms


def begun(folder: Path, atoms: Atoms) -> Appender:
    recorder = Recorder(folder / "a.traj", folder / "a.csv")
    results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))} | (
        {"stress": np.zeros(6)} if atoms.pbc.all() else {}
    )
    recorder.frame(atoms, results, 0, 0.0)
    recorder.close()
    return Appender(folder / "a.traj", folder / "a.csv")


def numbers(step: int, atoms: Atoms) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(step)
    return {name: generator.standard_normal((1, len(atoms), 3)) for name in VARYING}


def append(file: Appender, template: FrameTemplate, atoms: Atoms, step: int) -> None:
    stresses = [[1e-300 * step, -step / 3, 0.0, 1.0, 2.0, 3.0]] if atoms.pbc.all() else None
    arrays = numbers(step, atoms)
    frames = template.frames([file.place()], arrays, [-step / 7], stresses, step, step * 0.1)
    file.frame(frames[0], template.text_at)


def check(frame: Atoms, atoms: Atoms, step: int) -> None:
    arrays = numbers(step, atoms)
    np.testing.assert_array_equal(frame.positions, arrays["positions."][0])
    np.testing.assert_array_equal(frame.get_momenta(), arrays["momenta."][0])
    np.testing.assert_array_equal(frame.get_forces(), arrays["forces."][0])
    assert frame.get_potential_energy() == -step / 7
    assert frame.info == atoms.info | {"step": step, "time_fs": step * 0.1}
    np.testing.assert_array_equal(frame.get_tags(), atoms.get_tags())
    np.testing.assert_array_equal(frame.cell.array, atoms.cell.array)
    if atoms.pbc.all():
        assert frame.get_stress().tolist() == [1e-300 * step, -step / 3, 0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("atoms", [labelled(), molecule("CH3CH2OH")], ids=["crystal", "molecule"])
def test_ase_reads_every_frame_to_the_last_bit_and_goes_on(tmp_path: Path, atoms: Atoms):
    atoms.set_momenta(np.zeros((len(atoms), 3)))
    file, template = begun(tmp_path, atoms), FrameTemplate(atoms, bool(atoms.pbc.all()))
    # 1, 42 and 1764 are where ULM's list of frames grows.
    for step in range(1, 1800):
        append(file, template, atoms, step)
        if step in (1, 2, 40, 41, 42, 100, 1763, 1764) and (write := file.take()):
            write()
            assert len(read(tmp_path / "a.traj", ":")) == step + 1
    last = file.take()
    assert last is not None
    last()
    file.close()
    frames = read(tmp_path / "a.traj", ":")
    assert len(frames) == 1800
    for step in (1, 41, 42, 43, 1763, 1764, 1799):
        check(frames[step], atoms, step)
    with TrajectoryWriter(str(tmp_path / "a.traj"), "a") as writer:
        writer.write(atoms)
    file = Appender(tmp_path / "a.traj", tmp_path / "a.csv")
    append(file, template, atoms, 1801)
    last = file.take()
    assert last is not None
    last()
    file.close()
    frames = read(tmp_path / "a.traj", "-2:")
    np.testing.assert_array_equal(frames[0].positions, atoms.positions)
    check(frames[1], atoms, 1801)


def test_files_do_not_depend_on_where_blocks_end(tmp_path: Path):
    atoms, files = labelled(), []
    for name, every in (("one", 1), ("some", 7), ("all", 1000)):
        (tmp_path / name).mkdir()
        file, template = begun(tmp_path / name, atoms), FrameTemplate(atoms, True)
        for step in range(1, 60):
            append(file, template, atoms, step)
            if step % every == 0 or step == 59:
                write = file.take()
                assert write is not None
                write()
        file.close()
        files.append((tmp_path / name / "a.traj").read_bytes())
    assert files[0] == files[1] == files[2]


def test_what_a_checkpoint_does_not_vouch_for_is_cut_off(tmp_path: Path):
    atoms = labelled()
    file, template = begun(tmp_path, atoms), FrameTemplate(atoms, True)
    written = ReplicaOutput([file])
    kept: list[Recorded] = []
    for step in range(1, 50):
        append(file, template, atoms, step)
        file.row(f"{step}\n")
        if step == 30:
            written.checkpoint(kept.extend)
    written.close()
    assert len(read(tmp_path / "a.traj", ":")) == 50
    whole = (tmp_path / "a.traj").read_bytes(), (tmp_path / "a.csv").read_bytes()
    file = Appender(tmp_path / "a.traj", tmp_path / "a.csv", kept[0])
    assert len(read(tmp_path / "a.traj", ":")) == 31
    written = ReplicaOutput([file])
    for step in range(31, 50):
        append(file, template, atoms, step)
        file.row(f"{step}\n")
    written.close()
    assert whole == ((tmp_path / "a.traj").read_bytes(), (tmp_path / "a.csv").read_bytes())


def test_a_full_disk_stops_the_run_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    atoms = labelled()
    file, template = begun(tmp_path, atoms), FrameTemplate(atoms, True)
    written, saved = ReplicaOutput([file]), []
    monkeypatch.setattr(output, "BLOCK_SECONDS", 0.0)
    append(file, template, atoms, 1)
    written.checkpoint(saved.extend)
    real = os.pwrite

    def full(handle: int, data: bytes, place: int) -> int:
        if len(data) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, place)

    append(file, template, atoms, 2)
    while not saved:
        time.sleep(0.01)
    monkeypatch.setattr(output.os, "pwrite", full)

    def until_the_thread_has_met_it():
        while True:
            written.hand_over(now=True)
            time.sleep(0.01)

    with pytest.raises(OSError, match="No space left"):
        until_the_thread_has_met_it()
    with pytest.raises(OSError, match="No space left"):
        written.close()
    assert len(read(tmp_path / "a.traj", ":")) == 2
    assert (tmp_path / "a.traj").stat().st_size == saved[0].trajectory_size


def test_a_frame_that_is_interrupted_leaves_those_before(tmp_path: Path):
    class Interrupted(Atoms):
        def has(self, name):
            raise KeyboardInterrupt

    recorder = Recorder(tmp_path / "a.traj", tmp_path / "a.csv")
    atoms = labelled()
    results = {"energy": 1.0, "forces": np.zeros((2, 3)), "stress": np.zeros(6)}
    recorder.frame(atoms, results, 0, 0.0)
    whole = (tmp_path / "a.traj").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        recorder.frame(Interrupted(atoms), results, 1, 0.5)
    recorder.close()
    assert (tmp_path / "a.traj").read_bytes() == whole


def test_rows_are_those_of_the_observables():
    values = (7, 3.5, -1.25e4, 1.0 / 3.0, 2.0, 300.0, 0.1, float("nan"), float("nan"))
    assert ROW % values == Observables(*values).row() + "\n"
