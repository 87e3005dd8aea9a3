"""Conformers: the known numbers of small alkanes, weights by symmetry, bonds that change."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import atomjet
from atomjet.errors import SimulationError, StructureError
from atomjet.md.conformers import find_conformers
from atomjet.md.equivalence import sorted_distances, symmetries
from atomjet.md.relax_many import relax_many
from atomjet.md.torsions import curvatures, dihedrals, turned
from atomjet.units import BOLTZMANN, KCAL_PER_MOL

Chem = pytest.importorskip("rdkit.Chem")
from atomjet.adapters.smiles import embed_many, from_smiles, from_structure, torsions_of  # noqa: E402


@pytest.fixture(scope="module")
def engine():
    return atomjet.load("organic-xtb", device="cpu")


def test_butane_is_anti_once_and_gauche_twice(engine):
    search = find_conformers(engine, embed_many(from_smiles("CCCC"), 8))
    assert not search.left_out
    anti, gauche = search.conformers
    assert abs(anti.atoms.get_dihedral(0, 1, 2, 3) - 180) < 5
    assert min(abs(gauche.atoms.get_dihedral(0, 1, 2, 3) - angle) for angle in (65, 295)) < 10
    assert (anti.degeneracy, gauche.degeneracy) == (1, 2)
    assert 0.4 < gauche.relative < 1.0  # kcal/mol; by experiment 0.7
    ratio = 2 * np.exp(-gauche.relative * KCAL_PER_MOL / (BOLTZMANN * 298.15))
    assert gauche.weight / anti.weight == pytest.approx(ratio)
    assert anti.weight + gauche.weight == pytest.approx(1)
    assert sorted(anti.starts + gauche.starts) == list(range(8))


@pytest.mark.parametrize(
    ("smiles", "number", "to_mirror_image"),
    [("O", 2, True), ("C", 12, True), ("c1ccccc1", 12, True), ("CCO", 1, None), ("N[C@@H](C)C(=O)O", 1, False)],
)
def test_symmetry_numbers(smiles, number, to_mirror_image):
    embedded = embed_many(from_smiles(smiles), 1)
    positions = embedded.frames[0].positions
    assert len(symmetries(positions, embedded.equivalent)) == number
    if to_mirror_image is not None:
        assert bool(symmetries(positions, embedded.equivalent, mirrored=True)) == to_mirror_image
    assert embedded.own_mirror_image == (smiles != "N[C@@H](C)C(=O)O")


def test_what_makes_no_other_conformer():
    embedded = embed_many(from_smiles("CCO"), 1)
    positions, generator = embedded.frames[0].positions, np.random.default_rng(0)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))  # of either hand
    order = np.arange(9)
    order[3:6] = order[[4, 5, 3]]  # the methyl group a third of a turn on
    moved = (positions @ turn + generator.normal(size=3))[order]
    distances = sorted_distances(positions, embedded.equivalent)
    np.testing.assert_allclose(sorted_distances(moved, embedded.equivalent), distances, atol=1e-9)
    assert np.abs(sorted_distances(moved, np.arange(9)) - distances).max() > 0.3


def test_starts_whose_bonds_change_are_named(engine):
    embedded = embed_many(from_smiles("CCO"), 3)
    frames = [atoms.copy() for atoms in embedded.frames]
    frames[1].positions[8] += 0.9 * (frames[1].positions[8] - frames[1].positions[2])  # its O-H is stretched
    search = find_conformers(engine, replace(embedded, frames=frames))
    assert search.left_out == {1: "its bonds changed: formed O2-H8"}
    assert sorted(sum((one.starts for one in search.conformers), ())) == [0, 2]


def test_nothing_found(engine):
    with pytest.raises(SimulationError, match=r"none of 2 starts .* start 0: not converged after 1 steps"):
        find_conformers(engine, embed_many(from_smiles("CCO"), 2), steps=1)


def test_bonds_of_a_structure():
    glycine = embed_many(from_smiles("[NH3+]CC(=O)[O-]"), 1).frames[0]
    assert Chem.MolToSmiles(Chem.RemoveHs(from_structure(glycine, "glycine"))) == "[NH3+]CC(=O)[O-]"
    alanine = embed_many(from_smiles("N[C@@H](C)C(=O)O"), 1).frames[0]
    same = embed_many(from_structure(alanine, "alanine"), 1)
    assert not same.own_mirror_image
    assert not same.open_centres
    assert embed_many(from_smiles("NC(C)C(=O)O"), 1).open_centres == 1
    with pytest.raises(
        StructureError, match="hydroxyl: no bonds between its atoms go with charge 3; give another --charge"
    ):
        from_structure(Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": 3}), "hydroxyl")


def test_turns_about_bonds():
    embedded = embed_many(from_smiles("N[C@@H](CO)C(=O)O"), 1)
    (atoms,) = embedded.frames
    middles = [{str(atoms.symbols[k]) for k in torsion.atoms[1:3]} for torsion in embedded.torsions]
    assert sorted(map(sorted, middles)) == [["C"], ["C"], ["C", "N"], ["C", "O"], ["C", "O"]]
    before = dihedrals(atoms.positions, embedded.torsions)
    for k, torsion in enumerate(embedded.torsions):
        assert np.degrees(before[k]) % 360 == pytest.approx(atoms.get_dihedral(*torsion.atoms), abs=1e-6)
        moved = turned(atoms.positions, torsion, 0.5)
        change = (dihedrals(moved, embedded.torsions) - before + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(change, 0.5 * (np.arange(len(before)) == k), atol=1e-9)
    # Neither rings, double bonds, bonds in a line nor single atoms turn; methyl groups do, to no other conformer.
    distinct = {"C1CCCCC1": [], "C=C": [], "C#CC#C": [], "CCC": [False, False], "CC=O": [False], "OO": [True]}
    for smiles, expected in distinct.items():
        assert [torsion.distinct for torsion in embed_many(from_smiles(smiles), 1).torsions] == expected


def test_a_saddle_point_goes_down_to_both_sides(engine):
    staggered = molecule("C2H6")
    embedded = embed_many(from_structure(staggered, "ethane"), 1)
    (torsion,) = embedded.torsions
    # Its mirror planes let nothing turn as it is relaxed.
    eclipsed = Atoms(staggered.numbers, turned(staggered.positions, torsion, np.pi / 3))
    (relaxed,) = relax_many(engine, [eclipsed])
    assert relaxed.converged
    assert np.cos(3 * dihedrals(relaxed.atoms.positions, [torsion])[0]) > 0.99
    (at_rest, _), (at_saddle, _) = curvatures(engine.predict, [staggered, relaxed.atoms], embedded.torsions)
    assert at_rest > 0.2
    assert at_saddle < -0.2
    (found,) = find_conformers(engine, replace(embedded, frames=[eclipsed])).conformers
    assert np.cos(3 * dihedrals(found.atoms.positions, [torsion])[0]) < -0.99
    assert found.energy < relaxed.energy - 0.05
    assert found.starts == (0,)


@pytest.mark.parametrize("smiles", ["FCCO", "OCCO"])
def test_turns_find_the_lowest_from_the_highest(engine, smiles):
    embedded = embed_many(from_smiles(smiles), 6)
    first, *_, last = find_conformers(engine, replace(embedded, torsions=()), fmax=0.01).conformers
    assert last.relative > 1.0
    found = find_conformers(engine, replace(embedded, frames=[last.atoms] * 10), window=0.5, fmax=0.01)
    assert found.conformers[0].energy < first.energy + SAME
    assert found.conformers[0].turned > 0
    assert found.conformers[0].starts == ()
    assert found.relaxations > 10
    assert found.evaluations > found.relaxations


FLEXIBLE = {
    "ethylene glycol": "OCCO",
    "3-aminopropanol": "NCCCO",
    "serine": "N[C@@H](CO)C(=O)O",
    "alanine dipeptide": "CC(=O)N[C@@H](C)C(=O)NC",
    "glycerol": "OCC(O)CO",
    "heptane": "CCCCCCC",
    "dopamine": "NCCc1ccc(O)c(O)c1",
    "1,4-butanediol": "OCCCCO",
    "ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "malic acid": "OC(=O)C[C@H](O)C(=O)O",
}
SAME = 1e-3
"""eV, between the lowest of two searches."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "ethylene glycol" else pytest.mark.study)
        for name in FLEXIBLE
    ],
)
def test_the_lowest_of_200_random_starts_is_found(engine, name):
    from rdkit.Chem import rdDistGeom

    molecule = from_smiles(FLEXIBLE[name])
    embedded = embed_many(molecule, min(200, 20 + 20 * torsions_of(molecule)))
    found = find_conformers(engine, embedded, window=1.0)
    drawn, parameters = Chem.AddHs(molecule), rdDistGeom.EmbedParameters()
    parameters.randomSeed, parameters.useRandomCoords = 1, True  # distances alone, no torsions that are preferred
    places = list(rdDistGeom.EmbedMultipleConfs(drawn, 200, parameters))
    frames = [Atoms(embedded.frames[0].numbers, drawn.GetConformer(place).GetPositions()) for place in places]
    random = find_conformers(engine, replace(embedded, frames=frames, torsions=()), window=1.0)
    lower = random.conformers[0].energy - found.conformers[0].energy
    print(
        f"{name}: {1000 * lower:.2f} meV below 200 random starts; {found.evaluations} against {random.evaluations} evaluations"
    )
    assert lower > -SAME
