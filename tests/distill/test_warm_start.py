"""A student that starts from another one, and budgets that end a run."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from atomjet.distill.batches import FrameStore
from atomjet.distill.dataset import read_dataset
from atomjet.distill.evaluate import predict
from atomjet.distill.frames import concatenate, make_frames
from atomjet.distill.label import run_label
from atomjet.distill.ranks import Ranks
from atomjet.distill.recipe import Recipe, load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.train import make_trainer, read_sources, run_train
from atomjet.distill.warm_start import shift_references
from atomjet.errors import ConfigError
from atomjet.models.load import read
from atomjet.models.registry import locate
from tests.distill.labelled import labelled_frames, recipe

ALONE = Ranks(0, 1, torch.device("cpu"))


def warm(directory, start="organic-xtb", **more) -> Recipe:
    cold = recipe(directory, epochs=1)
    train = cold.train.model_copy(update={"start_from": start, **more})
    fields = {name: getattr(cold, name) for name in cold.model_fields_set - {"student"}}
    return Recipe.model_construct(_fields_set=set(fields), **{**cold.__dict__, **fields, "train": train})


def test_the_start_is_as_good_as_the_model_before_any_step(tmp_path, capsys):
    """The packaged student knows ethanol and its teacher; untrained weights do not."""
    small = warm(tmp_path)
    frames, weights = read_sources(small, small.train.data)
    trainer = make_trainer(small, frames, weights, ALONE, quiet=True)
    found = trainer.validate()
    assert found["force_mae_meV_A"] < 100
    assert found["energy_mae_meV_atom"] < 5
    assert "starting from the weights of 7 elements" in capsys.readouterr().out
    cold = recipe(tmp_path, epochs=1)
    assert make_trainer(cold, frames, weights, ALONE, quiet=True).validate()["force_mae_meV_A"] > 500


def test_another_teacher_shifts_the_references_and_new_elements_are_said(tmp_path, capsys):
    small = warm(tmp_path)
    shifted, copper = labelled_frames(), make_frames([bulk("Cu")], "train", "s", "Cu")
    shifted.energy[:] += 3.0 * shifted.counts
    copper.energy[:], copper.forces[:] = -4.0, 0.0
    frames = concatenate([shifted, copper])
    trainer = make_trainer(small, frames, np.ones(len(frames)), ALONE, quiet=True)
    assert "; Cu it does not know: learned from nothing" in capsys.readouterr().out
    assert trainer.model.elements == (1, 6, 8, 29)
    assert trainer.validate()["energy_mae_meV_atom"] < 5


def test_shifts_are_found_from_some_frames_for_rare_elements_too(capsys):
    """One frame in a few hundred holds fluorine, another is a free atom of chlorine, which no molecule holds."""
    usual, start = labelled_frames().select(labelled_frames().split == "train"), read(locate("organic-xtb"))[0]
    rare = [make_frames([atoms], "train", "s", "rare") for atoms in (molecule("CF4"), Atoms("Cl"), Atoms("H"))]
    frames = concatenate([*[usual] * 10, *rare, *[usual] * 10])
    frames.forces[:] = 0.0
    zero = np.zeros(120)
    zero[[1, 6, 8, 9, 17]] = -1.5, 20.0, -7.0, 300.0, -0.25  # eV, of another teacher
    references = start.reference_energies.cpu().numpy().copy()
    atoms_of = np.split(frames.numbers, frames.ptr[1:-1])
    frames.energy[:] = [references[z].sum() for z in atoms_of]
    store = FrameStore(frames, references, start.cutoff, ALONE.device)
    frames.energy[:] += predict(start, store, ALONE).energy + [zero[z].sum() for z in atoms_of]
    shift_references(start, frames, ALONE, most=40)
    found = start.reference_energies.cpu().numpy() - references
    np.testing.assert_allclose(found, zero[: len(found)], atol=1e-4)
    said = capsys.readouterr()
    assert f"fitting a shift of each element's energy to 40 of {len(frames)} training frames" in said.out
    assert "energy shifts: 40/40" in said.err


def test_another_architecture_is_refused(tmp_path):
    small = recipe(tmp_path, epochs=1, start_from="organic-xtb")
    with pytest.raises(ConfigError, match=r"train.start_from: organic-xtb has \w+ .*leave student out"):
        run_train(small, device="cpu", quiet=True)


def test_a_model_file_beside_the_recipe_can_be_the_start(tmp_path):
    first = run_train(recipe(tmp_path / "first", epochs=1), device="cpu", quiet=True)
    again = recipe(tmp_path / "second", epochs=1, start_from=str(first), learning_rate=1e-9, final_learning_rate=0)
    path = run_train(again, device="cpu", quiet=True)
    before, after = read(first)[0], read(path)[0]
    for (name, a), b in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-7 if name != "reference_energies" else 1.0)
    assert read(path)[1]["training"]["start_from"] == "small.safetensors"


def test_training_ends_when_the_target_is_reached(tmp_path, capsys):
    small = warm(tmp_path, target_force_mae=200.0)
    path = run_train(
        small.model_copy(update={"train": small.train.model_copy(update={"epochs": 50})}), device="cpu", quiet=True
    )
    assert "train.target_force_mae 200 meV/Å reached at epoch 1: training ends" in capsys.readouterr().out
    assert len((path.parent / "training" / "log.jsonl").read_text().splitlines()) == 1


def test_labels_within_a_budget_are_drawn_evenly_and_kept_when_it_is_raised(write_recipe, capsys):
    small = write_recipe(molecules="O\nC\nN\n", sample="split: {validation: 0, test: 0}", frames=8)
    run_sample(small, quiet=True)

    def labelled(**budget):
        run_label(small.model_copy(update={"label": small.label.model_copy(update=budget)}), quiet=True)
        frames = read_dataset(small.output / "dataset")
        return {positions.tobytes() for positions in (atoms.positions for atoms in frames)}, set(
            frames.molecule.tolist()
        )

    few, molecules = labelled(max_labels=12)
    assert "labelling: label.max_labels 12 reached" in capsys.readouterr().out
    assert len(few) == 12
    assert len(molecules) >= 3
    reasons = [json.loads(line)["reason"] for line in (small.output / "failures.jsonl").read_text().splitlines()]
    assert "not labelled: label.max_labels 12 was reached" in reasons
    assert labelled(max_labels=12)[0] == few
    assert " 0 computed" in capsys.readouterr().out
    assert labelled(max_hours=1e-9)[0] == few
    assert "label.max_hours 1e-09 reached" in capsys.readouterr().out
    everything, _ = labelled()
    assert everything > few


def test_a_start_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "name: a\noutput: out\nelements: [H]\nmolecules: m.smi\ntrain: {epochs: 1, start_from: absent.safetensors}\n"
    )
    assert load_recipe(tmp_path / "recipe.yaml").train.start_from == str(tmp_path / "absent.safetensors")
