"""Constants and conversions; nothing else in AtomJet defines one.

Internal units: eV, Å, eV/Å, eV/Å³, fs, K, amu. Values: CODATA 2014, those of `ase.units` (a test holds them equal), so that
a temperature or a pressure means the same in AtomJet and in ASE.
"""

BOLTZMANN = 8.617330337217213e-05
"""Boltzmann constant, eV/K."""

AMU_A2_PER_FS2 = 103.64269572045424
"""1 amu Å²/fs² in eV: kinetic energy ½mv² with m in amu and v in Å/fs, times this, is in eV."""

GPA = 0.006241509125883258
"""1 GPa in eV/Å³."""

BAR = GPA * 1e-4
"""1 bar in eV/Å³."""

HEAVY_HYDROGEN = {"D": 2.01410177812, "T": 3.01604928199}
"""Masses of deuterium and tritium, amu (NIST), which files name as if they were elements."""

HARTREE = 27.211386024367243
"""1 Hartree in eV."""

BOHR = 0.5291772105638411
"""1 Bohr radius in Å."""

MEV = 1e-3
"""1 meV in eV."""

KJ_PER_MOL = 0.010364269574711572
"""1 kJ/mol in eV."""

AMU_PER_A3 = 1.6605390404271641
"""1 amu/Å³ in g/cm³."""

HBAR = 0.6582119514467407
"""Reduced Planck constant, eV fs."""

INVERSE_CM = 0.0001239841973964072
"""1 cm⁻¹ in eV."""

BAR_IN_PASCAL = 1e5
"""1 bar in Pa, which ASE's thermochemistry takes."""

KCAL_PER_MOL = 4.184 * KJ_PER_MOL
"""1 kcal/mol in eV."""
