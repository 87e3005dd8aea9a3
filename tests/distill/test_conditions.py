"""Charge, spin and task of a structure: from its file to the teacher, into the labels, and to the student's card."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

import atomjet
from atomjet.cli.main import main
from atomjet.distill.conditions import Conditions, read_conditions
from atomjet.distill.dataset import USER_BLOCK, read_dataset, write_shard
from atomjet.distill.frames import concatenate, make_frames, pack
from atomjet.distill.journal import Journal
from atomjet.distill.label import run_label
from atomjet.distill.recipe import TeacherConfig, load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.teacher_labels import label_frame
from atomjet.distill.train import run_train
from atomjet.errors import ConfigError
from atomjet.models.load import read

UMA = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"


def oxygen(**info) -> Atoms:
    return Atoms("OO", [[0, 0, 0], [0, 0, 1.21]], info=info)


def recipe_of(directory: Path, structures: list[Atoms], elements: str = "[O]", more: str = ""):
    ase.io.write(directory / "structures.extxyz", structures)
    (directory / "recipe.yaml").write_text(
        f"name: oxygen\noutput: out\nelements: {elements}\n"
        f"teacher: {{calculator: 'atomjet:{UMA}?task=omol&precision=float64', options: {{device: cpu}}}}\n"
        "sample:\n  workers: 1\n  split: {validation: 0, test: 0, in_distribution: 0}\n  free_atoms: false\n"
        "  structures: {files: [structures.extxyz], frames: 3}\n"
        "label: {workers: 1}\nstudent: {features: 8, layers: 1, num_radial: 6, cutoff: 3.0}\n"
        "train: {epochs: 2, batch_size: 2}\n" + more
    )
    return load_recipe(directory / "recipe.yaml")


def engine():
    return atomjet.load(UMA, device="cpu", task="omol", precision="float64")


def test_triplet_oxygen_is_labelled_as_what_it_is(tmp_path):
    recipe = recipe_of(tmp_path, [oxygen(spin=3, charge=0)])
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    frames = read_dataset(recipe.output / "dataset")
    assert frames.spin.tolist() == [3, 3, 3]
    for frame in range(3):
        atoms = frames.atoms(frame)
        assert atoms.info["spin"] == 3
        labelled = atoms.get_potential_energy()
        bare = Atoms(atoms.numbers, atoms.positions)
        triplet, singlet = (
            float(engine().predict(Atoms(bare.numbers, bare.positions, info={"charge": 0, "spin": spin})).energy)
            for spin in (3, 1)
        )
        assert labelled == triplet
        assert abs(triplet - singlet) > 1e-3


def test_a_changed_condition_alone_is_sampled_and_labelled_anew(tmp_path):
    labels = []
    for info in ({"spin": 1, "charge": 0}, {"spin": 3, "charge": 0}, {"task": "omat"}):
        recipe = recipe_of(tmp_path, [oxygen(**info)])
        run_sample(recipe, quiet=True)
        run_label(recipe, quiet=True)
        frames = read_dataset(recipe.output / "dataset")
        assert frames.conditions(0) == read_conditions(oxygen(**info))
        with Journal(recipe.output / "labels") as journal:
            assert len(journal) == 3 * (len(labels) + 1)
        labels.append(frames.energy[0])
    assert len(set(labels)) == 3


def test_structures_that_say_nothing_keep_the_keys_they_had(tmp_path):
    """A run begun by an earlier version, whose records have no spin, goes on."""
    record = pack([oxygen()], ["O2"], [False])
    from atomjet.distill.frames import frames_from_record
    from atomjet.distill.teacher_labels import content_of

    old = {name: value for name, value in record.items() if name not in ("spin", "task")}
    frames = frames_from_record(old, "train", "structures")
    assert frames.conditions(0) == Conditions()
    assert len(content_of(frames, 0)) == 5
    assert len(content_of(frames_from_record(pack([oxygen(spin=3)], ["O2"], [False]), "train", "s"), 0)) == 7


def test_tblite_is_asked_for_the_spin():
    content = (
        np.array([8, 8]),
        np.array([[0, 0, 0], [0, 0, 1.21]]),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        np.array([0]),
    )
    singlet, said, triplet = (
        label_frame(TeacherConfig(), *content, *more)["energy"]
        for more in ((), (np.array([1]), ""), (np.array([3]), ""))
    )
    from tblite.ase import TBLite

    atoms = oxygen()
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.1, multiplicity=3, verbosity=0)
    assert triplet == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert singlet == said
    assert abs(triplet - singlet) > 0.05


@pytest.mark.parametrize(
    ("info", "complaint"),
    [
        ({"charge": 0.5}, "info['charge'] is '0.5'; it must be a whole number from -1000 to 1000"),
        ({"charge": 1e30}, "info['charge'] is '1e+30'"),
        ({"charge": "plus"}, "info['charge'] is 'plus'"),
        ({"spin": -1}, "info['spin'] is '-1'; it must be a whole number from 0 to 1000"),
        ({"spin": float("nan")}, "info['spin'] is 'nan'"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(info, complaint):
    with pytest.raises(ConfigError) as error:
        read_conditions(oxygen(**info), "o2.xyz, structure 3")
    assert str(error.value).startswith("o2.xyz, structure 3: ")
    assert complaint in str(error.value)


def test_conditions_survive_shards_selection_and_foreign_files(tmp_path):
    parts = [
        make_frames([oxygen(spin=3, charge=0)], "train", "s", "a"),
        make_frames([oxygen()], "train", "s", "b"),
        make_frames([oxygen(charge=-1, spin=2, task="omol")], "train", "s", "c"),
    ]
    frames = concatenate(parts)
    expected = [Conditions(0, 3), Conditions(), Conditions(-1, 2, "omol")]
    write_shard(tmp_path / "a.h5", frames, {})
    again = read_dataset(tmp_path / "a.h5")
    assert [again.conditions(f) for f in range(3)] == expected
    assert again.select(np.array([2, 0])).conditions(0) == expected[2]
    structures = list(again)
    for atoms in structures:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((2, 3)))
    ase.io.write(tmp_path / "a.extxyz", structures)
    foreign = read_dataset(tmp_path / "a.extxyz")
    assert [foreign.conditions(f) for f in range(3)] == expected


def test_a_shard_of_the_first_version_is_still_read(tmp_path):
    import h5py

    write_shard(tmp_path / "a.h5", make_frames([oxygen(spin=3)], "train", "s", "a"), {})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        for name in ("spin", "task", "task_names"):
            del file[name]
        file.attrs["version"] = 1
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[USER_BLOCK:])  # nor had it a SHA-256
    assert read_dataset(tmp_path / "a.h5").conditions(0) == Conditions()


def test_mixed_spins_are_refused_before_anything_is_labelled(tmp_path, capsys):
    recipe_of(tmp_path, [oxygen(spin=3, charge=0), oxygen(spin=1, charge=0)])
    status = main([str(word) for word in ("distill", tmp_path / "recipe.yaml", "--device", "cpu")])
    err = capsys.readouterr().err
    assert status == 2
    assert "the data mix 2 conditions: charge 0, spin 3, task omol (3 frames, the first is 0, O2-" in err
    assert "PaiNN knows neither charge, spin nor task and would average them: train one student for each" in err
    assert not (tmp_path / "out" / "labels").exists()


def test_mixed_data_of_others_are_refused(tmp_path):
    structures = [oxygen(spin=1, charge=0), oxygen(spin=1, charge=1)]
    for atoms in structures:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((2, 3)))
        atoms.info["split"] = "train"
    ase.io.write(tmp_path / "data.extxyz", structures)
    recipe = recipe_of(tmp_path, [oxygen()])
    changed = recipe.model_copy(
        update={"train": type(recipe.train).model_validate({"epochs": 1, "data": [{"path": tmp_path / "data.extxyz"}]})}
    )
    with pytest.raises(ConfigError, match=r"charge 0, spin 1 \(1 frames, .*; charge 1, spin 1 \(1 frames"):
        run_train(changed, device="cpu", quiet=True)


def test_one_spin_is_learned_and_the_card_says_which(tmp_path):
    recipe = recipe_of(tmp_path, [oxygen(spin=3, charge=0)])
    run_sample(recipe, quiet=True, to_train=True)
    run_label(recipe, quiet=True)
    path = run_train(recipe, device="cpu", quiet=True)
    _, card = read(path)
    assert card["data"]["conditions"] == {"charge": 0, "spin": 3, "task": "omol"}
    assert "at charge 0, spin 3, task omol" in card["summary"]
    assert any(limit.startswith("The teacher was asked at charge 0, spin 3, task omol") for limit in card["limits"])
    assert not any("closed-shell" in limit for limit in card["limits"])
    assert "- Conditions: charge 0, spin 3, task omol" in path.with_suffix(".md").read_text()


def test_magnetic_moments_that_no_spin_says_are_mentioned(tmp_path, capsys):
    atoms = oxygen()
    atoms.set_initial_magnetic_moments([1.0, 1.0])
    recipe = recipe_of(tmp_path, [atoms])
    run_sample(recipe, quiet=True)
    err = capsys.readouterr().err
    assert "warning: structures.extxyz, structure 0: initial magnetic moments are not kept; set info['spin']" in err


def test_molecules_that_say_nothing_are_ordinary():
    assert make_frames([molecule("H2O")], "train", "s", "O").conditions(0) == Conditions()
