"""Ensembles: means and spreads against the members one by one, files of them, and members that do not go together."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import atomjet
from atomjet import Engine, Prediction, System
from atomjet.engine import Settings
from atomjet.errors import BackendError, ConfigError, ModelFileError
from atomjet.models import tensor_file
from atomjet.models.ensemble import Ensemble, ensemble_card
from atomjet.models.load import read
from tests.potentials import random_escn_md, random_painn
from tests.ranks import predict_on_ranks

EXACT = Settings("cpu", "fast_pytorch", "float64")
ON = "cuda" if torch.cuda.is_available() else "cpu"


def frames():
    every = [molecule("CH4"), bulk("C"), molecule("H2O")]
    for seed, atoms in enumerate(every):
        atoms.rattle(0.05, seed=seed)
    return every


@pytest.fixture(scope="module")
def members():
    return [random_painn(seed=seed, features=8, layers=2, cutoff=3.0, elements=(1, 6, 8)) for seed in range(3)]


@pytest.fixture(scope="module")
def files(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    for place, member in enumerate(members):
        card = {"name": f"student-{place}", "shortest_distances": {"C-H": 0.9 + 0.1 * place}, "errors": {"all": place}}
        tensor_file.write(folder / f"{place}.safetensors", member, card | ({"limits": ["one"]} if not place else {}))
    return [folder / f"{place}.safetensors" for place in range(3)]


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_mean_and_spreads_are_those_of_the_members(members, backend):
    settings = Settings("cpu", backend, "float64")
    found = Engine(Ensemble(members), settings).predict(frames())
    each = [Engine(member, settings).predict(frames()) for member in members]

    def numbers(name):
        return np.array([getattr(one, name).numpy() for one in each])

    for name in ("energy", "forces", "stress", "atomic_energies"):
        np.testing.assert_allclose(getattr(found, name), numbers(name).mean(0), rtol=1e-12, atol=1e-12)
    apart = numbers("forces") - numbers("forces").mean(0)
    np.testing.assert_allclose(found.spread, np.sqrt((apart**2).sum(2).mean(0)), rtol=1e-10)
    np.testing.assert_allclose(found.energy_spread, numbers("energy").std(0) / [5, 2, 3], rtol=1e-10)


def test_equal_members_give_their_own_bits_and_no_spread(members):
    settings = Settings("cpu", "fast_pytorch", "default")
    found = Engine(Ensemble([members[0]] * 3), settings).predict(frames())
    alone = Engine(members[0], settings).predict(frames())
    for name in ("energy", "forces", "atomic_energies"):
        assert torch.equal(getattr(found, name), getattr(alone, name))
    assert not found.spread.any()
    assert not found.energy_spread.any()
    assert alone.spread is None
    assert alone.energy_spread is None


def test_kernels_leave_the_mean_and_the_spread():
    """In the interpreter where there is no GPU: of equal members their own bits, of unlike ones the mean by hand."""
    pytest.importorskip("triton")
    sizes = {"features": 8, "layers": 1, "num_radial": 6, "cutoff": 3.0, "elements": (1, 6, 8)}
    members, pair = [random_painn(seed=seed, **sizes) for seed in (3, 4)], molecule("OH")

    def predict(model):
        return Engine(model, Settings(ON, "fast_gpu", "high")).predict(pair)

    first, second = map(predict, members)
    same, mixed = predict(Ensemble([members[0]] * 2)), predict(Ensemble(members))
    expected = Prediction.mean_of([first, second])
    for name in ("energy", "forces", "atomic_energies"):
        assert torch.equal(getattr(same, name), getattr(first, name))
        torch.testing.assert_close(getattr(mixed, name), (getattr(first, name) + getattr(second, name)) / 2)
        assert torch.equal(getattr(mixed, name), getattr(expected, name))
    assert not same.spread.any()
    assert same.energy_spread.tolist() == [0.0]
    torch.testing.assert_close(mixed.spread, expected.spread, rtol=1e-12, atol=0)
    torch.testing.assert_close(mixed.energy_spread, expected.energy_spread, rtol=1e-12, atol=0)


def test_a_member_that_is_not_finite_makes_the_mean_so():
    def made(energy):
        index = torch.zeros(1, dtype=torch.int64)
        nan = torch.full((1, 3, 3), torch.nan)
        return Prediction(torch.tensor([energy]), torch.zeros(1, 3), nan, torch.tensor([energy]), index)

    assert Prediction.mean_of([made(1.0), made(float("nan"))]).energy.isnan().all()


def test_hessian_is_the_mean(members):
    water = molecule("H2O")
    found = Engine(Ensemble(members), EXACT).hessian(water)
    each = [Engine(member, EXACT).hessian(water) for member in members]
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-11, atol=1e-11)


def test_other_precisions_backends_and_systems_keep_the_spread(members):
    engine = Engine(Ensemble(members), EXACT)
    found = engine.predict(frames())
    other = engine.with_settings(backend="general", precision="high").predict(System.from_ase(frames()))
    torch.testing.assert_close(other.spread, found.spread, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------ files


def test_a_list_of_files_is_an_ensemble(files, members):
    engine = atomjet.load(files, device="cpu", precision="float64")
    torch.testing.assert_close(
        engine.predict(frames()).forces, Engine(Ensemble(members), EXACT).predict(frames()).forces
    )
    assert engine.card["name"] == "ensemble of student-0, student-1, student-2"
    assert engine.describe().startswith("ensemble of student-0, student-1, student-2 (3 members) on cpu")
    assert engine.card["shortest_distances"] == {"C-H": pytest.approx(1.1)}  # what all members have seen
    assert "errors" not in engine.card
    assert engine.card["members"] == [f"student-{place}: no summary" for place in range(3)]
    assert atomjet.AtomJetCalculator(files, device="cpu").engine.model.family == "ensemble"


def test_a_file_of_an_ensemble_comes_back(files, members, tmp_path):
    model, cards = Ensemble(members), [read(file)[1] for file in files]
    tensor_file.write(tmp_path / "e.safetensors", model, ensemble_card(cards))
    engine = atomjet.load(tmp_path / "e.safetensors", device="cpu", precision="float64")
    found, expected = engine.predict(frames()), atomjet.load(files, device="cpu", precision="float64").predict(frames())
    assert torch.equal(found.forces, expected.forces)
    assert torch.equal(found.spread, expected.spread)


def test_members_of_unlike_sizes_go_together(tmp_path):
    models = [random_painn(features=8, layers=1), random_painn(features=6, layers=2, epsilon=1e-4)]
    tensor_file.write(tmp_path / "e.safetensors", Ensemble(models), {})
    configs = atomjet.load(tmp_path / "e.safetensors", device="cpu").model.config.members
    assert [config.features for config in configs] == [8, 6]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cutoff": 4.0}, "member 1 of the ensemble has cutoff 4.0, the first 3.0; members must have the same"),
        (
            {"elements": (1, 6)},
            "member 1 of the ensemble has elements (1, 6), the first (1, 6, 8); members must have the same",
        ),
        (
            {"max_z": 20},
            "reference energies of shape (20,), the first (100,); members must have the same tasks and max_z",
        ),
    ],
)
def test_members_that_do_not_go_together(members, change, text):
    same = {"features": 8, "layers": 2, "cutoff": 3.0, "elements": (1, 6, 8)}
    with pytest.raises(ConfigError, match="member 1") as caught:
        Ensemble([members[0], random_painn(**(same | change))])
    assert text in str(caught.value)


def test_families_do_not_mix(members):
    with pytest.raises(ConfigError, match="has family escn_md, the first painn"):
        Ensemble([members[0], random_escn_md()])


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_several_processes_share_an_ensemble(members, backend):
    """The mean, one member's exchanges after the other's."""
    engine = Engine(Ensemble(members), Settings("cpu", backend, "float64"))
    atoms = molecule("CH3CH2OH")
    graph = engine.search(System.from_ase(atoms))
    found, halos = predict_on_ranks(engine, graph, torch.arange(len(atoms)) % 2, 3)
    expected = engine.predict(atoms)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-9)
    assert engine.evaluator.exchanges == 3 * Engine(members[0], Settings("cpu", backend)).evaluator.exchanges
    assert {halo.exchanges for halo in halos} == {engine.evaluator.exchanges + 1}


def test_a_family_of_ones_own_makes_no_ensemble():
    lone = SimpleNamespace(family="own", config=SimpleNamespace())
    with pytest.raises(
        ConfigError, match="models of the family own cannot be members of an ensemble; painn and escn_md can"
    ):
        Ensemble([lone, lone])


def test_one_model_is_no_ensemble(files):
    with pytest.raises(
        ConfigError, match=r"an ensemble of 1: it has 2 ... 64 members; give more models, or load one alone"
    ):
        atomjet.load(files[:1])
    with pytest.raises(ConfigError, match="an ensemble of 0"):
        atomjet.load([])


def test_an_ensemble_is_no_member(files, members, tmp_path):
    tensor_file.write(tmp_path / "e.safetensors", Ensemble(members), {})
    with pytest.raises(ConfigError, match=r"e.safetensors is an ensemble itself, .*; give its members"):
        atomjet.load([files[0], tmp_path / "e.safetensors"])


def test_a_file_with_one_member_is_damaged(files, members, tmp_path):
    config = '{"members": [' + members[0].config.model_dump_json() + "]}"
    metadata = {"family": "ensemble", "config": config, "card": "{}"}
    tensor_file.write_tensors(tmp_path / "e.safetensors", dict(members[0].state_dict()), metadata)
    with pytest.raises(ModelFileError, match="unreadable configuration: members"):
        atomjet.load(tmp_path / "e.safetensors")


def test_ensembles_of_escn_md_are_computed_without_kernels():
    sizes = {"channels": 16, "hidden_channels": 16, "edge_channels": 4, "num_radial": 4, "cutoff": 3.0, "layers": 1}
    members = [random_escn_md(seed=seed, **sizes) for seed in range(2)]
    water = molecule("H2O")
    water.info |= {"charge": 1, "spin": 2, "task": "omol"}
    found = Engine(Ensemble(members), EXACT).predict(water)
    each = [Engine(member, EXACT).predict(water) for member in members]
    torch.testing.assert_close(found.forces, (each[0].forces + each[1].forces) / 2)
    torch.testing.assert_close(found.energy, (each[0].energy + each[1].energy) / 2)
    with pytest.raises(
        BackendError, match="backend 'fast_gpu' does not serve ensembles of escn_md; use 'fast_pytorch'"
    ):
        Engine(Ensemble(members), Settings(ON, "fast_gpu"))
