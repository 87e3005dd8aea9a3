"""Help, exit status, and errors as one plain line."""

import subprocess
import sys
from pathlib import Path

import pytest

from atomjet.cli.main import run
from atomjet.errors import AtomJetError

COMMANDS = ("info", "predict", "relax", "md", "sample", "label", "rounds", "train", "distill", "convert", "doctor")


def atomjet(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "atomjet", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def assert_one_line(stderr: str, text: str) -> None:
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert "Traceback" not in stderr
    assert text in stderr


@pytest.mark.parametrize("arguments", [["--help"], [], ["-h"]])
def test_help_lists_the_commands(arguments: list[str]):
    result = atomjet(*arguments)
    assert result.returncode == 0
    assert result.stderr == ""
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_options(call, command: str):
    status, out, _ = call(command, "--help", model=False)
    assert status == 0
    for option in ("--device", "--backend", "--precision", "--model", "--seed"):
        assert option in out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from atomjet.cli.main import main; main(['md', '--help']);"
        "print([name for name in ('torch', 'ase', 'numpy', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.stdout.splitlines()[-1] == "[]"


def test_version():
    import atomjet as package

    result = atomjet("--version")
    assert (result.returncode, result.stdout) == (0, f"atomjet {package.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["mdd"], "no such command 'mdd'"),
        (["md", "a.xyz"], "missing option '--steps'"),
        (["md", "a.xyz", "--steps", "ten", "-o", "a.traj"], "invalid value for '--steps'"),
        (["predict", "--unknown", "a.xyz"], "no such option: --unknown"),
        (["predict"], "missing argument 'FILE'"),
        (["predict", "a.xyz", "b.xyz"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_line(call, arguments: list[str], text: str):
    status, out, err = call(*arguments, model=False)
    assert status == 2
    assert out == ""
    assert_one_line(err, text)
    assert "--help`" in err


def test_a_missing_file_is_one_line_and_debug_shows_where(tmp_path: Path, monkeypatch, capsys):
    """As the program itself is called, which lets the error through where its traceback is wanted."""
    absent = str(tmp_path / "absent.xyz")
    monkeypatch.setattr(sys, "argv", ["atomjet", "predict", absent])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert_one_line(capsys.readouterr().err, "absent.xyz: no such file")
    for arguments in (["--debug", "predict", absent], ["predict", absent, "--debug"]):
        monkeypatch.setattr(sys, "argv", ["atomjet", *arguments])
        with pytest.raises(AtomJetError, match=r"absent\.xyz: no such file"):
            run()


def test_a_file_that_is_no_structure(call, tmp_path: Path):
    for content in (b"hello\n", b"", b"\x00\x80\xff" * 100):
        path = tmp_path / "junk.xyz"
        path.write_bytes(content)
        status, _, err = call("predict", path)
        assert status == 2
        assert_one_line(err, "junk.xyz")
    unknown = tmp_path / "junk.nonsense"
    unknown.write_text("hello")
    status, _, err = call("predict", unknown)
    assert status == 2
    assert_one_line(err, "junk.nonsense")


def test_a_full_disk_is_one_line(call, ethanol: Path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    link = ethanol.with_name("full.extxyz")
    link.symlink_to("/dev/full")
    status, _, err = call("predict", ethanol, "-o", link)
    assert status == 2
    assert_one_line(err, "No space left on device")


def test_a_closed_pipe_is_quiet(ethanol: Path, small_model: Path):
    command = f"{sys.executable} -m atomjet predict {ethanol} --model {small_model} | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--device", "tpu"], "device"),
        (["--backend", "magic"], "backend"),
        (["--precision", "half"], "precision"),
        (["--task", "omat"], "knows no tasks"),
        (["--model", "absent"], "no model 'absent'"),
    ],
)
def test_settings_of_the_engine_are_refused_by_name(call, ethanol: Path, small_model: Path, arguments: list, text: str):
    model = [] if "--model" in arguments else ["--model", small_model]
    status, _, err = call("predict", ethanol, *arguments, *model, model=False)
    assert status == 2
    assert_one_line(err, text)
