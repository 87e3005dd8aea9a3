import json

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT

from atomjet.adapters.potential import CalculatorPotential
from atomjet.engine import Settings
from atomjet.errors import ConfigError, StructureError
from atomjet.validate import Effort, default_structures, validate
from tests.validate.broken import CartesianMixing, CutoffStep, NoisyForces, Sane, ScaledForces, cluster, crystal

SHORT = Effort(short=60, medium=200, long=0, nvt=0, order=200.0, reverse=50)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(1)
    torch.set_num_threads(1)


def failures(potential, effort=SHORT, **more):
    report = validate(potential, [cluster(), crystal()], effort, **more)
    json.dumps(report.to_json())
    return {check.name: check for check in report.checks if not check.passed}, report


@pytest.mark.parametrize("precision", ["float64", "default"])
def test_sane_potential_passes(precision):
    failed, report = failures(Sane(settings=Settings("cpu", "general", precision)))
    assert not failed
    assert report.passed
    assert {check.name for check in report.checks} >= {
        "equivariance",
        "translation",
        "permutation",
        "extensivity",
        "net force",
        "net torque",
        "forces = -dE/dx",
        "stress = dE/dstrain / volume",
        "batch independence",
        "cutoff smoothness",
        "time-step order",
        "reversibility",
    }


def test_scaled_forces_are_caught():
    failed, _ = failures(ScaledForces())
    assert {"forces = -dE/dx", "stress = dE/dstrain / volume", "time-step order"} <= set(failed)
    assert failed["forces = -dE/dx"].figures["ratio"] == pytest.approx(1.005, abs=1e-5)
    assert "equivariance" not in failed


def test_noise_on_forces_is_caught():
    failed, _ = failures(NoisyForces())
    assert {"forces = -dE/dx", "net force", "equivariance", "time-step order", "reversibility"} <= set(failed)


def test_step_at_the_cutoff_is_caught():
    failed, _ = failures(CutoffStep())
    assert {"cutoff smoothness", "cutoff smoothness of forces"} <= set(failed)
    # ½ D [(1 - exp(-a (5 - d0)))² - 1], twice
    expected = 1e3 * 1.5 * abs((1 - np.exp(-1.4 * (5 - 2.55))) ** 2 - 1)
    assert failed["cutoff smoothness"].value == pytest.approx(expected, rel=1e-3)


def test_cartesian_mixing_is_caught():
    failed, _ = failures(CartesianMixing())
    assert "equivariance" in failed
    assert "net torque" in failed
    assert "forces = -dE/dx" not in failed  # it is the derivative of its (wrong) energy


def test_any_ase_calculator_can_be_judged():
    potential = CalculatorPotential(EMT())
    effort = Effort(short=30, medium=0, long=0, nvt=0, order=100.0, reverse=20)
    report = validate(potential, [crystal(), cluster()], effort)
    failed = [check for check in report.checks if not check.passed]
    assert not failed
    assert not any("cutoff" in check.name for check in report.checks)  # nobody said where it is


def test_drift_is_in_meV_per_atom_and_ps():
    from atomjet.validate.dynamics import energy_drift, run_nve, start

    engine = Sane(settings=Settings("cpu", "general", "float64"))
    state, masses = start(engine, [cluster()], 300.0, 0)
    run, _ = run_nve(engine, state, masses, ["cluster"], 100)
    run.correction[:] += (13 * 5e-3 * run.time / 1000)[:, None]  # 5 meV/atom/ps put in
    check = energy_drift(run, torch.float64, "short")
    assert check.value == pytest.approx(5.0, abs=0.05)
    assert not check.passed


def test_conserved_energy_is_far_flatter_than_the_total_energy():
    from atomjet.validate.dynamics import run_nve, start

    engine = Sane(settings=Settings("cpu", "general", "float64"))
    state, masses = start(engine, [cluster()], 300.0, 0)
    run, _ = run_nve(engine, state, masses, ["cluster"], 100, timestep=2.0)
    assert run.conserved.std() < 0.02 * run.total.std()


def test_a_run_that_breaks_down_fails_and_says_where():
    atoms = cluster()
    atoms.positions *= 0.45  # so hard that it flies apart: forces beyond any bond
    report = validate(Sane(), [atoms], Effort(short=5, medium=0, long=0, nvt=0, order=0, reverse=0))
    assert not report.passed


def test_kinetic_energy_is_judged_by_physical_validation():
    pytest.importorskip("physical_validation")
    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.validate.distributions import kinetic_energy

    checks = kinetic_energy(AtomJetCalculator(Sane(), remarks=False), cluster(), "cluster", 1500, 3)
    assert [check.name for check in checks] == ["temperature, NVT", "kinetic energy distribution, NVT"]
    assert all(check.passed for check in checks)


def test_another_teacher_is_told_from_the_student():
    from ase.calculators.morse import MorsePotential

    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.validate.distributions import against_teacher

    atoms = cluster()[:4]
    student = AtomJetCalculator(Sane(), remarks=False)
    same = against_teacher(student, AtomJetCalculator(Sane(), remarks=False), atoms, "cluster", 600, 0)
    other = against_teacher(student, MorsePotential(r0=2.75, epsilon=1.5, rho0=4.0), atoms, "cluster", 600, 0)
    lengths = [next(check for check in checks if check.name.startswith("bond")) for checks in (same, other)]
    assert lengths[0].passed
    assert lengths[1].value > 0.1
    assert not lengths[1].passed


def test_bad_requests():
    with pytest.raises(StructureError, match="no structures to check; give at least one"):
        validate(Sane(), [])
    with pytest.raises(ConfigError, match="medium -1 is negative; give 0 or more"):
        Effort(medium=-1)


def test_default_structures():
    structures = default_structures()
    names = [atoms.info["name"] for atoms in structures]
    assert names == ["water", "ethanol", "benzene", "alanine dipeptide", "water cluster", "water box"]
    assert structures[-1].pbc.all()
