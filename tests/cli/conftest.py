"""Structures and a way to call the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import write

from atomjet.cli.main import main


@pytest.fixture
def ethanol(tmp_path: Path) -> Path:
    path = tmp_path / "ethanol.xyz"
    write(path, molecule("CH3CH2OH"))
    return path


@pytest.fixture
def diamond(tmp_path: Path) -> Path:
    path = tmp_path / "diamond.extxyz"
    write(path, bulk("C", cubic=True))
    return path


@pytest.fixture
def call(small_model: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command with the small model; return status, standard output, standard error."""

    def run(*arguments: object, model: bool = True) -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        status = main(words + (["--model", str(small_model)] if model else []))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
