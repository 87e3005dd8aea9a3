"""Solid argon in matcalc, through AtomJet's ASE calculator: equation of state and elastic constants. Needs `pip install matcalc`.

The potential is the family of `lennard_jones.py`; any other model is taken in the same way.
"""

from ase.build import bulk
from lennard_jones import LennardJones, LennardJonesConfig, register
from matcalc import ElasticityCalc, EOSCalc

from atomjet import AtomJetCalculator, Engine
from atomjet.engine import Settings
from atomjet.units import GPA


def argon() -> Engine:
    """Lennard-Jones with ε = 0.0104 eV and σ = 3.40 Å."""
    register()
    model = LennardJones(LennardJonesConfig(elements=(18,), cutoff=9.0))
    model.epsilon.data.fill_(0.0104)
    model.sigma.data.fill_(3.40)
    return Engine(model, Settings("cpu", "general", "float64"))


def main() -> None:
    """Relax, compress and stretch, strain."""
    calculator = AtomJetCalculator(argon())
    state = EOSCalc(calculator, fmax=1e-4, max_abs_strain=0.02, n_points=7).calc(bulk("Ar", a=5.3, cubic=True))
    crystal = state["final_structure"]
    elastic = ElasticityCalc(calculator, relax_structure=False, shear_strains=(-0.01, 0.01), units_GPa=True).calc(
        crystal
    )
    c = elastic["elastic_tensor"].voigt
    print(f"lattice constant {crystal.volume ** (1 / 3):.4f} Å")
    print(
        f"bulk modulus {state['bulk_modulus_bm']:.3f} GPa of volumes, {elastic['bulk_modulus_vrh']:.3f} GPa of strains"
    )
    print(f"C11 {c[0, 0]:.3f}, C12 {c[0, 1]:.3f}, C44 {c[3, 3]:.3f} GPa")
    stress = calculator.engine.predict(crystal.to_ase_atoms()).stress[0]
    print(f"pressure that is left {-float(stress.trace()) / 3 / GPA:.1e} GPa")


if __name__ == "__main__":
    main()
