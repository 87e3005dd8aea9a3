"""The page on many processes: its example under torchrun as it says, its tables from its formulas."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from atomjet.models.escn_md import EscnMdConfig

PAGE = Path(__file__).parents[2] / "docs/concepts/many_processes.md"


def marked(mark, language):
    (code,) = re.findall(rf"<!-- {mark} -->\n```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_the_example_runs_on_four_processes(tmp_path):
    (tmp_path / "share.py").write_text(marked("share.py", "python"))
    (tmp_path / "alone.py").write_text(
        "import atomjet\nfrom ase.build import molecule\n"
        "atoms = molecule('H2O', cell=[3.105] * 3, pbc=True) * (16, 3, 3)\n"
        "print(f\"{float(atomjet.load('organic-xtb', device='cpu').predict(atoms).energy):.2f}\")\n"
    )
    # The `torchrun` of this interpreter, whichever others are on the path.
    (tmp_path / "torchrun").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    said = []
    for command in (marked("four processes", "sh"), f'"{sys.executable}" alone.py'):
        ran = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said.append(ran.stdout)
    rows = re.findall(r"process (\d): (\d+) atoms, (\d+) ghosts, (\d+) numbers sent, energy (\S+)", said[0])
    assert sorted(int(rank) for rank, *_ in rows) == [0, 1, 2, 3]
    assert sum(int(atoms) for _, atoms, *_ in rows) == 432
    # Of float32: what a process adds up first is another part on four than on one.
    assert all(float(energy) == pytest.approx(float(said[1]), abs=0.02) for *_, energy in rows)
    assert sum(int(sent) for *_, sent, _ in rows) == 2563 * sum(int(ghosts) for _, _, ghosts, *_ in rows)


def test_the_tables_follow_from_the_formulas():
    text = PAGE.read_text(encoding="utf-8")
    named: dict = {}
    exec(marked("projection", "python"), named)
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| (\d+)% \| (\d+)% \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        atoms, whole, slow, fast = (int(word.replace(",", "")) for word in row)
        assert whole == 64 * atoms
        assert slow == round(100 * named["share_of_exchange"](atoms, 3.7e-6))
        assert fast == round(100 * named["share_of_exchange"](atoms, 0.13e-6, b=6 * 128 * 2 + 4 * 128 * 3 + 3, size=2))
    (ratios,) = re.findall(r"^\| ghosts for each atom \| (.*) \|$", text, re.MULTILINE)
    assert [float(word) for word in ratios.split(" | ")] == [round((1 + 2 / a) ** 3 - 1, 2) for a in (2, 4, 8, 16)]
    uma = EscnMdConfig(tasks=("omol",))
    assert 2 * (uma.lmax + 1) ** 2 * uma.channels * uma.layers + 3 == 9219
