import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from atomjet.bench import contenders, geometries, racers, suites
from atomjet.bench.compare import compare, interval, student, table, verdict
from atomjet.bench.contenders import EngineContender, expand
from atomjet.bench.measure import describe, interleave, ratio
from atomjet.bench.provenance import provenance
from atomjet.bench.report import performance_page, plot_ladder, plot_result, tables
from atomjet.bench.result import Result, read_result
from atomjet.bench.run import Budget, run_suite
from atomjet.bench.suites import Case
from atomjet.cli.main import main
from atomjet.engine import Engine, Settings
from atomjet.errors import ConfigError
from atomjet.models import file
from atomjet.models.painn import PaiNN, PaiNNConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def engine():
    return Engine(PaiNN(PaiNNConfig(features=16, layers=2)), Settings("cpu", "general"), {"name": "tiny"})


def measured(suite, engine, names, path=None, cases=None, runs=8, seconds=60.0):
    about = {"suite": suite, "model": "tiny", "precision": "default", "settings": names, "provenance": provenance(CPU)}
    result = Result(about, path=path)
    cases = cases or suites.cases(suite, CPU, "painn", 100, 0)[:2]
    run_suite(suite, cases, names, engine, result, Budget(seconds), runs, say=lambda line: None)
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
    cases = small if suite == "bulk" else suites.cases(suite, CPU, "painn", 100, 0)[:2]
    made = measured(suite, engine, names, path, cases, runs=5, seconds=300.0)
    assert [row["status"] for row in made.rows] == ["ok"] * len(cases) * len(names)
    back = read_result(path)
    assert back.rows == made.rows
    for row in back.rows:
        assert row["throughput"][rate] > 0
        assert row["launches"] > 0
        assert row["memory_bytes"] > 0
        assert row["accuracy"]["passed"]
        assert row["ratio"]["low"] <= row["ratio"]["estimate"] <= row["ratio"]["high"]
        assert len(row["samples"][0]["cpu"]) == row["statistics"]["runs"] == 5
    text = tables(back)
    assert all(f"| {case.name} | {name} |" in text for case in cases for name in names)
    assert "A call of" in text
    plot_result(back, tmp_path / "plot.png")
    plot_ladder(back, tmp_path / "ladder.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_red_accuracy_gate_prints_no_speed(engine, monkeypatch):
    class Wrong(EngineContender):
        def call(self, prepared):
            made = super().call(prepared)
            made.forces.mul_(1.01)
            return made

    build = contenders.build
    monkeypatch.setattr(
        contenders,
        "build",
        lambda name, e: Wrong(name, build(name, e).engine) if name == "fast_pytorch" else build(name, e),
    )
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

    build = contenders.build
    monkeypatch.setattr(
        contenders,
        "build",
        lambda name, e: Full(name, build(name, e).engine) if name == "fast_pytorch" else build(name, e),
    )
    saved = []
    save = Result.save
    monkeypatch.setattr(Result, "save", lambda self: (save(self), saved.append(len(read_result(self.path).rows))))
    path = tmp_path / "result.json"
    cases = suites.cases("latency", CPU, "painn", 50, 0)[:3]
    measured("latency", engine, ["general", "fast_pytorch"], path, cases, runs=5)
    states = {(row["case"], row["setting"]): row["status"] for row in read_result(path).rows}
    assert states.pop(("20 atoms x 1", "fast_pytorch")) == "out of memory"
    assert set(states.values()) == {"ok"}
    assert len(states) == 5
    assert saved == [1, 2, 3, 4, 5, 6]  # written after every row
    assert "out of memory: OutOfMemoryError: CUDA out of memory" in tables(read_result(path))


def test_real_memory_that_is_not_there_is_a_row_too(engine):
    def huge():
        return torch.empty(2**60)

    rows = measured("latency", engine, ["general"], cases=[Case("huge", huge), *suites.latency(10)]).rows
    assert [row["status"] for row in rows] == ["out of memory", "ok"]


def test_the_engines_own_refusal_for_memory_is_such_a_row(engine, monkeypatch):
    monkeypatch.setattr("atomjet.engine.engine.free_bytes", lambda device: 1000)
    (row,) = measured("latency", engine, ["general"], cases=suites.latency(10)).rows
    assert row["status"] == "out of memory"
    assert "GiB are free" in row["reason"]


def test_a_case_that_takes_too_long_says_so(engine):
    endless = Case("endless", lambda: [sum(range(1000)) for _ in range(10**9)])
    rows = measured("latency", engine, ["general"], cases=[*suites.latency(10), endless], seconds=6.0).rows
    assert [row["status"] for row in rows] == ["ok", "out of time"]


def test_no_ratio_without_the_baseline(engine):
    made = measured("latency", engine, ["fast_gpu", "general"], cases=suites.latency(10))
    assert made.rows[1]["status"] == "ok"
    assert "ratio" not in made.rows[1]
    assert "| 10 atoms x 1 | general |" in tables(made)


def test_contenders_that_cannot_take_part_are_skipped_with_the_reason(engine):
    rows = measured("latency", engine, expand("fast_gpu@float64,compile_graph"), cases=suites.latency(10)).rows
    assert [row["status"] for row in rows] == ["ok", "skipped", "skipped"]
    assert "fast_pytorch" in rows[1]["reason"]
    assert rows[2]["reason"] == "CUDA graphs need a CUDA device"
    with pytest.raises(ConfigError, match="setting 'fastest' is not known"):
        contenders.build("fastest", engine)
    assert expand("ladder,peers,general")[:3] == ["general", "fast_pytorch", "fast_gpu"]


def test_searches_that_cannot_take_part_are_skipped_with_the_reason(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_cluster", None)
    rows = measured("neighbors", engine, ["captured", "torch_cluster", "kd"], cases=suites.latency(10)[:1]).rows
    assert [row["status"] for row in rows] == ["skipped"] * 3
    assert "needs a GPU" in rows[0]["reason"]
    assert "pip install torch-cluster" in rows[1]["reason"]
    assert "is no neighbour search" in rows[2]["reason"]


def test_rounds_alternate_and_warm_up_is_left_out():
    order = []
    calls = {name: lambda turn, name=name: order.append((name, turn)) for name in "abc"}
    made = interleave(calls, CPU, runs=4, warm_up=2)
    assert [name for name, _ in order[6:]] == list("abcbcacababc")
    assert [turn for _, turn in order[6::3]] == [2, 3, 4, 5]
    assert all(len(series.wall) == len(series.cpu) == 4 for series in made.values())


def test_statistics():
    values = np.arange(1, 101) / 10
    said = describe(values)
    assert said["median"] == pytest.approx(5.05)
    assert said["p95"] == pytest.approx(9.505)
    assert said["std"] == pytest.approx(values.std(ddof=1))
    generator = np.random.default_rng(0)
    noise = generator.lognormal(0, 0.05, 200)
    estimate, low, high = ratio(2 * noise * generator.lognormal(0, 0.01, 200), noise)
    assert low < 2 < high
    assert estimate == pytest.approx(2, rel=0.02)
    for freedom, exact in ((4, 2.132), (8, 1.860), (30, 1.697)):
        assert student(freedom, 0.90) == pytest.approx(exact, rel=0.01)


# --------------------------------------------------------------------------------------- comparison


def processes(scale=1.0, number=8, scatter=0.015, seed=0, memory=1000, error=1e-6):
    """A result as `--processes` makes it: calls with noise of their own in processes that differ a little."""
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(number):
        hour = generator.lognormal(0, 0.3)  # the machine at that moment
        own = generator.lognormal(0, scatter)
        moment = hour * generator.lognormal(0, 0.2, 60)  # and in this round
        calls = 5e-3 * scale * own * moment * generator.lognormal(0, 0.03, 60)
        yardstick = 2e-3 * moment * generator.lognormal(0, 0.03, 60)
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


def verdicts(base, new, **options):
    return {change.quantity: change.verdict for change in compare(base, new, **options)}


def test_noise_is_no_regression_and_ten_percent_is():
    for seed in range(50):
        base = processes(seed=2 * seed)
        assert verdicts(base, processes(seed=2 * seed + 1))["time"] != "worse"
        assert verdicts(base, processes(1.10, seed=2 * seed + 1))["time"] == "worse"
        assert verdicts(base, processes(0.90, seed=2 * seed + 1))["time"] == "better"


def test_few_processes_are_not_trusted():
    base, slower = processes(number=1), processes(1.10, number=1, seed=1)
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
    file.write(model, PaiNN(PaiNNConfig(features=16, layers=2)), {"name": "tiny"})
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
    assert main(["bench", "latency", *wanted, *outputs]) == 0
    assert "10 atoms x 1" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "p.png").exists()
    same = str(results / "latency.json")
    assert main(["bench", "compare", same, same]) == 0
    assert "0 worse by more than 5%" in capsys.readouterr().out
    page = tmp_path / "performance.md"
    assert main(["bench", "report", str(results), "-o", str(page)]) == 0
    assert page.read_text() == performance_page(results)
    assert "From `latency.json`." in page.read_text()
    assert main(["bench", "report", str(tmp_path / "nowhere"), "-o", str(page)]) == 2
    assert main(["bench", "uma", "--model", str(model), "--device", "cpu"]) == 2
    assert "suite uma measures models of the family escn_md; this one is painn" in capsys.readouterr().err


def test_uma(tmp_path, capsys):
    """fairchem is told apart from a failure where it is not installed; what precedes the first call is measured too."""
    model = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"
    wanted = ["--model", str(model), "--task", "omat", "--device", "cpu", "--max-atoms", "100", "--runs", "2"]
    path = tmp_path / "uma.json"
    assert main(["bench", "uma", *wanted, "--settings", "general,fast_pytorch,fairchem", "--json", str(path)]) == 0
    result = read_result(path)
    case = "carbon crystal 100"
    assert {name: result.row(case, name)["atoms"] for name in ("general", "fast_pytorch")} == dict.fromkeys(
        ("general", "fast_pytorch"), 100
    )
    assert all(0 < result.about["startup_seconds"][name] < 60 for name in ("import", "torch", "load"))
    if importlib.util.find_spec("fairchem") is None:
        assert "pip install fairchem-core" in result.row(case, "fairchem")["reason"]


def test_several_processes_are_joined(tmp_path):
    model = tmp_path / "tiny.safetensors"
    file.write(model, PaiNN(PaiNNConfig(features=16, layers=2)), {"name": "tiny"})
    path = tmp_path / "joined.json"
    command = [
        sys.executable,
        "-m",
        "atomjet",
        "bench",
        "latency",
        "--model",
        str(model),
        "--device",
        "cpu",
        "--runs",
        "5",
    ]
    options = ["--max-atoms", "10", "--processes", "2", "--settings", "general", "--json", str(path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
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
    assert racers.default_names("latency", CPU) == "general,fast_pytorch"
    assert racers.default_names("latency", torch.device("cuda")) == "general,fast_pytorch,fast_gpu"
