"""What the results of benchmarks that are in this tree must show: a speed is measured where nothing else runs, and held here."""

from pathlib import Path

import pytest

from atomjet.bench.result import read_result

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SPEED = 1.5


@pytest.mark.parametrize("atoms", [20, 200])
def test_fast_pytorch_is_faster_than_the_definition_on_a_cpu(atoms):
    row = read_result(RESULTS / "cpu-latency.json").row(f"{atoms} atoms x 1", "fast_pytorch")
    assert row["ratio"]["to"] == "general"
    assert row["ratio"]["low"] >= SPEED
