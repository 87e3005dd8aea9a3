"""fairchem's own numbers, for random checkpoints that stand for the generations of UMA."""

import pytest
import torch
from ase import Atoms
from ase.build import molecule

import atomjet
from atomjet.data.elements import SYMBOLS
from atomjet.models import load
from atomjet.models.escn_md import conditions
from tests.models.escn_md.foreign import BACKENDS, GOLDEN, VARIANTS, atoms_of, golden

# The goldens of models with a limit on neighbours hold structures in which it binds; what is said of that has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:structure .* neighbours within")

ENERGY = 1e-9  # eV per atom
FORCES = 1e-7  # eV/Å
STRESS = 1e-8  # eV/Å³
CASES = [(name, backend) for name in VARIANTS for backend in BACKENDS[name]]


def agrees(prediction, entry, structure=0, allow=(ENERGY, FORCES, STRESS)):
    """Within the tolerance, or within what fairchem's own runs differ by."""
    noise = entry.get("noise", {})
    atoms = len(entry["numbers"])
    bounds = [max(bound, noise.get(name, 0)) for bound, name in zip(allow, ("energy", "forces", "stress"), strict=True)]
    assert abs(float(prediction.energy[structure]) - entry["energy"]) / atoms < bounds[0]
    forces = torch.tensor(entry["forces"], dtype=torch.float64)
    assert (prediction.forces_of(structure) - forces).abs().max() < bounds[1]
    if entry["stress"] is None:
        assert bool(prediction.stress[structure].isnan().all())
    else:
        expected = torch.tensor(entry["stress"], dtype=torch.float64)
        assert (prediction.stress[structure] - expected).abs().max() < bounds[2]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    name, backend = request.param
    return golden(name), atomjet.load(GOLDEN / f"{name}.pt", device="cpu", backend=backend, precision="float64")


def test_equals_fairchem(case):
    expected, engine = case
    for entry in expected["structures"]:
        agrees(engine.predict(atoms_of(entry)), entry)


def test_unlike_systems_in_one_batch(case):
    expected, engine = case
    entries = expected["structures"] + expected["structures"][::-1]
    prediction = engine.predict([atoms_of(entry) for entry in entries])
    for structure, entry in enumerate(entries):
        agrees(prediction, entry, structure)


def test_equals_fairchem_batch():
    expected = golden("uma_1p2p1")
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64")
    prediction = engine.predict([atoms_of(expected["structures"][k]) for k in expected["batch"]["of"]])
    energy = torch.tensor(expected["batch"]["energy"], dtype=torch.float64)
    assert ((prediction.energy - energy).abs() < ENERGY * torch.bincount(prediction.system_index)).all()
    forces = torch.tensor(expected["batch"]["forces"], dtype=torch.float64)
    assert (prediction.forces - forces).abs().max() < FORCES


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_float32_is_as_close_as_fairchem(name, backend):
    """Root mean square over the structures against float64, at most twice what fairchem's own float32 is off."""
    engine = atomjet.load(GOLDEN / f"{name}.pt", device="cpu", backend=backend)
    ours, theirs = [], []
    for entry in golden(name)["structures"]:
        forces = engine.predict(atoms_of(entry)).forces.double()
        ours.append(float((forces - torch.tensor(entry["forces"], dtype=torch.float64)).abs().max()))
        theirs.append(entry["float32"]["forces"])
    assert torch.tensor(ours).square().mean() < 4 * torch.tensor(theirs).square().mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_converted_once(name, tmp_path):
    load.convert(GOLDEN / f"{name}.pt", None, tmp_path / "model.safetensors")
    before = atomjet.load(GOLDEN / f"{name}.pt", device="cpu", precision="float64")
    after = atomjet.load(tmp_path / "model.safetensors", device="cpu", precision="float64")
    atoms = [atoms_of(entry) for entry in golden(name)["structures"]]
    assert torch.equal(after.predict(atoms).forces, before.predict(atoms).forces)
    assert after.card["tasks"] == list(before.model.config.tasks)
    assert load.read(tmp_path / "model.safetensors")[0].config == before.model.config


def test_what_fast_pytorch_cannot_serve():
    assert atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu").backend == "fast_pytorch"
    assert atomjet.load(GOLDEN / "uma_1p1.pt", device="cpu").backend == "general"
    with pytest.raises(
        atomjet.AtomJetError, match="written for lmax = mmax = 2; this model has lmax 4 and mmax 2: use 'general'"
    ):
        atomjet.load(GOLDEN / "uma_1p1.pt", device="cpu", backend="fast_pytorch")
    with pytest.raises(
        atomjet.AtomJetError, match="lmax 2 with mmax 1 or 2; this model has lmax 4 and mmax 2: use 'general'"
    ):
        atomjet.load(GOLDEN / "uma_1p1.pt", device="cpu", backend="fast_gpu")


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_repeated_calls_give_the_same_digits(backend):
    entries = golden("uma_1p2p1")["structures"]
    atoms = [atoms_of(entry) for entry in entries]
    first, second = (
        atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", backend=backend).predict(atoms) for _ in range(2)
    )
    assert torch.equal(first.forces, second.forces)
    assert torch.equal(first.energy, second.energy)


def test_task_of_the_engine_and_of_a_structure():
    entry = golden("uma_1p2p1")["structures"][0]
    atoms = atoms_of(entry)
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64", task="omat")
    agrees(engine.predict(atoms), entry)  # the structure's own goes first
    del atoms.info["task"]
    other = engine.predict(atoms).energy
    assert abs(float(other) - entry["energy"]) > 1e-3
    agrees(atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64", task="omol").predict(atoms), entry)


def test_explicit_spin_0_of_a_molecule_stays():
    """As in fairchem, which has an embedding for it; a spin that is not given becomes 1. Each structure of a batch for itself."""
    entry = golden("esen_moe")["structures"][0]
    assert (entry["task"], entry["spin"]) == ("omol", 0)
    engine = atomjet.load(GOLDEN / "esen_moe.pt", device="cpu", precision="float64")
    given, silent, singlet = atoms_of(entry), atoms_of(entry), atoms_of(entry | {"spin": 1})
    del silent.info["spin"]
    with pytest.warns(UserWarning, match="structure 1: task 'omol' without a spin; taken as 1") as seen:
        prediction = engine.predict([given, silent, singlet])
    assert len(seen) == 1
    agrees(prediction, entry)
    zero, one, other = prediction.energy.tolist()
    assert one == pytest.approx(other, abs=1e-12)
    assert abs(zero - one) > 1e-3


def test_defaults_of_charge_spin_and_task():
    """For structures that say nothing; `info` goes before them."""
    expected = golden("uma_1p2p1")["structures"]
    ion = next(entry for entry in expected if entry["charge"] and entry["spin"] > 1)
    options = {name: ion[name] for name in ("charge", "spin", "task")}
    calculator = atomjet.AtomJetCalculator(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64", **options)
    atoms = atoms_of(ion)
    for name in options:
        del atoms.info[name]
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(ion["energy"], abs=ENERGY)
    for entry in expected[:2]:
        agrees(calculator.engine.predict([atoms, atoms_of(entry)]), entry, 1)
    neutral = calculator.engine.with_settings(charge=0, spin=1, task="omol")
    assert (neutral.charge, neutral.spin, neutral.task) == (0, 1, "omol")
    atoms.calc = None
    assert float(neutral.predict(atoms).energy) == pytest.approx(expected[0]["energy"], abs=ENERGY)
    for name, value in (("charge", -101), ("spin", 101)):
        with pytest.raises(atomjet.AtomJetError, match=f"{name} {value} lies outside"):
            neutral.with_settings(**{name: value})


def test_initial_charges_change_nothing():
    entry = next(entry for entry in golden("uma_1p2p1")["structures"] if entry["name"] == "salt")
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64")
    atoms = atoms_of(entry)
    del atoms.info["charge"]
    for charges in ([1.0, 0.0], [0.802, -0.8]):
        atoms.set_initial_charges(charges)
        agrees(engine.predict(atoms), entry)


def test_every_kind_of_molecule_without_charge_or_spin_is_warned_of():
    """Each structure of a batch that is the first of its kind, whatever was said of others; nothing twice."""
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", task="omol")
    water, methane = molecule("H2O", info={"charge": 0}), molecule("CH4", info={"spin": 1})
    with pytest.warns(UserWarning, match="without a") as seen:
        engine.predict([molecule("NH3", info={"charge": 0, "spin": 1}), water, methane, water])
    assert [str(warning.message) for warning in seen] == [
        "structure 1: task 'omol' without a spin; taken as 1, a singlet (multiplicity 2S + 1); here and for its like. "
        "Set info['spin']",
        "structure 2: task 'omol' without a charge; taken as 0; here and for its like. Set info['charge']",
    ]
    engine.predict([water, methane])  # warnings are errors here: said once is enough
    with pytest.warns(UserWarning, match="structure 0: task 'omol' without a spin; .*; without a charge; taken as 0"):
        engine.predict(molecule("CO"))
    engine.predict(molecule("CO", info={"task": "omat"}))  # crystals have neither


def test_compositions_without_end_are_not_kept(monkeypatch):
    monkeypatch.setattr(conditions, "MOST_WARNED", 2)
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", task="omol")
    with pytest.warns(UserWarning, match="without a spin; .* without a charge"):
        engine.predict(molecule("H2O"))
    assert len(engine.model.warned) == 2
    engine.predict(molecule("CO"))  # warnings are errors here
    assert len(engine.model.warned) == 2


def test_spin_of_molecules_is_filled_in_with_one_warning():
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64", task="omol")
    atoms = molecule("H2O")
    with pytest.warns(UserWarning, match="structure 0: task 'omol' without a spin; taken as 1") as seen:
        energy = float(engine.predict([atoms, atoms]).energy[0])
    assert len(seen) == 1
    engine.predict(atoms)  # warnings are errors here: said once is enough
    atoms.info["spin"] = 1
    assert float(engine.predict(atoms).energy) == pytest.approx(energy, abs=1e-12)
    atoms.info["spin"] = 3
    assert abs(float(engine.predict(atoms).energy) - energy) > 1e-3


def refused(engine, atoms, message, **info):
    atoms.info |= info
    with pytest.raises(atomjet.AtomJetError, match=message):
        engine.predict([molecule("H2O", info={"spin": 1}), atoms])


def test_refused_structures():
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", task="omol")
    refused(
        engine, molecule("H2O"), r"structure 1: task 'omatt' is unknown; this model knows oc20, .*omc", task="omatt"
    )
    refused(engine, molecule("H2O"), r"structure 1: charge 101 lies outside -100 \.\.\. 100", charge=101)
    refused(engine, molecule("H2O"), r"structure 1: charge -101 lies outside", charge=-101)
    refused(engine, molecule("H2O"), r"structure 1: spin 101 lies outside 0 \.\.\. 100", spin=101)
    refused(engine, molecule("H2O"), r"structure 1: spin -1 lies outside", spin=-1)
    refused(engine, Atoms("Md"), r"structure 1, atom 0: element Md \(Z = 101\) is unknown", spin=1)
    refused(engine, Atoms("X"), r"structure 1, atom 0: element X \(Z = 0\) is unknown", spin=1)
    assert engine.elements == tuple(range(1, 100))
    assert SYMBOLS[99] == "Es"


def test_refused_tasks():
    with pytest.raises(atomjet.AtomJetError, match=r"task 'oxide' is unknown; this model knows oc20, oc22, .*omc"):
        atomjet.load(GOLDEN / "uma_1p2p1.pt", task="oxide")
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu")
    with pytest.raises(
        atomjet.AtomJetError, match="structure 0: this model knows several tasks; give task= one of oc20"
    ):
        engine.predict(molecule("H2O"))


def test_single_atoms_where_they_were_not_trained_on():
    engine = atomjet.load(GOLDEN / "uma_1p1.pt", device="cpu", task="omat")
    refused(engine, Atoms("Fe"), "structure 1 is a single isolated atom, which UMA-1.1 was not trained on")
    engine.predict(Atoms("Fe", cell=[3, 3, 3], pbc=True))


def test_changed_composition_is_noticed():
    """One engine for one system after another keeps blends, and gives what a fresh one gives."""
    entries = golden("uma_1p2p1")["structures"]
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", precision="float64")
    assert engine.backend == "fast_pytorch"
    for entry in (entries[0], entries[1], entries[0], entries[7], entries[0]):
        agrees(engine.predict(atoms_of(entry)), entry)


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_more_kinds_of_systems_than_are_kept(monkeypatch, backend):
    engine = atomjet.load(GOLDEN / "uma_1p2p1.pt", device="cpu", backend=backend, precision="float64")
    entries = golden("uma_1p2p1")["structures"]
    monkeypatch.setattr("atomjet.models.escn_md.experts.CACHE_BYTES", 1)
    prediction = engine.predict([atoms_of(entry) for entry in entries])
    for structure, entry in enumerate(entries):
        agrees(prediction, entry, structure)


def test_in_chunks_where_memory_is_small(monkeypatch, case):
    expected, engine = case
    atoms = [atoms_of(entry) for entry in expected["structures"]]
    whole = engine.predict(atoms)
    monkeypatch.setattr("atomjet.models.escn_md.memory.edges_at_once", lambda *_, **__: 37)
    monkeypatch.setattr("atomjet.models.escn_md.memory.saves_outputs", lambda *_: False)
    chunks = engine.predict(atoms)
    assert torch.allclose(chunks.energy, whole.energy, rtol=1e-13, atol=1e-12)
    assert torch.allclose(chunks.forces, whole.forces, rtol=0, atol=1e-12)
