"""Pairs, clusters and spheres: geometry by its definition, and minima where the teacher has them."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from atomjet.distill import facing, noncovalent, slices, spheres
from atomjet.distill.embedding import Embedding, embed
from atomjet.distill.members import Member, join
from atomjet.distill.molecules import Geometry
from atomjet.distill.sample_config import CompressedConfig, OrientedConfig, PackedConfig, SpheresConfig
from atomjet.distill.teacher import make_teacher


def by_force_field(smiles: str) -> Geometry:
    """A molecule as the force field leaves it, with estimated modes."""
    found = Embedding(**embed(smiles, 1, 1))
    none = {"stiffness": np.zeros((1, 0)), "modes": np.zeros((1, 0, len(found.numbers), 3))}
    return Geometry(**vars(found), relaxed=found.start, **none)


def still(smiles: str) -> Member:
    geometry = by_force_field(smiles)
    return Member(smiles, geometry.numbers, geometry.start[0].astype(float), geometry.bonds)


def energy(*members: Member) -> float:
    atoms = join(members)
    atoms.calc = make_teacher("tblite:GFN2-xTB", {"accuracy": 0.1})
    return float(atoms.get_potential_energy())


def contact_of(first: Member, second: Member) -> float:
    lengths = np.linalg.norm(first.positions[:, None] - second.positions, axis=-1)
    return float((lengths / slices.contact_distances(first.numbers, second.numbers)).min())


@pytest.mark.parametrize("contact", [0.35, 0.65, 1.0, 3.0])
def test_a_placed_molecule_touches_at_the_contact_asked_for(contact):
    for number in range(20):
        fixed, moving = molecule("C6H6"), molecule("H2O")
        noncovalent.place(fixed, moving, contact, np.random.default_rng(number))
        lengths = np.linalg.norm(fixed.positions[:, None] - moving.positions, axis=-1)
        assert np.isclose((lengths / slices.contact_distances(fixed.numbers, moving.numbers)).min(), contact)
        inner = np.linalg.norm(moving.positions[1:] - moving.positions[0], axis=1)
        np.testing.assert_allclose(inner, 0.9686, atol=1e-3)


def best(first: Member, second: Member, way) -> float:
    """Lowest interaction energy, kcal/mol, of a few scans in which the pair faces each other in one way."""
    apart, lowest = energy(first) + energy(second), np.inf
    for number in range(12):
        found = way(first, second, np.random.default_rng(number))
        assert found is not None
        for contact in (0.72, 0.8, 0.88, 0.96, 1.04):
            positions = noncovalent.push(first.numbers, first.positions, second.numbers, found[0], found[1], contact)
            lowest = min(lowest, energy(first, second.moved(positions)) - apart)
    return lowest * 23.0605


@pytest.mark.parametrize(
    ("smiles", "way", "teacher"),
    [  # depth of the teacher's minimum, kcal/mol, which rigid scans of the force field's geometry come near to
        ("O", facing.hydrogen_bond, -4.5),
        ("NC=O", facing.cyclic, -13.3),
        ("c1ccccc1", facing.stacked, -3.95),
        ("c1ccccc1", facing.edge_on_face, -2.3),
    ],
)
def test_scans_pass_through_the_minima_of_the_teacher(smiles, way, teacher):
    member = still(smiles)
    found = best(member, member, way)
    assert 1.2 * teacher < found < 0.6 * teacher


def test_every_pair_faces_each_other_with_its_shape_kept():
    for number, (a, b) in enumerate(
        [("O=C=O", "O=C=O"), ("C", "C"), ("[H][H]", "Cl"), ("NC(N)=O", "CC#N"), ("O", "c1ccncc1")]
    ):
        first, second = still(a), still(b)
        for draw in range(12):
            moved, direction = facing.face(first, second, np.random.default_rng([number, draw]))
            assert np.isclose(np.linalg.norm(direction), 1)
            lengths = [np.linalg.norm(m.positions[:, None] - m.positions, axis=-1) for m in (moved, second)]
            np.testing.assert_allclose(*lengths, atol=1e-6)
            pushed = noncovalent.push(first.numbers, first.positions, moved.numbers, moved.positions, direction, 1.1)
            assert np.isclose(contact_of(first, second.moved(pushed)), 1.1)


def test_a_scan_is_spread_over_its_range_and_does_not_depend_on_its_length_in_other_scans():
    pair = [("O", by_force_field("O")), ("CO", by_force_field("CO"))]
    record = noncovalent.oriented(3, "oriented-1", pair, OrientedConfig(points=6, contact=(0.8, 2.5)))
    again = noncovalent.oriented(3, "oriented-1", pair, OrientedConfig(points=6, contact=(0.8, 2.5)))
    np.testing.assert_array_equal(record["positions"], again["positions"])
    assert record["counts"].tolist() == [9] * 6
    frames = record["positions"].reshape(6, 9, 3).astype(float)
    lengths = np.linalg.norm(frames[:, :3, None] - frames[:, None, 3:], axis=-1)
    numbers = record["numbers"].reshape(6, 9)[0]
    contacts = (lengths / slices.contact_distances(numbers[:3], numbers[3:])).min((1, 2))
    edges = np.geomspace(0.8, 2.5, 7)
    assert (edges[:-1] - 1e-4 <= contacts).all()
    assert (contacts <= edges[1:] + 1e-4).all()


def test_compressed_pairs_reach_far_inside_contact_and_say_when_atoms_count_as_bonded():
    pair = (("C", by_force_field("C")), ("CF", by_force_field("CF")))
    record = noncovalent.dimers(1, "compressed", [pair] * 40, CompressedConfig())
    frames = record["positions"].reshape(40, 10, 3)
    lengths = np.linalg.norm(frames[:, :5, None] - frames[:, None, 5:], axis=-1)
    contacts = (lengths / slices.contact_distances(record["numbers"][:5], record["numbers"][5:10])).min((1, 2))
    assert 0.35 <= contacts.min() < 0.45
    assert 0.85 < contacts.max() <= 1.0
    assert 0 < record["reactive"].sum() < 40


def test_packed_clusters_have_contacts_in_their_range():
    named = [(smiles, by_force_field(smiles)) for smiles in ("O", "CO", "C", "O=C=O")]
    record = noncovalent.packed(1, "packed-0", named, PackedConfig(contact=(0.7, 1.1)))
    assert record["counts"].tolist() == [3 + 6 + 5 + 3]
    numbers, owner = record["numbers"], np.repeat(range(4), (3, 6, 5, 3))
    lengths = np.linalg.norm(record["positions"][:, None] - record["positions"], axis=-1)
    contacts = np.where(owner[:, None] != owner, lengths / slices.contact_distances(numbers, numbers), np.inf)
    for later in range(1, 4):
        assert 0.69 < contacts[owner == later][:, owner < later].min() < 1.11


@pytest.mark.parametrize(
    ("smiles", "measured"), [("O", 29.9), ("c1ccccc1", 148.0), ("CCO", 97.0), ("ClC(Cl)Cl", 134.0)]
)
def test_volumes_give_the_density_of_the_liquid_within_a_fifth(smiles, measured):
    member = still(smiles)
    assert spheres.molecular_volume(member.numbers, member.positions) / spheres.LIQUID == pytest.approx(
        measured, rel=0.2
    )


def test_spheres_hold_whole_molecules_without_overlap_at_the_density_of_a_liquid():
    named = [("O", by_force_field("O"))]
    config = SpheresConfig(spheres=4, atoms=(30, 45), density=(1.0, 1.0), temperature=(10.0, 10.0))
    record = spheres.spheres(1, "spheres-0", named, config)
    assert len(record["counts"]) == 4
    ends = np.cumsum([0, *record["counts"]])
    for first, last in itertools.pairwise(ends):
        assert (last - first) % 3 == 0
        assert 28 <= last - first <= 45
        oxygen = record["positions"][first:last:3]
        lengths = np.linalg.norm(oxygen[:, None] - oxygen, axis=-1)[~np.eye(len(oxygen), dtype=bool)]
        assert 2.2 < lengths.min() < 3.2
        bonds = np.linalg.norm(record["positions"][first + 1 : last : 3] - oxygen, axis=1)
        np.testing.assert_allclose(bonds, 0.97, atol=0.04)
    assert not record["reactive"].any()


def test_a_denser_box_has_shorter_distances():
    """Four benzenes around a point: their mean distance goes with the cube root of the volume, 0.85."""
    named, found = [("c1ccccc1", by_force_field("c1ccccc1"))], []
    for density in (0.8, 1.3):
        config = SpheresConfig(spheres=10, atoms=(48, 48), density=(density, density), temperature=(10.0, 10.0))
        record = spheres.spheres(1, "spheres-0", named, config)
        centres = record["positions"].reshape(10, 4, 12, 3).mean(2)
        found.append(np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1).sum() / (10 * 12))
    assert 0.75 < found[1] / found[0] < 0.93


def test_pressed_apart_molecules_stay_rigid():
    before = molecule("CH3OH").positions
    rotated = Atoms("H6", before)
    rotated.rotate(50, (1, 2, 3))
    wanted = rotated.positions + np.array([1, 2, 3])
    np.testing.assert_allclose(spheres.rigid(before, wanted), wanted, atol=1e-9)
    noisy = spheres.rigid(before, wanted + np.random.default_rng(1).normal(scale=0.1, size=wanted.shape))
    lengths = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (before, noisy)]
    np.testing.assert_allclose(*lengths, atol=1e-9)
