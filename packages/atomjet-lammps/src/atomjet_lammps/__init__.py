"""AtomJet's potentials in LAMMPS, through `fix external`: one Python process a rank, exact on any number of them."""

from atomjet_lammps.driver import Driver, attach

__all__ = ["Driver", "attach"]
