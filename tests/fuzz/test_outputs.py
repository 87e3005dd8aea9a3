"""What commands write and read again: logs, journals, trajectories, tables, results."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from atomjet.adapters.structure_files import read_frames
from atomjet.bench.result import read_result
from atomjet.distill.files import read_json_lines
from atomjet.distill.journal import Journal, JournalWriter, content_key
from atomjet.engine.tuning import read_table, write_table
from atomjet.errors import ConfigError
from atomjet.md.observables import COLUMNS, Observables, read_log
from atomjet.md.recorder import Recorder
from tests.fuzz import cases, damaged, served_or_refused

RESULT = Path(__file__).parents[2] / "benchmarks" / "results"


def test_damaged_logs_and_trajectories(tmp_path):
    """A log says numbers under its own names or is refused; of a trajectory each frame is whole, or one line says what is wrong."""
    recorder = Recorder(tmp_path / "a.traj", tmp_path / "a.csv")
    atoms: Atoms = molecule("H2O")
    for step in range(4):
        recorder.frame(atoms, {"energy": -1.0, "forces": np.zeros((3, 3))}, step, step * 0.5)
        recorder.row(Observables(step, step * 0.5, *np.linspace(-1.0, 1.0, len(COLUMNS) - 2)))
    recorder.close()
    log, frames = (tmp_path / "a.csv").read_bytes(), (tmp_path / "a.traj").read_bytes()
    for case, generator in cases("damaged logs", 300):
        (tmp_path / "b.csv").write_bytes(damaged(log, generator))
        found = served_or_refused(case, read_log, tmp_path / "b.csv")
        assert found is None or tuple(found) == COLUMNS, f"case {case}"
        assert found is None or all(len(column) for column in found.values()), f"case {case}"
    for case, generator in cases("damaged trajectories", 150):
        (tmp_path / "b.traj").write_bytes(damaged(frames, generator))
        found = served_or_refused(case, read_frames, tmp_path / "b.traj")
        for frame in found or ():
            assert frame.refusal or frame.atoms.positions.shape == (len(frame.atoms), 3), f"case {case}"


def test_damaged_journals(tmp_path):
    """What is read is what was written, under the key that it was written under."""
    writer = JournalWriter(tmp_path)
    records = {content_key(k): {"energy": float(k), "forces": np.full((2, 3), float(k))} for k in range(6)}
    for key, record in records.items():
        writer.append(key, record)
    writer.close()
    content = writer.path.read_bytes()
    for case, generator in cases("damaged journals", 400):
        writer.path.write_bytes(damaged(content, generator))
        journal = served_or_refused(case, Journal, tmp_path)
        if journal is None:
            continue
        with journal:
            for key, record in records.items():
                if key in journal:
                    found = journal[key]
                    assert found["energy"] == record["energy"], f"case {case}"
                    assert np.array_equal(found["forces"], record["forces"]), f"case {case}"


def test_damaged_lines_of_json(tmp_path):
    """A training's log: every line that is read is an object, a torn last line is none, any other is named."""
    path = tmp_path / "log.jsonl"
    lines = [{"step": k, "loss": 0.1 * k} for k in range(5)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(content + b'{"step": 5, "lo')
    assert read_json_lines(path) == lines
    path.write_bytes(content.replace(b'{"step": 2', b'{"step: 2'))
    with pytest.raises(ConfigError, match=r"log.jsonl: line 3 is damaged \(.*\); remove that line"):
        read_json_lines(path)
    for case, generator in cases("damaged lines of JSON", 300):
        path.write_bytes(damaged(content, generator))
        found = served_or_refused(case, read_json_lines, path)
        assert found is None or all(isinstance(line, dict) for line in found), f"case {case}"


def test_damaged_tables_and_results(tmp_path):
    write_table(tmp_path / "table.json", "a device", "a model", {"message": {"tile": 16}})
    table = (tmp_path / "table.json").read_bytes()
    result = min(RESULT.glob("*.json"), key=lambda path: path.stat().st_size).read_bytes()
    for case, generator in cases("damaged tables and results", 200):
        (tmp_path / "t.json").write_bytes(damaged(table, generator))
        served_or_refused(case, read_table, tmp_path / "t.json")
        (tmp_path / "r.json").write_bytes(damaged(result, generator))
        served_or_refused(case, read_result, tmp_path / "r.json")
        (tmp_path / "t.json").write_text(json.dumps([[[case]]]))
        served_or_refused(case, read_table, tmp_path / "t.json")
