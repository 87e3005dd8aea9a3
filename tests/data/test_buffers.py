"""Buffers of fixed size, and predictions in them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

from atomjet import Prediction, System, neighbor_list
from atomjet.data import Capacity, Conditions, GraphBuffers, PredictionBuffers, SystemBuffers
from atomjet.errors import StructureError


def test_a_graph_with_ghosts_is_refused():
    """Rows for some atoms only: nothing says which edge undoes one that leads to another."""
    graph = neighbor_list(molecule("C6H6"), 3.0)
    edges = int(graph.row_ptr[8])
    cut = {name: getattr(graph, name)[:edges] for name in ("centers", "neighbors", "shifts", "vectors")}
    with pytest.raises(
        StructureError, match="4 of 12 atoms are ghosts, which have no rows; buffers of fixed size hold"
    ):
        GraphBuffers.from_graph(replace(graph, row_ptr=graph.row_ptr[:9], **cut))
    assert int(GraphBuffers.from_graph(graph).owned) == 12


def test_conditions_of_structures_that_say_something():
    frames = [molecule("H2O"), molecule("CH4")]
    frames[1].info |= {"charge": -1, "spin": 2}
    system = System.from_ase(frames)
    conditions = Conditions.of(replace(system, task=("b", "a")), ("a", "b"))
    assert conditions.values.tolist() == [[0, -1], [0, 2], [1, 0], [0, 0]]
    buffers = SystemBuffers.empty(Capacity(3, 9, 1, 5), "cpu")
    buffers.fill(system, conditions)
    assert buffers.conditions[:, :2].tolist() == conditions.values.tolist()
    assert buffers.conditions.dtype == torch.int32
    buffers.fill(system, Conditions.silent((0, 1, 2, 3), 2))
    assert buffers.conditions[:, :2].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("has_spread", [False, True])
def test_views_of_a_prediction_fill_its_buffer(has_spread):
    capacity = Capacity(2, 5, 9, 3)
    prediction = PredictionBuffers.empty(capacity, "cpu", has_spread)
    parts = [prediction.status, prediction.energy, prediction.stress, prediction.atomic_energies, prediction.forces]
    parts += [prediction.spread, prediction.energy_spread] if has_spread else []
    for number, part in enumerate(parts, start=1):
        part.fill_(number)
    assert 8 * len(prediction.buffer) == PredictionBuffers.bytes_of(capacity, has_spread)
    np.testing.assert_array_equal(np.unique(prediction.buffer), range(1, len(parts) + 1))
    found = prediction.in_use(1, torch.zeros(3, dtype=torch.int64))
    assert (found.energy.shape, found.forces.shape) == ((1,), (3, 3))
    assert (found.spread is None) if not has_spread else found.spread.tolist() == [6, 6, 6]
    assert (found.energy_spread is None) if not has_spread else found.energy_spread.tolist() == [7]


def test_spread_goes_where_the_prediction_goes():
    def made(value):
        index = torch.zeros(2, dtype=torch.int64)
        spread = None if value is None else torch.full((2,), value)
        energy_spread = None if value is None else torch.full((1,), 10 * value)
        parts = torch.zeros(1), torch.zeros(2, 3), torch.zeros(1, 3, 3), torch.zeros(2)
        return Prediction(*parts, index, spread, energy_spread)

    both = Prediction.join([made(1.0), made(2.0)]).to("cpu")
    assert both.spread.tolist() == [1.0, 1.0, 2.0, 2.0]
    assert both.energy_spread.tolist() == [10.0, 20.0]
    assert both.system_index.tolist() == [0, 0, 1, 1]
    other = both.pick(torch.tensor([1, 0]), torch.tensor([2, 3, 0, 1]), both.system_index)
    assert other.spread.tolist() == [2.0, 2.0, 1.0, 1.0]
    assert other.energy_spread.tolist() == [20.0, 10.0]
    assert Prediction.join([made(None), made(None)]).to("cpu").spread is None
