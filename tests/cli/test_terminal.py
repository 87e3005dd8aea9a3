"""Foreign text on the terminal: what would move the cursor is written out, wherever it comes from."""

import io
import os
import shlex
import subprocess
import sys

import pytest
import torch
from ase.build import molecule
from ase.io import write

from atomjet.cli import terminal
from atomjet.models import tensor_file
from atomjet.models.painn import PaiNN, PaiNNConfig

NASTY = "\x1b[2J\x1b]0;owned\x07\r\u202egnp\x9b31m"


def clean(text):
    return not terminal.CONTROL.search(text)


@pytest.mark.parametrize("text", ["\x1b[31m", "a\rb", "\x07", "\x9b0m", "\u202e", "\ud800", "\x00", "\u2028"])
def test_escaped(text):
    assert clean(terminal.escaped(text))
    assert terminal.escaped(text).isascii()
    assert terminal.escaped("Å\tµ 水\n") == "Å\tµ 水\n"
    assert terminal.escaped("\x1b[0m") == "\\x1b[0m"


def test_one_line():
    assert terminal.one_line("a\nb\t c\x1b") == "a b c\\x1b"
    assert len(terminal.one_line("x" * 10**7)) == 1000


def test_a_stream_keeps_what_streams_have():
    inner = io.StringIO()
    stream = terminal.Escaped(inner, terminal.OUT)
    print("a\x1bb", file=stream)
    stream.writelines(["c\x07", "d"])
    assert inner.getvalue() == "a\\x1bb\nc\\x07d"
    assert stream.isatty() is False
    assert stream.stream is inner


@pytest.fixture
def nasty_model(tmp_path):
    with torch.random.fork_rng(devices=[]):
        model = PaiNN(PaiNNConfig(features=16, layers=1, elements=(1, 6, 7, 8)))
    card = {
        "name": NASTY,
        "summary": f"first{NASTY}\nerror: second",
        "limits": [f"a {NASTY}\nb", "c"],
        f"key{NASTY}\nd": {"x": [NASTY, 1]},
        "licence": NASTY,
    }
    path = tmp_path / f"m{NASTY}\n.safetensors".replace("/", "")
    tensor_file.write(path, model, card)
    return path


def test_cards_names_and_paths(call, nasty_model, tmp_path):
    structure = tmp_path / f"s\x1b[1m\n{NASTY}.xyz"
    write(structure, molecule("H2O"), format="extxyz")
    for arguments in (
        ("info", nasty_model),
        ("info", nasty_model, "--full"),
        ("predict", structure, "-m", nasty_model),
    ):
        status, out, err = call(*arguments, model=False)
        assert status == 0
        assert clean(out + err)
        assert "\\x1b[2J" in out
        assert not any(line.startswith("error:") for line in out.splitlines())


def test_errors(call, nasty_model, tmp_path):
    absent = tmp_path / f"absent{NASTY}\nerror: x.xyz"
    broken = tmp_path / f"broken{NASTY}.safetensors"
    broken.write_bytes(nasty_model.read_bytes()[:-8])
    tensor_file.write_tensors(nasty_model, {NASTY: torch.ones(1)}, {"family": NASTY, "atomjet": "2"})
    for arguments in (
        ("predict", absent),
        ("predict", absent, "--model", broken),
        ("info", broken),
        ("info", nasty_model),
        ("info", NASTY),
        (NASTY,),
    ):
        status, out, err = call(*arguments, model=False)
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert clean(out + err)
        assert "unexpected" not in err


@pytest.mark.parametrize(
    ("redirection", "variables"),
    [("", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}), (">&-", {}), (">&- 2>&-", {})],
)
def test_terminals_without_our_letters_and_closed_ones(redirection, variables):
    command = f"{shlex.quote(sys.executable)} -m atomjet info organic-xtb {redirection}"
    done = subprocess.run(command, shell=True, env=os.environ | variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("\\xc5" in done.stdout) == bool(variables)
