"""nvalchemi-toolkit with AtomJet's forces, on the CPU: its own integrators and optimisers, batches, one structure on two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

pytest.importorskip("nvalchemi")
from nvalchemi.data import AtomicData, Batch
from nvalchemi.dynamics import FIRE2, NPT, NVE

import atomjet
from atomjet.adapters.nvalchemi import AtomJetWrapper
from atomjet.units import BOLTZMANN

UMA = Path(__file__).parents[1] / "models/escn_md/golden/uma_1p2p1.pt"


def batch_of(frames: list[Atoms]) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(atoms, device="cpu", dtype=torch.float64) for atoms in frames])


def box() -> Atoms:
    """Sheared, periodic, of 24 atoms."""
    water = molecule("H2O")
    water.center(vacuum=1.3)
    water.pbc = True
    water = water.repeat((2, 2, 2))
    water.set_cell(water.cell.array + np.array([[0, 0, 0], [0.5, 0, 0], [0.2, 0.1, 0]]), scale_atoms=True)
    water.rattle(0.03, seed=2)
    return water


def kinetic_energy(batch: Batch) -> torch.Tensor:
    """eV of each structure; nvalchemi keeps velocities in units of sqrt(eV/amu)."""
    each = 0.5 * batch.atomic_masses * batch.velocities.square().sum(1)
    return torch.zeros(batch.num_graphs, dtype=each.dtype).index_add(0, batch.batch_idx.long(), each)


@pytest.fixture(scope="module")
def wrapper():
    return AtomJetWrapper("organic-xtb", device="cpu", precision="float64")


@pytest.mark.parametrize("frames", [[molecule("CH3OH"), molecule("H2O")], [box(), box()[:9]]], ids=["open", "periodic"])
def test_a_batch_gives_what_each_structure_gives_alone(wrapper, frames):
    batch = batch_of(frames)
    before = batch.positions.clone()
    found = wrapper(batch)
    alone = [wrapper.engine.predict(atoms) for atoms in frames]
    assert found["energy"].shape == (2, 1)
    np.testing.assert_allclose(found["energy"][:, 0], torch.cat([one.energy for one in alone]), atol=1e-9)
    np.testing.assert_allclose(found["forces"], torch.cat([one.forces for one in alone]), atol=1e-10)
    assert torch.equal(batch.positions, before)
    assert not found["forces"].requires_grad


def test_stress_is_the_derivative_by_strain(wrapper):
    crystal = box()
    wrapper.set_config("active_outputs", {"energy", "forces", "stress"})
    try:
        stress = wrapper(batch_of([crystal]))["stress"][0].numpy()
        with pytest.raises(atomjet.AtomJetError, match="structure 0: stress needs three periodic directions"):
            wrapper(batch_of([molecule("H2O")]))
    finally:
        wrapper.set_config("active_outputs", {"energy", "forces"})
    step, energies = 1e-4, []
    for sign in (1, -1):
        strained = crystal.copy()
        strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * step * np.eye(3)[[1, 0, 2]] * [[1], [1], [0]]), True)
        energies.append(float(wrapper(batch_of([strained]))["energy"]))
    # A strain of xy and yx together gives both components.
    derivative = (energies[0] - energies[1]) / (2 * step) / crystal.get_volume()
    assert derivative == pytest.approx(2 * stress[0, 1], abs=1e-8)


def test_dynamics_keep_their_energy(wrapper):
    batch = batch_of([molecule("CH3OH"), molecule("H2O")])
    generator = torch.Generator().manual_seed(1)
    kick = torch.randn(batch.velocities.shape, generator=generator, dtype=torch.float64)
    batch.velocities.copy_(kick * (BOLTZMANN * 300 / batch.atomic_masses[:, None]).sqrt())
    totals = []
    dynamics = NVE(wrapper, dt=0.5)
    for _ in range(30):
        batch = dynamics.run(batch, n_steps=1)
        totals.append(batch.energy[:, 0] + kinetic_energy(batch))
    assert torch.stack(totals).std(0).max() < 2e-3
    assert kinetic_energy(batch).min() > 0.01


def test_relaxation(wrapper):
    frames = [molecule("CH3OH"), molecule("H2O")]
    for atoms in frames:
        atoms.rattle(0.05, seed=1)
    batch = FIRE2(wrapper, dt=1.0, n_steps=150).run(batch_of(frames))
    assert float(wrapper(batch)["forces"].norm(dim=1).max()) < 0.05


@pytest.mark.filterwarnings("ignore:.* is deprecated and ignored:DeprecationWarning")
def test_constant_pressure_takes_the_stress(wrapper):
    crystal = box()
    wrapper.set_config("active_outputs", {"energy", "forces", "stress"})
    try:
        barostat = NPT(wrapper, dt=0.5, temperature=300.0, pressure=0.0, barostat_time=50.0, thermostat_time=50.0)
        batch = batch_of([crystal])
        batch["stress"] = torch.zeros(1, 3, 3, dtype=torch.float64)
        batch = barostat.run(batch, n_steps=20)
    finally:
        wrapper.set_config("active_outputs", {"energy", "forces"})
    grows = float(torch.linalg.det(batch.cell[0])) > crystal.get_volume()
    pressure = -float(wrapper.engine.predict(crystal).stress[0].trace()) / 3
    assert grows == (pressure > 0), "a crystal under pressure expands against none"


def test_charge_and_spin_reach_a_model_that_knows_them():
    engine = atomjet.load(UMA, device="cpu", precision="float64", task="omol")
    ion = molecule("OH")
    ion.info.update(charge=-1, spin=1)
    data = AtomicData.from_atoms(ion, device="cpu", dtype=torch.float64)
    data.spin = torch.ones(1, 1, dtype=torch.float64)
    found = AtomJetWrapper(engine)(Batch.from_data_list([data]))
    assert float(found["energy"]) == pytest.approx(float(engine.predict(ion).energy[0]), abs=1e-10)
    neutral = ion.copy()
    neutral.info.update(charge=1)
    assert abs(float(found["energy"]) - float(engine.predict(neutral).energy[0])) > 1e-6


def test_elements_that_the_model_does_not_know(wrapper):
    with pytest.raises(atomjet.AtomJetError, match="element Cu"):
        wrapper(batch_of([bulk("Cu")]))
    with pytest.raises(NotImplementedError, match="no embeddings"):
        wrapper.compute_embeddings(batch_of([molecule("H2O")]))


def test_two_ranks_share_a_structure(tmp_path):
    out = tmp_path / "found.json"
    script = Path(__file__).parent / "nvalchemi_by_rank.py"
    environment = os.environ | {"NVALCHEMI_HALO_P2P": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script, out]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(out.read_text())
    for name in ("sheared", "slab"):
        assert found[name]["force"] < 1e-10
        assert found[name]["energy"] < 1e-9
    assert found["sheared"]["atoms"] == 96
    assert found["sheared"]["stress"] < 1e-12
    assert found["float32"]["force"] < 1e-5  # float32's rounding, of sums in another order
    assert found["dynamics"]["force"] < 1e-10
    assert found["dynamics"]["velocity"] < 1e-10
    for said in found["refusals"]:
        assert said["narrow"] == "DomainConfig has ghosts within 3 Å, the model sees 5 Å; set its cutoff to that"
        assert said["partition"] == "strategy 'graph_partition' is not served; use StrategyKind.HALO"
