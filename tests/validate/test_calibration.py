"""Calibration of an ensemble: figures that are known beforehand, and the command that makes, calibrates and uses one."""

import json
import warnings

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomjet import Engine
from atomjet.cli.main import main
from atomjet.cli.terminal import MOST_WARNINGS, plain_warnings
from atomjet.engine import Settings
from atomjet.engine.uncertainty import UncertaintyWarning
from atomjet.errors import ConfigError
from atomjet.models import tensor_file
from atomjet.models.load import read
from atomjet.validate.calibration import Compared, calibration, compare
from tests.potentials import random_painn

SIZES = {"features": 8, "layers": 1, "cutoff": 3.0, "elements": (1, 6, 8)}


def drawn(scale, atoms=4000, each=10):
    """Errors that are normal with `scale` times their spread, which differs from atom to atom."""
    generator = np.random.default_rng(0)
    spread = np.exp(generator.normal(-3, 1, atoms))
    error = scale * spread * np.linalg.norm(generator.normal(size=(atoms, 3)), axis=1) / np.sqrt(3)
    return Compared(error, spread, np.repeat(np.arange(atoms // each), each))


def test_figures_of_errors_that_follow_their_spread():
    compared = drawn(1.7)
    found = calibration(compared, 0.9)
    assert found["scale"] == pytest.approx(1.7, rel=0.05)
    assert found["warned_structures"] == pytest.approx(0.1, abs=0.003)
    assert found["bound"] == pytest.approx(np.quantile(compared.spread.reshape(-1, 10).max(1), 0.9))
    assert found["worst_5_percent_among_5_percent_of_largest_spread"] > 0.6
    assert found["worst_5_percent_in_warned_structures"] >= found["worst_5_percent_beyond_bound"] > 0.1
    assert found["mean_error_beyond_bound"] > 5 * found["mean_error"]
    curve = found["curve"]
    assert curve["error"] == pytest.approx(curve["expected"], rel=0.15)
    assert len(curve["spread"]) == 10
    assert np.all(np.diff(curve["spread"]) > 0)
    assert (found["structures"], found["atoms"]) == (400, 4000)


def test_a_spread_that_says_nothing_finds_nothing():
    compared = drawn(1.0)
    shuffled = Compared(np.random.default_rng(1).permutation(compared.error), compared.spread, compared.structure)
    found = calibration(shuffled)
    assert abs(found["spearman"]) < 0.05
    assert found["worst_5_percent_among_5_percent_of_largest_spread"] < 0.12


def test_what_cannot_be_calibrated():
    compared = drawn(1.0)
    with pytest.raises(
        ConfigError, match="quantile 1.0 is not between 0 and 1; 0.95 warns of one held-out structure in twenty"
    ):
        calibration(compared, 1.0)
    copies = Compared(compared.error, np.zeros(4000), compared.structure)
    with pytest.raises(
        ConfigError, match="the members agree to the last bit: they are copies; train them from different seeds"
    ):
        calibration(copies)
    single = Engine(random_painn(**SIZES), Settings("cpu", "fast_pytorch"))
    frames = [(molecule("H2O"), np.zeros((3, 3)))]
    with pytest.raises(
        ConfigError, match="1 labelled structures; a calibration needs 20 or more, held out from training"
    ):
        compare(single, frames)
    with pytest.raises(ConfigError, match="this model is no ensemble, .*; make one with `atomjet ensemble`"):
        compare(single, frames * 20)


@pytest.fixture
def folder(tmp_path):
    """Two members, and 24 labelled structures of which one is far from the others."""
    for seed in range(2):
        card = {"name": f"seed-{seed}", "teacher": {"calculator": "tblite:GFN2-xTB"}}
        tensor_file.write(tmp_path / f"{seed}.safetensors", random_painn(seed=seed, **SIZES), card)
    frames = []
    for seed in range(24):
        atoms = molecule("CH3OH" if seed % 2 else "H2O")
        atoms.rattle(0.01, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
        frames.append(atoms)
    ase.io.write(tmp_path / "heldout.extxyz", frames)
    return tmp_path


@pytest.mark.filterwarnings("always::atomjet.engine.uncertainty.UncertaintyWarning")
def test_from_members_to_warnings_on_the_command_line(folder, capsys):
    model, card = folder / "e.safetensors", folder / "spread.json"

    def call(*words, status=0):
        assert main([*map(str, words), "--device", "cpu"]) == status
        return capsys.readouterr()

    found = call("ensemble", folder / "0.safetensors", folder / "1.safetensors", "-o", model)
    assert f"wrote {model}: 2 members; `atomjet calibrate` gives it a bound for warnings" in found.out
    assert read(model)[1]["name"] == "e"
    found = call("predict", folder / "heldout.extxyz", "-m", model)
    assert "warning" not in found.err
    words = ("--json", card, "--plot", folder / "spread.png", "-o", model, "--overwrite")
    found = call("calibrate", model, folder / "heldout.extxyz", *words)
    figures = json.loads(card.read_text())
    assert f"bound {figures['bound']:.4g} eV/Å: 8.3 % of the structures are beyond it" in found.out
    assert (folder / "spread.png").stat().st_size > 10_000
    assert read(model)[1]["calibration"] == figures
    assert "calibration\n  bound" in call("info", model).out

    stretched = molecule("CH3OH")
    stretched.positions *= 0.8
    ase.io.write(folder / "odd.extxyz", [stretched, molecule("CH4")[:1]])
    found = call("predict", folder / "odd.extxyz", "-m", model, "-o", folder / "out.extxyz")
    assert "warning: frame 0: the ensemble's members differ by" in found.err
    assert "frame 1" not in found.err
    assert f"uncertain: 1 of 2 structures beyond the bound of {figures['bound']:.3g} eV/Å" in found.out
    written = ase.io.read(folder / "out.extxyz")
    assert written.arrays["forces_spread"].tolist() == [0.0]
    ase.io.write(folder / "odd.xyz", stretched)
    found = call("md", folder / "odd.xyz", "-m", model, "--steps", 3, "--timestep", 0.1, "-o", folder / "run.traj")
    assert found.err.count("warning: CH4O: the ensemble's members differ by") == 1
    assert "uncertain        100 % of the steps looked at were beyond the ensemble's bound" in found.out
    found = call("relax", folder / "odd.xyz", "-m", model, "--steps", 1, "-o", folder / "r.xyz", status=1)
    assert found.err.count("warning: CH4O: the ensemble's members differ by") == 1
    assert f"bound {figures['bound']:.3g} eV/Å, passed in" in found.out
    found = call(
        "relax", folder / "odd.extxyz", "--all", "-m", model, "--steps", 1, "-o", folder / "all.extxyz", status=1
    )
    assert "warning: frame 0: the ensemble's members differ by" in found.err
    assert "uncertain: 1 of 2 structures" in found.out


def test_an_ensemble_is_not_written_over_unasked(folder, capsys):
    words = ["ensemble", str(folder / "0.safetensors"), str(folder / "1.safetensors"), "-o"]
    assert main([*words, str(folder / "0.safetensors")]) == 2
    assert "exists already; write over it with --overwrite, or choose another name" in capsys.readouterr().err
    assert main([*words, str(folder / "e.bin")]) == 2
    assert "does not end in .safetensors; name it so" in capsys.readouterr().err


def test_the_command_line_shows_the_first_warnings_of_a_kind(capsys):
    with plain_warnings():
        warnings.simplefilter("always")
        for number in range(MOST_WARNINGS + 3):
            warnings.warn(f"number {number}", UncertaintyWarning, stacklevel=1)
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "warning: number 0"
    assert shown[MOST_WARNINGS:] == ["warning: more of the kind UncertaintyWarning are not shown"]
