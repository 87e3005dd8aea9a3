"""Constants are ASE's, so that a temperature, a pressure or a frequency means the same in both."""

import pytest
from ase import units as ase_units

from atomjet import units


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BOLTZMANN", ase_units.kB),
        ("GPA", ase_units.GPa),
        ("BAR", ase_units.bar),
        ("HARTREE", ase_units.Hartree),
        ("BOHR", ase_units.Bohr),
        ("KJ_PER_MOL", ase_units.kJ / ase_units.mol),
        ("KCAL_PER_MOL", ase_units.kcal / ase_units.mol),
        ("INVERSE_CM", ase_units.invcm),
        ("HBAR", ase_units._hbar / ase_units._e * 1e15),
        ("AMU_A2_PER_FS2", 1.0 / ase_units.fs**2),
        ("AMU_PER_A3", ase_units._amu * 1e3 * 1e24),
    ],
)
def test_as_ase_has_them(name, expected):
    assert getattr(units, name) == pytest.approx(expected, rel=1e-9)
