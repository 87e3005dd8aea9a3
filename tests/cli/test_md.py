"""`atomjet md`, killed and resumed as users do it."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

from atomjet.engine import Settings
from atomjet.md.checkpoint import Checkpoint
from atomjet.md.observables import COLUMNS, read_log
from atomjet.md.run import checkpoint_path
from tests.killing import Point, Runs

COLD = ("--temperature", "20")  # the small model does not hold a molecule together


def test_run_writes_everything_and_says_what_ran(call, ethanol: Path, tmp_path: Path):
    out_traj, plot = tmp_path / "run.traj", tmp_path / "run.png"
    status, out, _ = call("md", ethanol, "--steps", "60", *COLD, "-o", out_traj, "--plot", plot)
    assert status == 0
    assert f"small on {Settings().device}" in out
    for words in (
        "nve, 60 steps of 0.5 fs = 0.03 ps, start at 20 K",
        "steps/s",
        "ns/day",
        "mean temperature",
        "energy drift",
    ):
        assert words in out
    frames = read(out_traj, ":")
    assert len(frames) == 7
    assert frames[-1].get_velocities().any()
    assert np.isfinite(frames[-1].get_potential_energy())
    assert len(read_log(tmp_path / "run.csv")["step"]) == 7
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_log_has_the_columns_it_says(call, diamond: Path, tmp_path: Path):
    arguments = ("--ensemble", "npt", "--pressure", "0.5", "--log-interval", "5", "--traj-interval", "20")
    status, out, _ = call(
        "md", diamond, "--steps", "20", *COLD, *arguments, "-o", tmp_path / "a.traj", "--log", tmp_path / "b.csv"
    )
    assert status == 0
    assert "mean potential" in out
    rows = read_log(tmp_path / "b.csv")
    assert tuple(rows) == COLUMNS
    assert rows["step"].tolist() == [0, 5, 10, 15, 20]
    assert np.isfinite(rows["pressure_GPa"]).all()
    assert len(read(tmp_path / "a.traj", ":")) == 2


def test_seed_decides_the_run(call, ethanol: Path, tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        call(
            "md", ethanol, "--steps", "10", "--ensemble", "nvt", "--seed", seed, *COLD, "-o", tmp_path / f"{name}.traj"
        )
    a, b, c = ((tmp_path / f"{name}.csv").read_text() for name in "abc")
    assert a == b != c


SAVED = "atomjet.md.checkpoint:Checkpoint.save"


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_kill_9_and_resume_loses_and_doubles_nothing(
    call, runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path, ensemble: str
):
    words = f"md {ethanol} --steps 60 --ensemble {ensemble} --temperature 20 --timestep 0.2 --device cpu"
    words += " --log-interval 3 --traj-interval 4 --checkpoint-seconds 0"  # after every step
    assert call(*words.split(), "-o", tmp_path / "whole.traj")[0] == 0
    again = [*words.split(), "--resume", "-o", str(tmp_path / "cut.traj")]
    for nth, calls in ((1, 0), (21, 300), (12, 3000)):  # in that file, and soon behind it, wherever that is
        assert (
            runs.run([*again, "--model", small_model], Point(signal.SIGKILL, SAVED, nth, calls)).status
            == -signal.SIGKILL
        )
    resumed_at = Checkpoint.load(checkpoint_path(tmp_path / "cut.traj")).step
    assert 20 <= resumed_at < 60
    status, out, _ = call(*again)
    assert status == 0
    assert f"resumed at step  {resumed_at}" in out
    assert (tmp_path / "cut.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_interrupt_is_status_130_with_the_way_on(runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path):
    words = f"md {ethanol} --steps 1000 --temperature 1 --timestep 0.01 --checkpoint-seconds 0 --model {small_model}"
    ended = runs.run([*words.split(), "-o", tmp_path / "a.traj"], Point(signal.SIGINT, SAVED, 5, 200))
    assert ended.status == 130
    assert "repeat the command with --resume\ninterrupted\n" in ended.err
    assert "Traceback" not in ended.err


def test_resume_says_what_it_does_and_refuses_what_differs(call, ethanol: Path, tmp_path: Path):
    base = ("md", ethanol, *COLD, "-o", tmp_path / "a.traj")
    status, _, err = call(*base, "--steps", "20", "--resume")
    assert status == 0
    assert "nothing to resume" in err
    status, _, err = call(*base, "--steps", "20")
    assert status == 2
    assert "exists already" in err
    status, _, err = call(*base, "--steps", "20", "--resume", "--precision", "float64")
    assert status == 2
    assert "precision default -> float64" in err
    status, out, _ = call(*base, "--steps", "30", "--resume")
    assert status == 0
    assert "resumed at step  20" in out
    assert [frame.info["step"] for frame in read(tmp_path / "a.traj", ":")] == [0, 10, 20, 30]
    status, _, err = call(*base, "--steps", "10", "--resume")
    assert status == 2
    assert "steps 10 is fewer than the 30" in err
    assert call(*base, "--steps", "10", "--overwrite")[0] == 0
    assert len(read(tmp_path / "a.traj", ":")) == 2


def test_resume_by_another_spelling_of_the_same_paths(
    call, ethanol: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    first = ("md", ethanol, "--steps", "10", *COLD, "--model", small_model, "-o")
    assert call(*first, "a.traj")[0] == 0
    again = ("md", os.path.relpath(ethanol), "--steps", "20", *COLD, "--model", os.path.relpath(small_model), "-o")
    status, out, err = call(*again, f"../{tmp_path.name}/./a.traj", "--resume")
    assert status == 0
    assert "warning" not in err
    assert "resumed at step  10" in out


def test_a_second_run_on_one_output_is_refused(call, runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path):
    output = tmp_path / "a.traj"
    words = f"md {ethanol} --steps 1000 --temperature 1 --timestep 0.01 --checkpoint-seconds 0 --model {small_model}"
    first = runs.run([*words.split(), "-o", output], Point(signal.SIGSTOP, SAVED, 4))
    assert first.status == -signal.SIGSTOP, first.err
    for how in ("--resume", "--overwrite"):
        status, _, err = call(*words.split(), "-o", output, how)
        assert status == 2
        assert re.search(rf"^error: another run is working on .*a\.traj \(process {first.pid} on .+\); wait", err, re.M)
    runs.kill(first)
    step = Checkpoint.load(checkpoint_path(output)).step
    status, _, _ = call(*words.replace("1000", str(step + 3)).split(), "-o", output, "--resume")
    assert status == 0
    assert len(read(output, ":"))
    assert not output.with_name("a.traj.lock").exists()


def test_a_temperature_at_which_nothing_holds_is_an_explosion(call, ethanol: Path, tmp_path: Path):
    for kelvin in ("1e5", "1e9"):
        status, _, err = call("md", ethanol, "--steps", "500", "--temperature", kelvin, "-o", tmp_path / "a.traj")
        assert status == 1
        assert re.match(
            r"error: the run exploded at step 0: temperature is 1e\+0\d K, limit 10000 K; .*give a temperature below",
            err,
        )
        assert err.count("\n") == 1


def test_velocities_can_be_kept(call, ethanol: Path, tmp_path: Path):
    call("md", ethanol, "--steps", "10", *COLD, "-o", tmp_path / "a.traj")
    status, _, _ = call("md", tmp_path / "a.traj", "--steps", "0", "--keep-velocities", "-o", tmp_path / "b.traj")
    assert status == 0
    before, after = read(tmp_path / "a.traj"), read(tmp_path / "b.traj")
    np.testing.assert_allclose(after.get_velocities(), before.get_velocities(), atol=1e-9)


def test_explosion_is_status_1(call, tmp_path: Path):
    atoms = molecule("H2O")
    atoms.set_velocities([[0, 0, 0], [0, 0, 3.0], [0, 0, -3.0]])
    write(tmp_path / "hot.extxyz", atoms)
    status, _, err = call("md", tmp_path / "hot.extxyz", "--steps", "5", "--keep-velocities", "-o", tmp_path / "a.traj")
    assert status == 1
    assert err.startswith("error: the run exploded at step 0: temperature is ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--steps", "-1"], "steps -1 is negative"),
        (["--steps", "5", "--timestep", "0"], "timestep 0.0 fs is outside"),
        (["--steps", "5", "--temperature", "-3"], "temperature -3.0 K is below 0 K"),
        (["--steps", "5", "--ensemble", "npt"], "npt needs a cell periodic in three directions"),
        (["--steps", "5", "--ensemble", "nph"], "choose one of nve, nvt, npt"),
        (["--steps", "5", "--friction", "1"], "has no effect in nve"),
        (["--steps", "5", "--plot", "a.bmp"], "name it .png, .pdf or .svg"),
        (["--steps", "5", "--log", "a.traj"], "must be different files"),
        (["--steps", "5", "--resume", "--overwrite"], "exclude each other"),
        (["--steps", "5", "--keep-velocities"], "no velocities to keep"),
        (["--steps", "5", "--checkpoint-seconds", "nan"], "checkpoint_seconds nan s is not a finite number"),
        (["--steps", "5", "--checkpoint-seconds", "-1"], "checkpoint_seconds -1.0 s is negative"),
        (["--steps", "5", "--replicas", "0"], "replicas 0 is outside 1 ... 400"),
        (["--steps", "5", "--replicas", "1000"], "replicas 1000 is outside 1 ... 400"),
        (["--steps", "5", "--temperature", "nan"], "temperature nan K is not a finite number"),
        (["--steps", "99999999999999999999"], "is more than 1000000000000"),
        (["--steps", "5", "--log-interval", "-3"], "log_interval -3 is below 1 step"),
    ],
)
def test_what_makes_no_sense_is_refused(
    call, ethanol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
):
    monkeypatch.chdir(tmp_path)
    status, _, err = call("md", ethanol, "-o", "a.traj", *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert text in err
    assert not (tmp_path / "a.traj").exists()
    assert err.count("\n") == 1


def test_a_trajectory_of_another_format_is_refused(call, ethanol: Path, tmp_path: Path):
    status, _, err = call("md", ethanol, "--steps", "5", "-o", tmp_path / "a.xyz")
    assert status == 2
    assert "does not end in .traj" in err


def test_masses_that_cannot_move_are_named(call, tmp_path: Path):
    for mass in ("0.0", "nan", "-1.0"):
        lines = ['Properties=species:S:1:pos:R:3:masses:R:1 pbc="F F F"', "O 0 0 0 15.999", f"H 0 0 1 {mass}"]
        (tmp_path / "a.extxyz").write_text("\n".join(["2", *lines]) + "\n")
        status, _, err = call("md", tmp_path / "a.extxyz", "--steps", "5", "-o", tmp_path / "a.traj")
        assert status == 2
        assert f"atom 1 (H) has the mass {float(mass):g} amu" in err


def test_long_timestep_with_hydrogen_is_a_warning(call, ethanol: Path, tmp_path: Path):
    status, _, err = call("md", ethanol, "--steps", "1", "--timestep", "2", *COLD, "-o", tmp_path / "a.traj")
    assert status == 0
    assert "warning: timestep 2 fs is long for hydrogen" in err


def test_replicas_need_a_gpu(call, ethanol: Path, tmp_path: Path):
    words = ("md", ethanol, "--steps", "10", "--replicas", "4", "--backend", "fast_pytorch")
    status, _, err = call(*words, "-o", tmp_path / "a.traj")
    assert status == 2
    assert "replicas 4 need dynamics on a GPU, but backend fast_pytorch does not work in fixed buffers" in err
    assert not (tmp_path / "a.traj").exists()


def test_runs_on_the_device_where_it_can(call, ethanol: Path, tmp_path: Path, monkeypatch):
    from atomjet.cli import options
    from tests.engine import standins

    load = options.load_engine

    def through_buffers(*arguments, **options):
        engine = load(*arguments, **options)
        engine.use(standins.stages(engine))
        return engine

    monkeypatch.setattr(options, "load_engine", through_buffers)
    arguments = ("md", ethanol, "--ensemble", "nvt", *COLD, "--replicas", "2", "--device", "cpu")
    arguments += ("-o", tmp_path / "a.traj")
    status, out, _ = call(*arguments, "--steps", "12", "--plot", tmp_path / "a.png")
    assert status == 0
    assert "seed 0, 2 replicas" in out
    assert "each of 2 replicas" in out
    assert f"wrote {tmp_path / 'a-0000.traj'} and {tmp_path / 'a-0000.csv'}, and so on to" in out
    assert [frame.info["step"] for frame in read(tmp_path / "a-0001.traj", ":")] == [0, 10, 12]
    status, out, _ = call(*arguments, "--steps", "20", "--resume")
    assert status == 0
    assert "resumed at step  12" in out
    assert read_log(tmp_path / "a-0001.csv")["step"].tolist() == [0, 10, 20]
