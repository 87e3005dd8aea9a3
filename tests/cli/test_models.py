"""`atomjet info` and `atomjet doctor`."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from atomjet.engine import Settings
from atomjet.models import tensor_file
from atomjet.models.registry import packaged


def test_info_lists_the_packaged_models(call):
    status, out, err = call("info", model=False)
    assert (status, err) == (0, "")
    for name in packaged():
        assert f"\n{name}" in "\n" + out


def test_info_shows_a_card(call, small_model: Path):
    status, out, err = call("info", small_model, model=False)
    assert (status, err) == (0, "")
    for line in (
        "elements                     H C N O",
        "cutoff                       4 Å",
        "licence                      MIT",
    ):
        assert line in out
    assert "force mae meV A          12.5" in out
    assert call("info", "--model", small_model, model=False)[1] == out


def test_a_file_of_the_format_before_says_so_and_is_renewed(call, small_model: Path, tmp_path: Path):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    file = tensor_file.opened(small_model)
    tensors = file.tensors()
    before = file.metadata | {"atomjet": "1", "sha256": tensor_file.digest(tensors, {})}
    old.write_bytes(tensor_file.save(tensors, before))
    status, out, err = call("info", old, model=False)
    assert (status, err) == (0, "")
    assert "protection                   weights only: an older format" in out
    assert call("convert", old, "-o", new, model=False)[0] == 0
    status, out, err = call("info", new, model=False)
    assert (status, err) == (0, "")
    assert "protection" not in out
    assert "licence                      MIT" in out


def test_info_of_nothing_and_of_two(call, small_model: Path):
    status, _, err = call("info", "absent", model=False)
    assert status == 2
    assert "no model 'absent'" in err
    status, _, err = call("info", "other", "--model", small_model, model=False)
    assert status == 2
    assert "two models are named" in err


def test_doctor_is_well_with_a_model_that_works(call):
    status, out, _ = call("doctor")
    assert status == 0
    assert "finite forces" in out
    assert "python" in out
    for package in ("torch", "ase", "tblite", "rdkit", "h5py", "triton", "pyarrow", "ray"):
        assert f"\n{package} " in out


def test_doctor_names_each_host_and_the_command_that_brings_it(call):
    _, out, _ = call("doctor")
    hosts = {"openmmml": "openmmml", "torch-sim-atomistic": "torch_sim", "ipi": "ipi", "matcalc": "matcalc"}
    hosts |= {"atomjet-lammps": "atomjet_lammps", "nvalchemi-toolkit": "nvalchemi"}
    for package, module in hosts.items():
        (line,) = (found for found in out.splitlines() if found.startswith(f"{package} "))
        if find_spec(module) is None:
            assert " missing " in line
            python = "python3.12" if module == "torch_sim" and sys.version_info < (3, 12) else sys.executable
            where = "./packages/atomjet-lammps" if module == "atomjet_lammps" else package
            assert f'{python} -m pip install "{where}' in out


def test_doctor_fails_with_a_damaged_model(call, small_model: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(small_model.read_bytes()[:-8])
    status, out, _ = call("doctor", "--model", damaged, model=False)
    assert status == 1
    assert "FAILED" in out
    assert "-m pip install" in out


def test_doctor_compares_the_kernels_with_plain_pytorch(call, monkeypatch):
    """On this device as compiled for it; here in the interpreter."""
    pytest.importorskip("triton")
    status, out, _ = call("doctor", "--backend", "fast_gpu")
    assert status == 0
    assert "kernels             ok       forces differ by" in out
    from atomjet.models.contract import Segment
    from atomjet.models.painn.fast_gpu import FastGpu

    right = FastGpu.segments

    def wrong(self, graph, conditions, workspace):
        return [*right(self, graph, conditions, workspace), Segment(lambda: workspace.gradients.mul_(1.05))]

    monkeypatch.setattr(FastGpu, "segments", wrong)
    status, out, _ = call("doctor", "--backend", "fast_gpu")
    assert status == 1
    assert "kernels             FAILED   forces differ by 5.0e-02" in out
    assert "use --backend fast_pytorch" in out


GOLDEN = Path(__file__).parents[1] / "models" / "golden"


def test_convert_writes_a_model_that_every_command_takes(call, ethanol: Path, tmp_path: Path):
    out = tmp_path / "student.safetensors"
    weights, config = GOLDEN / "gaussian.safetensors", GOLDEN / "gaussian.json"
    status, text, err = call("convert", weights, "--config", config, "-o", out, model=False)
    assert (status, err) == (0, "")
    assert f"wrote {out}" in text
    assert f"student on {Settings().device}" in text
    assert call("info", out, model=False)[0] == 0


UMA = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"


def test_a_fairchem_checkpoint_serves_and_converts(call, ethanol: Path, tmp_path: Path):
    out = tmp_path / "uma.safetensors"
    status, text, err = call("convert", UMA, "-o", out, model=False)
    assert (status, err) == (0, "")
    for model in (UMA, out):
        status, text, err = call("info", model, model=False)
        assert (status, err) == (0, "")
        assert "oc20 oc22 oc25 omol omat odac omc" in text
        status, text, err = call("predict", ethanol, "--model", model, "--task", "omc", model=False)
        assert (status, err) == (0, "")
        assert "task omc" in text
        status, _, err = call("predict", ethanol, "--model", model, "--task", "oxide", model=False)
        assert status == 2
        assert err.startswith("error: task 'oxide' is unknown; this model knows oc20")
    status, _, err = call("predict", ethanol, "--model", out, model=False)
    assert status == 2
    assert "this model knows several tasks; give task=" in err


def test_convert_refuses_in_one_line(call, small_model: Path, tmp_path: Path):
    weights, config = GOLDEN / "gaussian.safetensors", GOLDEN / "gaussian.json"
    for arguments, text in [
        ((weights, "-o", tmp_path / "a.safetensors"), "--config"),
        ((weights, "--config", config, "-o", tmp_path / "a.pt"), "does not end in .safetensors"),
        ((weights, "--config", tmp_path / "absent.json", "-o", tmp_path / "a.safetensors"), "absent.json"),
        ((tmp_path / "absent.pt", "--config", config, "-o", tmp_path / "a.safetensors"), "absent.pt"),
        ((small_model, "--config", config, "-o", tmp_path / "a.safetensors"), "small.safetensors"),
        ((GOLDEN / "bessel.safetensors", "--config", config, "-o", tmp_path / "a.safetensors"), "bessel.safetensors"),
    ]:
        status, _, err = call("convert", *arguments, model=False)
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert text in err
        assert not (tmp_path / "a.safetensors").exists()
