"""What a command imports before it answers, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "scipy", "ase", "matplotlib", "triton", "yaml", "rdkit", "h5py", "rich.progress")
PROGRAM = """
import sys
from atomjet.cli.main import run
watched = sys.argv.pop(1)
try:
    run()
except SystemExit as ended:
    assert ended.code == 0, ended.code
print("IMPORTED", *[name for name in watched.split(",") if name in sys.modules])
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
    watched = (
        "torch",
        "torch._dynamo",
        "sympy",
        "matplotlib",
        "triton",
        "torch._inductor",
        "atomjet.distill",
        "yaml",
        "rich",
    )
    more = ["--steps", 2, "-o", tmp_path / "a.traj"] if command == "md" else []
    arguments = [command, ethanol, *more, "--model", small_model, "--device", "cpu", "--backend", "fast_pytorch"]
    assert imported(watched, *arguments) == ["torch"]


MOST_BESIDE_TORCH = 400
"""Modules that `predict` may import beside PyTorch and NumPy; 287 with ASE 3.29, 760 with all that its packages take."""


def test_predict_imports_few_modules_beside_torch(ethanol: Path, small_model: Path):
    program = f"""
import sys, torch, numpy
before = set(sys.modules)
from atomjet.cli.main import run
sys.argv = ["atomjet", "predict", {str(ethanol)!r}, "--model", {str(small_model)!r}, "--device", "cpu"]
try:
    run()
except SystemExit as ended:
    assert ended.code == 0, ended.code
print("IMPORTED", *sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = done.stdout.rpartition("IMPORTED")[2].split()
    assert [name for name in found if name.partition(".")[0] in ("scipy", "rich", "matplotlib")] == []
    assert len(found) < MOST_BESIDE_TORCH, found


def test_what_ase_does_not_need_yet_is_there_when_it_is_asked_for():
    program = """
import sys
from atomjet.cli.deferred import defer_packages
defer_packages()
import ase.io, ase.dft.kpoints
assert "scipy" not in sys.modules
import ase.dft, ase.spacegroup
assert ase.dft.kpoints.monkhorst_pack is ase.dft.monkhorst_pack
assert ase.spacegroup.crystal("Cu", [(0, 0, 0)], spacegroup=225, cellpar=[3.6, 3.6, 3.6, 90, 90, 90]).get_volume() > 46
from ase.dft import *
assert DOS.__module__ == "ase.dft.dos"
try:
    ase.dft.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'ase.dft' has no attribute 'nothing'\n"


def test_a_library_leaves_the_packages_of_others_as_they_are():
    program = """
import sys
finders = list(sys.meta_path)
import atomjet, atomjet.adapters.ase, atomjet.adapters.structure_files, atomjet.cli.main
assert sys.meta_path == finders
import ase.dft, ase.spacegroup
assert "monkhorst_pack" in vars(ase.dft)
assert "crystal" in vars(ase.spacegroup)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
