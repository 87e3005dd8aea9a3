"""A sane potential that needs no training, and the same one broken in the ways that checks must catch."""

from functools import cache

import torch
from ase.cluster import Icosahedron
from ase.optimize import BFGS

from atomjet.adapters.ase import AtomJetCalculator
from atomjet.data import Prediction
from atomjet.engine import Engine, Settings
from atomjet.models.base import General
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.models.painn.general import cosine_cutoff

CONFIG = PaiNNConfig(features=8, layers=1, num_radial=4, cutoff=5.0, elements=(29,))


class Morse:
    """E = Σ over edges of ½ D [(1 - exp(-a (d - d0)))² - 1] f(d): a definition like any family's."""

    exchanges = None

    def atomic_energies(self, graph):
        d = torch.linalg.vector_norm(graph.vectors, dim=1)
        pair = 0.5 * 1.5 * ((1 - torch.exp(-1.4 * (d - 2.55))) ** 2 - 1) * self.envelope(d, graph.cutoff)
        return torch.zeros(graph.num_atoms, dtype=d.dtype).index_add(0, graph.centers, pair)

    def envelope(self, d, cutoff):
        return cosine_cutoff(d, cutoff) ** 2

    def bytes_by_autograd(self, graph):
        return 200 * graph.num_edges


class Sane(Engine):
    """An engine in all but its energy function."""

    definition = Morse

    def __init__(self, model=None, settings=None, card=None, task=None):
        super().__init__(model or PaiNN(CONFIG), settings or Settings("cpu", "general"), card, task)
        self.evaluator = General(self.definition())


class ScaledGradients(General):
    def energies_and_gradients(self, graph):
        energies, gradients = super().energies_and_gradients(graph)
        return energies, 1.005 * gradients


class ScaledForces(Sane):
    """Forces x 1.005."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.evaluator = ScaledGradients(self.definition())


class NoisyForces(Sane):
    """10 meV/Å of noise on every component, drawn anew at every call."""

    def predict(self, structures):
        made = super().predict(structures)
        noise = 0.01 * torch.randn(made.forces.shape, dtype=made.forces.dtype)
        return Prediction(made.energy, made.forces + noise, made.stress, made.atomic_energies, made.system_index)


class Step(Morse):
    """No envelope: the energy ends abruptly at the cutoff."""

    def envelope(self, d, cutoff):
        return (d < cutoff).to(d.dtype)


class CutoffStep(Sane):
    definition = Step


class Mixed(Morse):
    """A matrix over the Cartesian axes, which no rotation leaves alone."""

    matrix = torch.eye(3, dtype=torch.float64) + 0.05 * torch.tensor([[0, 1, 0], [0, 0, -1], [1, 0, 0]])

    def atomic_energies(self, graph):
        return super().atomic_energies(graph.with_vectors(graph.vectors @ self.matrix.to(graph.vectors.dtype)))


class CartesianMixing(Sane):
    definition = Mixed


@cache
def _relaxed():
    atoms = Icosahedron("Cu", 2, latticeconstant=3.5)
    atoms.calc = AtomJetCalculator(Sane(settings=Settings("cpu", "general", "float64")), remarks=False)
    BFGS(atoms, logfile=None).run(fmax=0.01)
    return atoms


def cluster():
    """Thirteen atoms at the minimum of the Morse potential."""
    atoms = _relaxed().copy()
    atoms.info["name"] = "icosahedron"
    return atoms


def crystal():
    from ase.build import bulk

    atoms = bulk("Cu", "fcc", a=3.45, cubic=True)
    atoms.info["name"] = "crystal"
    return atoms
