# ruff: noqa: D102
"""What every backend that works in buffers of fixed size promises, for a family's tests to inherit.

Tolerances are named here once, each with its reason, and are the same for every family.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from atomjet import AtomJetError, Engine, Prediction, System
from atomjet.data import Capacity, SystemBuffers
from atomjet.engine.evaluation import Evaluation

FORCES = {"default": 5e-3, "high": 1e-4, "float64": 1e-12}
"""Largest norm of the difference of forces, and of stress, from the definition in float64, as a share of its norm, by precision:
products of 10 bits, of float32, of float64. Random weights magnify rounding ten times as much as trained ones.
"""

ENERGY = {"default": 5e-3, "high": 1e-4, "float64": 1e-12}
"""Largest norm of the difference of energies from the definition in float64, as a share of its norm, by precision."""


class CapturedConformance:
    """Inherit, beside fixtures `engine`, which evaluates through buffers, and `exact`, the same weights' definition in float64.

    Attributes:
        said: what `info` may say of a structure that the family serves; one entry for families that know neither charge nor spin
            nor task.
        refused: structures that the family refuses, beside those that every engine does.
        thorough: False where an evaluation takes seconds, as in Triton's interpreter: fewer structures, no threads.
    """

    said: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    refused: ClassVar[tuple[Atoms, ...]] = ()
    thorough: ClassVar[bool] = True

    def frames(self) -> list[Atoms]:
        """Structures of unlike sizes, with and without a cell, in turn with everything that may be said."""
        every = [molecule("CH4"), bulk("C"), molecule("H2O")]
        every += [Atoms("H"), bulk("C", cubic=True), molecule("CH3OH")] if self.thorough else []
        for place, atoms in enumerate(every):
            atoms.rattle(0.05, seed=place)
            atoms.info |= self.said[place % len(self.said)]
        return every

    def crowded(self) -> Atoms:
        """Atoms close together in a large cell, by whose volume nobody expects so many edges."""
        atoms = molecule("C6H6", cell=[30.0] * 3, pbc=True)
        atoms.info |= self.said[0]
        return atoms

    # ------------------------------------------------------------------------------------------------ the right numbers

    def test_equals_the_definition(self, engine: Engine, exact: Engine) -> None:
        every = self.frames()
        expected = exact.predict(every).to("cpu")
        self.close(engine, engine.predict(every), expected)
        self.close(engine, engine.predict(System.from_ase(every, device=engine.device)).to("cpu"), expected)

    def test_alone_as_in_a_batch(self, engine: Engine, exact: Engine) -> None:
        every = self.frames() if self.thorough else self.frames()[-1:]
        for atoms in every:
            for _ in range(3):  # launched, captured, replayed
                self.close(engine, engine.predict(atoms), exact.predict(atoms).to("cpu"))

    def test_replay_with_other_contents(self, engine: Engine, exact: Engine) -> None:
        """Right results for other positions, elements, charges, tasks in captured buffers; then the first ones to the last bit."""
        first = self.frames()[-1]
        other = first.copy()
        other.rattle(0.1, seed=7)
        other.numbers[0], other.numbers[-1] = other.numbers[-1], other.numbers[0]
        turns = [first, other]
        for said in self.said[1:]:
            turns.append(first.copy())
            turns[-1].info |= said
        given = [System.from_ase(atoms, device=engine.device) for atoms in turns] if self.thorough else []
        before = engine.predict(first)
        for atoms in [*turns[1:], *given[1:], first, *given[:1]]:
            found = engine.predict(atoms).to("cpu")
            self.close(engine, found, exact.predict(atoms).to("cpu"))
        assert torch.equal(engine.predict(first).forces, before.forces)
        assert torch.equal(engine.predict(first).energy, before.energy)

    def test_what_is_said_matters(self, engine: Engine) -> None:
        if len(self.said) == 1:
            pytest.skip("this family knows neither charges nor spins nor tasks")
        energies = []
        for said in self.said:
            atoms = molecule("H2O")
            atoms.info |= said
            energies += [float(engine.predict(given).energy[0]) for given in (atoms, System.from_ase(atoms))]
        assert len({round(energy, 9) for energy in energies}) == len(self.said)

    # ------------------------------------------------------------------------------------------------ buffers

    def test_what_is_not_in_use_does_not_matter(self, engine: Engine) -> None:
        """Room to spare, and NaN wherever nothing was written: the same bits."""
        system = System.from_ase(self.frames()[:2], device=engine.device, dtype=torch.float64)
        reserved = engine.reserve(system)
        stages = replace(reserved.stages, tuning=None)  # choices for another size add up in another order
        roomy = reserved.capacity
        roomy = Capacity(roomy.systems + 3, roomy.atoms + 40, roomy.edges + 77, roomy.atoms_per_system, roomy.images)
        results = []
        for capacity in (reserved.capacity, roomy):
            buffers = SystemBuffers.empty(capacity, engine.device)
            evaluation = Evaluation(stages, buffers, reserved.conditions)
            buffers.fill(system, engine.stages.backend.admit(system, engine.task))  # type: ignore[union-attr]
            poison(evaluation)
            for _ in range(2 if self.thorough else 1):
                evaluation.launch()
                assert int(evaluation.prediction.status) == 0
                results.append(evaluation.prediction.in_use(2, system.system_index).to("cpu"))
        for found in results[1:]:
            for name in ("energy", "forces", "atomic_energies"):
                assert torch.equal(getattr(found, name), getattr(results[0], name))

    def test_overflow_grows_and_repeats(self, engine: Engine, exact: Engine) -> None:
        atoms = self.crowded()
        evaluation = engine.reserve([atoms])
        evaluation.launch()
        assert evaluation.needed_edges() > evaluation.capacity.edges
        assert bool(evaluation.prediction.energy[0].isnan())
        larger = engine.enlarge(evaluation)
        larger.launch()
        assert int(larger.prediction.status) == 0
        if self.thorough:
            self.close(engine, engine.predict(atoms), exact.predict(atoms).to("cpu"))

    def test_memory_is_what_was_said(self, engine: Engine) -> None:
        backend, capacity = engine.stages.backend, Capacity(3, 70, 900, 40)  # type: ignore[union-attr]
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors(backend.workspace(capacity))
        }
        assert sum(storages.values()) == pytest.approx(backend.bytes_of(capacity), rel=0.1)

    def test_segments_say_what_is_exchanged(self, engine: Engine) -> None:
        evaluation = engine.reserve(self.frames()[:1])
        backend = engine.stages.backend  # type: ignore[union-attr]
        first, *others = backend.segments(evaluation.graph, evaluation.staged, evaluation.workspace)
        assert first.exchanged == ()
        for segment in others:
            assert segment.exchanged
            assert all(len(rows) >= evaluation.capacity.atoms for rows in segment.exchanged)
        atomic = backend.result(evaluation.workspace)
        assert atomic.energies.shape == (evaluation.capacity.atoms,)
        assert atomic.gradients.shape[1:] == (evaluation.capacity.edges, 4)

    # ------------------------------------------------------------------------------------------------ refusals

    def test_refusals_say_the_same_words(self, engine: Engine, exact: Engine) -> None:
        """From atoms and from tensors, in the first call and in a batch; and the buffers are whole afterwards."""
        good = self.frames()[0]
        before = engine.predict(good)
        near, broken = Atoms("HH", [[0, 0, 0], [0, 0, 0.1]]), molecule("H2O")
        broken.positions[1, 2] = np.nan
        for atoms in (near, broken):
            atoms.info |= self.said[0]
        for atoms in (near, broken, Atoms("X"), Atoms(), *self.refused):
            assert words(engine, [good, atoms]) == words(exact, [good, atoms])
            if atoms is not broken:
                assert words(engine, System.from_ase([good, atoms])) == words(exact, [good, atoms])
        assert torch.equal(engine.predict(good).forces, before.forces)

    # ------------------------------------------------------------------------------------------------ many at a time

    def test_captured_equals_launched(self, engine: Engine) -> None:
        """A replay of one graph leaves the bits that launching kernel by kernel does."""
        if not self.thorough:
            pytest.skip("seconds an evaluation")
        launched = copy.copy(engine)
        launched.use(engine.stages, capture=False)  # type: ignore[arg-type]
        for _ in range(3):
            for atoms in self.frames():
                assert torch.equal(engine.predict(atoms).forces, launched.predict(atoms).forces)

    def test_threads(self, engine: Engine) -> None:
        if not self.thorough:
            pytest.skip("seconds an evaluation")
        every, wrong = self.frames(), []
        alone = [engine.predict(atoms).forces for atoms in every]

        def work(first: int) -> None:
            for turn in range(2 * len(every)):
                k = (first + turn) % len(every)
                if not torch.equal(engine.predict(every[k]).forces, alone[k]):
                    wrong.append(k)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def close(self, engine: Engine, found: Prediction, expected: Prediction) -> None:
        """Within the tolerances of the engine's precision."""
        precision = engine.precision
        for name, bound in (("forces", FORCES), ("energy", ENERGY), ("atomic_energies", ENERGY), ("stress", FORCES)):
            ours, theirs = (torch.nan_to_num(getattr(x, name).double()) for x in (found, expected))
            assert float((ours - theirs).norm()) <= bound[precision] * self.scale(expected, name), name

    def scale(self, expected: Prediction, name: str) -> float:
        """What an error of a result is measured by: the norm of the result itself."""
        return max(float(torch.nan_to_num(getattr(expected, name).double()).norm()), 1e-3)


def words(engine: Engine, structures: Any) -> str:
    """Text of the error that the engine refuses these structures with."""
    with pytest.raises(AtomJetError) as caught:
        engine.predict(structures)
    return str(caught.value)


def poison(evaluation: Evaluation) -> None:
    """Overwrite every number that an evaluation is to write."""
    evaluation.prediction.buffer.fill_(torch.nan)
    for tensor in tensors(evaluation.workspace):
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    evaluation.graph.vectors.fill_(torch.nan)


def tensors(value: Any) -> Iterator[Tensor]:
    """All that a workspace is made of."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        yield from (tensor for field in fields(value) for tensor in tensors(getattr(value, field.name)))
    elif isinstance(value, dict):
        yield from (tensor for part in value.values() for tensor in tensors(part))
    elif isinstance(value, list | tuple):
        yield from (tensor for part in value for tensor in tensors(part))
