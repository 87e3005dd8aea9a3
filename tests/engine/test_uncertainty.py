"""Warnings of ensembles: their words, once of each structure where the same is evaluated again, and never of a single model."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

from atomjet import AtomJetCalculator, Engine, System
from atomjet.adapters.structure_checks import remarks_for
from atomjet.engine import Settings
from atomjet.engine.uncertainty import Bound, Doubt, UncertaintyWarning, Watch, watched
from atomjet.md import MDSettings, simulate, simulate_replicas
from atomjet.md.relax_many import relax_many
from atomjet.models.ensemble import Ensemble
from atomjet.testing import Buffered, plain_stages
from tests.potentials import random_painn

BOUND = 0.1
CARD = {"teacher": {"calculator": "tblite:GFN2-xTB"}, "calibration": {"bound": BOUND, "scale": 2.0}}


@pytest.fixture(scope="module")
def model():
    return Ensemble(
        [random_painn(seed=seed, features=8, layers=1, cutoff=3.0, elements=(1, 6, 8)) for seed in range(2)]
    )


@pytest.fixture(scope="module")
def engine(model):
    """One that every molecule is beyond the bound of; a single atom, without forces, is not."""
    return Engine(model, Settings("cpu", "fast_pytorch", "float64"), CARD)


def test_the_words(engine):
    water = molecule("H2O")
    with watched():
        spread = engine.predict(water).spread
    atom, value = int(spread.argmax()), float(spread.max())
    assert value > BOUND
    with pytest.warns(UncertaintyWarning) as caught:
        engine.predict([molecule("O"), water])
    assert [str(one.message) for one in caught] == [
        f"structure 1: the ensemble's members differ by {value:.3g} eV/Å on the force of atom {atom}, more than the 0.1 eV/Å up to "
        f"which they were found reliable (expected error {2 * value:.2g} eV/Å); check it with tblite:GFN2-xTB, or train on "
        "structures like it"
    ]


def test_of_many_structures_some_are_named_and_all_counted(engine):
    with pytest.warns(UncertaintyWarning) as caught:
        engine.predict([molecule("H2O")] * 8)
    assert [str(one.message).split(":")[0] for one in caught[:5]] == [f"structure {k}" for k in range(5)]
    assert str(caught[5].message) == "3 more structures are beyond the bound of 0.1 eV/Å: 5, 6, 7"
    assert len(caught) == 6


def test_a_system_warns_too(engine):
    with pytest.warns(UncertaintyWarning, match="structure 0: the ensemble's members differ"):
        engine.predict(System.from_ase(molecule("H2O")))


def test_without_a_bound_or_an_ensemble_nothing_is_said(model):
    for network, card in ((model, {}), (model.first, CARD)):
        engine = Engine(network, Settings("cpu", "fast_pytorch"), card)
        engine.predict(molecule("H2O"))  # a warning would be an error
        assert engine.bound is None


def test_a_bound_says_who_checks_it_only_where_the_card_does():
    bound = Bound.of({"calibration": {"bound": 0.2, "scale": 1.5}})
    assert bound is not None
    line = bound.line(Doubt(0, 3, 0.5), "frame 7")
    assert line.startswith(
        "frame 7: the ensemble's members differ by 0.5 eV/Å on the force of atom 3, more than the 0.2 eV/Å"
    )
    assert line.endswith("check it with the method that the model was trained on, or train on structures like it")


def test_doubts_name_the_worst_atom_of_each_structure():
    bound = Bound(1.0, 1.0, "")
    spread = np.array([0.5, 2.0, 3.0, 1.0, 0.0, 9.0])
    assert bound.doubts(spread, [2, 3, 1]) == [Doubt(0, 1, 2.0), Doubt(1, 0, 3.0), Doubt(2, 0, 9.0)]
    assert bound.doubts(spread, [2, 0, 4]) == [Doubt(0, 1, 2.0), Doubt(2, 3, 9.0)]


def test_a_watch_says_each_structure_once_and_counts(engine):
    said = []
    watch = Watch(engine.bound, said.append)
    with watched():
        found = engine.predict([molecule("O"), molecule("H2O"), molecule("CH4")])
    for _ in range(3):
        watch.look(found)
    assert [line.split(":")[0] for line in said] == ["structure 1", "structure 2"]
    assert (watch.looked, watch.beyond) == (9, 6)
    assert watch.share == pytest.approx(2 / 3)
    assert Watch(None).share != Watch(None).share  # NaN


# ------------------------------------------------------------------------------------------------------- calculator


def test_a_calculator_has_the_spreads_and_warns_once_of_a_composition(engine):
    calculator = AtomJetCalculator(engine)
    water, methane = molecule("H2O"), molecule("CH4")

    def move():
        for step in range(3):
            for atoms in (water, methane):
                atoms.calc = calculator
                atoms.rattle(0.01, seed=step)
                atoms.get_forces()

    with pytest.warns(UncertaintyWarning) as caught:
        move()
    assert [str(one.message).split(":")[0] for one in caught] == ["H2O", "CH4"]
    assert (calculator.watch.looked, calculator.watch.beyond) == (6, 6)
    with watched():
        expected = engine.predict(methane)
    assert np.array_equal(calculator.results["forces_spread"], expected.spread.numpy())
    assert calculator.results["energy_spread"] == float(expected.energy_spread[0])
    assert "forces_spread" not in _results_of_a_single_model(engine)


def _results_of_a_single_model(engine):
    water = molecule("H2O")
    water.calc = AtomJetCalculator(Engine(engine.model.first, engine.settings))
    water.get_forces()
    return water.calc.results


# ---------------------------------------------------------------------------------------------- dynamics, relaxation


def test_dynamics_warn_once_and_count(engine, tmp_path):
    water = molecule("H2O")
    water.calc = AtomJetCalculator(engine)
    with pytest.warns(UncertaintyWarning) as caught:
        summary = simulate(water, MDSettings(steps=5, timestep=0.1), tmp_path / "run.traj", quiet=True)
    assert len(caught) == 1
    assert summary.uncertain == 1.0


def test_replicas_warn_once_each_and_count(model, tmp_path):
    engine = Engine(model, Settings("cpu", "fast_pytorch", "float64"), CARD)
    engine.use(buffered(engine))
    with pytest.warns(UncertaintyWarning) as caught:
        summary = simulate_replicas(
            engine, molecule("OH"), MDSettings(steps=20, timestep=0.1), tmp_path / "run.traj", replicas=2, quiet=True
        )
    assert [str(one.message).split(":")[0] for one in caught] == ["replica 0, step 0", "replica 1, step 0"]
    assert summary.uncertain == 1.0


def buffered(engine):
    """Stages in plain PyTorch that leave a spread of 1 eV/Å; what the kernels leave is tested in tests/models/test_ensemble.py."""
    stages = plain_stages(engine, Buffered(engine.model, engine.evaluator, precision="float64"))

    def sums(capacity):
        plain = stages.sums(capacity)

        def launch(system, graph, atomic, out):
            plain(system, graph, atomic, out)
            out.spread.fill_(1.0)
            out.energy_spread.fill_(1.0)

        return launch

    return replace(stages, sums=sums, has_spread=True)


def test_relaxed_together_each_has_its_spread(engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = sorted(relax_many(engine, [molecule("H2O"), molecule("CH4")], steps=2), key=lambda one: one.index)
    for one in done:
        with watched():
            assert one.spread == pytest.approx(engine.predict(one.atoms).spread.numpy())


# ------------------------------------------------------------------------------------------------- pairs of elements


def test_pairs_nearer_than_in_training_are_named():
    card = {"closest_pairs": {"H-H": 1.3, "H-O": 0.8, "O-O": None, "H-C": 1.0}}
    model = random_painn(features=8, layers=1, cutoff=3.0, elements=(1, 6, 8))
    engine = Engine(model, Settings("cpu", "fast_pytorch"), card)
    water, peroxide = molecule("H2O"), molecule("H2O2")
    assert "unseen pairs" not in remarks_for(engine, water)
    water.set_distance(0, 1, 0.75, fix=0)
    text = "has H-O at 0.750 Å (atoms 0 and 1; in training 0.800 or more); what the model says of that is a guess"
    assert remarks_for(engine, water)["unseen pairs"] == text
    length = peroxide.get_distance(0, 1)
    unseen = f"has O-O at {length:.3f} Å (atoms 0 and 1; in training never within 4); what"
    assert remarks_for(engine, peroxide)["unseen pairs"].startswith(unseen)
    water.calc = AtomJetCalculator(engine)
    with pytest.warns(UncertaintyWarning) as caught:
        water.get_forces()
    assert [str(one.message) for one in caught] == [f"H2O {text}"]
    water.rattle(1e-4)
    water.get_forces()  # said once: another warning would be an error
    single = Engine(model, Settings("cpu", "fast_pytorch"), {})
    assert "unseen pairs" not in remarks_for(single, peroxide)


def test_the_largest_spread_is_on_the_device_where_the_prediction_is(engine):
    with watched():
        found = engine.predict(System.from_ase([molecule("H2O"), molecule("CH4")]))
    assert engine.bound is not None
    assert [doubt.structure for doubt in engine.bound.of_prediction(found)] == [0, 1]
    assert found.spread.device == torch.device("cpu")
