"""torch-sim with AtomJet's forces: its own validation, one energy for ASE's calculator and torch-sim's model, runners."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
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

UMA = Path(__file__).parents[1] / "models/escn_md/golden/uma_1p2p1.pt"
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
        model, atomjet.AtomJetCalculator(any_element, remarks=False), make(device=model.device, dtype=model.dtype)
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


def box() -> Atoms:
    """Water in a sheared cell, 24 atoms."""
    water = molecule("H2O")
    water.center(vacuum=1.3)
    water.pbc = True
    water = water.repeat((2, 2, 2))
    water.set_cell(water.cell.array + np.array([[0, 0, 0], [0.9, 0, 0], [0.4, 0.3, 0]]), scale_atoms=True)
    water.rattle(0.03, seed=2)
    return water


def test_positions_outside_the_cell_count_as_their_images():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    inside, outside = box(), box()
    outside.positions += np.arange(24)[:, None] % 3 * outside.cell.array[1] - 2 * outside.cell.array[0]
    first, second = (model(model.state(atoms)) for atoms in (inside, outside))
    assert float(first["energy"]) == pytest.approx(float(second["energy"]), abs=1e-9)
    np.testing.assert_allclose(first["forces"], second["forces"], atol=1e-9)
    np.testing.assert_allclose(first["stress"], second["stress"], atol=1e-11)


def test_inputs_stay_as_they_are_and_a_single_atom_keeps_its_shape():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    state = model.state(box())
    before = state.clone()
    model(state)
    for name in ("positions", "cell", "atomic_numbers", "system_idx", "pbc", "charge"):
        assert torch.equal(getattr(state, name), getattr(before, name)), name
    found = model(model.state([Atoms("O"), Atoms("N")]))
    assert found["energy"].shape == (2,)
    assert found["forces"].shape == (2, 3)
    assert not found["forces"].any()


def test_cells_of_columns_become_cells_of_rows():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    crystal = box()
    state = model.state(crystal)
    found, expected = model(state), model.engine.predict(crystal)
    assert float(found["energy"]) == pytest.approx(float(expected.energy), abs=1e-9)
    np.testing.assert_allclose(found["stress"], expected.stress, atol=1e-12)
    turned = crystal.copy()
    turned.cell = crystal.cell.array.T
    assert abs(float(model.engine.predict(turned).energy - expected.energy)) > 1e-2, "the test tells them apart"


def test_a_cell_relaxes_and_the_energy_is_that_of_the_engine():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    crystal = box()
    start = float(model.engine.predict(crystal).energy)
    final = ts.optimize(
        model.state(crystal),
        model,
        optimizer=ts.Optimizer.fire,
        convergence_fn=lambda state, last: state.energy < start - 0.5,
        max_steps=100,
        steps_between_swaps=1,
        init_kwargs={"cell_filter": ts.CellFilter.frechet},
    )
    (after,) = final.to_atoms()
    assert float(final.energy) < start - 0.5
    assert float(final.energy) == pytest.approx(float(model.engine.predict(after).energy), abs=1e-7)
    strain = np.linalg.solve(crystal.cell.array, after.cell.array) - np.eye(3)
    stress = model.engine.predict(crystal).stress[0].numpy()
    cosine = (strain * stress).sum() / np.linalg.norm(strain) / np.linalg.norm(stress)
    assert cosine < -0.5, "a cell follows its stress"


def test_stress_of_a_slab_is_not_given():
    model = AtomJetModel("organic-xtb", device="cpu", precision="float64")
    slab = box()
    slab.pbc = (True, True, False)
    assert model(model.state(slab))["stress"].isnan().all()
    assert not model(model.state(molecule("H2O")))["stress"].any()


def test_charge_spin_and_task_go_through_batches_of_a_run():
    model = AtomJetModel(UMA, device="cpu", precision="float64", task="omol")
    ions = []
    for name, charge, spin in (("OH", -1, 1), ("H2O", 0, 1), ("CH3", 1, 1), ("NH2", 0, 2)):
        atoms = molecule(name)
        atoms.info.update(charge=charge, spin=spin)
        ions.append(atoms)
    batcher = model.autobatcher()
    batcher.max_memory_scaler = 5.0  # atoms: two batches at least
    found = ts.static(model.state(ions), model, autobatcher=batcher)
    for one, atoms in zip(found, ions, strict=True):
        expected = float(model.engine.predict(atoms).energy[0])
        assert float(one["potential_energy"]) == pytest.approx(expected, abs=1e-8)
        forgotten = atoms.copy()
        forgotten.info.update(charge=atoms.info["charge"] + 2)
        assert abs(float(model.engine.predict(forgotten).energy[0]) - expected) > 1e-6


def test_what_torch_sim_cannot_hold_is_refused():
    model = AtomJetModel("organic-xtb", device="cpu")
    with pytest.raises(atomjet.AtomJetError, match=r"structure 1 has pbc \[False, False, False\], structure 0 \[True"):
        model.state([box(), molecule("H2O")])
    ion = molecule("OH")
    ion.info["charge"] = -1
    with pytest.raises(atomjet.AtomJetError, match="charge"):
        model(model.state(ion))
    near = molecule("H2O")
    near.positions[1] = near.positions[0] + [0.1, 0, 0]
    with pytest.raises(atomjet.AtomJetError, match="structure 1, atom"):
        model(model.state([molecule("CH4"), near]))
