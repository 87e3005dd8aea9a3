"""What a command imports before it answers, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "scipy", "ase", "matplotlib", "triton", "yaml", "rdkit", "h5py", "rich.progress")
PROGRAM = """
import sys
from atomjet.cli.main import main
status = main(sys.argv[2:])
found = [name for name in sys.argv[1].split(",") if name in sys.modules]
assert status == 0, status
print("IMPORTED", *found)
"""


def imported(watched: tuple[str, ...], *arguments: object) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, ",".join(watched), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("IMPORTED")[2].split()


@pytest.mark.parametrize("arguments", [["--help"], ["md", "--help"], ["--version"]])
def test_help_waits_for_nothing_heavy(arguments: list[str]):
    assert imported(HEAVY, *arguments) == []


@pytest.mark.parametrize("command", ["predict", "md"])
def test_a_run_on_a_cpu_imports_no_compiler_and_draws_nothing(
    command: str, ethanol: Path, small_model: Path, tmp_path: Path
):
    watched = ("torch", "torch._dynamo", "sympy", "matplotlib", "triton", "torch._inductor", "atomjet.distill", "yaml")
    more = ["--steps", 2, "-o", tmp_path / "a.traj"] if command == "md" else []
    arguments = [command, ethanol, *more, "--model", small_model, "--device", "cpu", "--backend", "fast_pytorch"]
    assert imported(watched, *arguments) == ["torch"]
