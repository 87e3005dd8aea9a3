import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write

from atomjet import load as load_model
from atomjet.adapters.potential import CalculatorPotential
from atomjet.cli.main import main
from atomjet.distill.recipe import TeacherConfig
from atomjet.engine import Engine, Settings
from atomjet.errors import ConfigError
from atomjet.models import registry
from atomjet.units import AMU_A2_PER_FS2, HBAR, INVERSE_CM
from atomjet.validate import Check
from atomjet.validate.organic import boxes, contacts, energies, frames, minima, runs, sets, suite
from atomjet.validate.organic.answers import Answers, student_labels
from atomjet.validate.organic.page import page
from atomjet.validate.organic.sets import SIZES, Judged, load
from tests.engine import standins
from tests.potentials import random_painn

LJ = {"epsilon": 0.01, "sigma": 2.5, "rc": 12.0, "smooth": False}
"""A teacher of known answer: a pair of atoms rests at 2^(1/6) sigma, 0.01 eV deep."""


def student(**changes):
    return CalculatorPotential(LennardJones(**(LJ | changes)))


def judged(tmp_path, potential=None, size="quick", teacher=None):
    teacher = teacher or TeacherConfig(calculator="ase.calculators.lj:LennardJones", options=LJ)
    return Judged(potential or student(), Answers(teacher, tmp_path / "answers", 1, quiet=True), SIZES[size])


@pytest.fixture
def structures(monkeypatch, tmp_path):
    """Sets of our own in place of the packaged ones."""

    def put(name, atoms):
        for one in atoms:
            one.calc = None
        with gzip.open(tmp_path / f"{name}.extxyz.gz", "wt") as file:
            write(file, atoms, format="extxyz")
        monkeypatch.setattr(sets, "FOLDER", tmp_path)

    return put


def argon(distance, **info):
    return Atoms("Ar2", [[0, 0, 0], [distance, 0, 0]], info=info)


def test_answers_are_computed_once(tmp_path):
    pairs = [argon(d) for d in (2.8, 3.0, 2.8)]
    first = judged(tmp_path).answers
    labels = first.of(pairs)
    assert first.computed == 2
    assert labels.energy[0] == labels.energy[2]
    r6 = (2.5 / 3.0) ** 6
    cut = (2.5 / 12.0) ** 6
    assert labels.energy[1] == pytest.approx(0.04 * (r6**2 - r6) - 0.04 * (cut**2 - cut))
    again = judged(tmp_path).answers
    np.testing.assert_allclose(again.of(pairs[::-1]).energy, labels.energy[::-1])
    assert again.computed == 0
    other = TeacherConfig(calculator="ase.calculators.lj:LennardJones", options=LJ | {"epsilon": 0.02})
    assert judged(tmp_path, teacher=other).answers.of(pairs[:1]).energy[0] == pytest.approx(2 * labels.energy[0])


def test_what_a_teacher_cannot_compute_is_left_out(tmp_path):
    teacher = TeacherConfig(calculator="ase.calculators.emt:EMT", options={})
    labels = judged(tmp_path, teacher=teacher).answers.of([Atoms("Cu"), Atoms("Kr")])
    assert labels.missing.tolist() == [False, True]
    assert labels.forces[1].shape == (1, 3)


def test_dimer_minima_are_found_between_the_points(tmp_path, structures):
    structures("dimers", [argon(2.8, molecule="argon", first=1)])
    deeper = {check.name: check for check in contacts.dimer_minima(judged(tmp_path, student(epsilon=0.02, sigma=2.6)))}
    depth, distance = deeper["dimer depth"], deeper["dimer distance"]
    assert depth.figures["teacher / kcal/mol"] == pytest.approx(-0.2306, abs=2e-3)
    assert depth.figures["teacher / Å"] == pytest.approx(2.5 * 2 ** (1 / 6), abs=0.02)
    assert depth.value == pytest.approx(0.2306, abs=5e-3)
    assert distance.value == pytest.approx(0.1 * 2 ** (1 / 6), abs=0.02)
    assert (depth.passed, distance.passed) == (True, False)
    # Without attraction there is no minimum within the scan: its end counts.
    flat = contacts.dimer_minima(judged(tmp_path, student(epsilon=0.0)))[1]
    assert not flat.passed


def test_soft_contacts_are_counted(tmp_path, structures):
    structures("molecules", [Atoms("N2", [[0, 0, 0], [1.1, 0, 0]], info={"molecule": "N2"})])
    hard = contacts.compressed_contacts(judged(tmp_path))
    assert (hard.value, hard.passed) == (0, True)
    soft = contacts.compressed_contacts(judged(tmp_path, student(sigma=0.5)))
    assert soft.value == soft.figures["dimers"] == 60
    assert soft.figures["N-N: too soft of 60"] == 60


def test_squeezed_pairs_touch_where_they_should():
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], info={"molecule": "water"})
    for share, atoms in zip(contacts.SHARES, contacts.squeezed([water], np.random.default_rng(3)), strict=True):
        radii = contacts.vdw_radii[atoms.numbers]
        ratio = atoms.get_all_distances()[:3, 3:] / (radii[:3, None] + radii[None, 3:])
        assert ratio.min() == pytest.approx(share)


def test_torsions_and_conformers(tmp_path, structures):
    scan = [
        Atoms("Ar3", [[0, 0, 0], [3, 0, 0], [3, d, 0]], info={"molecule": "m", "angle": d}) for d in (3.0, 3.3, 4.0)
    ]
    structures("torsions", scan)
    structures("conformers", scan)
    (same,) = energies.torsions(judged(tmp_path))
    assert same.value == pytest.approx(0, abs=1e-9)
    (double,) = energies.torsions(judged(tmp_path, student(epsilon=0.02)))
    teacher = np.array(double.series["teacher"])
    assert double.value == pytest.approx(np.abs(teacher - teacher.mean()).mean())
    wrong = energies.conformers(judged(tmp_path, student(epsilon=-0.01)))
    assert [check.value for check in wrong] == [pytest.approx(2 * double.value), pytest.approx(2.0)]


def test_frequencies_and_the_force_at_our_minimum(tmp_path, structures):
    rest = 2.5 * 2 ** (1 / 6)
    structures("frequencies", [argon(rest, molecule="argon")])
    structures("drugs", [argon(rest + 0.1, molecule="argon")])
    stiffer = minima.frequencies(judged(tmp_path, student(epsilon=0.04)))
    # Four times as stiff, twice as fast: 36 * 2^(2/3) ε/σ² for a stretch of half an atom's mass.
    stiffness, mass = 36 * 2 ** (2 / 3) * 0.01 / 2.5**2, 0.5 * 39.948
    there = HBAR * np.sqrt(stiffness / mass / AMU_A2_PER_FS2) / INVERSE_CM
    assert stiffer[0].value == stiffer[1].value == pytest.approx(there, rel=0.01)
    median, worst = minima.relaxed_drugs(judged(tmp_path, student(sigma=2.45)))
    x = 2.5 / (2.45 * 2 ** (1 / 6))
    expected = 0.24 * abs(2 * x**12 - x**6) / (2.45 * 2 ** (1 / 6))
    assert median.value == worst.value == pytest.approx(expected, rel=0.15)


def test_errors_of_unseen_molecules_have_their_causes(tmp_path, structures):
    moving = [
        argon(d, molecule=f"m{d:.0f}", group="drugs and their like", kelvin=k) for d in (3.0, 4.0) for k in (300, 600)
    ]
    structures("frames", moving)
    checks = {check.name: check for check in frames.unseen_molecules(judged(tmp_path, student(epsilon=0.011)))}
    every = checks["force MAE, unseen molecules"]
    teacher = judged(tmp_path).answers.of(moving)
    assert every.value == pytest.approx(1e3 * 0.1 * np.abs(np.concatenate(teacher.forces)).mean())
    assert every.value == checks["force MAE, drug-like"].value == pytest.approx(every.figures["element Ar"])
    assert {"temperature 300 K", "molecule m3", "size 1 to 15 atoms", "force 0 to 0.5 eV/Å"} <= set(every.figures)
    assert checks["energy MAE less molecule's mean"].value == pytest.approx(0, abs=1e-9)
    assert checks["energy offset of a molecule, worst"].value == pytest.approx(
        1e3 * 0.1 * np.abs(teacher.energy).max() / 2
    )
    assert "force MAE, peptides of 40 atoms" not in checks


def test_packaged_structures_are_whole():
    generator = np.random.default_rng(0)
    made = [*boxes.water_boxes((27,), generator), *boxes.liquid_boxes(5, 8, generator)]
    made += [boxes.Box(atoms.info["molecule"], atoms, 0) for atoms in load("crystals")]
    for box in made:
        at_rest = boxes.Relaxed(0, box.atoms, 0.0, 0.0, 0, True)
        assert boxes.verdict(box, at_rest)[0] == ""
    assert len(load("dimers")) == 12
    assert len({atoms.info["molecule"] for atoms in load("torsions")}) == 12
    assert len({atoms.info["molecule"] for atoms in load("conformers")}) == 10
    assert len({atoms.info["molecule"] for atoms in load("frames")}) == 64


def test_a_box_that_collapses_is_named():
    box = boxes.water_boxes((27,), np.random.default_rng(0))[1]
    moved = box.atoms.copy()
    moved.positions[3:6] += moved.positions[0] - moved.positions[3] + 0.8
    said, nearest = boxes.verdict(box, boxes.Relaxed(0, moved, 0.0, 0.0, 9, True))
    assert "between molecules" in said
    assert nearest < boxes.CLOSE
    apart = box.atoms.copy()
    apart.positions[1] += 3.0 * (apart.positions[1] - apart.positions[0])
    assert boxes.verdict(box, boxes.Relaxed(0, apart, 0.0, 0.0, 9, True))[0]
    given_up = boxes.Relaxed(0, box.atoms, 0.0, 0.0, 7, False, "atoms too near")
    assert boxes.verdict(box, given_up)[0] == "given up after 7 steps, atoms too near"


def test_a_run_that_comes_apart_has_failed():
    chain = Atoms("N2", [[0, 0, 0], [1.1, 0, 0]], info={"molecule": "N2"})
    held = student(epsilon=3.0, sigma=1.1 / 2 ** (1 / 6))
    (_, why), (_, other) = runs.thermal_run(held, [chain, chain], 100.0, 25.0, 0)
    assert (why, other) == ("", "")
    loose = runs.thermal_run(student(epsilon=0.001, sigma=0.9), [chain], 3000.0, 100.0, 0)
    assert loose[0][1].startswith("a bond changed by ")
    crushed = runs.thermal_run(student(epsilon=1.0, sigma=3.0), [chain], 300.0, 5.0, 0)
    assert crushed[0][1].startswith("a force of ")


def test_table_takes_the_worst_of_each_kind():
    rows = suite.table(
        check.to_json()
        for check in (
            Check("torsion", "butane", 0.2, "kcal/mol", 0.5, "s"),
            Check("torsion", "biphenyl", 1.7, "kcal/mol", 0.5, "s"),
            Check("contacts", "dimers", 0.0, "dimers", 0.0, "s"),
            Check("frequencies", "water", float("nan"), "cm⁻¹", 5.0, "s"),
        )
    )
    assert [(row.name, row.structure, row.passed, row.of) for row in rows] == [
        ("torsion", "biphenyl", 1, 2),
        ("contacts", "dimers", 1, 1),
        ("frequencies", "water", 0, 1),
    ]
    assert str(rows[0]).startswith("FAILED torsion ")
    assert "1.7 kcal/mol (at most 0.5)" in str(rows[0])


def test_the_teacher_is_the_cards_or_the_one_named():
    card = {"teacher": {"calculator": "tblite:GFN1-xTB", "options": {"accuracy": 0.2}}}
    assert suite.teacher_of(card, None).options == {"accuracy": 0.2}
    assert suite.teacher_of(card, "GFN2-xTB").calculator == "tblite:GFN2-xTB"
    with pytest.raises(ConfigError, match="names no teacher; name it with --teacher"):
        suite.teacher_of({}, None)


def test_command_judges_the_packaged_student(tmp_path, capsys):
    pytest.importorskip("tblite")
    made, model, page = tmp_path / "judged.json", tmp_path / "mine.safetensors", tmp_path / "page.md"
    shutil.copy(registry.locate("organic-xtb"), model)
    asked = ["validate", "--against", "organic", "--only", "torsions", "--device", "cpu", "--workers", "1"]
    outputs = ["--json", str(made), "--report", str(page), "--into-card", "--model", str(model)]
    status = main([*asked, "--answers", str(tmp_path / "answers"), *outputs])
    said = capsys.readouterr().out
    rows = load_model(model, device="cpu").card["judged"]["rows"]
    assert rows["torsion"]["at_most"] == "0.5 kcal/mol"
    assert "| torsion | 0.5 kcal/mol |" in page.read_text()
    assert (tmp_path / "pictures" / "page-torsions.svg").exists()
    assert main(["validate", "--read", str(made), "--read", str(made), "--report", str(tmp_path / "two.md")]) == 0
    assert "| torsion | 0.5 kcal/mol |" in (tmp_path / "two.md").read_text()
    assert main(["validate", "--read", str(page), "--report", str(tmp_path / "no.md")]) == 2
    assert "page.md is not what `atomjet validate --against` writes with --json" in capsys.readouterr().err
    assert main([*asked, "--into-card"]) == 2
    assert "--into-card needs --model FILE.safetensors, a file of your own" in capsys.readouterr().err
    content = json.loads(made.read_text())
    assert status == (0 if content["passed"] else 1)
    assert content["about"]["teacher"]["calculator"] == "tblite:GFN2-xTB"
    assert len(content["checks"]) == 12
    assert said.splitlines()[-1] == f"wrote the table into the card of {model}"
    assert main([*asked[:4], "nothing"]) == 2
    assert "there are no checks 'nothing'; choose from molecules, dimers" in capsys.readouterr().err
    assert main(["validate", "--against", "metals"]) == 2
    assert "there is no set 'metals'" in capsys.readouterr().err


def test_students_that_refuse_one_structure_answer_for_the_others():
    class Refusing(CalculatorPotential):
        def predict(self, structures):
            if any(len(atoms) == 1 for atoms in structures):
                raise ConfigError("a single atom")
            return super().predict(structures)

    labels = student_labels(Refusing(LennardJones(**LJ)), [argon(3.0), Atoms("Ar"), argon(3.1)])
    assert labels.missing.tolist() == [False, True, False]


@pytest.mark.parametrize("fall", [1e-4, 30.0])
def test_runs_on_the_device_end_as_others_do(fall):
    model = random_painn(features=8, layers=2, num_radial=6, cutoff=3.0, elements=(1, 8))
    for parameter in model.readout[-1].parameters():
        parameter.data *= fall
    engine = Engine(model, Settings("cpu", "fast_pytorch"))
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], info={"molecule": "water"})
    plain = runs.thermal_run(engine, [water, water], 20.0, 10.0, 0)
    engine.use(standins.stages(engine))
    captured = runs.thermal_run(engine, [water, water], 20.0, 10.0, 0)
    assert [bool(why) for _, why in captured] == [bool(why) for _, why in plain] == [fall > 1] * 2
    moved = np.abs(captured[0][0].positions - water.positions).max()
    assert moved > 1e-3 if fall < 1 else moved < 1.0


def test_the_page_is_what_its_results_say():
    root = Path(__file__).parents[2]
    results = {
        file.stem: json.loads(file.read_text()) for file in sorted((root / "benchmarks/students").glob("*.json"))
    }
    made = (root / "docs/organic-xtb.md").read_text()
    drawn = {
        file.stem.rpartition("-")[2]: f"pictures/{file.name}" for file in root.glob("docs/pictures/organic-xtb-*.svg")
    }
    assert page(results, made.splitlines()[0].removeprefix("# "), drawn) == made
