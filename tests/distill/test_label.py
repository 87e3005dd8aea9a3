import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomjet.distill.dataset import describe_dataset, read_dataset
from atomjet.distill.label import run_label
from atomjet.distill.recipe import TeacherConfig, load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.teacher import make_teacher
from atomjet.distill.teacher_labels import hessian_rows, label_frame
from atomjet.errors import ConfigError, TeacherError

TEACHER = TeacherConfig()
SMALL = "O\nC\nN\nCO\nC=O\n"


def shards(recipe) -> list[bytes]:
    return [path.read_bytes() for path in sorted((recipe.output / "dataset").glob("*.h5"))]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """An undisturbed run: the shards that every other must equal."""
    directory = tmp_path_factory.mktemp("labelled")
    (directory / "m.smi").write_text(SMALL)
    (directory / "recipe.yaml").write_text(
        "name: small\nseed: 7\noutput: out\nelements: [H, C, N, O]\nmolecules: m.smi\n"
        "sample:\n  workers: 2\n  conformers: {per_molecule: 1}\n  normal_modes: {frames: 30}\n  walls: {points: 4}\n"
        "label: {workers: 2, shard_size: 60, hessian_rows: 2}\n"
    )
    recipe = load_recipe(directory / "recipe.yaml")
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    return recipe


def elsewhere(recipe, directory: Path, workers: int = 1):
    """The same recipe in another directory, where nothing is computed yet."""
    text = (recipe.output.parent / "recipe.yaml").read_text().replace("workers: 2", f"workers: {workers}")
    (directory / "m.smi").write_text(SMALL)
    (directory / "recipe.yaml").write_text(text)
    return load_recipe(directory / "recipe.yaml")


def copied(recipe, directory: Path):
    """The same recipe in another directory, with all that was computed."""
    shutil.copytree(recipe.output, directory / "out")
    return elsewhere(recipe, directory)


def test_labels_are_those_of_a_fresh_calculator_at_the_stored_positions(labelled):
    from tblite.ase import TBLite

    frames = read_dataset(labelled.output / "dataset")
    assert frames.positions.dtype == np.float32
    for number in range(0, len(frames), 9):
        atoms = frames.atoms(number)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)
        assert atoms.get_potential_energy() == energy
        np.testing.assert_array_equal(atoms.get_forces().astype(np.float32), forces.astype(np.float32))


def test_shards_say_where_they_come_from(labelled):
    about = describe_dataset(labelled.output / "dataset" / "shard-00000.h5")
    assert about["teacher"]["calculator"] == "tblite:GFN2-xTB"
    assert about["teacher"]["options"] == {"accuracy": 0.1}
    assert about["teacher"]["version"][0].isdigit()
    assert (about["recipe"], about["seed"]) == ("small", 7)


def test_left_out_frames_are_listed_with_their_reason(labelled, capsys):
    failures = [json.loads(line) for line in (labelled.output / "failures.jsonl").read_text().splitlines()]
    sampled = read_dataset(labelled.output / "samples.h5")
    frames = read_dataset(labelled.output / "dataset")
    left_out = [failure for failure in failures if failure["outcome"] == "left out"]
    assert len(left_out) > 0
    assert len(sampled) == len(frames) + len(left_out)
    assert any("eV/Å exceeds 200 eV/Å" in failure["reason"] for failure in left_out)
    assert {failure["slice"] for failure in left_out} == {"walls"}


def test_one_worker_gives_the_same_bytes_as_two(labelled, tmp_path, capsys):
    recipe = elsewhere(labelled, tmp_path, workers=1)
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    assert shards(recipe) == shards(labelled)
    assert (recipe.output / "failures.jsonl").read_bytes() == (labelled.output / "failures.jsonl").read_bytes()


def test_a_second_run_computes_nothing_and_leaves_the_shards(labelled, capsys):
    before = shards(labelled)
    run_label(labelled, quiet=True)
    assert " 0 computed" in capsys.readouterr().out
    assert shards(labelled) == before


def test_a_torn_journal_costs_the_torn_record_only(labelled, tmp_path, capsys):
    recipe = copied(labelled, tmp_path)
    for journal in (recipe.output / "labels").glob("*.journal"):
        journal.write_bytes(journal.read_bytes()[:-3])
    run_label(recipe, quiet=True)
    output = capsys.readouterr().out
    assert " 2 computed in" in output  # the last label of either worker
    assert "Hessian rows, 2 computed" in output
    assert shards(recipe) == shards(labelled)


def test_a_changed_limit_needs_no_new_labels_and_stale_shards_go(labelled, tmp_path, capsys):
    recipe = copied(labelled, tmp_path)
    count = len(shards(recipe))
    changes = {"max_force": 1.0, "shard_size": 1000, "hessian_rows": 0}
    run_label(recipe.model_copy(update={"label": recipe.label.model_copy(update=changes)}), quiet=True)
    output = capsys.readouterr().out
    assert " 0 computed" in output
    assert "left out" in output
    assert len(shards(recipe)) == 1 < count
    frames = read_dataset(recipe.output / "dataset")
    ordinary = np.repeat(frames.source == "normal_modes", frames.counts)
    assert np.linalg.norm(frames.forces[ordinary], axis=1).max() <= 1.0
    assert len(frames.hessian_frame) == 0


def test_hessian_rows_are_second_derivatives(labelled):
    frames = read_dataset(labelled.output / "dataset")
    assert np.bincount(frames.hessian_frame, minlength=len(frames)).tolist() == [2] * len(frames)
    row = int(np.flatnonzero(frames.counts[frames.hessian_frame] == 5)[0])
    atoms, index = frames.atoms(int(frames.hessian_frame[row])), (frames.hessian_atom[row], frames.hessian_axis[row])
    sides = []
    for step in (5e-4, -5e-4):
        moved = atoms.copy()
        moved.positions[index] += step
        moved.calc = make_teacher("tblite:GFN2-xTB", {"accuracy": 0.01})
        sides.append(moved.get_forces())
    stored = frames.hessian_rows[frames.hessian_ptr[row] : frames.hessian_ptr[row + 1]]
    np.testing.assert_allclose(stored, (sides[1] - sides[0]) / 1e-3, atol=0.02 * np.abs(stored).max())


def test_what_the_teacher_cannot_compute_is_a_failure_with_its_words(tmp_path, capsys):
    """Two atoms in one place: the teacher refuses them, the frame is recorded, the others are labelled."""
    Atoms("CuCu", [[0, 0, 0], [0, 0, 2.5]]).write(tmp_path / "good.xyz")
    Atoms("XeCu", [[0, 0, 0], [0, 0, 2.5]]).write(tmp_path / "bad.xyz")
    recipe = periodic(tmp_path, "[good.xyz, bad.xyz]", "[Cu, Xe]")
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    failures = [json.loads(line) for line in (recipe.output / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 2
    assert all("No EMT-potential for Xe" in failure["reason"] for failure in failures)
    assert len(read_dataset(recipe.output / "dataset")) == 2
    assert "2 left out; reasons in" in capsys.readouterr().out


def test_failures_are_tried_again_only_when_asked(tmp_path, capsys):
    Atoms("XeCu", [[0, 0, 0], [0, 0, 2.5]]).write(tmp_path / "bad.xyz")
    recipe = periodic(tmp_path, "[bad.xyz]", "[Cu, Xe]")
    run_sample(recipe, quiet=True)
    outputs = []
    for retry in (False, False, True):
        capsys.readouterr()
        changed = recipe.label.model_copy(update={"retry_failures": retry})
        run_label(recipe.model_copy(update={"label": changed}), quiet=True)
        outputs.append(capsys.readouterr().out)
    assert [" 2 computed" in output for output in outputs] == [True, False, True]
    assert all("2 left out" in output for output in outputs)


def periodic(directory: Path, files: str, elements: str):
    (directory / "recipe.yaml").write_text(
        f"name: emt\noutput: out\nelements: {elements}\n"
        "teacher: {calculator: 'ase.calculators.emt:EMT', options: {}}\n"
        "sample:\n  workers: 1\n  split: {validation: 0, test: 0}\n  free_atoms: false\n"
        f"  structures: {{files: {files}, frames: 2}}\nlabel: {{workers: 1}}\n"
    )
    return load_recipe(directory / "recipe.yaml")


def test_periodic_structures_are_labelled_with_their_cell(tmp_path):
    bulk("Cu", cubic=True).write(tmp_path / "cu.extxyz")
    recipe = periodic(tmp_path, "[cu.extxyz]", "[Cu]")
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    for atoms in read_dataset(recipe.output / "dataset"):
        energy = atoms.get_potential_energy()
        assert atoms.pbc.all()
        atoms.calc = make_teacher("ase.calculators.emt:EMT", {})
        assert atoms.get_potential_energy() == energy


def test_charge_reaches_the_teacher():
    content = (np.array([8, 1]), np.array([[0, 0, 0], [0, 0, 0.97]]), np.zeros((3, 3)), np.zeros(3, bool))
    neutral, anion = (label_frame(TEACHER, *content, np.array([charge]))["energy"] for charge in (0, -1))
    assert abs(anion - neutral) > 1.0
    rows = hessian_rows(TEACHER, *content, np.array([-1]), count=100)["rows"]
    assert rows.shape == (6, 2, 3)


def test_labelling_before_sampling_says_what_to_do(write_recipe):
    with pytest.raises(ConfigError, match=r"sample them first: atomjet sample"):
        run_label(write_recipe())


@pytest.mark.parametrize("limit", [4_000, 20_000], ids=["early", "late"])
def test_a_full_disk_is_one_line_and_what_was_labelled_is_kept(runs, labelled, tmp_path, limit):
    recipe = elsewhere(labelled, tmp_path, workers=2)
    run_sample(recipe, quiet=True)
    ended = runs.run(["label", tmp_path / "recipe.yaml"], largest_file=limit)
    errors = [line for line in ended.err.splitlines() if not line.startswith("labelling:")]
    assert ended.status == 2, ended
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: cannot write ")
    assert "File too large; make room on the disk or choose another output, then run the same again" in errors[0]
    run_label(recipe, quiet=True)
    assert shards(recipe) == shards(labelled)


def test_two_runs_in_one_directory_are_refused(labelled):
    from atomjet.locking import only_run

    with only_run(labelled.output), pytest.raises(ConfigError, match="another run is working in"):
        run_label(labelled, quiet=True)


@pytest.mark.parametrize(
    ("spec", "options", "complaint"),
    [
        ("GFN2-xTB", {}, "not of the form tblite:METHOD"),
        ("tblite:GFN3-xTB", {}, "no method 'GFN3-xTB'; choose one of GFN2-xTB"),
        ("tblite:GFN2-xTB", {"acuracy": 0.1}, "no option 'acuracy'; it knows accuracy"),
        ("nowhere.at:all", {}, "cannot be imported: No module named 'nowhere'"),
        ("ase.calculators.emt:EMTT", {}, "cannot be imported"),
    ],
)
def test_a_teacher_that_cannot_be_built_is_refused_before_any_work(spec, options, complaint):
    with pytest.raises(TeacherError) as error:
        make_teacher(spec, options)
    assert complaint in str(error.value)


def test_without_tblite_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(TeacherError, match=r"pip install 'atomjet\[distill\]'"):
        make_teacher("tblite:GFN2-xTB", {})
