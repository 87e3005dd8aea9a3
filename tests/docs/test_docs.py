"""The code in README and tutorial, run as a reader would, from a copy of the repository's root."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from atomjet.models.registry import packaged

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?P<slow><!-- slow -->\n)?```(?P<language>python|sh)\n(?P<code>.*?)```", re.DOTALL)

needs_student = pytest.mark.skipif("organic-xtb" not in packaged(), reason="organic-xtb is not packaged")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and the line it begins on."""

    language: str
    code: str
    line: int
    slow: bool


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(match["language"], match["code"], text.count("\n", 0, match.start("code")) + 1, bool(match["slow"]))
        for match in BLOCK.finditer(text)
    ]


def run_blocks(document: Path, chosen: list[Block], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks share one namespace, shell blocks one directory."""
    shutil.copytree(ROOT / "examples", folder / "examples")
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
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_code_in_documents_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = [block for block in blocks(ROOT / name) if not block.slow]
    assert len(chosen) >= 2
    run_blocks(ROOT / name, chosen, tmp_path, monkeypatch)


@pytest.mark.slow
def test_distillation_in_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = [block for block in blocks(ROOT / "docs/tutorial.md") if block.slow]
    assert [block.language for block in chosen] == ["sh", "python"]
    run_blocks(ROOT / "docs/tutorial.md", chosen, tmp_path, monkeypatch)


def test_documents_point_to_files_that_exist():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(documents) > 5
    for document in documents:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
