"""Phonons of solid argon with phonopy, and a picture of their bands. Needs `pip install 'atomjet[phonons]'`.

The potential is the family of `lennard_jones.py`; any other model is taken in the same way, or by `atomjet phonons --plot`.
"""

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from lennard_jones import LennardJones, LennardJonesConfig, register

import atomjet
from atomjet.engine import Settings
from atomjet.md.phonons import draw_bands, phonons

PICTURE = "argon-bands.png"


def argon() -> atomjet.Engine:
    """Lennard-Jones with ε = 0.0104 eV and σ = 3.40 Å."""
    register()
    model = LennardJones(LennardJonesConfig(elements=(18,), cutoff=9.0))
    model.epsilon.data.fill_(0.0104)
    model.sigma.data.fill_(3.40)
    return atomjet.Engine(model, Settings("cpu", "general", "float64"))


def main() -> None:
    """Relax the cell; displace, compute and draw."""
    engine = argon()
    crystal = bulk("Ar", a=5.3)
    crystal.calc = atomjet.AtomJetCalculator(engine)
    BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-5)
    found = phonons(engine.predict, crystal, supercell=(4, 4, 4), mesh=(8, 8, 8))
    print(
        f"{found.crystal.space_group}, {found.supercells} displaced supercell of {len(found.crystal.supercell)} atoms"
    )
    print(f"highest frequency {found.frequencies.max():.3f} THz, imaginary modes {len(found.imaginary)}")
    draw_bands(found, PICTURE, "solid argon, Lennard-Jones")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
