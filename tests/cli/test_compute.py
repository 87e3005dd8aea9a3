"""`atomjet predict` and `atomjet relax`."""

import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

import atomjet
from atomjet.adapters.ase import AtomJetCalculator
from atomjet.engine import Engine, Settings
from atomjet.errors import StructureError


def test_predict_writes_what_the_engine_says(call, tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch):
    frames = [molecule("H2O"), bulk("C", cubic=True), molecule("CH3CH2OH")]
    frames[1].rattle(0.05, seed=0)
    frames[2].info["label"] = "kept"
    write(tmp_path / "in.extxyz", frames)
    monkeypatch.setattr("atomjet.adapters.predictions.ATOMS_AT_ONCE", 11)  # the first two together, the third alone
    status, out, err = call("predict", tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz", "--precision", "float64")
    assert (status, err) == (0, "")
    assert f"small on {Settings().device}" in out
    assert "float64" in out
    labelled = read(tmp_path / "out.extxyz", ":")
    frames = read(tmp_path / "in.extxyz", ":")
    engine = atomjet.load(small_model, device="cpu", precision="float64")
    for frame, result in zip(frames, labelled, strict=True):
        alone = engine.predict(frame)
        assert result.get_potential_energy() == pytest.approx(float(alone.energy[0]), abs=1e-9)
        np.testing.assert_allclose(result.get_forces(), alone.forces.numpy(), atol=1e-7)
    stress = engine.predict(frames[1]).stress[0].numpy()
    np.testing.assert_allclose(labelled[1].get_stress(voigt=False), stress, atol=1e-8)
    assert labelled[2].info["label"] == "kept"


def test_predict_prints_forces_where_no_file_is_written(call, ethanol: Path, diamond: Path):
    _, out, _ = call("predict", ethanol)
    assert sum(line.endswith("eV/Å") for line in out.splitlines()) == 9
    _, out, _ = call("predict", diamond)
    assert "stress xx yy zz yz xz xy" in out


def test_predict_names_the_bad_frame(call, tmp_path: Path):
    bad = Atoms("HFe", positions=[[0, 0, 0], [0, 0, 1.5]])
    for place, frames in enumerate(([bad, molecule("H2O")], [molecule("H2O"), molecule("CH4"), bad, molecule("H2O")])):
        where = 2 * place
        source, output = tmp_path / f"in{place}.extxyz", tmp_path / f"out{place}.extxyz"
        write(source, frames)
        status, out, err = call("predict", source, "-o", output)
        assert status == 2
        assert err.startswith(f"error: frame {where}: atom 1: element Fe (Z = 26) is unknown to this model")
        assert output.exists() == (where > 0)
    assert f"wrote {output}: the first 2 of 4 frames" in out
    written = read(output, ":")
    assert [str(frame.symbols) for frame in written] == ["OH2", "CH4"]
    status, _, _ = call("predict", output, "-o", tmp_path / "again.extxyz")
    assert status == 0
    again = read(tmp_path / "again.extxyz", 1)
    assert again.get_potential_energy() == pytest.approx(written[1].get_potential_energy(), abs=1e-6)


def test_an_interrupted_prediction_keeps_what_it_has(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("atomjet.adapters.predictions.ATOMS_AT_ONCE", 6)
    predict, calls = Engine.predict, []

    def stop_at_third(self, structures):
        calls.append(len(structures))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, structures)

    monkeypatch.setattr(Engine, "predict", stop_at_third)
    write(tmp_path / "in.extxyz", [molecule("H2O")] * 8)
    status, out, _ = call("predict", tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert status == 130
    assert calls == [2, 2, 2]
    assert f"wrote {tmp_path / 'out.extxyz'}: the first 4 of 8 frames" in out
    assert len(read(tmp_path / "out.extxyz", ":")) == 4


def test_outputs_that_cannot_be_are_refused_first(call, ethanol: Path, tmp_path: Path):
    for output, text in [
        (ethanol, "it is the input"),
        (tmp_path, "it is a directory"),
        (tmp_path / "absent" / "out.xyz", "there is no directory"),
    ]:
        for command in ("predict", "relax"):
            status, out, err = call(command, ethanol, "-o", output)
            assert (status, out) == (2, "")
            assert text in err
    for command in ("predict", "relax"):
        status, out, err = call(command, ethanol, "-o", tmp_path / "out.nonsense")
        assert (status, out) == (2, "")
        assert "out.nonsense: ASE writes no format of that name; use .extxyz or .traj" in err
    for name, kind in (("out.cif", "cif"), ("POSCAR", "vasp"), ("out.pdb", "proteindatabank")):
        status, out, err = call("predict", ethanol, "-o", tmp_path / name)
        assert (status, out) == (2, "")
        assert f"{name}: format {kind} keeps no energies and forces; use .extxyz or .traj" in err


@pytest.mark.parametrize("name", ["out.extxyz", "out.xyz", "out.traj", "out.json", "out.db"])
def test_formats_that_are_said_to_keep_results_do(call, ethanol: Path, tmp_path: Path, name: str):
    write(tmp_path / "two.extxyz", [molecule("H2O"), molecule("CH4")])
    assert call("predict", tmp_path / "two.extxyz", "-o", tmp_path / name)[0] == 0
    first, second = read(tmp_path / name, ":")
    assert first.get_potential_energy() != second.get_potential_energy()
    assert first.get_forces().shape == (3, 3)
    assert np.abs(second.get_forces()).max() > 0


def test_relax_that_has_converged(call, ethanol: Path, tmp_path: Path):
    status, out, err = call("relax", ethanol, "--fmax", "0.1", "-o", tmp_path / "out.xyz")
    assert (status, err) == (0, "")
    assert f"small on {Settings().device}" in out
    assert "converged after 0 steps: " in out
    np.testing.assert_allclose(read(tmp_path / "out.xyz").positions, read(ethanol).positions)


def test_relax_that_has_not_converged_is_status_1(call, ethanol: Path, tmp_path: Path):
    arguments = ("--fmax", "1e-6", "--steps", "3", "-o", tmp_path / "out.xyz", "--trajectory", tmp_path / "way.traj")
    status, _, err = call("relax", ethanol, *arguments)
    assert status == 1
    assert err.startswith("error: not converged after 3 steps: largest force")
    assert "limit 1e-06 eV/Å; raise --steps" in err
    way = read(tmp_path / "way.traj", ":")
    assert len(way) == 4
    assert way[-1].get_potential_energy() < way[0].get_potential_energy()
    np.testing.assert_allclose(read(tmp_path / "out.xyz").positions, way[-1].positions, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (
            StructureError("atom 0 and atom 1 are too near"),
            1,
            "error: the relaxation broke down after step 3, where the largest force was {force:.4g} eV/Å: atom 0 and atom 1 are "
            "too near; wrote the structure of step 3 to {output}: forces far above those of the start say that the model does not "
            "know it; start nearer to the minimum, try --optimizer fire, or keep every step with --trajectory",
        ),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 130, "interrupted"),
        (RuntimeError("CUDA error"), 2, "error: unexpected RuntimeError: CUDA error"),
    ],
)
def test_relax_that_breaks_down_keeps_the_last_structure_that_was_computed(
    call, ethanol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error, status, says
):
    class Breaks(AtomJetCalculator):
        calls = 0

        def calculate(self, *arguments, **more):
            self.calls += 1
            if self.calls == 5:
                if isinstance(error, signal.Signals):
                    signal.raise_signal(error)
                raise error
            super().calculate(*arguments, **more)

    monkeypatch.setattr("atomjet.adapters.ase.AtomJetCalculator", Breaks)
    output = tmp_path / "out.extxyz"
    given = ("relax", ethanol, "--fmax", "1e-6", "-o", output, "--trajectory", tmp_path / "way.traj")
    ended, out, err = call(*given, "--precision", "float64")
    assert ended == status
    way = read(tmp_path / "way.traj", ":")
    assert len(way) == 4  # the start and three steps
    np.testing.assert_allclose(read(output).positions, way[-1].positions, atol=1e-6)
    force = np.linalg.norm(way[-1].get_forces(), axis=1).max()
    assert err.startswith(says.format(force=force, output=output))
    assert (f"wrote {output}: not converged, the structure after step 3" in out) == (status != 1)


def test_relax_with_cell(call, diamond: Path, ethanol: Path, tmp_path: Path):
    status, _, _ = call(
        "relax", diamond, "--cell", "--steps", "200", "--pressure", "0.1", "-o", tmp_path / "out.extxyz"
    )
    assert status in (0, 1)
    assert read(tmp_path / "out.extxyz").get_volume() != read(diamond).get_volume()
    status, _, err = call("relax", ethanol, "--cell", "-o", tmp_path / "out.xyz")
    assert status == 2
    assert "cell relaxation needs three periodic directions" in err


def test_the_frame_is_chosen_and_said(call, tmp_path: Path):
    write(tmp_path / "in.xyz", [molecule("H2O"), molecule("CH4")])
    _, out, _ = call("relax", tmp_path / "in.xyz", "--steps", "0", "-o", tmp_path / "out.xyz")
    assert "frame 1 of 0 ... 1: CH4" in out
    _, out, _ = call("relax", tmp_path / "in.xyz", "--steps", "0", "--frame", "0", "-o", tmp_path / "first.xyz")
    assert "frame 0 of 0 ... 1: H2O" in out
    status, _, err = call("relax", tmp_path / "in.xyz", "--frame", "2", "-o", tmp_path / "none.xyz")
    assert status == 2
    assert "frame 2 is not in" in err


def test_relax_along_some_axes_of_the_cell(call, diamond: Path, tmp_path: Path):
    before = read(diamond).cell.array
    for words in ([diamond, "--cell", "xy"], ["--cell", "xy", diamond], ["--cell-axes", "xy", diamond]):
        call("relax", *words, "--steps", "2", "--overwrite", "-o", tmp_path / "out.extxyz")
        after = read(tmp_path / "out.extxyz").cell.array
        np.testing.assert_allclose(after[2], before[2], atol=1e-7)
        assert np.abs(after[:2] - before[:2]).max() > 1e-5
    status, _, err = call("relax", diamond, "--cell", "zx", "-o", tmp_path / "no.extxyz")
    assert (status, "cell axes 'zx' are not known" in err) == (2, True)
    # Alone, it may stand in front of the file.
    call("relax", "--cell", diamond, "--steps", "2", "--overwrite", "-o", tmp_path / "out.extxyz")
    after = read(tmp_path / "out.extxyz").cell.array
    assert np.abs(after[2] - before[2]).max() > 1e-5
