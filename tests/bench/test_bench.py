import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import atomjet
from atomjet.bench import contenders, geometries, optimisations, suites, timed_calls
from atomjet.bench.accuracy import compare_predictions
from atomjet.bench.compare import alone, compare, interval, student, table, verdict
from atomjet.bench.contender import EngineContender, Unavailable, reference
from atomjet.bench.contenders import expand
from atomjet.bench.measure import Series, describe, interleave, ratio
from atomjet.bench.page import draw_pictures, newest_for_front, performance_page, read_results, shown_rows
from atomjet.bench.page_plots import digest, front_rows
from atomjet.bench.parts import parts_of_call
from atomjet.bench.plots import plot_optimisations, plot_result
from atomjet.bench.provenance import provenance
from atomjet.bench.race import samples
from atomjet.bench.report import tables
from atomjet.bench.result import Result, read_result
from atomjet.bench.rows import OutOfTime
from atomjet.bench.run import Budget, examine, run_suite
from atomjet.bench.startup import startup
from atomjet.bench.suites import SUITES, Case
from atomjet.cli.main import main
from atomjet.data import Prediction
from atomjet.engine import Engine, Settings
from atomjet.errors import ConfigError
from atomjet.models import tensor_file
from atomjet.models.painn import PaiNN, PaiNNConfig
from tests.killing import Point

CPU = torch.device("cpu")
ON = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # where kernels run: without a GPU in the interpreter


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def engine():
    return Engine(PaiNN(PaiNNConfig(features=16, layers=2)), Settings("cpu", "general"), {"name": "tiny"})


def measured(suite, engine, names, path=None, cases=None, runs=8):
    """With time enough on the busiest machine: rounds end a race here, never the clock."""
    about = {"suite": suite, "model": "tiny", "precision": "default", "settings": names, "provenance": provenance(CPU)}
    result = Result(about, path=path)
    cases = cases or SUITES[suite].cases_for(CPU, "painn", 100, 0)[:2]
    run_suite(SUITES[suite], cases, names, engine, result, Budget(1e5), runs, say=lambda line: None)
    return result


@pytest.mark.parametrize(
    ("suite", "names", "rate"),
    [
        ("latency", ["general", "fast_pytorch", "general@float64"], "structures/s"),
        ("bulk", ["general", "fast_pytorch"], "atoms/s"),
        ("md", ["general", "fast_pytorch"], "ns/day"),
        ("neighbors", ["vesin", "brute_force"], "atoms/s"),
    ],
)
def test_suites_measure_and_report(tmp_path, engine, suite, names, rate):
    path = tmp_path / "result.json"
    small = [Case("water 81", lambda: geometries.water(81))]
    cases = small if suite == "bulk" else SUITES[suite].cases_for(CPU, "painn", 100, 0)[:2]
    made = measured(suite, engine, names, path, cases, runs=5)
    assert [row["status"] for row in made.rows] == ["ok"] * len(cases) * len(names)
    back = read_result(path)
    assert back.rows == made.rows
    for row in back.rows:
        assert row["throughput"][rate] > 0
        assert row["launches"] > 0
        assert row["memory_bytes"] > 0
        assert row["accuracy"]["passed"]
        assert row["clocks"].keys() == back.about["provenance"]["clocks"].keys()
        assert row["ratio"]["low"] <= row["ratio"]["estimate"] <= row["ratio"]["high"]
        assert len(row["samples"][0]["cpu"]) == row["statistics"]["runs"] == 5
    text = tables(back)
    assert all(f"| {case.name} | {name} |" in text for case in cases for name in names)
    assert "A call of" in text
    plot_result(back, tmp_path / "plot.png")
    plot_optimisations(back, tmp_path / "optimisations.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def send(monkeypatch, kind):
    """Have a contender of some class run for `fast_pytorch`."""
    build = contenders.build
    monkeypatch.setattr(
        contenders,
        "build",
        lambda name, e: kind(name, build(name, e).engine) if name == "fast_pytorch" else build(name, e),
    )


def test_a_red_accuracy_gate_prints_no_speed(engine, monkeypatch):
    class Wrong(EngineContender):
        def call(self, prepared):
            made = super().call(prepared)
            made.forces.mul_(1.01)
            return made

    send(monkeypatch, Wrong)
    rows = measured("latency", engine, ["general", "fast_pytorch"]).rows
    assert rows[1]["status"] == "inaccurate"
    assert "statistics" not in rows[1]
    assert "samples" not in rows[1]
    assert rows[1]["accuracy"]["force_rmse"] > rows[1]["accuracy"]["gate"]
    assert rows[0]["status"] == "ok"


def test_out_of_memory_is_a_row_and_the_rest_completes(tmp_path, engine, monkeypatch):
    class Full(EngineContender):
        def call(self, prepared):
            if prepared[0].num_atoms == 20:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB")
            return super().call(prepared)

    send(monkeypatch, Full)
    saved = []
    save = Result.save

    def watched(self):
        save(self)
        saved.append([(row["case"], row["setting"], row["status"]) for row in read_result(self.path).rows])

    monkeypatch.setattr(Result, "save", watched)
    path = tmp_path / "result.json"
    cases = SUITES["latency"].cases_for(CPU, "painn", 50, 0)[:3]
    measured("latency", engine, ["general", "fast_pytorch"], path, cases, runs=5)
    states = {(row["case"], row["setting"]): row["status"] for row in read_result(path).rows}
    assert states.pop(("20 atoms x 1", "fast_pytorch")) == "out of memory"
    assert set(states.values()) == {"ok"}
    assert len(states) == 5
    # Written when a contender was examined, and when it was timed.
    first, second = ("10 atoms x 1", "general"), ("10 atoms x 1", "fast_pytorch")
    assert saved[:3] == [
        [(*first, "stopped")],
        [(*first, "stopped"), (*second, "stopped")],
        [(*first, "ok"), (*second, "ok")],
    ]
    assert "out of memory: OutOfMemoryError: CUDA out of memory" in tables(read_result(path))


def test_real_memory_that_is_not_there_is_a_row_too(engine):
    def huge():
        return torch.empty(2**60)

    rows = measured("latency", engine, ["general"], cases=[Case("huge", huge), *suites.latency(10)]).rows
    assert [row["status"] for row in rows] == ["out of memory", "ok"]


def test_the_engines_own_refusal_for_memory_is_such_a_row(engine, monkeypatch):
    monkeypatch.setattr("atomjet.engine.eager_path.free_bytes", lambda device: 1000)
    (row,) = measured("latency", engine, ["general"], cases=suites.latency(10)).rows
    assert row["status"] == "out of memory"
    assert "GiB are free" in row["reason"]


def breaks_off(monkeypatch, calls, error):
    """`fast_pytorch` calls `error` up at one of its calls: `EXAMINED` are for examining it and ten for warming up."""

    class Breaks(EngineContender):
        made = 0

        def call(self, prepared):
            self.made += 1
            if self.made == calls:
                error()
            return super().call(prepared)

    send(monkeypatch, Breaks)


EXAMINED = 3  # calls: one for memory, one for the gate, one traced


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_keeps_its_rounds(tmp_path, engine, monkeypatch, signum):
    breaks_off(monkeypatch, EXAMINED + 10 + 8, lambda: signal.raise_signal(signum))
    before = signal.getsignal(signal.SIGTERM)
    path = tmp_path / "result.json"
    made = measured("latency", engine, ["general", "fast_pytorch"], path, runs=20)
    assert signal.getsignal(signal.SIGTERM) is before
    back = read_result(path)
    assert back.about["stopped"]
    assert back.rows == made.rows
    assert [(row["case"], row["status"]) for row in back.rows] == [
        ("10 atoms x 1", "ok")
    ] * 2  # the second case never began
    for row in back.rows:
        assert row["reason"] == "7 of 20 rounds, then stopped: interrupted"
        assert row["statistics"]["runs"] == 7
        assert {len(values) for values in row["samples"][0].values()} == {7}
        assert row["ratio"]["low"] <= row["ratio"]["high"]
    text = tables(back)
    assert "The run was stopped before its end; what has no figure was not measured." in text
    assert "- fast_pytorch, everywhere: 7 of 20 rounds, then stopped: interrupted" in text
    plot_result(back, tmp_path / "plot.png")


def test_too_few_rounds_are_kept_and_make_no_figure(tmp_path, engine, monkeypatch):
    breaks_off(monkeypatch, EXAMINED + 10 + 4, lambda: signal.raise_signal(signal.SIGINT))
    made = measured("latency", engine, ["general", "fast_pytorch"], tmp_path / "result.json", runs=20)
    for row in read_result(tmp_path / "result.json").rows:
        assert (row["status"], row["reason"]) == ("stopped", "interrupted")
        assert len(row["samples"][0]["cpu"]) == 3
        assert "statistics" not in row
    assert "10 atoms x 1 | stopped" not in tables(made)  # a setting without any figure has no column
    assert "- general, everywhere: stopped: interrupted" in tables(made)
    plot_result(made, tmp_path / "plot.png")


def test_a_gpu_that_fails_takes_no_figures_with_it(tmp_path, engine, monkeypatch):
    """An error of a kernel comes out of a later wait for the device, and out of everything after that."""
    waits = []

    def wait(device):
        waits.append(device)
        if len(waits) > 6 * (10 + 7):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("atomjet.bench.measure.synchronize", wait)
    made = measured("latency", engine, ["general", "fast_pytorch"], tmp_path / "result.json", runs=20)
    first, second = made.rows[:2], made.rows[2:]
    for row in first:
        assert row["status"] == "ok"
        assert re.fullmatch(r"\d+ of 20 rounds, then failed: RuntimeError: CUDA error: an illegal .*", row["reason"])
        assert 5 <= row["statistics"]["runs"] < 20
    assert [row["status"] for row in second] == ["failed"] * 2
    assert "stopped" not in made.about


def test_a_contender_that_fails_in_mid_race_keeps_its_rounds_and_has_no_figure(tmp_path, engine, monkeypatch):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    breaks_off(monkeypatch, EXAMINED + 10 + 8, full)
    measured("latency", engine, ["general", "fast_pytorch"], tmp_path / "result.json", suites.latency(10), runs=20)
    good, bad = read_result(tmp_path / "result.json").rows
    assert (good["status"], good["statistics"]["runs"]) == ("ok", 20)
    assert bad["status"] == "out of memory"
    assert bad["reason"] == "after 7 rounds: OutOfMemoryError: CUDA out of memory"
    assert {len(values) for values in bad["samples"][0].values()} == {7}
    assert "statistics" not in bad


def test_what_a_device_computed_wrong_has_no_figure(tmp_path, engine, monkeypatch):
    enter = timed_calls.Contenders.enter

    def seconds(turn):
        if turn == 10 + 7:
            raise RuntimeError("a step ended with edges left out")
        return 1e-3

    def watched(self, name, system):
        contender = enter(self, name, system)
        contender.on_device = seconds if name == "fast_pytorch" else None
        return contender

    monkeypatch.setattr(timed_calls.Contenders, "enter", watched)
    good, bad = measured("latency", engine, ["general", "fast_pytorch"], None, suites.latency(10), runs=20).rows
    assert good["statistics"]["runs"] == 20
    assert (bad["status"], bad["reason"]) == (
        "failed",
        "after 7 rounds: RuntimeError: a step ended with edges left out",
    )
    assert bad["samples"][0]["device"] == [1e-3] * 7
    assert "statistics" not in bad


def test_rounds_are_written_while_a_race_goes_on(tmp_path, engine, monkeypatch):
    """What a process leaves that is killed without a word."""
    monkeypatch.setattr("atomjet.bench.race.SAVE_EVERY", 0.0)

    class Killed(BaseException):
        pass

    def die():
        raise Killed

    breaks_off(monkeypatch, EXAMINED + 10 + 8, die)
    with pytest.raises(Killed):
        measured("latency", engine, ["general", "fast_pytorch"], tmp_path / "result.json", runs=20)
    left = read_result(tmp_path / "result.json").rows
    assert [row["reason"] for row in left] == ["7 of 20 rounds, then stopped: killed"] * 2
    assert [row["status"] for row in left] == ["ok"] * 2


@pytest.mark.parametrize("processes", [1, 3])
def test_a_command_that_is_terminated_writes_everything(tmp_path, runs, processes):
    model, path, report = tmp_path / "tiny.safetensors", tmp_path / "result.json", tmp_path / "r.md"
    tensor_file.write(model, PaiNN(PaiNNConfig(features=16, layers=2)), {"name": "tiny"})
    wanted = ["--model", str(model), "--device", "cpu", "--max-atoms", "10", "--runs", "1000000"]
    outputs = ["--json", str(path), "--report", str(report), "--processes", str(processes)]
    words = ["bench", "latency", *wanted, *outputs]
    if processes == 1:
        ended = runs.run(words, Point(signal.SIGTERM, "atomjet.bench.result:Result.save"))
        status, out, err = ended.status, ended.out, ended.err
    else:
        status, out, err = terminated_with_its_child(words, tmp_path / "temporary")
    assert (status, err.strip().splitlines()[-1]) == (130, "interrupted"), err
    back = read_result(path)
    assert back.about["stopped"]
    assert back.rows
    assert all(row["status"] == "stopped" or "stopped: interrupted" in row["reason"] for row in back.rows)
    assert "The run was stopped before its end" in report.read_text()
    assert "interrupted" in out


def terminated_with_its_child(words, temporary):
    """Terminate a command that measures in processes of its own as soon as the first of them has written a row."""
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([sys.executable, "-m", "atomjet", *words], env=environment, **pipes)
    while not list(temporary.glob("*/1.json")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    running.terminate()
    out, err = running.communicate()
    return running.returncode, out, err


def test_a_case_that_takes_too_long_says_so(engine):
    endless = Case("endless", lambda: [sum(range(1000)) for _ in range(10**9)])
    budget, about = Budget(1e5), {"suite": "latency", "model": "tiny", "settings": ["general"]}
    result = Result(about | {"precision": "default", "provenance": provenance(CPU)})

    def nearly_over(line):
        """The first case is told of: 3 s are left for the second, however long the first took."""
        budget.seconds = 1e5 - budget.left + 3.0

    run_suite(SUITES["latency"], [*suites.latency(10), endless], ["general"], engine, result, budget, 8, nearly_over)
    assert [row["status"] for row in result.rows] == ["ok", "out of time"]


def test_a_contender_that_never_gets_ready_is_tried_once(engine, monkeypatch):
    tried = []

    class Slow(EngineContender):
        def call(self, prepared):
            tried.append(prepared)
            raise OutOfTime("the first calls took longer than 1 s; raise --max-minutes")  # what the alarm raises here

    send(monkeypatch, Slow)
    cases = SUITES["latency"].cases_for(CPU, "painn", 50, 0)[:3]
    made = measured("latency", engine, ["general", "fast_pytorch"], cases=cases, runs=5)
    assert [made.row(case.name, "general")["status"] for case in cases] == ["ok"] * 3
    late = [made.row(case.name, "fast_pytorch") for case in cases]
    assert [row["status"] for row in late] == ["out of time"] * 3
    assert late[2]["reason"] == late[0]["reason"]
    assert len(tried) == 1


def test_no_ratio_without_the_baseline(engine):
    made = measured("latency", engine, ["fast_gpu@float64", "general"], cases=suites.latency(10))
    assert made.rows[1]["status"] == "ok"
    assert "ratio" not in made.rows[1]
    assert "| 10 atoms x 1 | general |" in tables(made)


def test_contenders_that_cannot_take_part_are_skipped_with_the_reason(engine):
    rows = measured("latency", engine, expand("fast_gpu@float64,compile_graph"), cases=suites.latency(10)).rows
    assert [row["status"] for row in rows] == ["ok", "skipped", "skipped"]
    assert "fast_pytorch" in rows[1]["reason"]
    assert rows[2]["reason"] == "CUDA graphs need a CUDA device"
    with pytest.raises(ConfigError, match="contender 'fastest' is not known"):
        contenders.build("fastest", engine)
    assert expand("peers") == ["general", *contenders.PEERS]
    assert expand("optimisations,peers") == expand("ladder,peers")
    assert expand("optimisations,peers")[:2] == ["definition", "analytic_forces"]
    assert expand("fast_pytorch", "fast_gpu@high") == ["fast_gpu@high", "fast_pytorch"]


def test_a_row_for_each_optimisation(engine, tmp_path):
    names = [name for name in expand("optimisations") if name != "fused_kernels"]  # interpreted it would take minutes
    made = measured("latency", engine, names, cases=suites.latency(10))
    states = {row["setting"]: row["status"] for row in made.rows}
    assert list(contenders.OPTIMISATIONS) == list(optimisations.OPTIMISATIONS)
    assert states["definition"] == states["analytic_forces"] == "ok"
    assert made.rows[1]["ratio"]["to"] == "definition"
    assert {row["reason"] for row in made.rows if row["status"] == "skipped"} >= {
        "on a CPU it is the optimisation before: vesin finds the neighbours",
        "on a CPU there is nothing to capture and nothing to overlap with",
    }
    plot_optimisations(made, tmp_path / "optimisations.png")
    assert (tmp_path / "optimisations.png").stat().st_size > 5000


def interpreted(backend="general"):
    """An engine so small that Triton's interpreter, where there is no GPU, takes a second for a call."""
    return Engine(PaiNN(PaiNNConfig(features=16, layers=1, num_radial=8, cutoff=2.0)), Settings(str(ON), backend))


def test_fused_kernels_are_a_step_with_the_definitions_forces():
    engine = interpreted()
    system = geometries.molecules(10, 2).to(ON)
    step = contenders.build("fused_kernels", engine)
    assert not step.engine.captures
    made, exact = step.call(step.prepare(system)).to(ON), reference(engine).predict(system)
    accuracy = compare_predictions(made, exact, system, "10-bit")
    assert accuracy.passed
    assert accuracy.force_rmse > 0


def test_the_gate_of_weak_forces_is_that_of_a_tenth():
    """Where large forces cancel, what is left of them is no measure for their rounding."""
    system = geometries.molecules(10, 1)
    zeros = torch.zeros(10, dtype=torch.float64)
    energy, stress = torch.zeros(1, dtype=torch.float64), torch.full((1, 3, 3), torch.nan)

    def told(force):
        forces = torch.full((10, 3), force, dtype=torch.float64)
        return Prediction(energy, forces, stress, zeros, system.system_index)

    for size, passed in ((0.02, True), (2.0, False)):
        accuracy = compare_predictions(told(size * 1.01), told(size), system, "10-bit")
        assert accuracy.gate == pytest.approx(5e-3 * max(size, 0.1))
        assert accuracy.passed == passed
        assert accuracy.stress_rmse is None


def test_unlike_molecules_and_alloys():
    system = geometries.unlike_molecules(40)
    compositions = [torch.bincount(system.part(k, k + 1).atomic_numbers, minlength=10) for k in range(40)]
    assert len({tuple(one.tolist()) for one in compositions}) == system.num_systems == 40
    assert len(geometries.alloy(500, 20).atomic_numbers.unique()) == 20


def test_steps_compute_one_batch_after_the_other_unless_they_may_overlap(engine, monkeypatch):
    monkeypatch.setattr("atomjet.engine.streams.ATOMS_AT_ONCE", 20)
    system = geometries.molecules(10, 5)
    prepared = optimisations.Optimisation("cuda_graph", engine).prepare(system)
    assert sorted(len(batch) for batch in prepared) == [1, 2, 2]
    assert [len(batch) for batch in optimisations.Optimisation("streams", engine).prepare(system)] == [5]
    made = optimisations.Optimisation("cuda_graph", engine).call(prepared)
    assert compare_predictions(made, reference(engine).predict(system), system, "float32").passed
    with pytest.raises(Unavailable, match="10 atoms are one batch, with nothing to overlap"):
        optimisations.Optimisation("streams", engine).prepare(geometries.molecules(10, 1))


def test_parts_that_fail_take_no_figure_with_them(engine, monkeypatch):
    def broken(engine, systems):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(timed_calls, "parts_of_call", broken)
    (row,) = measured("latency", engine, ["general"], cases=suites.latency(10), runs=20).rows
    assert row["status"] == "ok"
    assert row["statistics"]["runs"] == 20
    assert "parts" not in row
    assert row["reason"] == "no parts: OutOfMemoryError: CUDA out of memory"


def test_steps_on_the_device_are_timed_together(monkeypatch):
    monkeypatch.setattr(timed_calls, "TOGETHER", 2)
    engine = interpreted()
    contender = timed_calls.Contenders(SUITES["md"], engine).enter("fast_gpu", geometries.molecules(10, 1).to(ON))
    contender.call(0)
    contender.call(1)
    assert contender.together == 2
    assert "on the device" in contender.includes
    own, yardstick = Series([0.4], [0.2]), Series([0.1], [0.1])
    assert samples(own, yardstick, 2, 1) == {
        "wall": [0.2],
        "cpu": [0.1],
        "yardstick_wall": [0.1],
        "yardstick_cpu": [0.1],
    }


def test_launches_are_those_of_one_step_and_memory_that_of_the_run():
    rows = []
    for together, held in ((1, 0), (5, 10**9)):

        def call(turn, together=together):
            for _ in range(together):
                torch.ones(1000).mul_(2.0).exp_()

        rows.append({})
        examine(timed_calls.TimedCall(call, "nothing", lambda: None, {}, together=together, held=held), rows[-1], CPU)
    assert rows[0]["launches"] == rows[1]["launches"] > 1
    assert rows[1]["memory_bytes"] - rows[0]["memory_bytes"] == pytest.approx(10**9, abs=1e5)


def test_parts_of_a_call_in_buffers_of_fixed_size():
    engine = interpreted("fast_gpu")
    parts = parts_of_call(engine, timed_calls.moved(geometries.molecules(10, 2).to(ON), 2))
    assert list(parts) == ["search", "energy and forces"]
    for part in parts.values():
        part(0)
        part(1)


def test_searches_that_cannot_take_part_are_skipped_with_the_reason(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_cluster", None)
    rows = measured("neighbors", engine, ["captured", "torch_cluster"], cases=suites.latency(10)[:1]).rows
    assert [row["status"] for row in rows] == ["skipped"] * 2
    assert "needs a GPU" in rows[0]["reason"]
    assert "pip install torch-cluster" in rows[1]["reason"]


def test_searches_within_another_cutoff(tmp_path, capsys):
    paths = [tmp_path / "own.json", tmp_path / "six.json"]
    wanted = "bench neighbors --device cpu --settings vesin,search --max-atoms 100 --runs 5".split()
    assert main([*wanted, "--json", str(paths[0])]) == 0
    assert main([*wanted, "--json", str(paths[1]), "--cutoff", "6", "--report", str(tmp_path / "six.md")]) == 0
    own, six = map(read_result, paths)
    edges = [{row["accuracy"]["edges"] for row in made.rows if row["case"] == "water 100"} for made in (own, six)]
    (found,), (more,) = edges
    assert more / found == pytest.approx((6 / 5) ** 3, rel=0.1)  # pairs of a molecule are within both
    assert "cutoff" not in own.about
    assert "cutoff 6 Å" in (tmp_path / "six.md").read_text()
    with pytest.raises(ConfigError, match=r"cutoff None against 6.0: these cannot be compared"):
        compare(own, six)


def test_a_cutoff_is_for_searches(tmp_path, capsys):
    path = tmp_path / "latency.json"
    wanted = [
        "--device",
        "cpu",
        "--contenders",
        "fast_pytorch",
        "--max-atoms",
        "10",
        "--runs",
        "5",
        "--json",
        str(path),
    ]
    assert main(["bench", "latency", "--cutoff", "6", *wanted]) == 0
    assert "warning: --cutoff 6.0 has no effect on bench latency" in capsys.readouterr().err
    assert "cutoff" not in read_result(path).about


def test_results_by_different_clocks_are_not_compared():
    older, newer = steps_by_hand(), steps_by_hand()
    older.about["clock"] = "wall"
    with pytest.raises(ConfigError, match="clock 'wall' against 'device': these cannot be compared"):
        compare(older, newer)


def test_rounds_alternate_and_warm_up_is_left_out():
    order = []
    calls = {name: lambda turn, name=name: order.append((name, turn)) for name in "abc"}
    made = interleave(calls, CPU, runs=40, warm_up=2)
    names = [name for name, _ in order[6:]]
    assert all(set(names[k : k + 3]) == set("abc") for k in range(0, 120, 3))
    assert {"".join(pair) for pair in pairwise(names)} >= {"ab", "ac", "ba", "bc", "ca", "cb"}
    assert [turn for _, turn in order[6::3]] == list(range(2, 42))
    assert all(len(series.wall) == len(series.cpu) == 40 for series in made.values())


def test_a_device_is_asked_for_its_time_after_each_counted_call():
    told = []

    def seconds(turn):
        told.append(turn)
        return 0.5 * turn

    made = interleave(dict.fromkeys("ab", lambda turn: None), CPU, runs=3, warm_up=2, on_device={"b": seconds})
    assert told == [2, 3, 4]
    assert made["b"].figure(CPU).tolist() == [1.0, 1.5, 2.0]
    assert made["a"].device == []
    assert made["a"].figure(CPU).tolist() == made["a"].cpu
    made = samples(Series([0.4], [0.2], [0.3]), Series([0.1], [0.1]), 2, 1)
    assert made["device"] == [0.15]


def test_statistics():
    values = np.arange(1, 101) / 10
    said = describe(values)
    assert said["median"] == pytest.approx(5.05)
    assert said["p95"] == pytest.approx(9.505)
    assert said["std"] == pytest.approx(values.std(ddof=1))
    generator = np.random.default_rng(0)
    noise = generator.lognormal(0, 0.05, 200)
    faster = ratio(2 * noise * generator.lognormal(0, 0.01, 200), noise)
    assert faster.low < 2 < faster.high
    assert faster.estimate == pytest.approx(2, rel=0.02)
    for freedom, exact in ((4, 2.132), (8, 1.860), (30, 1.697)):
        assert student(freedom, 0.90) == pytest.approx(exact, rel=0.01)


# --------------------------------------------------------------------------------------- comparison


def disturbances(generator, number):
    """Noise of each call by itself; a quarter of them were interrupted, and took up to three times as long."""
    interrupted = generator.random(number) < 0.25
    return generator.lognormal(0, 0.03, number) * np.where(interrupted, generator.uniform(1, 3, number), 1.0)


def processes(scale=1.0, number=8, scatter=0.02, seed=0, memory=1000, error=1e-6):
    """A result as `--processes` makes it: calls with noise of their own in processes that differ a little."""
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(number):
        hour = generator.lognormal(0, 0.3)  # the machine at that moment
        own = generator.lognormal(0, scatter)
        moment = hour * generator.lognormal(0, 0.05, 100)  # and in this round
        calls = 5e-3 * scale * own * moment * disturbances(generator, 100)
        yardstick = 2e-3 * moment * disturbances(generator, 100)
        samples.append({"wall": (2 * calls).tolist(), "cpu": calls.tolist(), "yardstick_cpu": yardstick.tolist()})
    row = {
        "case": "10 atoms x 1",
        "setting": "general",
        "status": "ok",
        "samples": samples,
        "memory_bytes": memory,
        "accuracy": {"force_rmse": error, "gate": 1e-4, "passed": True},
    }
    about = {
        "suite": "latency",
        "model": "tiny",
        "settings": ["general"],
        "provenance": {"device": "cpu", "device_type": "cpu"},
    }
    return Result(about, [row])


def steps_by_hand(scale=1.0):
    """A result of suite `step`: host and device disagree on which setting is faster."""
    about = {
        "suite": "step",
        "model": "tiny",
        "precision": "default",
        "settings": ["compile_graph", "fast_gpu"],
        "provenance": {"device": "a GPU", "device_type": "cuda", "time": "today"},
    }
    made = Result(about)
    for setting, device, wall in (("compile_graph", 8e-3, 10e-3), ("fast_gpu", 2e-3 * scale, 20e-3)):
        samples = {"wall": wall, "cpu": wall, "device": device, "yardstick_wall": 1e-3, "yardstick_cpu": 1e-3}
        made.add(
            {
                "case": "20 atoms x 1",
                "setting": setting,
                "status": "ok",
                "reason": "",
                "atoms": 20,
                "structures": 1,
                "includes": "everything",
                "samples": [{name: [value] * 10 for name, value in samples.items()}],
                "per_call": {"structures": 1.0, "atoms": 20.0, "edges": 3300.0},
            }
        )
    return made


def test_the_device_is_the_clock_of_steps(tmp_path):
    made = steps_by_hand()
    made.path = tmp_path / "step.json"
    made.save()
    back = read_result(made.path)
    assert json.loads(made.path.read_text())["clock"] == back.clock == "device"
    row = back.row("20 atoms x 1", "fast_gpu")
    assert row["statistics"]["median"] == 2e-3
    assert row["ratio"]["estimate"] == 4.0
    assert row["throughput"]["edges/s"] == pytest.approx(1.65e6)
    assert "2 ms  (10 runs)" in timed_calls.progress_line(row, back.clock)
    text = tables(back)
    assert "| 20 atoms x 1, 3,300 edges | 8 | 2, × 4 (4 ... 4) |" in text
    assert "Times are time on the device" in text
    assert "| edges/s | memory / MiB | kernels |" in text
    page = performance_page(tmp_path)
    assert "| Device step, a GPU | `fast_gpu` | `compile_graph` | 4 | 4 | 4 | 1 |" in page
    assert "| 20 atoms x 1, 3,300 edges | 8 | 2, × 4 (4 ... 4) |" in page
    (change,) = (one for one in compare(back, steps_by_hand(1.5)) if one.setting == "fast_gpu")
    assert (change.base, change.new, change.verdict) == (2.0, 3.0, "worse")
    plot_result(back, tmp_path / "plot.png")


def test_a_step_without_the_devices_time_cannot_be_read(tmp_path):
    made = steps_by_hand()
    for row in made.rows:
        del row["samples"][0]["device"]
    made.path = tmp_path / "step.json"
    made.save()
    with pytest.raises(ConfigError, match="a row or field is missing or wrong .'device'"):
        read_result(made.path)


def verdicts(base, new, **options):
    return {change.quantity: change.verdict for change in compare(base, new, **options)}


def test_noise_is_no_regression_and_ten_percent_is():
    for seed in range(50):
        base = processes(seed=2 * seed)
        assert verdicts(base, processes(seed=2 * seed + 1))["time"] != "worse"
        assert verdicts(base, processes(1.10, seed=2 * seed + 1))["time"] == "worse"
        assert verdicts(base, processes(0.90, seed=2 * seed + 1))["time"] == "better"


def test_few_processes_are_not_trusted():
    base, slower = processes(number=1, scatter=0.0), processes(1.08, number=1, scatter=0.0, seed=1)
    assert verdicts(base, slower)["time"] == "unclear"
    assert verdicts(base, processes(1.5, number=1, seed=1))["time"] == "worse"


def test_memory_and_accuracy_are_judged_by_themselves():
    base = processes()
    assert verdicts(base, processes(memory=1100)) | {"time": ""} == {"time": "", "memory": "worse", "accuracy": "same"}
    assert verdicts(base, processes(memory=1040))["memory"] == "same"
    assert verdicts(base, processes(error=3e-6))["accuracy"] == "worse"
    assert verdicts(base, processes(error=1e-8))["accuracy"] == "same"
    assert verdicts(processes(error=1e-9), processes(error=1e-7))["accuracy"] == "same"  # still negligible


def test_a_row_that_is_lost_is_a_regression():
    new = processes()
    new.rows[0].update(status="out of memory", reason="")
    changes = compare(processes(), new)
    assert [change.verdict for change in changes] == ["worse"]
    assert "out of memory" in table(changes)


def test_what_only_one_result_measured_is_said():
    base, new = processes(), processes()
    for made, case in ((base, "20 atoms x 1"), (base, "50 atoms x 1"), (new, "10 atoms x 2")):
        made.rows.append(made.rows[0] | {"case": case})
    new.rows.append(new.rows[0] | {"case": "50 atoms x 1", "status": "stopped", "reason": "interrupted"})
    new.about["stopped"] = True
    assert alone(base, new) == (
        "not compared: 1 rows that only the base measured (20 atoms x 1 general), "
        "1 rows that only the new one measured (10 atoms x 2 general); the new one was stopped before its end"
    )
    verdicts = {change.case: change.verdict for change in compare(base, new) if change.quantity in ("time", "stopped")}
    assert verdicts == {"10 atoms x 1": "same", "50 atoms x 1": "unclear"}
    assert alone(base, base) == ""


def test_interval_and_verdict():
    change, low, high = interval(np.zeros(5), np.full(5, np.log(1.1)))
    assert change == pytest.approx(0.1)
    assert 0.08 < low < 0.1 < high < 0.12
    assert verdict(0.04, 0.2, 0.05) == "unclear"
    assert verdict(0.051, 0.2, 0.05) == "worse"
    assert verdict(-0.2, -0.051, 0.05) == "better"
    assert verdict(-0.01, 0.01, 0.05) == "same"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("{", "not JSON .line 1"),
        ("[1]", "is not a benchmark's result"),
        ('{"atomjet_benchmark": 99}', "has format 99; this version reads format 1"),
        ('{"atomjet_benchmark": 1, "rows": [{"case": "a"}]}', "a row or field is missing or wrong"),
        ('{"atomjet_benchmark": 1, "rows": []}', "a row or field is missing or wrong"),
        (
            '{"atomjet_benchmark": 1, "provenance": {"device_type": "cpu"}, "rows": '
            '[{"case": "a", "setting": "b", "status": "ok", "samples": [{"cpu": [], "wall": []}]}]}',
            "a row or field is missing or wrong",
        ),
        *(
            (
                '{"atomjet_benchmark": 1, "provenance": {"device_type": "cpu"}, "rows": '
                f'[{{"case": "a", "setting": "b", "status": "ok", "samples": {samples}}}]}}',
                "a row or field is missing or wrong",
            )
            for samples in (
                "[]",
                '[{"cpu": [1.0], "wall": [1.0]}]',
                '[{"cpu": ["x"], "wall": [1.0], "yardstick_cpu": [1.0], "yardstick_wall": [1.0]}]',
                '[{"cpu": [1.0, 2.0], "wall": [1.0], "yardstick_cpu": [1.0], "yardstick_wall": [1.0]}]',
            )
        ),
    ],
)
def test_results_that_cannot_be_read(tmp_path, capsys, content, says):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_result(path)
    assert main(["bench", "compare", str(path), str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["setting", "memory_bytes", "accuracy"])
def test_a_row_with_a_value_that_is_none_of_its_kind_cannot_be_read(tmp_path, name):
    made = processes()
    made.path = tmp_path / "result.json"
    made.rows[0][name] = ["x"]
    made.save()
    with pytest.raises(ConfigError, match="a row or field is missing or wrong"):
        read_result(made.path)


@pytest.mark.parametrize("wrong", ["device", "statistics", "versions"])
def test_a_page_names_the_file_that_lacks_something(tmp_path, wrong):
    made = measured_by_hand({"general": 8.0, "fast_pytorch": 4.0})
    made.path = tmp_path / "result.json"
    made.about["provenance"] |= {"versions": []} if wrong == "versions" else {}
    made.about["provenance"].pop(wrong if wrong == "device" else "", None)
    made.rows[0].pop(wrong, None)
    made.save()
    with pytest.raises(ConfigError, match=r"result\.json: a row or field is missing or wrong"):
        performance_page(tmp_path)


def test_results_that_cannot_be_compared():
    other = processes()
    other.about["suite"] = "bulk"
    with pytest.raises(ConfigError, match="suite 'latency' against 'bulk': these cannot be compared"):
        compare(processes(), other)
    empty = processes()
    empty.rows[0]["case"] = "another"
    with pytest.raises(ConfigError, match="no measured row in common"):
        compare(processes(), empty)
    with pytest.raises(ConfigError, match="threshold -1 is outside"):
        compare(processes(), processes(), threshold=-1)


# -------------------------------------------------------------------------------------- command line


def test_command_line(tmp_path, capsys):
    model = tmp_path / "tiny.safetensors"
    tensor_file.write(model, PaiNN(PaiNNConfig(features=16, layers=2)), {"name": "tiny"})
    results = tmp_path / "results"
    results.mkdir()
    wanted = ["--model", str(model), "--max-atoms", "10", "--runs", "5", "--max-minutes", "1", "--device", "cpu"]
    outputs = [
        "--json",
        str(results / "latency.json"),
        "--report",
        str(tmp_path / "r.md"),
        "--plot",
        str(tmp_path / "p.png"),
    ]
    torch.set_num_threads(2)  # the command's own choice counts
    assert main(["bench", "latency", *wanted, *outputs]) == 0
    assert "10 atoms x 1" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "p.png").exists()
    same = str(results / "latency.json")
    assert "tiny on cpu (1 threads), backend fast_pytorch" in capsys.readouterr().out
    assert main(["bench", "compare", same, same]) == 0
    assert "0 worse by more than 5%" in capsys.readouterr().out
    page = tmp_path / "performance.md"
    assert main(["bench", "report", str(results), "-o", str(page)]) == 0
    assert page.read_text() == performance_page(results)
    assert "`latency.json`, model tiny" in page.read_text()
    assert main(["bench", "report", str(tmp_path / "nowhere"), "-o", str(page)]) == 2
    assert main(["bench", "uma", "--model", str(model), "--device", "cpu"]) == 2
    assert "suite uma measures models of the family escn_md; this one is painn" in capsys.readouterr().err


def test_the_performance_page_is_what_the_committed_results_make():
    root = Path(__file__).parents[2]
    made = performance_page(root / "benchmarks" / "results")
    assert (root / "docs" / "performance.md").read_text() == made, "run `atomjet bench report`"
    assert "out of time" not in made


def test_the_pictures_are_those_of_the_committed_results():
    root = Path(__file__).parents[2]
    results = read_results(root / "benchmarks" / "results")
    shown = {Path(name).stem: [(one, shown_rows(one))] for name, one in results.items()}
    steps, searches = newest_for_front(results)
    assert {searches.about["suite"], searches.clock} == {"neighbors", "device"}
    shown["front"] = [(steps, front_rows(steps)), (searches, front_rows(searches))]
    pictures = {path.stem: path for path in (root / "docs" / "pictures").glob("*.svg")}
    of_students = {name for name in pictures if name.startswith("organic-xtb-")}  # made by `atomjet validate --read`
    assert set(pictures) - of_students == set(shown), "run `atomjet bench report`"
    for name, sources in shown.items():
        assert digest(sources) in pictures[name].read_text(), (
            f"{name}.svg is of other figures; run `atomjet bench report`"
        )


def test_pictures_are_drawn_the_same_each_time_and_show_every_contender(tmp_path):
    for made, name in ((steps_by_hand(), "step"), (measured_by_hand({"general": 8.0, "fast_pytorch": 4.0}), "latency")):
        made.path = tmp_path / f"{name}.json"
        made.save()
    first = {path.name: path.read_text() for path in draw_pictures(tmp_path, tmp_path / "one")}
    again = {path.name: path.read_text() for path in draw_pictures(tmp_path, tmp_path / "two")}
    assert first == again
    assert sorted(first) == ["latency.svg", "step.svg"]  # the README's needs a search too
    for contender in ("compile_graph", "fast_gpu"):
        assert contender in first["step.svg"]


def test_the_page_begins_with_what_it_comes_to(tmp_path):
    made = measured_by_hand({"general": 8.0, "fast_pytorch": 4.0, "torch_compile": 2.0})
    made.path = tmp_path / "result.json"
    made.save()
    first, _, rest = performance_page(tmp_path).partition("## Call, molecules, cpu")
    assert "| Call, molecules, cpu | `fast_pytorch` | `general` | 2 | 2 | 2 | 2 |" in first
    assert "| Call, molecules, cpu | `fast_pytorch` | `torch_compile` | 0.5 | 0.5 | 0.5 | 2 |" in first
    assert "| call | `engine.predict` of structures that are on the device" in first
    assert "| 10 atoms x 1 | 8 | 4, × 2 (2 ... 2) | 2, × 4 (4 ... 4) |" in rest
    assert "no device" not in rest  # what a contender does not serve is told by the file and by `--report`
    assert tables(made).count("no device") == 1  # a reason is told once, however many rows have it


def test_the_page_leaves_out_what_there_was_no_time_for_and_tells_what_failed(tmp_path):
    made = measured_by_hand({"general": 8.0, "fast_pytorch": 4.0, "torch_compile": 2.0})
    late, failed = (made.row(made.cases[0], name) for name in ("fast_pytorch", "torch_compile"))
    late |= {"status": "out of time", "reason": "raise --max-minutes"}
    failed |= {"status": "failed", "reason": "it halted"}
    made.path = tmp_path / "result.json"
    made.save()
    page = performance_page(tmp_path)
    assert "| 10 atoms x 1 | 8 | – | failed |" in page
    assert "- torch_compile, 10 atoms x 1: failed: it halted" in page
    assert "out of time" not in page


def test_clocks_are_told_from_the_lowest_to_the_highest():
    made = measured_by_hand({"general": 8.0})
    assert "clocks as seen: not known;" in tables(made)
    made.about["provenance"]["clocks"] = {"clocks.sm": 1980.0, "clocks.mem": 3201.0}
    made.rows[0]["clocks"] = {"clocks.sm": 1755.0, "clocks.mem": 3201.0}
    assert "clocks as seen: clocks.sm 1755 ... 1980 MHz, clocks.mem 3201 MHz;" in tables(made)


def measured_by_hand(milliseconds):
    """Two cases of one round after another without noise, and a peer that could not take part."""
    about = {
        "suite": "latency",
        "model": "tiny",
        "precision": "default",
        "settings": [*milliseconds, "compile_graph"],
        "provenance": {"device": "cpu", "device_type": "cpu", "time": "today"},
    }
    made = Result(about)
    for case, atoms in (("10 atoms x 1", 10), ("20 atoms x 1", 20)):
        for setting, value in milliseconds.items():
            calls = [1e-3 * value * atoms / 10] * 10
            made.add(
                {
                    "case": case,
                    "setting": setting,
                    "status": "ok",
                    "reason": "",
                    "atoms": atoms,
                    "structures": 1,
                    "includes": "everything",
                    "samples": [{"wall": calls, "cpu": calls, "yardstick_wall": calls, "yardstick_cpu": calls}],
                    "per_call": {"structures": 1.0, "atoms": float(atoms)},
                }
            )
        made.add({"case": case, "setting": "compile_graph", "status": "skipped", "reason": "no device"})
    return made


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["latency", "--runs", "0"], "runs 0 is not above zero; give 1 or more"),
        (["latency", "--processes", "-1"], "processes -1 is not above zero"),
        (["latency", "--max-minutes", "0"], "max-minutes 0.0 is not above zero"),
        (["latency", "--contenders", "fastest"], "contender 'fastest' is not known; give some of general"),
        (["latency", "--contenders", "general@half"], "contender 'general@half' is not known"),
        (["latency", "--contenders", "schnetpack@high"], "contender 'schnetpack@high' is not known"),
        (["neighbors", "--contenders", "kdtree"], "contender 'kdtree' is no neighbour search; give some of search"),
        (["neighbors", "--cutoff", "-6"], "cutoff -6.0 is not above zero"),
        (["latency", "--plot", "speed.txt"], "plot speed.txt ends in .txt; name it .png, .pdf or .svg"),
        (["latency", "--max-atoms", "5"], "no case of suite latency has at most 5 atoms; raise --max-atoms"),
        (["revisions", "HEAD", "HEAD", "--precision", "0"], "precision 0.0 is not above zero"),
        (["ladder", "HEAD", "--bisect", "a", "b"], "--bisect takes its two revisions alone; leave out HEAD"),
    ],
)
def test_bad_requests_end_before_anything_is_measured(options, says, capsys):
    device = [] if options[0] in ("revisions", "ladder") else ["--device", "cpu"]
    assert main(["bench", *options, *device]) == 2
    assert says in capsys.readouterr().err


def test_uma(tmp_path, capsys, monkeypatch):
    """fairchem is told apart from a failure where it is not installed; what precedes the first call is measured too."""
    model = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"
    wanted = ["--model", str(model), "--task", "omat", "--device", "cpu", "--max-atoms", "100", "--runs", "2"]
    path = tmp_path / "uma.json"
    report = tmp_path / "uma.md"
    wanted += [
        "--contenders",
        "general,fast_pytorch,fairchem,fairchem_nitro",
        "--json",
        str(path),
        "--report",
        str(report),
    ]
    monkeypatch.setattr("atomjet.bench.startup.startup", partial(startup, times=1))
    assert main(["bench", "uma", *wanted]) == 0
    assert "Before the first call a fresh process takes" in report.read_text()
    result = read_result(path)
    case = "carbon crystal 100"
    table = [line for line in report.read_text().splitlines() if line.count("|") == 15]
    assert table[0].endswith("| stress RMSE / eV/Å³ |")
    assert [line.split("|")[2].strip() for line in table[2:]] == ["general", "fast_pytorch"]
    stress = result.row(case, "general")["accuracy"]["stress_rmse"]
    assert table[2].endswith(f"| {stress:.1e} |")
    assert {name: result.row(case, name)["atoms"] for name in ("general", "fast_pytorch")} == dict.fromkeys(
        ("general", "fast_pytorch"), 100
    )
    assert all(result.about["startup_seconds"][name] > 0 for name in ("import", "torch", "load"))
    if importlib.util.find_spec("fairchem") is None:
        assert "pip install fairchem-core" in result.row(case, "fairchem")["reason"]
    assert result.row(case, "fairchem_nitro")["reason"] == "fairchem's umas_fast_gpu and nitro need a GPU"


def test_a_peer_without_our_radial_basis_does_not_race():
    model = PaiNN(PaiNNConfig(features=16, layers=1))
    model.config = model.config.model_copy(update={"radial_basis": "sinc"})
    with pytest.raises(Unavailable, match="SchNetPack has no radial basis 'sinc'"):
        contenders.build("schnetpack", Engine(model, Settings("cpu", "general")))


def test_a_fresh_process_that_fails_is_no_reason_to_measure_nothing(tmp_path, capsys, monkeypatch):
    with pytest.raises(Unavailable, match="not a file, and not packaged"):
        startup(str(tmp_path / "none.safetensors"), "cpu", "default", times=1)

    def fail(*arguments):
        raise Unavailable("torch.OutOfMemoryError: CUDA out of memory")

    monkeypatch.setattr("atomjet.bench.startup.startup", fail)
    model = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"
    wanted = ["--model", str(model), "--task", "omat", "--device", "cpu", "--max-atoms", "100", "--runs", "2"]
    report = tmp_path / "uma.md"
    assert main(["bench", "uma", *wanted, "--contenders", "general", "--report", str(report)]) == 0
    assert "before its first call is not known: torch.OutOfMemoryError: CUDA out of memory" in capsys.readouterr().out
    assert "Before the first call" not in report.read_text()


def test_several_processes_are_joined(tmp_path, runs):
    model = tmp_path / "tiny.safetensors"
    tensor_file.write(model, PaiNN(PaiNNConfig(features=16, layers=2)), {"name": "tiny"})
    path = tmp_path / "joined.json"
    words = ["bench", "latency", "--model", model, "--device", "cpu", "--runs", "5", "--max-atoms", "10"]
    ended = runs.run([*words, "--processes", "2", "--contenders", "general", "--json", path])
    assert ended.status == 0, ended.err
    (row,) = read_result(path).rows
    assert len(row["samples"]) == 2
    assert row["statistics"]["runs"] == 10
    assert json.loads(path.read_text())["clock"] == "cpu"


def test_a_process_that_ran_late_takes_nothing_from_the_others():
    late, failed = processes(number=1), processes(number=1)
    late.rows[0] = {"case": "10 atoms x 1", "setting": "general", "status": "out of time", "reason": "late"}
    failed.rows[0] = {"case": "10 atoms x 1", "setting": "general", "status": "failed", "reason": "broke"}
    good = {"per_call": {"structures": 1.0, "atoms": 10.0}}
    for order, expected in (((0, 1, 0), 2), ((1, 0, 0), 2), ((0, 2, 0), "failed")):
        parts = [
            processes(number=1, seed=k) if kind == 0 else (late if kind == 1 else failed)
            for k, kind in enumerate(order)
        ]
        for part in parts:
            part.rows[0].update(good)
        joined = Result(parts[0].about, [dict(parts[0].rows[0])])
        for part in parts[1:]:
            joined.merge(part)
        (row,) = joined.rows
        assert (len(row["samples"]) if row["status"] == "ok" else row["status"]) == expected


def test_default_contenders():
    assert SUITES["latency"].default_names(CPU) == "general,fast_pytorch"
    assert SUITES["latency"].default_names(torch.device("cuda")) == "general,fast_pytorch,fast_gpu"


def test_suite_uma_has_the_cases_of_its_table():
    names = [case.name for case in suites.uma(40_000)]
    crystals = [f"carbon crystal {size}" for size in ("100", "1,000", "2,000", "8,000", "32,000")]
    others = ["water 1,536", "10 elements 1,000", "20 elements 1,000", "20 atoms x 64", "256 unlike molecules"]
    assert names == [*crystals, *others, "256 unlike molecules, new"]
    assert len(suites.uma(40_000)[7].make().atomic_numbers.unique()) == 20


def test_calls_of_a_recharged_case_meet_new_charges(monkeypatch):
    """Every call has structures that the call before did not have; what is judged is the case's own."""
    engine = atomjet.load(
        Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt", device="cpu", task="omat"
    )
    system = geometries.molecules(10, 2)
    seen = []
    predict = type(engine).predict
    monkeypatch.setattr(
        type(engine), "predict", lambda own, given: seen.append(given.charge.tolist()) or predict(own, given)
    )
    made = timed_calls.Contenders(SUITES["uma"], engine)
    made.recharged = True
    timed = made.enter("general", system)
    timed.call(0)
    timed.call(1)
    assert seen == [[1, 1], [2, 2]]
