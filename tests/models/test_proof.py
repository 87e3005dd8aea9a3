"""The figures in docs/concepts/analytic_forces.md are those of this code."""

import re

from tests.models.proof import BEGIN, DOCUMENT, END, errors, kept_bytes


def test_errors():
    for name, _, _, energy, gradient, slope in errors():
        assert energy < 1e-12, name
        assert gradient < 1e-11, name
        assert slope < 1e-7, name


def test_documented_bytes_are_measured_bytes():
    stated = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]
    measured = kept_bytes()
    assert measured["fast_pytorch"][1] < 0.02 * measured["general (autograd)"][1]
    for name, (per_atom, per_edge) in measured.items():
        row = re.search(rf"\| {re.escape(name)} \| ([\d,]+) \| ([\d,]+) \|", stated)
        assert row, f"no row for {name}: run python -m tests.models.proof"
        assert [int(value.replace(",", "")) for value in row.groups()] == [round(per_atom), round(per_edge)]


def test_documented_errors_are_within_the_bounds():
    stated = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]
    rows = re.findall(r"\| (\d\.\de-\d+) \| (\d\.\de-\d+) \| (\d\.\de-\d+) \|", stated)
    assert len(rows) == 3
    assert all(float(e) < 1e-12 and float(g) < 1e-11 and float(s) < 1e-7 for e, g, s in rows)
