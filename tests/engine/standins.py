"""An engine on the CPU behind the captured path, in plain PyTorch."""

from dataclasses import replace

import torch

from atomjet.engine.evaluation import Stages
from atomjet.engine.pool import BufferPool
from atomjet.models.painn.fast_pytorch import FastPyTorch
from atomjet.testing.plain import Buffered, plain_stages


class Pairs(FastPyTorch):
    """Springs between all atoms within the cutoff, ending smoothly there: what an atom feels is its own row's business only, to the
    last bit, which products of matrices on a CPU do not promise.
    """

    def energies_and_gradients(self, graph):
        length, cutoff = graph.lengths.double(), 3.0
        gap = (cutoff - length).clamp(min=0)
        energy = torch.zeros(graph.num_atoms, dtype=torch.float64).index_add_(0, graph.centers, 0.05 * gap**3)
        slope = -0.15 * gap**2 / length
        return energy, slope[:, None] * graph.vectors


class Large(Buffered):
    """Says that it takes as much as a model does."""

    def bytes_of(self, capacity):
        return 1000 * capacity.atoms + 100 * capacity.edges


def pool_of(engine) -> BufferPool:
    """The engine's sets of buffers."""
    return engine.captured_path.pool


def stages(engine, backend=FastPyTorch, **changed) -> Stages:
    """For a family without tasks, charges and spins; `changed` replaces stages."""
    buffered = Large(engine.model, backend(engine.model), silent_conditions=(0, 0, 0, 0))
    return replace(plain_stages(engine, buffered), **changed)
