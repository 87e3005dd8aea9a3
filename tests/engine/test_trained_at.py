"""Students that were trained at one charge and spin, and what structures may say to them; cards that are given from Python."""

import pytest
import torch
from ase.build import molecule

import atomjet
from atomjet import Engine, System
from atomjet.engine import Settings
from tests.engine import standins
from tests.potentials import random_painn

TRIPLETS = {"name": "triplets", "data": {"conditions": {"charge": 0, "spin": 3, "task": ""}}}
ANIONS = {"data": {"conditions": {"charge": -1, "spin": 2, "task": "omol"}}}


def oxygen(**info):
    atoms = molecule("O2")
    atoms.info |= info
    return atoms


def engine_of(card, captured, **defaults):
    engine = Engine(random_painn(elements=(1, 6, 8)), Settings("cpu", "fast_pytorch"), card, **defaults)
    if captured:
        engine.use(standins.stages(engine))
    return engine


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize(
    ("card", "same", "refused"),
    [
        (
            TRIPLETS,
            ({"spin": 3}, {"charge": 0, "spin": 3}, {"spin": 0}),
            {"spin 1": {"spin": 1}, "charge 2": {"charge": 2}},
        ),
        (
            ANIONS,
            ({"charge": -1}, {"charge": -1, "spin": 2, "task": "omol"}),
            {"charge 0": {"charge": 0}, "spin 3": {"charge": -1, "spin": 3}, "task 'omat'": {"task": "omat"}},
        ),
    ],
    ids=["triplets", "anions"],
)
def test_what_a_student_was_trained_at_may_be_said_and_nothing_else(card, same, refused, captured):
    engine = engine_of(card, captured)
    expected = engine_of(None, False).predict(oxygen())
    for info in ({}, *same, {}):
        for given in (oxygen(**info), System.from_ase(oxygen(**info))):
            assert torch.allclose(engine.predict(given).forces, expected.forces, rtol=0, atol=1e-5)
    for what, info in refused.items():
        for given in ([oxygen(), oxygen(**info)], System.from_ase([oxygen(), oxygen(**info)])):
            with pytest.raises(
                atomjet.AtomJetError,
                match=rf"structure 1: {what}, but this model was trained at charge .* alone, .* remove info",
            ):
                engine.predict(given)


def test_defaults_of_an_engine_agree_with_its_training():
    assert engine_of(TRIPLETS, False, spin=3).predict(oxygen()).energy.isfinite().all()
    with pytest.raises(
        atomjet.AtomJetError, match="spin 1: this model was trained at charge 0, spin 3 alone; leave it out"
    ):
        engine_of(TRIPLETS, False, spin=1)
    with pytest.raises(atomjet.AtomJetError, match="spin 3: this model knows only spin 1"):
        engine_of({"data": {"conditions": {"charge": 0, "spin": None, "task": ""}}}, False, spin=3)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"shortest_distances": {"H-H": float("nan")}}, "card: shortest_distances.H-H: .* number"),
        ({"shortest_distances": None}, "card: shortest_distances: "),
        ({"elements": ["Xx"]}, "card: elements.0: .*no symbol of an element"),
        ({"name": 7}, "card: name: "),
        ({"summary": object()}, "card: .*JSON"),
        ({"data": {"conditions": "triplets"}}, "card: data.conditions is 'triplets'; give whole numbers"),
    ],
)
def test_a_card_from_python_is_checked(card, message):
    with pytest.raises(atomjet.AtomJetError, match=message):
        engine_of(card, False)
