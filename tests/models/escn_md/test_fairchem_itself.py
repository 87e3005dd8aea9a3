"""fairchem itself, where it is installed, against ours: new random checkpoints and structures. `make test-fairchem` runs it."""

import inspect
import logging
import shutil
import warnings

import pytest
import torch
from ase.build import molecule

import atomjet
from atomjet import System
from atomjet.bench import contenders
from atomjet.bench.peers import fairchem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("fairchem.core")
    from tests.models.escn_md.foreign import BACKENDS, GOLDEN
    from tests.models.escn_md.golden import make_fairchem
    from tests.ranks import predict_on_ranks

# Its own warnings are its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")

ENERGY = 1e-9  # eV per atom
FORCES = 1e-7  # eV/Å
STRESS = 1e-8  # eV/Å³


@pytest.fixture(scope="module", params=make_fairchem.CASES)
def case(request, tmp_path_factory):
    """A checkpoint that is not among the golden ones, and what fairchem says in float64 of structures, one by one."""
    logging.disable(logging.WARNING)
    name = request.param
    path = make_fairchem.write_checkpoint(name, 1234, tmp_path_factory.mktemp(name))
    frames, found = [], []
    for structure, task, charge, spin in make_fairchem.CASES[name]:
        atoms = make_fairchem.structures()[structure]
        found.append(make_fairchem.evaluate(path, [make_fairchem.data(atoms, task, charge, spin)], 0))
        atoms.info |= {"task": task, "charge": charge, "spin": spin}
        frames.append(atoms)
    yield name, path, frames, found
    logging.disable(logging.NOTSET)


def test_the_same(case):
    name, path, frames, found = case
    for backend in BACKENDS[name]:
        engine = atomjet.load(path, device="cpu", backend=backend, precision="float64")
        together = engine.predict(frames)
        for place, (atoms, theirs) in enumerate(zip(frames, found, strict=True)):
            for ours, which in ((engine.predict(atoms), 0), (together, place)):
                assert abs(float(ours.energy[which] - theirs["energy"])) / len(atoms) < ENERGY
                assert (ours.forces_of(which) - theirs["forces"]).abs().max() < FORCES
                if atoms.pbc.all():
                    assert (ours.stress[which] - theirs["stress"].reshape(3, 3)).abs().max() < STRESS


def test_four_ranks_that_share_the_structures(case):
    """The last owns no atoms, the others some at random."""
    name, path, frames, found = case
    for backend in BACKENDS[name]:
        engine = atomjet.load(path, device="cpu", backend=backend, precision="float64")
        graph = engine.search(atomjet.System.from_ase(frames))
        owner = torch.randint(3, (graph.num_atoms,), generator=torch.Generator().manual_seed(0))
        ours, _ = predict_on_ranks(engine, graph, owner, 4)
        forces = ours.forces.split([len(atoms) for atoms in frames])
        for place, (atoms, theirs) in enumerate(zip(frames, found, strict=True)):
            assert abs(float(ours.energy[place] - theirs["energy"])) / len(atoms) < ENERGY
            assert (forces[place] - theirs["forces"]).abs().max() < FORCES
            if atoms.pbc.all():
                stress = ours.virial[place] / atoms.get_volume()
                assert (stress - theirs["stress"].reshape(3, 3)).abs().max() < STRESS


OTHERWISE = {
    "otf_graph": False,
    "use_pbc": False,
    "use_pbc_single": False,
    "always_use_pbc": False,
    "radius_pbc_version": 1,
    "use_quaternion_wigner": False,
    "use_cuda_graph_wigner": True,
    "edge_chunk_size": 64,
    "execution_mode": "umas_fast_pytorch",
    "activation_checkpointing": True,
    "grid_resolution": 20,
    "num_sphere_samples": 64,
    "cs_emb_grad": False,
    "dataset_emb_grad": False,
    "regress_stress": False,
    "regress_hessian": False,
    "hessian_vmap": False,
    "moe_dropout": 0.5,
    "moe_layer_type": "pytorch",
    "use_global_embedding": True,
    "composition_dropout": 0.5,
    "act": None,  # never in a file: a class
}
"""Other values of the options that we take to change nothing."""


def test_options_are_those_of_fairchem():
    """Each is served, or of one value, or without effect; none is overlooked."""
    from fairchem.core.models.uma.escn_md import eSCNMDBackbone
    from fairchem.core.models.uma.escn_moe import eSCNMDMoeBackbone

    from atomjet.models.escn_md import fairchem_config as ours

    def options(kind):
        return set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}

    assert {"model"} | options(eSCNMDBackbone) == ours.SERVED | ours.WITHOUT_EFFECT | set(ours.FIXED)
    of_experts = ours.SERVED_OF_EXPERTS | ours.WITHOUT_EFFECT_OF_EXPERTS | set(ours.FIXED_OF_EXPERTS)
    assert options(eSCNMDMoeBackbone) == of_experts
    assert set(OTHERWISE) == ours.WITHOUT_EFFECT | ours.WITHOUT_EFFECT_OF_EXPERTS


def test_options_without_effect(tmp_path):
    """All of them otherwise at once: the same energies and forces, and we still read the file."""
    logging.disable(logging.WARNING)
    path = make_fairchem.write_checkpoint("uma_limit", 1, tmp_path)
    record = make_fairchem.data(make_fairchem.structures()["copper"], "omat", 0, 0)
    before = make_fairchem.evaluate(path, [record], 0)
    content = torch.load(path, weights_only=False)
    content.model_config["backbone"] |= {name: value for name, value in OTHERWISE.items() if value is not None}
    torch.save(content, path)
    after = make_fairchem.evaluate(path, [record], 0)
    for name, value in before.items():
        assert (after[name] - value).abs().max() < 1e-12
    atomjet.load(path, device="cpu")
    logging.disable(logging.NOTSET)


def test_peer_of_the_benchmark(case):
    """The adapter through which fairchem races gives what fairchem gives."""
    from atomjet import System
    from atomjet.bench.peers import fairchem

    _, path, frames, found = case
    engine = atomjet.load(path, device="cpu", precision="high")
    engine.card["file"] = str(path)
    peer = fairchem.build("fairchem", engine)
    made = peer.call(peer.prepare(engine.model.complete(System.from_ase(frames[0]), None)))
    assert (made.forces - found[0]["forces"]).abs().max() < 1e-4
    assert abs(float(made.energy - found[0]["energy"])) < 1e-3


def test_formation_energies(case):
    """Its calculator of this name around ours, and ours."""
    from fairchem.core.calculate.ase_calculator import FormationEnergyCalculator as Theirs

    from atomjet.adapters.formation import FormationEnergyCalculator

    _, path, frames, _ = case
    references = {symbol: 0.1 * len(symbol) - number for number, symbol in enumerate(sorted({*frames[0].symbols}))}
    total = atomjet.AtomJetCalculator(path, device="cpu", precision="float64")
    found = []
    for calculator in (Theirs(total, references), FormationEnergyCalculator(total, references)):
        atoms = frames[0].copy()
        atoms.calc = calculator
        found.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-10)
    assert abs(found[0][1] - found[1][1]).max() < 1e-10


def test_a_benchmark_gives_each_composition_a_unit_of_its_own():
    """fairchem merges experts for the first structures; others, and then the first again, are served as its settings say."""
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", backend="general", precision="float64", task="omol")
    engine.card["file"] = str(GOLDEN / "uma_1p2p1.pt")
    contender = contenders.build("fairchem", engine)
    systems = [System.from_ase([molecule(name)]) for name in ("H2O", "NH3")]
    prepared = [contender.prepare(system) for system in systems]
    for system, ready in [*zip(systems, prepared, strict=True), (systems[0], prepared[0])]:
        found, expected = contender.call(ready), engine.predict(system)
        assert torch.allclose(found.forces.double(), expected.forces, atol=1e-4)
    assert prepared[0][0] is not prepared[1][0]


def test_nitro_honours_the_settings_that_a_benchmark_gives_it(monkeypatch, tmp_path):
    """And takes any file, which is all that is changed of it; it runs on a GPU alone."""
    nitro = pytest.importorskip("fairchem.core.models.uma.uma_nitro._inference")
    from fairchem.core.units.mlip_unit.api.inference import InferenceSettings

    monkeypatch.setattr(nitro, "_validate_device", lambda device: None)
    monkeypatch.setattr(nitro, "verify_checkpoint_file", nitro.verify_checkpoint_file)
    settings = InferenceSettings(**fairchem.ALL, **fairchem.SETTINGS["fairchem_nitro"])
    path = shutil.copy(GOLDEN / "uma_1p2p1.pt", tmp_path)  # its checksum is written beside it
    with pytest.raises(RuntimeError, match="not supported in nitro mode"):
        nitro.UMANitroModel.validate(settings, path, "cuda")
    fairchem.take_any_file()
    nitro.UMANitroModel.validate(settings, path, "cuda")
