"""The family of `examples/lennard_jones.py`: through every suite that is there for families, and through what users hold."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk

import atomjet
from atomjet import Engine
from atomjet.engine import Settings
from atomjet.errors import AtomJetError
from atomjet.models import tensor_file
from atomjet.models.base import General
from atomjet.models.families import FAMILIES, BackendChoice
from atomjet.testing import CapturedConformance, Conformance, plain_stages
from atomjet.validate import Effort, validate

ON = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def example():
    """The module, its family known as long as it is tested."""
    path = Path(__file__).parents[2] / "examples" / "lennard_jones.py"
    spec = importlib.util.spec_from_file_location("lennard_jones", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()
    yield module
    del FAMILIES["lennard_jones"]


@pytest.fixture(scope="module")
def model(example):
    return example.LennardJones(example.LennardJonesConfig()).double()


@pytest.fixture(scope="module")
def exact(model):
    return Engine(model, Settings("cpu", "general", "float64"))


class TestDefinition(Conformance):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, exact):
        return exact


class TestInBuffers(CapturedConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, example, model):
        engine = Engine(model, Settings("cpu", "general", "float64"))
        engine.use(plain_stages(engine, example.InBuffers(engine.model, "float64")))
        return engine


def test_with_the_search_and_the_sums_that_engines_use(model, exact):
    """Kernels: in Triton's interpreter where there is no GPU."""
    pytest.importorskip("triton")
    engine = Engine(model, Settings(ON, "fast_gpu", "high"))
    atoms = bulk("C", "fcc", a=3.6)
    for _ in range(3):
        found = engine.predict(atoms)
    expected = exact.predict(atoms)
    torch.testing.assert_close(found.energy.cpu(), expected.energy, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.stress.cpu(), expected.stress, rtol=1e-5, atol=1e-9)


def test_a_backend_has_whatever_name_its_family_gives_it(model, exact, monkeypatch):
    family = FAMILIES["lennard_jones"]
    backends = {"by_hand": BackendChoice(General, ()), **family.backends}
    with pytest.raises(AtomJetError, match="backend 'by_hand' is unknown"):
        Settings("cpu", "by_hand")
    monkeypatch.setitem(FAMILIES, "lennard_jones", replace(family, backends=backends))
    engine = Engine(model, Settings("cpu", "by_hand", "float64"))
    assert engine.backend == "by_hand"
    atoms = bulk("C", "fcc", a=3.6)
    torch.testing.assert_close(engine.predict(atoms).energy, exact.predict(atoms).energy, rtol=1e-12, atol=0)
    with pytest.raises(AtomJetError, match=r"choose one of auto, general, .*, by_hand"):
        Settings("cpu", "by_foot")


def test_an_engine_names_what_a_model_lacks(example):
    class Bare(torch.nn.Module):
        family, exchanges, cutoff, elements = "bare", None, 3.0, (1,)

    with pytest.raises(AtomJetError) as caught:
        Engine(Bare(), Settings("cpu"))
    assert str(caught.value) == (
        "Bare has no atomic_energies, bytes_by_autograd, check_conditions, check_task, complete, config, reference_energies, "
        "references, warn; a model gives all that Model in models/contract.py names"
    )


def test_file_calculator_and_checks(example, model, tmp_path):
    path = tmp_path / "lj.safetensors"
    tensor_file.write(path, model, {"name": "Lennard-Jones"})
    engine = atomjet.load(path, device="cpu", precision="float64")
    assert engine.backend == "general"
    crystal = bulk("C", "fcc", a=3.6, cubic=True)
    crystal.calc = atomjet.AtomJetCalculator(engine)
    assert crystal.get_potential_energy() < 0
    report = validate(engine, [crystal], Effort(short=20, medium=60, long=0, nvt=0, order=60.0, reverse=20))
    assert report.passed, [check for check in report.checks if not check.passed]


def test_example_runs(example, capsys):
    example.main()
    assert "Lennard-Jones on cpu" in capsys.readouterr().out
