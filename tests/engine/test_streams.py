"""How many structures are divided into calls, and what becomes of those that are refused."""

import pytest
from ase import Atoms
from ase.build import molecule

from atomjet import Engine
from atomjet.engine import Settings
from atomjet.engine.streams import groups, predicted
from atomjet.errors import AtomJetError
from tests.potentials import random_painn

NEAR = Atoms("HH", [[0, 0, 0], [0, 0, 0.1]])


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ([], []),
        ([3], [range(1)]),
        ([3, 3, 4], [range(3)]),
        ([3, 8, 2, 20, 1], [range(1), range(1, 3), range(3, 4), range(4, 5)]),
    ],
)
def test_groups_are_whole_structures_in_order(counts, found):
    assert list(groups(counts, 10)) == found


def test_a_refused_structure_stands_alone_and_the_others_have_their_numbers():
    engine = Engine(random_painn().double(), Settings("cpu", precision="float64"))
    frames = [molecule(name) for name in ("H2O", "CH4", "CO")] + [NEAR] + [molecule("NH3")]
    calls = []

    def predict(some):
        calls.append(len(some))
        return engine.predict(some)

    parts = list(predicted(predict, frames, 11))
    assert [place for which, _ in parts for place in which] == list(range(5))
    assert calls == [3, 2, 1, 1]
    for which, found in parts:
        if which == range(3, 4):
            assert isinstance(found, AtomJetError)
            assert "0.100 Å apart" in str(found)
        else:
            assert not isinstance(found, AtomJetError)
            assert found.energy.tolist() == pytest.approx(engine.predict([frames[k] for k in which]).energy.tolist())
