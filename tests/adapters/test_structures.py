"""Structures handed to ASE and copied for checks keep their charge, spin and task."""

from ase.build import molecule

from atomjet import System
from atomjet.adapters.structures import to_ase
from atomjet.bench.accuracy import first_structures
from atomjet.validate.potential import repeated

FRAMES = [
    molecule("H2O"),
    molecule("O2", info={"spin": 3, "charge": 0, "task": "omol"}),
    molecule("NH3", info={"charge": -1, "spin": 0}),
]


def test_to_ase():
    system = System.from_ase(FRAMES)
    assert [to_ase(system, structure).info for structure in range(3)] == [atoms.info for atoms in FRAMES]
    again = System.from_ase([to_ase(system, structure) for structure in range(3)])
    assert (again.charge_given, again.spin_given) == (system.charge_given, system.spin_given)


def test_copies_and_parts():
    twice = repeated(System.from_ase(FRAMES[2]), 2)
    assert twice.charge.tolist() == [-1, -1]
    assert twice.spin_given == (True, True)
    ion = repeated(System.from_ase(FRAMES[1]), 2)
    assert (ion.spin.tolist(), ion.task) == ([3, 3], ("omol", "omol"))
    few = first_structures(System.from_ase(FRAMES), 5)
    assert few is not None
    assert (few.num_atoms, few.spin.tolist(), few.task) == (5, [0, 3], ("", "omol"))
