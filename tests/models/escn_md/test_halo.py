"""eSCN-MD on several ranks that share a structure, against one process and against fairchem's answers for the whole."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import atomjet
from atomjet import System
from atomjet.engine import Engine, Settings
from atomjet.models.escn_md import edges
from tests.models.escn_md.foreign import BACKENDS, GOLDEN, atoms_of, golden
from tests.potentials import random_escn_md
from tests.ranks import predict_on_ranks

# Of atoms with more neighbours than count, which these models have on purpose.
pytestmark = pytest.mark.filterwarnings("ignore")


def owners(graph, ranks, seed=0):
    """Owners at random; of more than two ranks the last owns nothing."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(max(1, ranks - (ranks > 2)), (graph.num_atoms,), generator=generator)


def crowded():
    """Unlike systems of unlike conditions: images of one atom, more neighbours than count, an atom alone."""
    salt, water, cation, alone = bulk("NaCl", "rocksalt", a=5.6), molecule("H2O"), molecule("CH3CH2OH"), molecule("H")
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    water.info |= {"task": "omol", "charge": -1, "spin": 2}
    cation.info |= {"task": "omol", "charge": 1, "spin": 2}
    alone.info |= {"task": "omol", "charge": 0, "spin": 2}
    frames = [salt, water, bulk("Cu", cubic=True), cation, alone, slab]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    return frames


MODELS = {
    "balanced": {"charge_channels": (0, 2), "spin_channels": (2, 4), "max_neighbors": 20},
    "proportions": {"composition": "mean", "max_neighbors": 20},
    "without composition": {"composition": "none", "charge_channels": (1, 3)},
    "dense": {"experts": 0, "composition": "none", "task_embedding": False, "tasks": ("omol", "omat"), "layers": 3},
}


@pytest.mark.parametrize("backend", ["general", "fast_pytorch", "compiled"])
@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_ranks_computes_what_one_process_does(monkeypatch, name, backend):
    monkeypatch.setattr(edges, "compiles", lambda weight: backend == "compiled")
    model = random_escn_md(cutoff=4.5, **MODELS[name])
    frames = crowded()
    general = Engine(model, Settings("cpu", "general", "float64"), None, "omat", charge=1, spin=2)
    expected = general.predict(frames)
    engine = general.with_settings(backend=backend.replace("compiled", "fast_pytorch"))
    graph = engine.search(System.from_ase(frames))
    assert graph.longest_row > MODELS[name].get("max_neighbors", 0)
    for ranks in (1, 2, 4):
        found, halos = predict_on_ranks(engine, graph, owners(graph, ranks), ranks)
        assert (found.forces - expected.forces).abs().max() < 1e-10
        assert (found.energy - expected.energy).abs().max() < 1e-9
        for place, atoms in enumerate(frames):
            if atoms.pbc.all():
                stress = found.virial[place] / atoms.get_volume()
                assert (stress - expected.stress[place]).abs().max() < 1e-12
        # Coefficients and channels to ghosts before each layer and back after; three numbers of force.
        ghosts = sum(halo.total - halo.owned for halo in halos)
        assert sum(halo.numbers_sent for halo in halos) == (2 * model.config.layers * 9 * 6 + 3) * ghosts
        assert {halo.exchanges for halo in halos} == {engine.evaluator.exchanges + 1}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_whole_as_fairchem_has_it(name):
    entries = golden(name)["structures"]
    frames = [atoms_of(entry) for entry in entries]
    for backend in BACKENDS[name]:
        engine = atomjet.load(GOLDEN / f"{name}.pt", device="cpu", backend=backend, precision="float64")
        graph = engine.search(System.from_ase(frames))
        found, _ = predict_on_ranks(engine, graph, owners(graph, 4), 4)
        forces = found.forces.split([len(atoms) for atoms in frames])
        for place, (atoms, entry) in enumerate(zip(frames, entries, strict=True)):
            assert abs(float(found.energy[place]) - entry["energy"]) / len(atoms) < 1e-9
            assert np.abs(forces[place].numpy() - entry["forces"]).max() < 1e-7
            if atoms.pbc.all():
                stress = found.virial[place].numpy() / atoms.get_volume()
                assert np.abs(stress - np.reshape(entry["stress"], (3, 3))).max() < 1e-8
