"""The code in README and on the pages, run as a reader would, from a copy of the repository's root."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from atomjet.bench.result import read_result
from atomjet.models.registry import packaged

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
PAGES = ("README.md", "docs/index.md", "docs/tutorial.md", "docs/reference/python.md")
SMALL_UMA = ROOT / "tests/models/escn_md/golden/uma_1p2p1.pt"

needs_student = pytest.mark.skipif("organic-xtb" not in packaged(), reason="organic-xtb is not packaged")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, the line it begins on, and the comment above it, which says when it can run."""

    language: str
    code: str
    line: int
    mark: str


def blocks(document: Path, mark: str = "") -> list[Block]:
    """Those that can be run and have this mark."""
    text = document.read_text(encoding="utf-8")
    found = (
        Block(one["language"], one["code"], text.count("\n", 0, one.start("code")) + 1, one["mark"] or "")
        for one in BLOCK.finditer(text)
    )
    return [one for one in found if one.mark == mark and one.language in ("python", "sh")]


def run_blocks(document: Path, chosen: list[Block], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks share one namespace, shell blocks one directory."""
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    commands = folder / "bin"
    commands.mkdir()
    # The `atomjet` of this interpreter, whichever others are on the path.
    (commands / "atomjet").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m atomjet "$@"\n')
    (commands / "atomjet").chmod(0o755)
    environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"}
    namespace: dict[str, object] = {}
    for block in chosen:
        if block.language == "python":
            # Empty lines in front make the lines of a traceback those of the document.
            exec(compile("\n" * (block.line - 1) + block.code, str(document), "exec"), namespace)
        else:
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code], capture_output=True, text=True, env=environment
            )
            assert result.returncode == 0, f"{document.name}, line {block.line}: {result.stdout}{result.stderr}"


@needs_student
@pytest.mark.parametrize("name", PAGES)
def test_code_in_documents_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = blocks(ROOT / name)
    assert chosen
    run_blocks(ROOT / name, chosen, tmp_path, monkeypatch)


@pytest.mark.slow
def test_distillation_in_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = blocks(ROOT / "docs/tutorial.md", "slow")
    assert [block.language for block in chosen] == ["sh", "python"]
    run_blocks(ROOT / "docs/tutorial.md", chosen, tmp_path, monkeypatch)


def test_the_crystal_tutorial_runs_on_a_small_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The released checkpoint needs a login; a small one of the same kind, with random weights, stands under its name."""
    page = ROOT / "docs/tutorials/crystal.md"
    shutil.copy(SMALL_UMA, tmp_path / "uma-s-1p2p1.pt")
    chosen = blocks(page, "needs the checkpoint")
    assert len(chosen) == 5
    run_blocks(page, chosen, tmp_path, monkeypatch)


def test_dispersion_and_formation_energies_in_the_reference_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("dftd3")
    shutil.copy(SMALL_UMA, tmp_path / "uma-s-1p2p1.pt")
    page = ROOT / "docs/reference/adapters.md"
    chosen = blocks(page, "needs dftd3")
    assert len(chosen) == 2
    run_blocks(page, chosen, tmp_path, monkeypatch)


@needs_student
@pytest.mark.parametrize("package", ["openmmml", "torch_sim", "nvalchemi"])
def test_the_tutorial_of_other_engines_runs(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs/tutorials/other_engines.md"
    chosen = blocks(page, f"needs {package}")
    assert chosen
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    run_blocks(page, chosen, tmp_path, monkeypatch)


@needs_student
@pytest.mark.parametrize("package", ["pyarrow", "ray"])
def test_the_tutorial_of_many_machines_runs(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs/tutorials/past_one_machine.md"
    chosen = blocks(page, f"needs {package}")
    assert chosen
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    run_blocks(page, chosen, tmp_path, monkeypatch)


def test_every_block_of_the_pages_is_run_by_some_test():
    packages = ("openmmml", "torch_sim", "nvalchemi", "dftd3", "pyarrow", "ray")
    marks = {"", "slow", "needs the checkpoint", "four ranks", *(f"needs {package}" for package in packages)}
    pages = [ROOT / name for name in PAGES] + [*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/reference/*.md")]
    for page in pages:
        for one in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if one["language"] not in ("python", "sh"):
                continue
            mark = one["mark"] or ""
            assert mark in marks, f"{page.name}: no test runs blocks marked {mark!r}"
            if not mark:
                assert str(page.relative_to(ROOT)) in PAGES, f"{page.name} has code that no test runs"


def test_figures_in_the_readme_are_those_of_the_committed_results():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    steps = read_result(ROOT / "benchmarks/results/h200-step.json")
    molecule, water = (steps.row(case, "fast_gpu") for case in ("20 atoms x 1", "water 10,000"))
    times = [row["statistics"]["median"] for row in (molecule, water)]
    assert f"takes {1e6 * times[0]:.0f} µs and one of 10,000 atoms of water {1e3 * times[1]:.1f} ms" in text
    ratios = [row["ratio"]["estimate"] for row in (molecule, water)]
    assert f"{ratios[0]:.1f} and {ratios[1]:.0f} times as fast" in text


def test_documents_point_to_files_that_exist():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(documents) > 5
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
