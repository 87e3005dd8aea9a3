"""Suite `step`: in Triton's interpreter with the device's clock and graphs replaced, and on a GPU as it is."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from atomjet.bench import accuracy, captured_steps, contenders, geometries, run, timed_calls
from atomjet.bench import race as timing
from atomjet.bench.accuracy import STEP_GATES
from atomjet.bench.captured_steps import CapturedSteps, EngineCall
from atomjet.bench.contender import EngineContender, Unavailable, reference
from atomjet.bench.peers import compile_graph
from atomjet.bench.provenance import provenance
from atomjet.bench.report import tables
from atomjet.bench.result import Result, read_result
from atomjet.bench.run import Budget, run_suite
from atomjet.bench.suites import SUITES, Case
from atomjet.cli.main import main
from atomjet.engine import Engine, Settings, capacity
from atomjet.errors import ConfigError, SimulationError, StructureError
from atomjet.models.painn import PaiNN, PaiNNConfig

HAS_GPU = torch.cuda.is_available()
ON = torch.device("cuda" if HAS_GPU else "cpu")
KIND = "10-bit" if HAS_GPU else "float32"  # of `general` with default precision


@pytest.fixture
def engine():
    torch.manual_seed(0)
    return Engine(
        PaiNN(PaiNNConfig(features=16, layers=1, num_radial=8, cutoff=3.0)), Settings(str(ON), "fast_gpu", "high")
    )


@pytest.fixture
def clock(monkeypatch):
    """A device on which every replay takes 1 ms, however long it takes, and graphs are what they hold."""
    now = [0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return other.at - self.at

    def captured(work):
        def replay():
            now[0] += 1
            work()

        return replay

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(captured_steps, "captured", captured)
    monkeypatch.setattr(compile_graph, "captured", captured)
    return now


class Counted:
    """A step that counts."""

    def __init__(self):
        self.taken, self.checked = [], []

    def take(self, positions):
        self.taken.append(int(positions))

    def check(self, every):
        self.checked.append([int(positions) for positions in every])


def test_replays_fill_a_sample_and_are_counted(clock):
    steps = CapturedSteps(Counted(), [torch.tensor(1), torch.tensor(2)])
    assert steps.replays == 30  # of 1 ms each in `SAMPLE`
    assert steps.together == 60
    steps.step.taken.clear()
    steps(0)
    assert steps.step.taken == [1, 2] * 30
    assert steps.step.checked == []
    assert steps.seconds(0) == pytest.approx(30e-3)
    assert steps.step.checked == [[1, 2]]


def test_a_long_replay_is_a_sample_by_itself(clock, monkeypatch):
    monkeypatch.setattr(captured_steps, "SAMPLE", 1e-4)
    assert CapturedSteps(Counted(), [torch.tensor(1)]).replays == 1


def test_our_step_says_what_the_definition_says_and_makes_room(engine, monkeypatch):
    monkeypatch.setattr("atomjet.data.capacity.DENSITY", 0.001)
    monkeypatch.setattr(capacity, "MIN_EDGES", 1)
    systems = timed_calls.moved(geometries.molecules(12, 1).to(ON), 2)
    step = EngineCall(engine, systems)
    assert step.edges == engine.search(systems[-1]).num_edges
    assert step.held > 0 or not HAS_GPU
    exact = reference(engine)
    for system in systems:
        step.take(system.positions)
        told = step.prediction(system)
        error = accuracy.compare_predictions(told, exact.predict(system), system, "float32", STEP_GATES)
        assert error.passed
        assert error.force_rmse > 0
    step.check([])
    said = r"a step ended with .*EDGES.*: what it says is wrong, and so is its speed"
    with pytest.raises(SimulationError, match=said):
        step.check([0.5 * systems[0].positions])
    with pytest.raises(SimulationError, match=said):  # the last that was taken
        step.check([])


def test_structures_that_the_engine_refuses_are_refused_by_name(engine):
    (system,) = timed_calls.moved(geometries.molecules(10, 1).to(ON), 1)
    with pytest.raises(StructureError, match="atom 0 and atom 1 are"):
        EngineCall(engine, [system.with_positions(0.01 * system.positions)])


class Plain:
    """The definition in place of kernels that an interpreter takes long for; forces wrong by a factor."""

    includes, edges, held = "a step", 30, 1000

    def __init__(self, engine, systems, factor=1.0):
        self.engine, self.system, self.factor = engine, systems[0], factor

    def take(self, positions):
        self.told = self.engine.predict(self.system.with_positions(positions))

    def prediction(self, system):
        return replace(self.told, forces=self.factor * self.told.forces)

    def check(self, every):
        assert every


@pytest.fixture
def plain(engine, clock, monkeypatch):
    """What competes: steps of `Plain` with forces wrong by so much."""

    monkeypatch.setattr(captured_steps, "SAMPLE", 1e-3)

    def enter(factors, cases=("10 atoms x 1",), budget=None):
        class Contender(EngineContender):
            def step(self, systems):
                return Plain(self.engine, systems, factors[self.name])

        slow = Engine(engine.model, Settings(str(ON), "general"))
        monkeypatch.setattr(contenders, "build", lambda name, e: Contender(name, slow))
        return race(engine, list(factors), cases, budget)

    return enter


def race(engine, names, cases, budget=None):
    about = {"suite": "step", "model": "tiny", "precision": "default", "settings": names, "provenance": provenance(ON)}
    result = Result(about)
    every = [Case(case, lambda: geometries.molecules(10, 1)) for case in cases]
    run_suite(SUITES["step"], every, names, engine, result, budget or Budget(1e5), 5, say=lambda line: None)
    return result


def test_a_race_of_steps(plain):
    made = plain({"one": 1.0, "two": 1.0 + 2e-6})
    for row in made.rows:
        assert (row["status"], row["reason"]) == ("ok", "")
        assert row["samples"][0]["device"] == [1.25e-4] * 5  # 1 ms a replay of eight steps
        assert row["statistics"]["median"] == 1.25e-4
        assert row["per_call"] == {"structures": 1.0, "atoms": 10.0, "edges": 30.0}
        assert row["memory_bytes"] >= 1000
        assert row["accuracy"]["passed"]
        assert row["accuracy"]["gate"] == pytest.approx(STEP_GATES[KIND] * row["accuracy"]["force_rms"])
    assert "| 10 atoms x 1, 30 edges | 0.125 | 0.125, × 1 (1 ... 1) |" in tables(made)


def test_a_step_beyond_its_gate_prints_no_speed(plain):
    good, bad = plain({"good": 1.0, "bad": 1.0 + 2 * STEP_GATES[KIND]}).rows
    assert good["status"] == "ok"
    assert bad["status"] == "inaccurate"
    assert "samples" not in bad


def test_compiling_takes_nothing_from_the_first_race(plain, monkeypatch):
    """What a contender's very first calls take is spent once for all cases."""
    given, now, make = [], [0.0], Plain.__init__
    interleave = timing.interleave

    def watched(calls, device, runs, seconds, **rest):
        if "made" in rest:  # a race, not the parts of its calls
            given.append(seconds / 0.7)  # the rest is for the parts
        return interleave(calls, device, runs, seconds=seconds, **rest)

    def slowly(*arguments):
        now[0] += 1.0
        make(*arguments)

    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(timing, "interleave", watched)
    monkeypatch.setattr(Plain, "__init__", slowly)
    plain({"one": 1.0}, cases="abcd", budget=Budget(60.0, started=0.0))
    assert given[0] == pytest.approx(60.0 * 1.5 / 4)
    assert given[1] == pytest.approx((60.0 - 1.0) * 1.5 / 3 - 1.0)


def test_a_backend_without_buffers_cannot_step(engine):
    slow = contenders.build("fast_pytorch", engine)
    with pytest.raises(Unavailable, match="backend fast_pytorch does not work in fixed buffers"):
        slow.step([])


# ------------------------------------------------------------------------------------------------------ the baseline


@pytest.fixture
def peer(engine, clock, monkeypatch):
    """Not compiled, and on one stream."""
    monkeypatch.setattr(torch, "compile", lambda work, **options: work)
    if not HAS_GPU:

        class Stream:
            def __init__(self, device=None):
                pass

            def wait_stream(self, other):
                pass

        for name, put in {
            "Stream": Stream,
            "current_stream": Stream,
            "stream": lambda stream: nullcontext(),
            "synchronize": lambda device: None,
            "max_memory_allocated": lambda device: 0,
            "reset_peak_memory_stats": lambda device: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, put)
    return compile_graph.Captured(engine)


def judged(engine, told, system):
    return accuracy.compare_predictions(told, reference(engine).predict(system), system, KIND)


@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # autograd's thread has no context yet
@pytest.mark.parametrize("make", [lambda: geometries.water(24), lambda: geometries.molecules(10, 3)])
def test_the_baselines_step_follows_positions(engine, peer, make):
    systems = timed_calls.moved(make().to(ON), 3)[::-1]
    step = peer.step(systems)
    for system in systems:
        step.take(system.positions)
    assert judged(engine, step.prediction(systems[-1]), systems[-1]).passed
    assert not judged(engine, step.prediction(systems[0]), systems[0]).passed
    few = accuracy.first_structures(systems[-1], 24)
    assert judged(engine, step.prediction(few), few).passed
    assert step.edges == engine.search(systems[-1]).num_edges


def test_the_baselines_call_takes_other_edges(engine, peer):
    systems = timed_calls.moved(geometries.water(24).to(ON), 2)
    systems.append(systems[0].with_positions(1.05 * systems[0].positions))
    assert len({engine.search(system).num_edges for system in systems}) > 1
    for system in systems:
        assert judged(engine, peer.call(peer.prepare(system)), system).passed
    held = peer.held
    other = geometries.molecules(10, 2).to(ON)
    assert judged(engine, peer.call(peer.prepare(other)), other).passed
    assert peer.held is not held


def test_a_baseline_that_cannot_fit_is_refused_before_it_starts(engine, peer, monkeypatch):
    started = []
    monkeypatch.setattr(compile_graph, "CompiledStep", lambda *given: started.append(given))
    monkeypatch.setattr(compile_graph, "free_bytes", lambda device: 1000)
    with pytest.raises(StructureError, match="GiB are free"):
        peer.step([geometries.water(24).to(ON)])
    assert started == []


# ---------------------------------------------------------------------------------------------------- what is asked for


def test_cases_and_contenders():
    suite, gpu = SUITES["step"], torch.device("cuda")
    names = [case.name for case in suite.cases_for(gpu, "painn", None, 0)]
    molecules = ["20 atoms x 1", "200 atoms x 1", "20 atoms x 64", "20 atoms x 1024"]
    assert names == [*molecules, "water 1,000", "water 10,000", "water 100,000", "water 1,000,000"]
    assert [case.name for case in suite.cases_for(gpu, "painn", 200, 0)] == molecules[:2]
    assert suite.default_names(gpu) == "compile_graph,fast_gpu,fast_gpu@high"
    assert suite.default_names(gpu, "fast_gpu") == "compile_graph,fast_gpu"
    assert SUITES["latency"].default_names(gpu, "fast_gpu") == "general,fast_gpu"
    assert contenders.chosen(suite, suite.default_names(gpu)) == ["compile_graph", "fast_gpu", "fast_gpu@high"]
    with pytest.raises(
        ConfigError, match="contender 'general' cannot be captured as a step; give some of compile_graph, fast_gpu"
    ):
        contenders.chosen(suite, "general")


def test_a_cpu_is_told_in_one_line(small_model, capsys):
    assert main(["bench", "step", "--model", str(small_model), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == (
        "error: suite step times CUDA graphs, and this device is cpu; run it on a GPU, or suite latency here\n"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
def test_one_case_on_the_gpu(tmp_path):
    path = tmp_path / "step.json"
    command = [
        sys.executable,
        "-m",
        "atomjet",
        "bench",
        "step",
        "--max-atoms",
        "20",
        "--runs",
        "20",
        "--json",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_result(path).rows
    assert [(row["setting"], row["status"]) for row in rows] == [
        (name, "ok") for name in ("compile_graph", "fast_gpu", "fast_gpu@high")
    ]
    assert json.loads(path.read_text())["clock"] == "device"
    assert len({row["per_call"]["edges"] for row in rows}) == 1
    for row in rows:
        (samples,) = row["samples"]
        assert len(samples["device"]) == 20
        assert 1e-6 < row["statistics"]["median"] < 5e-3
        assert row["statistics"]["median"] <= 1.01 * sorted(samples["wall"])[10]
        assert row["memory_bytes"] > 1000
        assert row["launches"] > 3
    assert rows[1]["ratio"]["low"] > 1
