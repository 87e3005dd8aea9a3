"""`atomjet info` and `atomjet doctor`."""

from pathlib import Path

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
    for package in ("torch", "ase", "tblite", "rdkit", "h5py", "triton"):
        assert f"\n{package} " in out


def test_doctor_fails_with_a_damaged_model(call, small_model: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(small_model.read_bytes()[:-8])
    status, out, _ = call("doctor", "--model", damaged, model=False)
    assert status == 1
    assert "FAILED" in out
    assert "-m pip install" in out
