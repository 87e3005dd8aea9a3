import json
import signal

import pytest
import torch

from atomjet.adapters.structure_output import write_structures
from atomjet.cli.main import main
from atomjet.errors import StructureError
from atomjet.models import registry, tensor_file
from atomjet.models.painn import PaiNN
from atomjet.validate import Check, Effort, validate
from atomjet.validate.report import advice, write_report
from tests.validate.broken import CONFIG, Sane, ScaledForces, cluster, crystal

SHORT = ["--device", "cpu", "--medium-steps", "0", "--long-steps", "0", "--nvt-steps", "0"]


def test_command_fails_with_status_1_and_writes_everything(tmp_path, capsys):
    # Random weights pull atoms into each other: symmetric, smooth, and no potential to run dynamics with.
    model, structures = tmp_path / "random.safetensors", tmp_path / "two.extxyz"
    tensor_file.write(model, PaiNN(CONFIG), {"name": "random"})
    write_structures(structures, [cluster(), crystal()])
    outputs = ["--json", str(tmp_path / "v.json"), "--report", str(tmp_path / "v.md")]
    torch.set_num_threads(2)  # the command's own choice counts
    status = main(["validate", str(structures), "--model", str(model), *SHORT, *outputs])
    said = capsys.readouterr().out
    assert "random on cpu (1 threads)" in said
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


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 130, "interrupted"),
        (StructureError("atom 0 and atom 1 are too near"), 2, "atom 0 and atom 1 are too near"),
        (RuntimeError("CUDA error"), 2, "CUDA error"),
    ],
)
def test_what_was_checked_is_written_whatever_ends_it(tmp_path, capsys, monkeypatch, error, status, says):
    def fail(*arguments):
        if isinstance(error, signal.Signals):
            signal.raise_signal(error)
        raise error

    monkeypatch.setattr("atomjet.validate.suite.smoothness.cutoff_smoothness", fail)
    model, structures = tmp_path / "random.safetensors", tmp_path / "one.extxyz"
    tensor_file.write(model, PaiNN(CONFIG), {"name": "random"})
    write_structures(structures, [cluster()])
    outputs = ["--json", str(tmp_path / "v.json"), "--report", str(tmp_path / "v.md")]
    assert main(["validate", str(structures), "--model", str(model), *SHORT, *outputs]) == status
    said = capsys.readouterr()
    assert says in said.err
    assert ", then it was stopped" in said.out
    content = json.loads((tmp_path / "v.json").read_text())
    assert (content["passed"], content["stopped"]) == (False, says)
    names = [check["name"] for check in content["checks"]]
    assert names[0] == "equivariance"
    assert names[-1] == "batch independence"
    text = (tmp_path / "v.md").read_text()
    assert f"**Stopped before the end: {says}. {len(names)} of the {len(names)} checks done passed.**" in text


def test_no_two_checks_have_one_name(tmp_path):
    """Or the picture of one would take the place of another's."""
    effort = Effort(short=20, medium=30, long=40, nvt=0, order=0.0, reverse=0)
    report = validate(Sane(), [cluster()], effort)
    names = [check.name for check in report.checks]
    assert sum("against general in float64" in name for name in names) == 3
    assert len(set(names)) == len(names)


def test_a_drift_is_explained():
    drift = Check("energy drift, short (100 steps)", "water", 3.0, "meV/atom/ps", 0.1, "")
    assert advice([drift])[0].startswith(
        "The energy drifts although forces, symmetry and smoothness are right: take a shorter"
    )
    broken = Check("cutoff smoothness", "pairs", 3.0, "meV", 0.1, "")
    said = advice([broken, drift])
    assert said[0].startswith("Energy or forces jump at the cutoff")
    assert said[1].startswith("The energy drifts; repair what failed above first")


def test_bad_requests(tmp_path, capsys):
    assert main(["validate", str(tmp_path / "none.xyz")]) == 2
    assert "none.xyz: no such file" in capsys.readouterr().err
    assert main(["validate", "--threads", "0"]) == 2
    assert "threads 0 is not above zero" in capsys.readouterr().err
    assert main(["validate", "--teacher", "DFT"]) == 2
    assert "tblite has no method 'DFT'; choose one of GFN2-xTB, GFN1-xTB" in capsys.readouterr().err


@pytest.mark.skipif("organic-xtb" not in registry.packaged(), reason="no student is packaged")
def test_the_packaged_student_passes_what_takes_seconds():
    from atomjet import load
    from atomjet.validate import default_structures

    effort = Effort(short=100, medium=0, long=0, nvt=0, order=100.0, reverse=50)
    report = validate(load("organic-xtb", device="cpu"), default_structures()[:3], effort)
    assert [check for check in report.checks if not check.passed] == []
