"""Weights that depend on what a structure consists of: in a slot before the call that uses them, held until it has finished."""

import gc
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from atomjet import AtomJetError, Engine, System
from atomjet.data import Conditions, Status
from atomjet.engine import Settings
from atomjet.models.contract import Segment
from atomjet.testing import Buffered, plain_stages
from tests.engine.standins import Pairs
from tests.potentials import random_painn

NAMES = ("H2O", "CH4", "C2H6", "CO", "CH3OH")


def weight(system: System, structure: int) -> float:
    """What the energy of a structure is multiplied by."""
    return float(system.atomic_numbers[system.system_index == structure].double().mean())


@dataclass
class Lease:
    """Of some slots, each with what it must hold."""

    slots: "Slots"
    taken: dict[int, float]

    def renew(self):
        with self.slots.lock:
            there = all(self.slots.loaded.get(value) == slot for slot, value in self.taken.items())
            if there:
                self.slots.hold(self.taken, 1)
            return there

    def release(self):
        with self.slots.lock:
            self.slots.hold(self.taken, -1)


class Slots:
    """A few weights; the least recently used that no call holds goes first."""

    def __init__(self, number):
        self.values, self.held = torch.full((number,), torch.nan, dtype=torch.float64), [0] * number
        self.loaded: OrderedDict[float, int] = OrderedDict()
        self.lock, self.loads = threading.RLock(), 0

    def hold(self, taken, count):
        for slot in taken:
            self.held[slot] += count
            assert self.held[slot] >= 0

    def take(self, values):
        """A slot for each, or None; a lease for all."""
        with self.lock:
            taken: dict[int, float] = {}
            for value in values:
                slot = self.loaded.get(value)
                if slot is None:
                    free = [k for k, count in enumerate(self.held) if not count and k not in taken]
                    if not free:
                        return None
                    order = list(self.loaded.values())
                    slot = min(free, key=lambda k: order.index(k) if k in order else -1)
                    self.loaded = OrderedDict((v, k) for v, k in self.loaded.items() if k != slot)
                    self.values[slot], self.loads = value, self.loads + 1
                self.loaded[value] = slot
                self.loaded.move_to_end(value)
                taken[slot] = value
            self.hold(taken, 1)
            return [self.loaded[value] for value in values], Lease(self, taken)


class Mixture(Buffered):
    """Pairs, the energies of each structure times its weight."""

    slots: Slots

    def admit(self, system, task):
        found = self.slots.take([weight(system, structure) for structure in range(system.num_systems)])
        if found is None:
            return None
        values = np.zeros((4, system.num_systems), np.int32)
        values[3] = found[0]
        return Conditions(values, found[1])

    def segments(self, graph, conditions, workspace):
        (plain,) = super().segments(graph, conditions, workspace)

        def launch():
            plain.launch()
            systems = conditions.system_index[: int(graph.owned)].long()
            if len(systems) and int(graph.status) == 0:
                scales = self.slots.values[conditions.slot.long()[systems]]
                if not bool(scales.isfinite().all()):
                    graph.status[0] = int(Status.SLOT)
                workspace[0][: len(scales)] *= scales
                edges = int(graph.row_ptr[-1])
                rows = torch.repeat_interleave(graph.row_ptr[: len(scales) + 1].diff().long())
                workspace[1][0, :edges] *= scales[rows][:, None]

        return [Segment(launch)]


@pytest.fixture
def engine():
    engine = Engine(random_painn(elements=(1, 6, 8)), Settings("cpu", "fast_pytorch", "float64"))
    mixture = Mixture(engine.model, Pairs(engine.model))
    mixture.slots = Slots(2)
    engine.use(plain_stages(engine, mixture))
    return engine


@pytest.fixture
def slots(engine):
    return engine.stages.backend.slots


def right(prediction, frames):
    """Whether every structure was computed with its own weight."""
    plain = Engine(random_painn(elements=(1, 6, 8)), Settings("cpu", "fast_pytorch", "float64"))
    plain.evaluator = Pairs(plain.model)
    for structure, atoms in enumerate(frames):
        system = System.from_ase(atoms)
        expected = plain.predict(atoms)
        torch.testing.assert_close(prediction.forces_of(structure), weight(system, 0) * expected.forces)


@pytest.mark.parametrize("form", [list, System.from_ase])
def test_one_after_the_other(engine, slots, form):
    every = [[molecule(name)] for name in NAMES]
    for frames in every + every[::-1]:
        right(engine.predict(form(frames)), frames)
        assert slots.held == [0, 0]
    assert slots.loads == 2 * len(NAMES) - 2  # the last two were still there
    last = form(every[0])
    engine.predict(last)
    engine.predict(last)
    assert slots.loads == 2 * len(NAMES) - 2


@pytest.mark.parametrize("form", [list, System.from_ase])
def test_too_unlike_for_the_slots_there_are(engine, slots, form):
    frames = [molecule(name) for name in NAMES]
    right(engine.predict(form(frames)), frames)
    assert slots.held == [0, 0]


def test_a_refused_structure_holds_nothing(engine, slots):
    near = Atoms("HH", [[0, 0, 0], [0, 0, 0.1]])
    for given in (near, [molecule("H2O"), near], System.from_ase(near)):
        with pytest.raises(AtomJetError, match=r"0.100 Å apart"):
            engine.predict(given)
        assert slots.held == [0, 0]


def test_dynamics_hold_their_weights_as_long_as_they_last(engine, slots):
    evaluation = engine.reserve(molecule("H2O"))
    for name in NAMES:
        engine.predict(molecule(name))
    assert sorted(slots.held) == [0, 1]
    evaluation.launch()
    assert int(evaluation.prediction.status) == 0
    larger = engine.enlarge(evaluation)
    del evaluation
    gc.collect()
    assert sorted(slots.held) == [0, 1]
    larger.launch()
    assert int(larger.prediction.status) == 0
    del larger
    gc.collect()
    assert slots.held == [0, 0]


def test_threads_wait_for_a_slot(engine, slots):
    wrong = []

    def work(first):
        for turn in range(12):
            frames = [molecule(NAMES[(first + turn) % len(NAMES)])]
            try:
                right(engine.predict(frames), frames)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert slots.held == [0, 0]


def test_no_slot_for_a_single_structure_is_said(engine, slots):
    held = [engine.reserve(molecule(name)) for name in ("H2O", "CH4")]
    with pytest.raises(AtomJetError, match="structure 0: there is no room for its weights on cpu"):
        engine.predict(molecule("CO"))
    assert len(held) == 2


def test_a_slot_that_is_not_loaded_is_no_energy(engine, slots):
    evaluation = engine.reserve(molecule("H2O"))
    slots.values.fill_(torch.nan)
    evaluation.launch()
    assert Status(int(evaluation.prediction.status)) == Status.SLOT
    assert bool(evaluation.prediction.energy[0].isnan())
