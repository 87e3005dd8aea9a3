"""What `System` accepts, fills in, and refuses."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io import Trajectory, iread, write

import atomjet
import atomjet.units
from atomjet import System
from atomjet.data.elements import SYMBOLS


def refused(message, **fields):
    given = {"positions": torch.zeros(2, 3), "atomic_numbers": [1, 1]} | fields
    with pytest.raises(atomjet.AtomJetError, match=message):
        System(**given)


def test_defaults():
    system = System(positions=np.zeros((2, 3), np.float32), atomic_numbers=np.array([1, 8], np.uint8))
    assert system.dtype == torch.float32
    assert system.num_systems == 1
    assert not system.pbc.any()
    assert system.system_index.tolist() == [0, 0]
    assert system.charge.tolist() == [0]


def test_whole_number_positions_become_float64():
    assert System(positions=[[0, 0, 0], [0, 0, 1]], atomic_numbers=[1, 1]).dtype == torch.float64


def test_arrays_that_are_not_contiguous():
    x = np.arange(12.0).reshape(3, 4).T[:, ::-1]
    atoms = Atoms("H4")
    atoms.arrays["positions"] = x
    system = System.from_ase(atoms)
    assert torch.equal(system.positions, torch.tensor(x.copy()))


def test_from_ase_joins_structures():
    water, box = molecule("H2O"), Atoms("C", cell=[2, 3, 4], pbc=(True, False, True))
    water.info["charge"], water.info["spin"] = 0, 1
    system = System.from_ase([water, box])
    assert system.counts().tolist() == [3, 1]
    assert system.atomic_numbers.tolist() == [8, 1, 1, 6]
    assert system.spin.tolist() == [1, 0]
    assert system.cell[1].diagonal().tolist() == [2, 0, 4]  # directions that are not periodic mean nothing
    assert system.place(3) == "structure 1, atom 0"


def test_initial_charges_and_moments_say_nothing():
    """They are guesses for atoms, often partial charges, and would change the energy of a crystal or be no whole number."""
    ion = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]])
    for charges in ([1.0, 0.0], [0.802, -0.8]):
        ion.set_initial_charges(charges)
        ion.set_initial_magnetic_moments([1.0, 1.0])
        system = System.from_ase(ion)
        assert (system.charge.tolist(), system.spin.tolist()) == ([0], [0])
        assert (system.charge_given, system.spin_given) == ((False,), (False,))
    ion.info["charge"] = -1
    assert System.from_ase(ion).charge.tolist() == [-1]


def test_whether_charge_and_spin_are_given():
    silent, none, said = (
        molecule("H2O"),
        molecule("H2O", info={"spin": 0}),
        molecule("O2", info={"charge": 0, "spin": 3}),
    )
    system = System.from_ase([silent, none, said])
    assert system.spin_given == (False, True, True)
    assert system.charge_given == (False, False, True)
    defaults = system.with_defaults(charge=2, spin=5)
    assert defaults.charge.tolist() == [2, 2, 0]
    assert defaults.spin.tolist() == [5, 0, 3]
    assert defaults.charge_given == defaults.spin_given == (True, True, True)
    assert system.with_defaults() is system
    assert defaults.with_defaults(1, 1) is defaults
    for same in (system.to("cpu", torch.float32), system.with_positions(system.positions.clone()), system.part(0, 3)):
        assert same.spin_given == system.spin_given
    assert system.part(1, 3).spin_given == (True, True)


def test_charge_and_spin_of_tensors():
    """A charge that is passed is meant; of spins, 0 stands for those that are not given, unless it is said that they are."""
    where, what = torch.zeros(2, 3), torch.tensor([1, 1])
    made = {"positions": where, "atomic_numbers": what, "system_index": [0, 1]}
    assert System(**made).charge_given == System(**made).spin_given == (False, False)
    system = System(**made, charge=[0, 1], spin=[0, 2])
    assert (system.charge_given, system.spin_given) == ((True, True), (False, True))
    assert System(**made, spin=[0, 2], spin_given=(True, True)).spin_given == (True, True)
    with pytest.raises(atomjet.AtomJetError, match="spin_given has 1 values; it must have 2, one for each structure"):
        System(**made, spin_given=(True,))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_position_that_is_not_finite(value):
    x = torch.zeros(5, 3)
    x[3, 1] = value
    with pytest.raises(atomjet.AtomJetError, match=r"structure 1, atom 1: position .* is not finite"):
        System(positions=x, atomic_numbers=[1] * 5, system_index=[0, 0, 1, 1, 1])


def test_refusals():
    refused(r"positions have shape \(2, 2\)", positions=torch.zeros(2, 2))
    refused(r"atomic_numbers has shape \(3,\); it must be \(2,\)", atomic_numbers=[1, 1, 1])
    refused("atom 1: atomic number -3", atomic_numbers=[1, -3])
    refused("system_index decreases", system_index=[1, 0], cell=torch.zeros(2, 3, 3))
    refused("system_index must lie in 0 ... 0", system_index=[0, 1], cell=torch.zeros(1, 3, 3))
    refused("structure 0: periodic along abc, but its cell .* does not span", pbc=True)
    refused("periodic along ac, but its cell", pbc=[True, False, True], cell=torch.diag(torch.tensor([3.0, 3, 0])))
    refused("does not span", pbc=True, cell=torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]))
    refused("is not finite", pbc=True, cell=torch.eye(3) * float("nan"))
    refused(r"cell has shape \(2, 3, 3\)", cell=torch.zeros(2, 3, 3), pbc=torch.zeros(1, 3, dtype=torch.bool))


def test_what_is_ignored_where_nothing_is_periodic():
    system = System(torch.zeros(1, 3), [1], cell=torch.full((3, 3), float("nan")))
    assert not system.cell.any()


@pytest.mark.parametrize(
    ("key", "value"), [("charge", 0.5), ("charge", "one"), ("spin", None), ("charge", float("nan"))]
)
def test_charge_that_is_no_whole_number(key, value):
    atoms = molecule("H2O")
    atoms.info[key] = value
    with pytest.raises(atomjet.AtomJetError, match="whole number"):
        System.from_ase([molecule("CH4"), atoms])


def test_a_task_of_none_is_not_said():
    atoms = molecule("H2O")
    atoms.info["task"] = None
    assert System.from_ase(atoms).task == ("",)


def test_an_array_of_one_number_is_that_number(recwarn):
    atoms = molecule("H2O")
    atoms.info |= {"charge": np.array([-1]), "spin": np.array(2)}
    system = System.from_ase(atoms)
    assert (system.charge.tolist(), system.spin.tolist(), len(recwarn)) == ([-1], [2], 0)


@pytest.mark.parametrize("change", [">f8", ">f4", "f2", "g", "O"])
def test_arrays_of_any_type_of_real_numbers(change):
    x = np.array([[0.0, 0.5, 1.0], [2.0, -4.0, 0.25]])
    system = System(x.astype(change), np.array([1, 8], ">i4"))
    assert torch.equal(system.positions.double(), torch.from_numpy(x))
    assert system.atomic_numbers.tolist() == [1, 8]


def test_arrays_are_copied_and_need_not_be_writable(recwarn):
    x, z = np.zeros((2, 3)), np.array([1, 8])
    x.flags.writeable = z.flags.writeable = False
    system = System(x[::-1], z[::-1])
    assert not recwarn.list
    x.flags.writeable = True
    x[:] = 7
    assert not system.positions.any()
    assert system.atomic_numbers.tolist() == [8, 1]


def test_numbers_of_python_are_not_rounded():
    assert System([[0.1, 0.2, 100000.3]], [1]).positions.tolist() == [[0.1, 0.2, 100000.3]]


def test_what_would_be_cut_off_to_whole_numbers():
    refused(r"charge\[0\] is 0\.5; it must be a whole number", charge=[0.5])
    refused(r"spin\[0\] is 1\.9; it must be a whole number", spin=torch.tensor([1.9]))
    refused(r"charge\[0\] is nan; it must be a whole number", charge=[float("nan")])
    refused(r"atomic_numbers\[1\] is 1\.5; it must be a whole number", atomic_numbers=[1.0, 1.5])
    refused(r"system_index\[1\] is 0\.7; it must be a whole number", system_index=np.array([0, 0.7]))
    refused("atomic_numbers is True or False", atomic_numbers=[True, False])
    assert System(torch.zeros(1, 3), [1.0], charge=[-1.0]).charge.tolist() == [-1]


def test_arrays_that_are_none_of_real_numbers():
    refused("positions is complex; it must be real", positions=np.zeros((2, 3), complex))
    refused("positions is no array of numbers, but list", positions=[[0, 0, 0], [0, 0]])
    refused("pbc is no array of numbers, but str 'TTT'; correct it", pbc="TTT", cell=np.eye(3))
    refused(r"pbc is \[2, 0, 0\]; it must be True or False for each direction", pbc=[2, 0, 0], cell=np.eye(3))
    refused("atom 1: position .* is not finite", positions=np.ma.array(np.zeros((2, 3)), mask=[[0] * 3, [0, 1, 0]]))
    refused(r"cell has shape \(3,\); it must be \(3, 3\), rows the cell vectors", cell=[5.0, 5.0, 5.0], pbc=True)
    refused("says structure 1000000000, but there are 2 atoms; number them from 0", system_index=[0, 10**9])


def test_foreign_objects():
    with pytest.raises(atomjet.AtomJetError, match="cannot read structures from str"):
        System.from_ase("water.xyz")
    with pytest.raises(
        atomjet.AtomJetError, match="cannot read structures from list: structure 1 is int; give ase.Atoms"
    ):
        System.from_ase([molecule("H2O"), 3])
    with pytest.raises(atomjet.AtomJetError, match="cannot read structures from NoneType; give"):
        System.from_ase(None)


def test_whatever_gives_structures_one_by_one(tmp_path):
    frames = [molecule("H2O"), molecule("CH4")]
    write(tmp_path / "two.traj", frames)
    whole = System.from_ase(frames)
    with Trajectory(tmp_path / "two.traj") as opened:
        for form in (tuple(frames), (frame for frame in frames), opened, iread(tmp_path / "two.traj")):
            assert torch.equal(System.from_ase(form).positions, whole.positions)


def test_a_part_keeps_the_names_of_its_structures():
    frames = [molecule(name) for name in ("H2O", "CH4", "NH3", "C6H6")]
    whole = System.from_ase(frames)
    part = whole.part(1, 4).to("cpu", torch.float32).part(1, 2)
    assert (whole.labels, part.labels, part.name(0), part.place(2)) == (
        None,
        (2,),
        "structure 2",
        "structure 2, atom 2",
    )
    with pytest.raises(atomjet.AtomJetError, match="structure 2, atom 1: position .* is not finite"):
        part.with_positions(part.positions.index_fill(0, torch.tensor(1), torch.nan))
    frames[1].info["charge"] = "much"
    with pytest.raises(atomjet.AtomJetError, match="structure 70: info"):
        System.from_ase(frames[:2], labels=[5, 70])
    refused("2 labels were given for 1 structures", labels=(5, 6))


def test_units_and_symbols_are_those_of_ase():
    from ase.data import chemical_symbols

    assert pytest.approx(units.kB, rel=1e-12) == atomjet.units.BOLTZMANN
    assert pytest.approx(1 / units.fs**2, rel=1e-12) == atomjet.units.AMU_A2_PER_FS2
    assert pytest.approx(units.GPa, rel=1e-12) == atomjet.units.GPA
    assert pytest.approx(units.bar, rel=1e-12) == atomjet.units.BAR
    assert chemical_symbols == SYMBOLS
