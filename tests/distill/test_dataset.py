import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomjet.distill.dataset import describe_dataset, read_dataset, write_shard
from atomjet.distill.frames import Frames, concatenate, make_frames
from atomjet.distill.splits import connectivity_key, draw_split
from atomjet.errors import AtomJetError, ConfigError


def mixed() -> Frames:
    """Frames of 3, 0 (none), 1 and 9 atoms with labels; Hessian rows on the first and last."""
    parts = [
        make_frames([molecule("H2O")], "train", "md", "O"),
        make_frames([], "train", "md", "C"),
        make_frames([Atoms("Ar")], "validation", "free_atoms", "[Ar]"),
        make_frames([molecule("CH3CH2OH")], "test", "dimers", "CCO"),
    ]
    frames = concatenate(parts)
    rng = np.random.default_rng(0)
    frames.energy[:] = rng.normal(size=3)
    frames.forces[:] = rng.normal(size=(13, 3))
    frames.hessian_frame, frames.hessian_atom = np.array([2, 0, 2]), np.array([8, 1, 0], np.int32)
    frames.hessian_axis, frames.hessian_ptr = np.array([0, 1, 2], np.int8), np.array([0, 9, 12, 21])
    frames.hessian_rows = rng.normal(size=(21, 3)).astype(np.float32)
    return frames


def assert_same(first: Frames, second: Frames) -> None:
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
        assert getattr(first, name).dtype == getattr(second, name).dtype, name


def test_a_shard_comes_back_as_it_was_and_its_bytes_depend_on_nothing_else(tmp_path):
    frames = mixed()
    write_shard(tmp_path / "a.h5", frames, {"seed": 1})
    write_shard(tmp_path / "b.h5", frames, {"seed": 1})
    assert_same(read_dataset(tmp_path / "a.h5"), frames)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert describe_dataset(tmp_path / "a.h5") == {"seed": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_shards_of_a_directory_are_joined_in_order(tmp_path):
    frames = mixed()
    write_shard(tmp_path / "shard-00001.h5", frames.select(np.array([2])), {})
    write_shard(tmp_path / "shard-00000.h5", frames.select(np.array([True, True, False])), {})
    joined = read_dataset(tmp_path)
    assert joined.molecule.tolist() == ["O", "[Ar]", "CCO"]
    np.testing.assert_array_equal(joined.forces, frames.forces)
    assert sorted(joined.hessian_frame.tolist()) == [0, 2, 2]


def test_selection_keeps_atoms_labels_and_hessian_rows_together():
    frames = mixed()
    chosen = frames.select(np.array([2, 0]))
    assert chosen.counts.tolist() == [9, 3]
    np.testing.assert_array_equal(chosen.positions[:9], frames.positions[4:])
    np.testing.assert_array_equal(chosen.forces[9:], frames.forces[:3])
    assert chosen.energy.tolist() == [frames.energy[2], frames.energy[0]]
    assert chosen.hessian_frame.tolist() == [0, 0, 1]
    assert chosen.hessian_atom.tolist() == [8, 0, 1]
    rows = [frames.hessian_rows[part] for part in (slice(0, 9), slice(12, 21), slice(9, 12))]
    np.testing.assert_array_equal(chosen.hessian_rows, np.concatenate(rows))
    assert len(frames.select(np.zeros(3, bool))) == 0


def test_frames_are_handed_out_as_ase_atoms():
    frames = mixed()
    water, argon, _ = frames
    assert water.get_chemical_formula() == "H2O"
    assert water.get_potential_energy() == frames.energy[0]
    np.testing.assert_array_equal(water.get_forces(), frames.forces[:3].astype(float))
    assert water.info == {"molecule": "O", "split": "train", "source": "md"}
    assert len(argon) == 1


def test_labelled_files_of_others_are_read_and_split_by_molecule(tmp_path):
    structures = []
    for name in ("H2O", "CH4", "C2H6", "CH3OH", "NH3", "C2H4", "HCN", "H2CO"):
        for step in range(3):
            atoms = molecule(name)
            atoms.rattle(0.03, seed=step)
            order = np.random.default_rng(step).permutation(len(atoms))
            atoms = atoms[order]
            atoms.calc = SinglePointCalculator(atoms, energy=-float(step), forces=np.full((len(atoms), 3), 0.5))
            structures.append(atoms)
    write(tmp_path / "foreign.extxyz", structures)
    frames = read_dataset(tmp_path / "foreign.extxyz", seed=3, validation=0.2, test=0.3)
    assert len(frames) == 24
    assert len(set(frames.molecule)) == 8  # neither thermal displacement nor the order of atoms makes another molecule
    assert len(set(zip(frames.molecule, frames.split, strict=True))) == 8
    assert set(frames.split) == {"train", "validation", "test"}
    assert set(frames.forces.ravel().tolist()) == {0.5}
    assert frames.energy[:3].tolist() == [0, -1, -2]


def test_isomers_are_different_molecules_and_copies_are_not():
    assert connectivity_key(molecule("CH3CH2OH")) != connectivity_key(molecule("CH3OCH3"))
    assert connectivity_key(molecule("trans-butane")) != connectivity_key(molecule("isobutane"))
    assert connectivity_key(molecule("CH3CH2OH")) == connectivity_key(molecule("CH3CH2OH")[::-1])


def test_what_a_foreign_file_says_of_its_frames_is_believed(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.info.update(molecule="copper", split="validation", source="mine", charge=0)
    atoms.get_forces()
    write(tmp_path / "cu.traj", atoms)
    write_shard(tmp_path / "shard.h5", mixed(), {})
    frames = read_dataset([tmp_path / "cu.traj", tmp_path / "shard.h5"])
    assert len(frames) == 4
    assert (frames.molecule[0], frames.split[0], frames.source[0]) == ("copper", "validation", "mine")
    assert frames.pbc[0].all()
    assert frames.energy[0] == atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("gone.h5", None, "no dataset at .*gone.h5; label one first"),
        ("torn.h5", b"\x89HDF\r\n", "torn.h5 is not a readable HDF5 file"),
        ("words.extxyz", b"hello", "words.extxyz: line 1, 'hello', is not the number of atoms of a frame"),
        ("bare.xyz", b"1\n\nH 0 0 0\n", "bare.xyz, frame 0 has no energy and forces"),
    ],
)
def test_files_that_are_no_dataset_are_refused(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AtomJetError, match=complaint):
        read_dataset(tmp_path / name)


def test_names_of_foreign_files_are_taken_as_they_are(tmp_path):
    """ASE takes what follows an at sign for frames of the file before it."""
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_forces()
    write(tmp_path / "plain.extxyz", atoms)
    (tmp_path / "plain.extxyz").rename(tmp_path / "run@300.extxyz")
    assert len(read_dataset(tmp_path / "run@300.extxyz")) == 1


def test_an_hdf5_file_of_another_kind_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "something"
    with pytest.raises(ConfigError, match="is not a dataset of format atomjet-dataset 1"):
        read_dataset(tmp_path / "other.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no dataset at"):
        read_dataset(tmp_path / "empty")


def test_without_h5py_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'atomjet\[distill\]'"):
        write_shard(tmp_path / "a.h5", mixed(), {})


def test_shares_of_the_splits_are_those_asked_for():
    drawn = [draw_split(0, f"molecule {number}", validation=0.1, test=0.2) for number in range(4000)]
    assert abs(drawn.count("test") / 4000 - 0.2) < 0.025
    assert abs(drawn.count("validation") / 4000 - 0.1) < 0.02
