"""The loss and its gradient as one compiled function of fixed shapes: for long trainings on a GPU.

A step differentiates twice: energies by edge vectors, the loss by weights. Neither derivative needs autograd when the step runs:
both are traced once into a plain list of tensor operations, which `torch.compile` fuses and, on a GPU, replays as a CUDA graph.

The shapes must be the same in every step, so batches are padded to a capacity that all but one in a million fit (the others
are computed without the compiled function). What is added has no weight: atoms of element 0 in a frame of their own, whose label
counts as infinitely strong (weight zero, see `loss.py`), joined by edges longer than the cutoff, on which filters and their
derivatives are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import pad

from atomjet.data import Graph
from atomjet.distill.batches import FrameStore
from atomjet.distill.loss import Batch, HessianRows, losses
from atomjet.distill.optimizer import padded_size
from atomjet.distill.train_config import TrainConfig
from atomjet.models.painn import PaiNN

SPREAD = 5.0
"""Standard deviations above the mean size of a batch that fit into the capacity."""

GRAPH = ("centers", "neighbors", "vectors", "atomic_numbers", "system_index")
LABELS = ("energy", "forces", "counts", "strongest", "virial", "has_virial", "energy_weight")
HESSIAN = ("direction", "rows", "present")
"""What differs between batches of one capacity."""

Compiler = Callable[[GraphModule], Callable[..., tuple[Tensor, Tensor, Tensor]]]


def inductor(traced: GraphModule) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Fuse the operations; replay them as a CUDA graph where there is a GPU."""
    # On a CPU there is no launch to save, and the mode changes nothing.
    return torch.compile(traced, mode="reduce-overhead", dynamic=False)


class CompiledLoss:
    """The compiled form of `losses` and its gradient.

    Args:
        model: the student; its weights are read anew at each call.
        config: weights and shapes of the losses.
        store: where batches come from.
        weights: (F,) how often each frame is drawn.
        frames: most frames in a batch of this rank.
        compiler: what makes the traced operations fast.
    """

    def __init__(
        self,
        model: PaiNN,
        config: TrainConfig,
        store: FrameStore,
        weights: NDArray[np.float64],
        frames: int,
        compiler: Compiler = inductor,
    ) -> None:
        self.model, self.config, self.compiler = model, config, compiler
        self.frames = frames + 1
        self.atoms = capacity(store.sizes, weights, frames)
        self.edges = capacity(store.edges, weights, frames)
        self.run: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None

    def fits(self, batch: Batch) -> bool:
        """Whether the batch fits into the capacity."""
        graph = batch.graph
        return graph.num_systems < self.frames and graph.num_atoms < self.atoms and graph.num_edges <= self.edges

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the total loss, its parts (4,), and the gradient as one vector in the order of the optimizer."""
        filled = self.padded(batch)
        tensors = {name: getattr(filled.graph, name) for name in GRAPH}
        tensors |= {name: value for name in LABELS if (value := getattr(filled, name)) is not None}
        if filled.hessian is not None:
            tensors |= {name: getattr(filled.hessian, name) for name in HESSIAN}
        # Numbers that change from batch to batch must be tensors, or the trace would hold them fixed.
        with_rows = 1 if batch.hessian is None else batch.hessian.atoms
        sizes = torch.tensor([batch.frames, batch.atoms, with_rows], dtype=torch.float32).to(
            batch.energy.device, non_blocking=True
        )
        weights = [parameter.detach().requires_grad_() for parameter in self.model.parameters()]
        if self.run is None:
            self.run = self.compiler(make_fx(_traceable(self.model, self.config, filled))(weights, tensors, sizes))
        with torch.no_grad():
            return self.run([weight.detach() for weight in weights], tensors, sizes)

    def padded(self, batch: Batch) -> Batch:
        """The batch, padded to the capacity."""
        graph = batch.graph
        frames, atoms, edges = (
            self.frames - graph.num_systems,
            self.atoms - graph.num_atoms,
            self.edges - graph.num_edges,
        )
        # Spread over all added atoms: sums into a single one would wait for each other.
        ends = graph.num_atoms + torch.arange(edges, device=graph.centers.device) % atoms
        zeros = torch.zeros_like(graph.charge)
        filled = Graph(
            centers=torch.cat([graph.centers, ends]),
            neighbors=torch.cat([graph.neighbors, ends]),
            shifts=graph.shifts.new_zeros(1, 3).expand(self.edges, 3),
            vectors=pad(graph.vectors, (0, 0, 0, edges), value=2 * graph.cutoff),
            row_ptr=pad(graph.row_ptr, (0, atoms)),  # not read by the definition
            atomic_numbers=pad(graph.atomic_numbers, (0, atoms)),
            system_index=pad(graph.system_index, (0, atoms), value=self.frames - 1),
            charge=pad(zeros, (0, frames)),
            spin=pad(zeros, (0, frames)),
            cutoff=graph.cutoff,
        )
        return replace(
            batch,
            graph=filled,
            energy=pad(batch.energy, (0, frames)),
            forces=pad(batch.forces, (0, 0, 0, atoms)),
            counts=pad(batch.counts, (0, frames), value=1.0),
            strongest=pad(batch.strongest, (0, frames), value=math.inf),
            virial=None if batch.virial is None else pad(batch.virial, (0, 0, 0, 0, 0, frames)),
            has_virial=None if batch.has_virial is None else pad(batch.has_virial, (0, frames)),
            energy_weight=None if batch.energy_weight is None else pad(batch.energy_weight, (0, frames)),
            hessian=self._padded_rows(batch, atoms) if self.config.hessian_weight else None,
        )

    def _padded_rows(self, batch: Batch, atoms: int) -> HessianRows:
        """The Hessian rows, zero for so many added atoms; zero for all atoms of a batch without rows."""
        rows = batch.hessian
        if rows is None:
            nothing = batch.forces.new_zeros(self.atoms, 3)
            return HessianRows(nothing, nothing.clone(), nothing[:, 0].clone(), 1)
        wide = (0, 0, 0, atoms)
        return HessianRows(pad(rows.direction, wide), pad(rows.rows, wide), pad(rows.present, wide[2:]), rows.atoms)


def _traceable(model: PaiNN, config: TrainConfig, example: Batch) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The loss and its gradient as a function of weights, tensors of a batch, and (frames, atoms, atoms with Hessian
    rows) of the whole batch.
    """
    names = [name for name, _ in model.named_parameters()]

    def loss_and_gradient(
        weights: list[Tensor], tensors: dict[str, Tensor], sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        graph = replace(example.graph, **{name: tensors[name] for name in GRAPH})
        labels = {name: tensors[name] for name in LABELS if name in tensors}
        rows = [tensors[name] for name in HESSIAN if name in tensors]
        hessian = HessianRows(*rows, sizes[2]) if rows else None  # type: ignore[arg-type]
        batch = replace(example, graph=graph, frames=sizes[0], atoms=sizes[1], hessian=hessian, **labels)
        total, parts = losses(_Reweighted(model, dict(zip(names, weights, strict=True))), batch, config)
        gradients = torch.autograd.grad(total, weights)
        flat = [pad(g.reshape(-1), (0, padded_size(g) - g.numel())) for g in gradients]
        return total.detach(), parts, torch.cat(flat)

    return loss_and_gradient


class _Reweighted:
    """The student computed with these weights instead of its own."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        self.model, self.weights = model, weights

    def atomic_energies(self, graph: Graph) -> Tensor:
        return functional_call(self.model, self.weights, (graph,))


def capacity(sizes: NDArray[np.int64], weights: NDArray[np.float64], frames: int) -> int:
    """Capacity for the summed sizes of `frames` frames drawn by weight: never more than the largest frames need."""
    mean = float(np.average(sizes, weights=weights))
    variance = float(np.average((sizes - mean) ** 2, weights=weights))
    wanted = min(frames * mean + SPREAD * math.sqrt(frames * variance), frames * float(sizes.max()))
    return 128 * (math.ceil(wanted / 128) + 1)
