import json

import pytest

from atomjet.adapters.ase import write_structures
from atomjet.cli.main import main
from atomjet.models import file, registry
from atomjet.models.painn import PaiNN
from atomjet.validate import Effort, validate
from atomjet.validate.report import advice, write_report
from tests.validate.broken import CONFIG, Sane, ScaledForces, cluster, crystal

SHORT = ["--device", "cpu", "--medium-steps", "0", "--long-steps", "0", "--nvt-steps", "0"]


def test_command_fails_with_status_1_and_writes_everything(tmp_path, capsys):
    # Random weights pull atoms into each other: symmetric, smooth, and no potential to run dynamics with.
    model, structures = tmp_path / "random.safetensors", tmp_path / "two.extxyz"
    file.write(model, PaiNN(CONFIG), {"name": "random"})
    write_structures(structures, [cluster(), crystal()])
    outputs = ["--json", str(tmp_path / "v.json"), "--report", str(tmp_path / "v.md")]
    status = main(["validate", str(structures), "--model", str(model), *SHORT, *outputs])
    said = capsys.readouterr().out
    content = json.loads((tmp_path / "v.json").read_text())
    assert status == (0 if content["passed"] else 1)
    names = {check["name"] for check in content["checks"]}
    assert {"equivariance", "forces = -dE/dx", "energy drift, short (100 steps)", "reversibility"} <= names
    for check in content["checks"]:
        assert {"value", "unit", "bound", "source", "passed"} <= set(check)
        assert check["source"]
    assert "equivariance" in said
    report = (tmp_path / "v.md").read_text()
    assert "| ok | equivariance | icosahedron |" in report
    assert (tmp_path / "v-energy-drift-short-100-steps.png").exists()


def test_report_advises(tmp_path):
    effort = Effort(short=20, medium=0, long=0, nvt=0, order=100.0, reverse=0)
    report = validate(ScaledForces(), [cluster()], effort)
    write_report(report, tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "**failed** | forces = -dE/dx" in text
    assert "forces are not the derivative of the energy" in text.lower()
    assert not advice(validate(Sane(), [cluster()], effort).checks)


def test_bad_requests(tmp_path, capsys):
    assert main(["validate", str(tmp_path / "none.xyz")]) == 2
    assert "none.xyz: no such file" in capsys.readouterr().err
    assert main(["validate", "--teacher", "DFT"]) == 2
    assert "teacher 'DFT' is not known; choose one of GFN2-xTB, GFN1-xTB" in capsys.readouterr().err


@pytest.mark.skipif("organic-xtb" not in registry.packaged(), reason="no student is packaged")
def test_the_packaged_student_passes_what_takes_seconds():
    from atomjet import load
    from atomjet.validate import default_structures

    effort = Effort(short=100, medium=0, long=0, nvt=0, order=100.0, reverse=50)
    report = validate(load("organic-xtb", device="cpu"), default_structures()[:3], effort)
    assert [check for check in report.checks if not check.passed] == []
