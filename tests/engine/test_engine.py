"""What an engine answers, and what it refuses before it computes."""

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet import Engine, System
from atomjet.engine import Settings
from atomjet.engine.capacity import free_bytes
from atomjet.models import tensor_file
from tests.potentials import random_painn


@pytest.fixture(scope="module")
def engine():
    return Engine(random_painn(elements=(1, 6, 8)), Settings("cpu"), {"name": "random"})


def refused(engine, structures, message):
    with pytest.raises(atomjet.AtomJetError, match=message):
        engine.predict(structures)


def test_float32_that_lost_its_digits_is_refused(engine):
    """Converted to float64 afterwards it looks exact."""
    positions = torch.tensor(molecule("H2O").positions)
    far = System((positions + 1e6).float(), [8, 1, 1])
    refused(engine, far, r"atom 0: position .* is too far out: float32 resolves .* or give float64")
    assert engine.predict(System(positions + 1e6, [8, 1, 1])).energy.isfinite()


def test_a_model_that_is_none():
    with pytest.raises(atomjet.AtomJetError, match="model is NoneType 'None'; give a name, a path, or a list of them"):
        atomjet.load(None)


def test_what_a_caller_sets_for_its_own_pytorch_changes_nothing():
    settings = [
        Settings("cpu", backend, precision)
        for backend in ("general", "fast_pytorch")
        for precision in ("high", "float64")
    ]
    model, atoms = random_painn(elements=(1, 8)), molecule("H2O")
    for setting in settings:
        expected = Engine(model, setting).predict(atoms)
        contexts = (
            torch.inference_mode(),
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16),
            torch.device("meta"),
        )
        for context in contexts:
            with context:
                engine = Engine(model, setting)
                found = engine.predict(atoms)
            assert torch.equal(found.energy, expected.energy), context
            assert torch.equal(found.forces, expected.forces), context
    with torch.inference_mode():
        assert engine.hessian(atoms).shape == (9, 9)


def test_prediction(engine):
    frames = [molecule("CH3CH2OH"), bulk("C"), molecule("H2O")]
    prediction = engine.predict(frames)
    assert prediction.energy.dtype == torch.float64
    assert prediction.energy.shape == (3,)
    assert prediction.forces.shape == (14, 3)
    assert prediction.stress.shape == (3, 3, 3)
    assert prediction.stress.isnan().flatten(1).all(1).tolist() == [True, False, True]
    assert prediction.forces_of(2).shape == (3, 3)
    assert torch.allclose(prediction.atomic_energies[11:].sum(), prediction.energy[2])


def test_a_system_gives_what_atoms_give(engine):
    frames = [molecule("CH3CH2OH"), bulk("C")]
    assert torch.equal(engine.predict(System.from_ase(frames)).energy, engine.predict(frames).energy)


@pytest.mark.parametrize("precision", ["default", "high"])
def test_float32_is_close_to_float64(precision):
    model = random_painn(features=64)
    frames = [molecule("CH3CH2OH"), molecule("C6H6"), bulk("C", cubic=True)]
    for atoms in frames:
        atoms.rattle(0.1)
    exact = Engine(model, Settings("cpu", "general", "float64")).predict(frames)
    rough = Engine(model, Settings("cpu", "fast_pytorch", precision)).predict(frames)
    assert (rough.forces - exact.forces).square().mean().sqrt() < 1e-5 * exact.forces.square().mean().sqrt()
    assert ((rough.energy - exact.energy) / exact.energy).abs().max() < 1e-6


def test_the_model_given_stays_as_it_was():
    model = random_painn()
    Engine(model, Settings("cpu"))
    assert model.embedding.weight.dtype == torch.float64
    assert model.embedding.weight.requires_grad


def test_what_runs(engine):
    assert engine.backend == "fast_pytorch"
    assert "random on cpu" in engine.describe()
    assert "fast_pytorch" in engine.describe()
    assert engine.elements == (1, 6, 8)


def test_an_engine_is_copied_and_sent_to_other_processes(engine):
    frames = [molecule("CH3CH2OH"), molecule("H2O")]
    told = engine.predict(frames)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert torch.equal(other.predict(frames).forces, told.forces)
        assert other.describe() == engine.describe()


UMA = Path(__file__).parents[1] / "models/escn_md/golden/uma_1p2p1.pt"


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
@pytest.mark.parametrize("family", ["painn", "uma"])
def test_hosts_may_switch_derivatives_off_and_send_engines_on(family, backend):
    water = molecule("H2O")
    water.info.update(spin=1, charge=0)
    options = {"device": "cpu", "backend": backend, "precision": "float64"}
    engine = (
        Engine(random_painn(), Settings(**options)) if family == "painn" else atomjet.load(UMA, task="omol", **options)
    )
    with torch.inference_mode():
        system = System.from_ase(water)
        found = [engine.predict(water), engine.predict(system)]
        curvature = [engine.hessian(water), engine.hessian(system)]
    expected = engine.predict(water)
    assert torch.equal(curvature[0], engine.hessian(water))
    assert torch.equal(curvature[1], curvature[0])
    found.append(pickle.loads(pickle.dumps(engine)).predict(water))  # with what it has cached
    for one in found:
        assert torch.equal(one.energy, expected.energy)
        assert torch.equal(one.forces, expected.forces)


def test_calls_of_different_sizes_and_models_share_a_threads_buffers():
    """Those of a larger call, another number of channels or another type were there before."""
    small, large = molecule("H2O"), molecule("C60")
    large.rattle(0.05)
    engines = [
        Engine(random_painn(features=features), Settings("cpu", "fast_pytorch", precision))
        for features, precision in ((32, "high"), (64, "high"), (32, "float64"))
    ]
    alone: list[torch.Tensor] = []
    for engine in engines:
        for atoms in (small, large):
            thread = threading.Thread(target=lambda e=engine, a=atoms: alone.append(e.predict(a).forces))
            thread.start()  # a thread of its own has buffers of its own
            thread.join()
    for _ in range(2):
        mixed = [engine.predict(atoms).forces for engine in engines for atoms in (small, large)]
        assert all(torch.equal(one, other) for one, other in zip(mixed, alone, strict=True))


def test_threads_share_an_engine(engine):
    frames = [molecule(name) for name in ("CH3CH2OH", "C6H6", "H2O", "CH4")]
    alone = [engine.predict(atoms).energy for atoms in frames]
    seen: dict[int, torch.Tensor] = {}

    def work(k):
        for _ in range(5):
            seen[k] = engine.predict(frames[k]).energy

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(seen[k], alone[k]) for k in range(4))


def test_refusals(engine):
    refused(engine, [], "no structures given")
    refused(engine, [molecule("H2O"), Atoms()], "structure 1 has no atoms")
    refused(engine, molecule("NH3"), r"atom 0: element N \(Z = 7\) is unknown to this model; it knows H C O")
    refused(engine, [molecule("H2O"), molecule("CH3SH")], r"structure 1, atom 1: element S")
    refused(engine, Atoms("X"), r"element X \(Z = 0\)")
    charged, triplet = molecule("H2O"), molecule("O2")
    charged.info["charge"], triplet.info["spin"] = -1, 3
    refused(engine, charged, "structure 0: charge -1, but this model knows only neutral")
    refused(engine, [molecule("H2O"), triplet], "structure 1: spin 3, but this model knows only singlets")
    for value in (1e30, float("inf"), 0.5):
        charged.info["charge"] = value
        refused(
            engine,
            charged,
            r"structure 0: total charge is .*; it must be a whole number, of at most 1000000 either way",
        )


def test_overlapping_atoms(engine):
    near = Atoms("HCH", [[0, 0, 0], [0, 0, 3], [0, 0, 3.2]])
    refused(engine, [molecule("H2O"), near], r"structure 1, atom 1 and atom 2 are 0.200 Å apart, nearer than 0.3 Å")
    refused(engine, Atoms("H", cell=[0.25, 9, 9], pbc=True), r"atom 0 and atom 0 \(a periodic image\) are 0.250 Å")
    tolerant = Engine(engine.model, Settings("cpu", on_overlap="warn"))
    with pytest.warns(UserWarning, match="0.200 Å apart"):
        assert bool(torch.isfinite(tolerant.predict(near).forces).all())
    refused(tolerant, Atoms("HH", [[0, 0, 0], [0, 0, 0]]), "0.000 Å apart")


def test_nearer_than_any_training_data(engine):
    wary = Engine(engine.model, Settings("cpu"), {"shortest_distances": {"H-C": 0.9, "H-H": 0.1}})
    near = Atoms("CHH", [[0, 0, 0], [0, 0, 0.80], [0, 0.5, 0.80]])
    refused(
        wary, near, r"atom 0 and atom 1 are 0.800 Å apart, nearer than 0.810 Å, 0.9 of the shortest C-H in the model's"
    )
    assert float(wary.predict(near[1:]).energy) == float(engine.predict(near[1:]).energy)


def test_small_cells_see_every_image(engine):
    small = bulk("C", a=3.6)
    large = small * (4, 4, 4)
    per_atom = float(engine.predict(large).energy) / len(large)
    assert float(engine.predict(small).energy) / len(small) == pytest.approx(per_atom, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("device", "tpu", "device 'tpu' is unknown"),
        ("device", "meta", "device 'meta' is not supported"),
        ("device", "cuda:7", "device 'cuda:7' is not there"),
        ("backend", "fast", "backend 'fast' is unknown; choose one of auto, general, fast_pytorch, fast_gpu"),
        ("precision", "half", "precision 'half' is unknown"),
        ("on_overlap", "ignore", "on_overlap 'ignore' is unknown"),
        ("neighbors", "fast", "neighbors 'fast' is unknown; choose one of auto, brute_force, vesin"),
    ],
)
def test_settings(field, value, message):
    with pytest.raises(atomjet.AtomJetError, match=message):
        Settings(**{field: value})


def test_load(tmp_path):
    tensor_file.write(tmp_path / "m.safetensors", random_painn(), {"name": "m"})
    engine = atomjet.load(tmp_path / "m.safetensors", device="cpu", backend="general", precision="float64")
    assert (engine.backend, engine.precision, engine.card["name"]) == ("general", "float64", "m")
    with pytest.raises(atomjet.AtomJetError, match="task 'omol': this model knows no tasks"):
        atomjet.load(tmp_path / "m.safetensors", task="omol")
    with pytest.raises(atomjet.AtomJetError, match="'fast_gpu' computes in float32 and narrower; for float64 use"):
        atomjet.load(tmp_path / "m.safetensors", device="cpu", backend="fast_gpu", precision="float64")


def test_importing_has_no_side_effects(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, atomjet; print([m for m in ('torch', 'ase', 'rdkit', 'matplotlib', 'typer') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_numpy_types(engine):
    atoms = molecule("H2O")
    system = System(atoms.positions.astype(np.float32), atoms.numbers.astype(np.int16))
    assert float(engine.predict(system).energy) == pytest.approx(float(engine.predict(atoms).energy), abs=1e-4)


def test_a_batch_that_does_not_fit_is_split(engine, monkeypatch):
    engine = Engine(engine.model, Settings("cpu", precision="float64"))
    frames = [molecule("CH3CH2OH"), bulk("C"), molecule("H2O"), molecule("C6H6"), molecule("CH4")]
    whole = engine.predict(frames)
    monkeypatch.setattr("atomjet.engine.eager_path.free_bytes", lambda device: 1_000_000)
    parts = engine.predict(frames)
    assert torch.allclose(parts.energy, whole.energy, rtol=1e-12)
    assert torch.allclose(parts.forces, whole.forces, rtol=0, atol=1e-10)
    assert torch.equal(parts.system_index, whole.system_index)
    assert torch.equal(parts.stress.isnan(), whole.stress.isnan())


def test_a_structure_that_does_not_fit_is_refused_with_figures(engine, monkeypatch):
    monkeypatch.setattr("atomjet.engine.eager_path.free_bytes", lambda device: 100_000)
    refused(
        engine,
        molecule("C6H6"),
        r"12 atoms with \d+ edges need 0.00 GiB on cpu, 0.00 GiB are free; use another backend",
    )


def test_free_memory_is_known_here():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


def test_another_search_gives_the_same(engine):
    other = Engine(engine.model, Settings("cpu", neighbors="brute_force"))
    atoms = molecule("CH3OH")
    assert torch.equal(other.predict(atoms).forces, engine.predict(atoms).forces)
    assert "neighbours by brute_force" in other.describe()


def test_a_result_that_is_not_finite_is_refused():
    model = random_painn().float()
    model.readout[2].weight.data.fill_(3e38)
    with pytest.raises(
        atomjet.AtomJetError, match=r"structure 0: energy or forces are not finite .* use precision='float64'"
    ):
        Engine(model, Settings("cpu", "fast_pytorch", "high")).predict(molecule("CH3OH"))


def test_with_settings():
    """Another engine on the same weights; what is not named stays."""
    engine = Engine(random_painn(elements=(1, 6, 8)), Settings("cpu", on_overlap="warn"), {"name": "random"})
    exact = engine.with_settings(backend="general", precision="float64")
    assert (exact.backend, exact.precision, exact.settings.on_overlap) == ("general", "float64", "warn")
    assert exact.card == engine.card
    assert (engine.backend, engine.precision) == ("fast_pytorch", "default")
    assert all(
        torch.equal(a.double(), b) for a, b in zip(engine.model.parameters(), exact.model.parameters(), strict=True)
    )
    with pytest.raises(atomjet.AtomJetError, match="task 'omol': this model knows no tasks"):
        engine.with_settings(task="omol")
    with pytest.raises(
        atomjet.AtomJetError, match="setting 'speed' is unknown; choose from device, backend, .* task, charge, spin"
    ):
        engine.with_settings(speed="high")
    with pytest.raises(atomjet.AtomJetError, match="backend 'slow' is unknown"):
        engine.with_settings(backend="slow")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"charge": 1}, "charge 1: this model knows only charge 0; use a model that knows charge"),
        ({"spin": 3}, "spin 3: this model knows only spin 1; use a model that knows spin"),
        ({"charge": 0.5}, "charge is 0.5; it must be a whole number"),
        ({"spin": "triplet"}, "spin is 'triplet'; it must be a whole number"),
        ({"charge": float("nan")}, "charge is nan; it must be a whole number"),
    ],
)
def test_defaults_that_the_model_does_not_know(options, message):
    with pytest.raises(atomjet.AtomJetError, match=message):
        Engine(random_painn(), Settings("cpu"), **options)
    assert Engine(random_painn(), Settings("cpu"), charge=0, spin=1).spin == 1
