"""Every script in examples/, run as a reader would; one whose packages are not installed is skipped, and the reason is named."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from atomjet.models.registry import packaged

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").rglob("*.py"))


def imported(script: Path) -> set[str]:
    """Modules that a script imports, but for its neighbours."""
    names = re.findall(r"^(?:from|import) (\w+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    return {name for name in names if not (script.parent / f"{name}.py").exists()}


def test_there_are_examples_and_each_says_what_it_is():
    assert SCRIPTS
    for script in SCRIPTS:
        assert script.read_text(encoding="utf-8").startswith('"""'), f"{script.name} does not begin with what it is"


@pytest.mark.skipif("organic-xtb" not in packaged(), reason="organic-xtb is not packaged")
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_an_example_runs(script, tmp_path):
    missing = sorted(name for name in imported(script) if find_spec(name) is None)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip(), "an example prints what it found"
