"""Executors leave the same records; what is missing is said in one line."""

import sys

import pytest

from atomjet.cli.main import main
from atomjet.distill.executors import Here, Processes, open_executor
from atomjet.distill.journal import Journal, content_key
from atomjet.distill.pool import Task
from atomjet.errors import ConfigError


def work(number: int) -> dict:
    if number == 2:
        raise ValueError("cannot\n do two")
    return {"number": number}


@pytest.mark.parametrize("executor", [Here(), Processes(2)])
def test_every_executor_leaves_every_record(executor, tmp_path):
    tasks, steps = [Task(content_key(n), (n,)) for n in range(4)], []
    executor.run(work, iter(tasks), tmp_path, lambda: steps.append(1))
    assert len(steps) == 4
    with Journal(tmp_path) as journal:
        records = [journal[task.key] for task in tasks]
    assert records == [{"number": 0}, {"number": 1}, {"error": "ValueError: cannot do two"}, {"number": 3}]


def test_a_ray_that_is_not_installed_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "atomjet.adapters.ray", raising=False)
    with (
        pytest.raises(
            ConfigError,
            match=r"^the executor ray needs Ray: pip install 'atomjet\[ray\]', or leave --executor ray out$",
        ),
        open_executor("ray"),
    ):
        pass
    (tmp_path / "m.smi").write_text("O\n")
    (tmp_path / "recipe.yaml").write_text("name: a\noutput: out\nelements: [H, O]\nmolecules: m.smi\n")
    assert main(["label", str(tmp_path / "recipe.yaml"), "--executor", "ray"]) == 2
    assert (
        capsys.readouterr().err
        == "error: the executor ray needs Ray: pip install 'atomjet[ray]', or leave --executor ray out\n"
    )


def test_a_pyarrow_that_is_not_installed_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "atomjet.adapters.parquet", raising=False)
    monkeypatch.delattr("atomjet.adapters.parquet", raising=False)
    (tmp_path / "in.parquet").write_bytes(b"PAR1")
    for words in (["in.parquet"], ["in.parquet", "-o", "out.parquet"]):
        assert main(["predict", *(str(tmp_path / word) if word[0] != "-" else word for word in words)]) == 2
        assert (
            "error: Parquet files need pyarrow: pip install 'atomjet[parquet]', or use extxyz"
            in capsys.readouterr().err
        )


def test_options_that_make_no_sense_are_refused():
    for given, text in (
        ({"name": "slurm"}, "executor 'slurm' is unknown; choose from processes, ray"),
        ({"name": "processes", "workers": 0}, "workers 0 is not above zero; give 1 or more"),
        ({"name": "processes", "address": "a:1"}, "--ray-address a:1 goes with --executor ray alone; leave it out"),
    ):
        with pytest.raises(ConfigError, match=text), open_executor(**given):
            pass
