"""Conformers in a file of their own, and splits that the file of molecules says."""

import sys

import numpy as np
import pytest

from atomjet.distill.dataset import read_dataset
from atomjet.distill.embedding import read_embeddings
from atomjet.distill.molecules import read_molecules
from atomjet.distill.sample import run_sample
from atomjet.errors import ConfigError


def recipe_of(write_recipe, name, molecules="O\nCO\nC\nCC\n"):
    return write_recipe(name, molecules=molecules, sample="split: {validation: 0, test: 0}")


def test_a_machine_without_rdkit_goes_on_from_the_conformers_and_makes_the_same_frames(write_recipe, monkeypatch):
    whole = recipe_of(write_recipe, "whole")
    expected = read_dataset(run_sample(whole, quiet=True))
    recipe = recipe_of(write_recipe, "parts")
    path = run_sample(recipe, quiet=True, embed_only=True)
    assert path.name == "conformers.h5"
    for journal in (recipe.output / "samples").glob("*"):
        journal.unlink()
    monkeypatch.setitem(sys.modules, "rdkit", None)
    frames = read_dataset(run_sample(recipe, quiet=True))
    np.testing.assert_array_equal(frames.positions, expected.positions)
    assert frames.molecule.tolist() == expected.molecule.tolist()


def test_conformers_of_other_molecules_are_not_taken(write_recipe, monkeypatch):
    recipe = recipe_of(write_recipe, "run")
    run_sample(recipe, quiet=True, embed_only=True)
    recipe = recipe_of(write_recipe, "run", "O\nCO\n")
    assert read_embeddings(recipe.output / "conformers.h5", recipe) is None
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(
        ConfigError,
        match="needs RDKit.* bring the conformers.h5 that another machine wrote with atomjet sample --embed",
    ):
        run_sample(recipe, quiet=True)


def test_a_damaged_file_of_conformers_is_made_anew(write_recipe):
    recipe = recipe_of(write_recipe, "run")
    path = run_sample(recipe, quiet=True, embed_only=True)
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    assert read_embeddings(path, recipe) is None
    found = read_embeddings(run_sample(recipe, quiet=True, embed_only=True), recipe)
    assert found is not None
    assert [molecule.smiles for molecule, _ in found[0]] == ["O", "CO", "C", "CC"]


def test_what_was_left_out_is_told_again_by_the_file_and_refused_by_strict(write_recipe):
    recipe = recipe_of(write_recipe, "run", "O\nC1CC\nC\n")
    path = run_sample(recipe, quiet=True, embed_only=True)
    found = read_embeddings(path, recipe)
    assert found is not None
    assert "is no SMILES that RDKit understands" in found[1][0]["reason"]
    with pytest.raises(ConfigError, match="line 2: 'C1CC' is no SMILES"):
        run_sample(recipe, quiet=True, strict=True)


def test_splits_are_taken_from_the_file_of_molecules(write_recipe):
    text = "C train\nCO test\nN validation\nO\nCC sometimes\n"
    recipe, left_out = write_recipe(molecules=text, sample="split: {from_file: true}"), []
    assert {one.smiles: one.split for one in read_molecules(recipe, left_out)} == {
        "C": "train",
        "CO": "test",
        "N": "validation",
    }
    reasons = [entry["reason"] for entry in left_out]
    one_of = "behind the SMILES; sample.split.from_file needs one of train, validation, test"
    assert reasons == [
        f"molecules.smi line 4: says no split {one_of}",
        f"molecules.smi line 5: says 'sometimes' {one_of}",
    ]


def test_stereoisomers_fall_into_one_split(write_recipe):
    pairs = [
        "F/C=C/F F/C=C\\F",
        "C[C@H](N)C=O C[C@@H](N)C=O",
        "O[C@H](C)F O[C@@H](C)F",
        "C/C=C/C C/C=C\\C",
        "C/C=C/O C/C=C\\O",
    ]
    lines = "\n".join(smiles for pair in pairs for smiles in pair.split()) + "\n"
    recipe = write_recipe(molecules=lines, sample="split: {validation: 0.3, test: 0.3}")
    splits = [one.split for one in read_molecules(recipe)]
    assert splits[::2] == splits[1::2]
    assert len(set(splits)) > 1
