"""Backends that work in buffers of fixed size: PaiNN's kernels, in Triton's interpreter where there is no GPU; and eSCN-MD's
definition behind the same path in plain PyTorch, as proof that it carries charges, spins and tasks.
"""

from dataclasses import replace

import pytest
import torch
from ase.build import molecule

from atomjet import Engine
from atomjet.engine import Settings, captured_path
from atomjet.engine.capacity import choose
from atomjet.models.ensemble import Ensemble
from atomjet.testing import Buffered, CapturedConformance, plain_stages
from atomjet.testing.captured import ENERGY, FORCES
from tests.potentials import random_escn_md, random_painn

ON = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = ["default", "high"] if torch.cuda.is_available() else ["high"]


class TestPaiNN(CapturedConformance):
    thorough = torch.cuda.is_available()

    charged = molecule("H2O")
    charged.info["charge"] = 1
    refused = (charged,)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        pytest.importorskip("triton")
        size = {"features": 128, "cutoff": 5.0} if cls.thorough else {"features": 16, "num_radial": 6, "cutoff": 3.0}
        return random_painn(layers=2, elements=(1, 6, 8), zbl=(0.7, 1.2), **size)

    @pytest.fixture(scope="class", params=PRECISIONS)
    @classmethod
    def engine(cls, model, request):
        return Engine(model, Settings(ON, "fast_gpu", request.param))

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls, model):
        return Engine(model, Settings(ON, "general", "float64"))


@pytest.mark.slow  # in Triton's interpreter; tests/models/test_ensemble.py has a quick one
class TestEnsemble(TestPaiNN):
    """Members one after the other, or side by side; the mean is held against the mean of their definitions."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        pytest.importorskip("triton")
        size = {"features": 128, "cutoff": 5.0} if cls.thorough else {"features": 16, "num_radial": 6, "cutoff": 3.0}
        size["layers"] = 2 if cls.thorough else 1  # the interpreter takes seconds for each member
        # Seeds whose features keep their digits in half precision: with seed 1, one model by itself errs by 1.5 %.
        return Ensemble(
            [random_painn(seed=seed, elements=(1, 6, 8), **size) for seed in ((0, 3, 4) if cls.thorough else (0, 1))]
        )

    def close(self, engine, found, expected):
        super().close(engine, found, expected)
        for name, bound in (("spread", FORCES), ("energy_spread", ENERGY)):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert float((ours - theirs).norm()) <= bound[engine.precision] * self.scale(expected, name), name

    def scale(self, expected, name):
        """Members of random weights cancel in the mean, their errors do not: these are as large as the members."""
        members = {"forces": expected.spread, "energy": expected.energy_spread * len(expected.forces)}
        return super().scale(expected, name) + float(members.get(name, torch.zeros(1)).norm())


SAID = (
    {"charge": 1, "spin": 2, "task": "omol"},
    {"charge": 0, "spin": 1, "task": "omol"},
    {"charge": -1, "spin": 2, "task": "omol"},
    {"task": "omat"},
)


def refused():
    """Structures that a model of tasks omol and omat refuses."""
    odd, elsewhere = molecule("H2O"), molecule("H2O")
    odd.info |= {"task": "omol", "charge": 200}
    elsewhere.info["task"] = "oc20"
    return odd, elsewhere


@pytest.mark.slow  # in Triton's interpreter
class TestEscnMd(CapturedConformance):
    thorough = torch.cuda.is_available()
    said = SAID
    refused = refused()
    layers = 1

    def frames(self):
        """Crystals of two elements, far from where atoms stay: forces that nearly cancel would be as small as their rounding."""
        every = super().frames()
        for place, atoms in enumerate(every):
            if atoms.pbc.any():
                atoms.numbers[0] = 8
                atoms.rattle(0.2, seed=place)
        return every

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        pytest.importorskip("triton")
        size = {"channels": 128, "hidden_channels": 128, "edge_channels": 64, "cutoff": 5.0}
        small = {"channels": 16, "hidden_channels": 16, "edge_channels": 4, "num_radial": 4, "cutoff": 3.0}
        small["layers"] = cls.layers
        return random_escn_md(charge_channels=(0, 3), **(size if cls.thorough else small))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, model):
        engine = Engine(model, Settings(ON, "fast_gpu"))
        if not cls.thorough:
            from atomjet.models.escn_md.workspace import Tiles

            engine.evaluator.tiles = Tiles(split=2, splits=2, rows=32)  # empty programs take the interpreter's time
        return engine

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls, model):
        return Engine(model, Settings(ON, "general", "float64"))


@pytest.mark.slow  # in Triton's interpreter
class TestEscnMdRecomputed(TestEscnMd):
    """In the buffers of structures for which memory is short: each layer but the last computes again what it would save."""

    layers = 2

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def short_of_memory(cls):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(captured_path, "choose", lambda *sizes: replace(choose(*sizes), recompute=True))
            yield

    def test_buffers_are_those(self, engine):
        assert engine.reserve(self.frames()[:1]).capacity.recompute


class TestEscnMdInPlainPyTorch(CapturedConformance):
    """The definition, wrapped: equal to the plain engine to the rounding of float64, whatever charge, spin and task."""

    said = SAID
    refused = refused()

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls):
        return Engine(random_escn_md(charge_channels=(0, 3), cutoff=4.0), Settings("cpu", "general", "float64"))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, exact):
        engine = Engine(exact.model, Settings("cpu", "general", "float64"))
        engine.use(plain_stages(engine, Buffered(engine.model, engine.evaluator, precision="float64")))
        return engine

    def test_charge_and_spin_as_without_buffers(self, engine, exact):
        atoms = molecule("H2O")
        atoms.info |= {"charge": 1, "spin": 2, "task": "omol"}
        found, expected = engine.predict(atoms), exact.predict(atoms)
        torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-12)
        atoms.info |= {"charge": 0, "spin": 1}
        assert abs(float(engine.predict(atoms).energy - found.energy)) > 1e-3
