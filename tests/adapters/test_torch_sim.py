"""torch-sim with AtomJet's forces: its own validation, one energy for ASE's calculator and torch-sim's model, runners."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

pytest.importorskip("torch_sim")
import torch_sim as ts
from torch_sim.models.interface import validate_model_outputs
from torch_sim.testing import (
    assert_model_calculator_consistency,
    make_cu_sim_state,
    make_osn2_sim_state,
    make_rattled_sio2_sim_state,
)

import atomjet
from atomjet.adapters.torch_sim import AtomJetModel
from atomjet.engine import Engine, Settings
from atomjet.models.painn import PaiNN, PaiNNConfig

STATES = (make_cu_sim_state, make_rattled_sio2_sim_state, make_osn2_sim_state)


@pytest.fixture(scope="module")
def any_element():
    """A model of random weights that serves every element, since torch-sim validates with silicon."""
    torch.manual_seed(0)
    return Engine(PaiNN(PaiNNConfig(features=32, layers=3)), Settings("cpu", "auto", "float64"))


def test_outputs_are_as_torch_sim_wants_them(any_element):
    model = AtomJetModel(any_element)
    validate_model_outputs(model, model.device, model.dtype, check_detached=True)


@pytest.mark.parametrize("make", STATES, ids=[make.__name__ for make in STATES])
def test_torch_sim_and_ase_get_the_same_numbers(any_element, make):
    model = AtomJetModel(any_element)
    assert_model_calculator_consistency(
        model, atomjet.AtomJetCalculator(any_element), make(device=model.device, dtype=model.dtype)
    )


def test_unlike_systems_in_a_batch():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    slab = molecule("C6H6")
    slab.center(vacuum=4.0)
    slab.pbc = True
    frames = [molecule("CH3OH"), molecule("H2O"), slab]
    state = ts.initialize_state(frames[:2], model.device, model.dtype)
    found = model(state)
    for k, atoms in enumerate(frames[:2]):
        alone = model.engine.predict(atoms)
        assert float(found["energy"][k]) == pytest.approx(float(alone.energy[0]), abs=1e-9)
        np.testing.assert_allclose(found["forces"][state.system_idx == k], alone.forces, atol=1e-10)
    periodic = model(ts.initialize_state([slab], model.device, model.dtype))
    np.testing.assert_allclose(periodic["stress"][0], model.engine.predict(slab).stress[0], atol=1e-12)


def test_batches_are_sized_without_trying(capsys):
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    molecules = [molecule(name) for name in ("CH3OH", "H2O", "CH4", "C2H6", "NH3", "CH3CH2OH")]
    for atoms in molecules:
        atoms.rattle(0.05, seed=1)
    batcher = model.autobatcher(in_flight=True)
    batcher.max_memory_scaler = 12.0  # so small that several batches are needed
    final = ts.optimize(
        molecules,
        model,
        optimizer=ts.Optimizer.fire,
        convergence_fn=ts.generate_force_convergence_fn(0.02, include_cell_forces=False),
        autobatcher=batcher,
    )
    assert "Model Memory Estimation" not in capsys.readouterr().out
    for before, after in zip(molecules, final.to_atoms(), strict=True):
        assert len(after) == len(before)
        forces = model.engine.predict(after).forces
        assert float(forces.norm(dim=1).max()) < 0.02
    assert model.most_atoms() > 1000


def test_dynamics_keep_their_energy():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    state = ts.initialize_state([molecule("CH3OH")], model.device, model.dtype)
    state = ts.integrators.nve_init(state, model, kT=torch.tensor(0.025), seed=3)
    energies = []
    for _ in range(40):  # of half a femtosecond
        state = ts.integrators.nve_step(state, model, dt=torch.tensor(0.0005 * float(ts.units.MetalUnits.time)))
        kinetic = ts.quantities.calc_kinetic_energy(momenta=state.momenta, masses=state.masses)
        energies.append(float(state.energy[0] + kinetic))
    assert np.ptp(energies) < 5e-3


def test_elements_that_the_model_does_not_know():
    model = AtomJetModel("organic-xtb", device="cpu")
    with pytest.raises(atomjet.AtomJetError, match="element Cu"):
        model(ts.initialize_state([bulk("Cu")], model.device, model.dtype))
