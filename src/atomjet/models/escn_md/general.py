"""eSCN-MD, the definition: plain PyTorch, any device, any floating type, any size; autograd gives the rest.

The architecture of UMA (Wood et al., "UMA: a family of universal models for atoms", arXiv:2506.23971; eSEN, arXiv:2502.12147), with
the parameters of fairchem-core 2.x. N atoms, E edges, S systems, C channels, M = (lmax + 1)² coefficients, R of them in a frame.

For the edge from i to j with r = x_j - x_i, d = |r|, u = d / r_c:

    radial input  z = [exp(-(d - μ_k)² / 2σ²), source_embedding[Z_j], target_embedding[Z_i]],  σ = twice the spacing of the μ_k
    envelope      f(u) = 1 - 21 u⁵ + 35 u⁶ - 15 u⁷ inside the cutoff; 0 for neighbours beyond the limit (`neighbor_limit.py`)
    rotation      D with D e = y for the direction e = r / d (`atomjet.ops.wigner`)

Each system has an embedding s = silu(mix[charge, spin, task]); each atom carries x ∈ R^(M x C), at first the embedding of its
element plus s in l = 0, plus Σ_j f Dᵀ radial(z) / 5 over its edges. A layer is

    y = norm(x);  y_00 += s
    edges   m = D [y_j | y_i] ⊙ radial(z);  m = conv_2(gate(conv_1(m)));  x_i += Σ_j f Dᵀ m
    atoms   x += linear_2(gate(linear_1(norm(x)))), the same for every m of a degree
    charge  a few channels of l = 0 are shifted so that they sum to the charge (or spin - 1) of the system

conv is linear and commutes with turns about the edge: for m > 0, (m, -m) is a complex number times a complex matrix W_1 + i W_2.
Its matrices are blends of experts (`experts.py`), or, in a dense model (eSEN), the same for all systems. The energy of an atom is
a network of its l = 0 part, one for each task, times the task's scale. Rotations change nothing; a mirror does: W_2 tells left from
right, here as in fairchem.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.utils.checkpoint import checkpoint

from atomjet.data import Graph, System
from atomjet.data.halo import summed, with_ghosts
from atomjet.models.escn_md import conditions, memory, neighbor_limit
from atomjet.models.escn_md.blocks import Block, RadialNetwork, RMSNorm, TaskLinear, gated_by_order
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.experts import Blend, Blends, MixedLinear, Run, rows_of_systems, runs
from atomjet.models.row_chunks import row_chunks
from atomjet.ops.node_to_edge_wigner_permute import node_to_edge_wigner_permute
from atomjet.ops.permute_wigner_inv_edge_to_node import permute_wigner_inv_edge_to_node
from atomjet.ops.segment_sum import segment_sum
from atomjet.ops.wigner import rotations_to_y, wigner_blocks, wigner_matrices

RESCALE = 5.0
"""Divisor of the edge degrees: about the square root of how many neighbours an atom has."""


class EscnMd(nn.Module):
    """eSCN-MD's learned energy; see the module's docstring for the equations.

    `reference_energies` (tasks, max_z) and `scales` (tasks,) are float64, eV; the references are added outside, in float64.
    """

    family = "escn_md"
    reference_energies: Tensor
    scales: Tensor

    def __init__(self, config: EscnMdConfig) -> None:
        super().__init__()
        self.config, self.exchanges = config, 2 * config.layers
        channels, edge, tasks = config.channels, config.edge_channels, len(config.tasks)
        self.sphere_embedding = nn.Embedding(config.max_z, channels)
        self.charge_embedding = nn.Embedding(len(range(*conditions.LIMITS["charge"])) + 1, channels)
        self.spin_embedding = nn.Embedding(len(range(*conditions.LIMITS["spin"])) + 1, channels)
        if config.task_embedding:
            self.task_embedding = nn.Embedding(tasks, channels)
        self.mix = nn.Linear((3 if config.task_embedding else 2) * channels, channels)
        self.source_embedding = nn.Embedding(config.max_z, edge)
        self.target_embedding = nn.Embedding(config.max_z, edge)
        self.edge_degree = RadialNetwork(config.num_radial + 2 * edge, edge, (config.lmax + 1) * channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.lmax, channels)
        if config.composition != "none":
            self.composition_embedding = nn.Embedding(config.max_z, channels)
        width = channels if config.composition == "none" else 2 * channels
        widths = [width, 2 * config.experts, 2 * config.experts, config.experts] if config.experts else []
        self.routing = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        hidden = config.hidden_channels
        self.head = nn.ModuleList(
            TaskLinear(tasks, inputs, outputs)
            for inputs, outputs in ((channels, hidden), (hidden, hidden), (hidden, 1))
        )
        self.register_buffer("reference_energies", torch.zeros(tasks, config.max_z, dtype=torch.float64))
        self.register_buffer("scales", torch.ones(tasks, dtype=torch.float64))
        self.blends = Blends()
        self.warned: conditions.Warned = set()
        self.known = conditions.KnownStructures()

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.config.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model serves."""
        return tuple(range(1, self.config.max_z))

    @property
    def mixed_linears(self) -> list[MixedLinear]:
        """All blended maps, in the order of `Blend.weights`: by layer, conv_1 before conv_2, by m."""
        return [module for module in self.modules() if isinstance(module, MixedLinear)]

    def check_task(self, task: str | None) -> str | None:
        """The task of structures that name none; see `conditions.check_task`."""
        return conditions.check_task(self.config, task)

    def check_conditions(self, charge: int | None, spin: int | None) -> None:
        """Refuse a charge or spin of structures that give none; see `conditions.check_conditions`."""
        conditions.check_conditions(charge, spin)

    def complete(self, system: System, task: str | None) -> System:
        """Fill in what a system leaves open (task, spin), or say what is wrong; see `conditions.complete`."""
        completed = conditions.complete(self.config, system, task)
        conditions.warn_of_conditions(completed, self.warned)
        return completed

    def warn(self, system: System, graph: Graph) -> None:
        """Warn of atoms with more neighbours than count; see `conditions.warn_of_limit`."""
        conditions.warn_of_limit(self.config, system, graph, self.known)

    def references(self, graph: Graph) -> Tensor:
        """(N,) float64, eV: the energy of each atom by element and task, to be added to the learned energies."""
        return self.reference_energies[self.tasks_of(graph)[graph.system_index], graph.atomic_numbers]

    def tasks_of(self, graph: Graph) -> Tensor:
        """(S,) the number of each system's task."""
        numbers = [self.config.tasks.index(task) for task in graph.task]
        return torch.tensor(numbers, device=graph.atomic_numbers.device, dtype=torch.int64)

    def system_embedding(self, charge: int, spin: int, task: str) -> Tensor:
        """(C,) float64 embedding of charge, spin and, where the model has embeddings of tasks, task."""
        parts = [
            self.charge_embedding.weight[charge - conditions.LIMITS["charge"][0]],
            self.spin_embedding.weight[spin],
        ]
        if self.config.task_embedding:
            parts.append(self.task_embedding.weight[self.config.tasks.index(task)])
        return silu(linear(torch.cat(parts).double(), self.mix.weight.double(), self.mix.bias.double()))

    def expert_coefficients(self, composition: tuple[tuple[int, int], ...], embedding: Tensor) -> Tensor:
        """(K,) float64: how much of each expert a system takes; they need not sum to one."""
        x = embedding
        if self.config.composition != "none":
            numbers = torch.tensor([number for number, _ in composition], device=x.device)
            counts = torch.tensor([count for _, count in composition], device=x.device, dtype=x.dtype)
            total = counts.sum() + (self.config.composition == "mean_with_zero")
            x = torch.cat([counts @ self.composition_embedding.weight[numbers].double() / total, x])
        for layer in self.routing:
            x = silu(linear(x, layer.weight.double(), layer.bias.double()))  # type: ignore[arg-type]
        return torch.softmax(x, dim=0) + 0.005

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Move or cast as usual, but keep references and scales in float64: references are thousands of eV."""
        exact = {name: getattr(self, name) for name in ("reference_energies", "scales")}
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        self.blends.clear()
        return self

    def radial_basis(self, lengths: Tensor) -> Tensor:
        """(E,) Å to (E, num_radial) Gaussians, even from 0 to the cutoff, twice as wide as their distance."""
        centers = torch.linspace(0, self.cutoff, self.config.num_radial, dtype=torch.float64).to(lengths)
        width = 2 * self.cutoff / (self.config.num_radial - 1)
        return torch.exp(-0.5 * ((lengths[:, None] - centers) / width) ** 2)

    def envelope(self, lengths: Tensor) -> Tensor:
        """(E,) Å to (E,): 1 - 21 u⁵ + 35 u⁶ - 15 u⁷ with u = d / cutoff, zero beyond; twice differentiable at the cutoff."""
        u = lengths / self.cutoff
        return (1 + u**5 * (-21 + u * (35 - 15 * u))) * (u < 1)

    def envelope_slope(self, lengths: Tensor) -> Tensor:
        """(E,) derivative of the envelope."""
        u = lengths / self.cutoff
        return u**4 * (-105 + u * (210 - 105 * u)) / self.cutoff * (u < 1)

    def atomic_energies(self, graph: Graph) -> Tensor:
        """(N,) float64 learned energies, eV, without references; differentiable with respect to `graph.vectors` only."""
        parts = [(run, self.blends.of(self, run.key)) for run in runs(self, graph)]
        lengths = torch.linalg.vector_norm(graph.vectors, dim=1)
        rotations = rotations_to_y(graph.vectors / lengths[:, None])
        wigner = wigner_matrices(wigner_blocks(rotations, self.config.lmax), self.config.mmax)
        z = torch.cat(
            [
                self.radial_basis(lengths),
                self.source_embedding(graph.atomic_numbers)[graph.neighbors],
                self.target_embedding(graph.atomic_numbers)[graph.centers],
            ],
            dim=1,
        )
        envelope = self.envelope(lengths)
        counted = neighbor_limit.weights(graph, self.config.max_neighbors)
        if counted is not None:
            envelope = envelope * counted
        counts = torch.tensor([run.systems.stop - run.systems.start for run, _ in parts], device=lengths.device)
        embedding = torch.stack([blend.embedding for _, blend in parts]).repeat_interleave(counts, 0)[
            graph.system_index
        ]

        system_ptr, own = rows_of_systems(graph), graph.num_owned
        scalars = self.sphere_embedding(graph.atomic_numbers[:own]) + embedding[:own]
        x = torch.cat([scalars[:, None], scalars.new_zeros(len(scalars), wigner.shape[2] - 1, scalars.shape[1])], dim=1)
        degree = self.edge_degree(z).unflatten(1, (self.config.lmax + 1, -1)) / RESCALE
        m0 = wigner[:, : self.config.lmax + 1]
        x = x + permute_wigner_inv_edge_to_node(degree, m0, envelope, graph.row_ptr, graph.centers)
        for index, block in enumerate(self.blocks):
            (everywhere,) = with_ghosts(graph.halo, x)
            y = block.norm_1(everywhere)  # type: ignore[operator]
            y = torch.cat([y[:, :1] + embedding[:, None], y[:, 1:]], dim=1)
            x = x + self._messages(index, y, z, wigner, envelope, graph, parts)
            x = x + block.atom_wise(block.norm_2(x))  # type: ignore[operator]
            x = self.balance(x, graph, system_ptr)
        return self._read_out(self.norm(x)[:, 0], graph)

    def _messages(
        self,
        index: int,
        y: Tensor,
        z: Tensor,
        wigner: Tensor,
        envelope: Tensor,
        graph: Graph,
        parts: list[tuple[Run, Blend]],
    ) -> Tensor:
        """(owned, M, C) sums over the edges of every atom, run by run."""
        block: Block = self.blocks[index]  # type: ignore[assignment]
        number = len(block.conv_1.degrees)
        start = 2 * number * index
        fits = graph.num_edges <= memory.edges_at_once(self.config, y.device, y.dtype, self.config.layers)
        limit = graph.num_edges if fits else memory.edges_at_once(self.config, y.device, y.dtype, layers=2)
        sums = []
        for run, blend in parts:
            first = [blend.weights[start + m] for m in range(number)]
            second = [blend.weights[start + number + m] for m in range(number)]
            for atoms, edges in row_chunks(graph, limit, run.atoms, run.edges):

                def message(y: Tensor, z: Tensor, wigner: Tensor, envelope: Tensor, first=first, second=second,
                            atoms=atoms, edges=edges) -> Tensor:  # fmt: skip
                    m = node_to_edge_wigner_permute(y, wigner, graph.neighbors[edges], graph.centers[edges])
                    orders = block.conv_1.by_order(m)
                    factors = block.radial(z).split([part.shape[-2] * part.shape[-1] for part in orders], dim=1)
                    # m and -m share a factor.
                    orders = [
                        part * f.unflatten(1, (-1, part.shape[-1]))[(slice(None), *((part.ndim - 3) * [None]))]
                        for part, f in zip(orders, factors, strict=True)
                    ]
                    orders = gated_by_order(*block.conv_1(orders, first))
                    _, orders = block.conv_2(orders, second)
                    m = torch.cat([part.flatten(1, -2) for part in orders], dim=1)
                    row_ptr = graph.row_ptr[atoms.start : atoms.stop + 1] - edges.start
                    return permute_wigner_inv_edge_to_node(
                        m, wigner, envelope, row_ptr, graph.centers[edges] - atoms.start
                    )

                inputs = (y, z[edges], wigner[edges], envelope[edges])
                # What would not fit is taken a part of its edges at a time, computed anew when their derivative is wanted.
                sums.append(message(*inputs) if fits else checkpoint(message, *inputs, use_reentrant=False))
        return torch.cat(sums)

    def balance(self, x: Tensor, graph: Graph, system_ptr: Tensor) -> Tensor:
        """Shift a few scalar channels of every atom of a system alike, so that they sum to its charge, or spin minus one."""
        targets = ((self.config.charge_channels, graph.charge), (self.config.spin_channels, graph.spin - 1))
        index = graph.system_index[: graph.num_owned]
        atoms = summed(graph.halo, system_ptr.diff())
        for (start, stop), target in targets:
            if stop > start:
                part = x[:, 0, start:stop]
                sums = summed(graph.halo, segment_sum(part, system_ptr, index))
                surplus = (sums - target[:, None]) / atoms[:, None]
                scalars = torch.cat([x[:, 0, :start], part - surplus[index], x[:, 0, stop:]], dim=1)
                x = torch.cat([scalars[:, None], x[:, 1:]], dim=1)
        return x

    def _read_out(self, scalars: Tensor, graph: Graph) -> Tensor:
        """(N, C) to (N,) float64 eV, with the head and scale of each system's task."""
        tasks = self.tasks_of(graph)[graph.system_index[: graph.num_owned]]
        energies = torch.zeros(len(scalars), dtype=torch.float64, device=scalars.device)
        for number in sorted({self.config.tasks.index(task) for task in graph.task}):
            atoms = (tasks == number).nonzero().flatten()
            x = scalars[atoms]
            for depth, layer in enumerate(self.head):
                x = linear(silu(x) if depth else x, layer.weights[number], layer.bias)  # type: ignore[index]
            energies = energies.index_copy(0, atoms, x.squeeze(1).double() * self.scales[number])
        return energies

    def bytes_by_autograd(self, graph: Graph) -> int:
        """Upper estimate of what energies and their derivative take, with the blends that this call needs."""
        return memory.bytes_by_autograd(self.config, graph, self.norm.affine_bias.dtype) + self.bytes_of_blends(graph)

    def bytes_of_blends(self, graph: Graph) -> int:
        """What the blends of all unlike systems in a graph take."""
        return len({run.key for run in runs(self, graph)}) * self.blends.bytes_of_one(self)

    def forward(self, graph: Graph) -> Tensor:
        """Same as `atomic_energies`: the name that PyTorch's wrappers call."""
        return self.atomic_energies(graph)
