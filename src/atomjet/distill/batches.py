"""Frames on the device, and batches cut from them without the host ever waiting.

A hundred thousand molecules of a dozen atoms are some 300 MB with their edges: all of them lie on the device, their edges searched
once. A batch is then a handful of gathers, whose sizes the host knows beforehand. Batches are drawn without regard to size:
graphs are ragged, nothing is padded, and the sum over hundreds of random frames varies by a few percent only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.distill.frames import Frames
from atomjet.distill.loss import Batch, HessianRows
from atomjet.neighbors.brute_force import brute_force

Indices = NDArray[np.int64]

SEARCH_FRAMES = 4096
"""Frames whose edges are searched together."""

PREDICTION_EDGES = 50_000
"""Edges of a batch where only energies and forces are asked for: about 1 GB at 128 channels."""


FREE_ATOMS = 1e-3
"""Most that all free atoms together weigh in the energy loss, as a share of all frames. They lie several eV above atoms in
molecules, and their error is divided by one atom only: where a data set is small they would be most of the loss.
"""


class FrameStore:
    """Labelled frames on a device with all edges within the cutoff.

    Args:
        frames: what `read_dataset` gives.
        reference: (max_z,) float64, eV: reference energy of each element, taken off the labels.
        cutoff: Å.
        device: where the tensors live.
    """

    def __init__(self, frames: Frames, reference: NDArray[np.float64], cutoff: float, device: torch.device) -> None:
        self.frames, self.cutoff, self.device = frames, cutoff, device
        self.sizes = frames.counts
        frame_of_atom = np.repeat(np.arange(len(frames)), self.sizes)
        residual = frames.energy - np.bincount(frame_of_atom, reference[frames.numbers], len(frames))
        strongest = np.zeros(len(frames), dtype=np.float32)
        np.maximum.at(strongest, frame_of_atom, np.linalg.norm(frames.forces, axis=1))
        self.energy = torch.as_tensor(residual.astype(np.float32), device=device)
        self.strongest = torch.as_tensor(strongest, device=device)
        volume = np.abs(np.linalg.det(frames.cell)).reshape(-1, 1, 1)
        self.stressed = np.isfinite(frames.stress.sum(axis=(1, 2)))
        virial = np.where(self.stressed[:, None, None], frames.stress, 0.0) * volume
        self.virial = torch.as_tensor(virial.astype(np.float32), device=device)
        self.has_virial = torch.as_tensor(self.stressed.astype(np.float32), device=device)
        free = self.sizes == 1
        share = FREE_ATOMS * len(frames) / max(1, int(free.sum()))
        self.energy_weight = torch.as_tensor(np.where(free, min(1.0, share), 1.0).astype(np.float32), device=device)
        self.numbers = torch.as_tensor(frames.numbers.astype(np.int64), device=device)
        self.forces = torch.as_tensor(frames.forces, device=device)
        self.atom_ptr = torch.as_tensor(frames.ptr, device=device)
        self._search()
        self.hessian_begin = np.searchsorted(np.sort(frames.hessian_frame), np.arange(len(frames) + 1))
        self.hessian_order = np.argsort(frames.hessian_frame, kind="stable")
        self.hessian_rows = torch.as_tensor(frames.hessian_rows, device=device)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def _search(self) -> None:
        """Find the edges of all frames, those of one size together; indices are stored relative to the frame."""
        by_size = np.argsort(self.sizes, kind="stable")
        starts = np.zeros(len(self), dtype=np.int64)
        numbers = np.zeros(len(self), dtype=np.int64)
        centers, neighbors, vectors, found = [], [], [], 0
        for chunk in np.array_split(by_size, max(1, len(self) // SEARCH_FRAMES)):
            system = to_system(self.frames.select(chunk), self.device)
            graph = brute_force(system, self.cutoff)
            frame_of_edge = system.system_index[graph.centers]
            first_atom = (torch.cumsum(system.counts(), 0) - system.counts())[frame_of_edge]
            numbers[chunk] = torch.bincount(frame_of_edge, minlength=len(chunk)).cpu().numpy()
            starts[chunk] = found + np.cumsum(numbers[chunk]) - numbers[chunk]
            found += graph.num_edges
            centers.append((graph.centers - first_atom).int())
            neighbors.append((graph.neighbors - first_atom).int())
            vectors.append(graph.vectors)
        self.edges = numbers
        self.edge_start = torch.as_tensor(starts, device=self.device)
        self.edge_count = torch.as_tensor(numbers, device=self.device)
        self.centers, self.neighbors, self.vectors = torch.cat(centers), torch.cat(neighbors), torch.cat(vectors)

    def batch(self, indices: Indices, frames: int | None = None, atoms: int | None = None) -> Batch:
        """The frames of these indices; `frames` and `atoms` count the whole batch where this is one rank's share of it."""
        chosen = torch.as_tensor(indices).to(self.device, non_blocking=True)
        graph, atom, counts = self._graph(chosen, int(self.sizes[indices].sum()), int(self.edges[indices].sum()))
        return Batch(
            graph=graph,
            energy=self.energy[chosen],
            forces=self.forces[atom],
            counts=counts.to(self.forces.dtype),
            strongest=self.strongest[chosen],
            virial=self.virial[chosen] if self.stressed.any() else None,
            has_virial=self.has_virial[chosen] if self.stressed.any() else None,
            energy_weight=self.energy_weight[chosen],
            frames=len(indices) if frames is None else frames,
            atoms=len(atom) if atoms is None else atoms,
        )

    def _graph(self, chosen: Tensor, atoms: int, edges: int) -> tuple[Graph, Tensor, Tensor]:
        """Gather the graph of the chosen frames; also the stored row of each atom, and the atoms of each frame."""
        first, last = self.atom_ptr[chosen], self.atom_ptr[chosen + 1]
        counts = last - first
        system_index, within = _ragged(counts, atoms)
        begin = torch.cumsum(counts, 0) - counts
        atom = first[system_index] + within
        frame_of_edge, edge = _ragged(self.edge_count[chosen], edges)
        edge = edge + self.edge_start[chosen][frame_of_edge]
        shift = begin[frame_of_edge]
        centers = self.centers[edge] + shift
        degrees = torch.zeros(atoms, dtype=torch.int64, device=self.device).index_add(
            0, centers, torch.ones_like(centers)
        )
        zeros = torch.zeros_like(chosen)
        graph = Graph(
            centers=centers,
            neighbors=self.neighbors[edge] + shift,
            shifts=zeros[:1, None].expand(edges, 3),  # already in the vectors
            vectors=self.vectors[edge],
            row_ptr=torch.cat([zeros[:1], torch.cumsum(degrees, 0)]),
            atomic_numbers=self.numbers[atom],
            system_index=system_index,
            charge=zeros,
            spin=zeros,
            cutoff=self.cutoff,
        )
        return graph, atom, counts

    def atoms_with_rows(self, indices: Indices) -> int:
        """Atoms of those of these frames that have Hessian rows."""
        return int(self.sizes[indices][np.diff(self.hessian_begin)[indices] > 0].sum())

    def hessian(self, indices: Indices, draws: NDArray[np.float64], atoms_of_all: int) -> HessianRows | None:
        """One Hessian row of each frame that has any, chosen by `draws` in [0, 1), one for each index."""
        begin, number = self.hessian_begin[indices], np.diff(self.hessian_begin)[indices]
        having = np.flatnonzero(number)
        if not len(having):
            return None
        row = self.hessian_order[(begin + np.floor(draws * number).astype(np.int64))[having]]
        counts = self.sizes[indices]
        first = np.cumsum(counts) - counts
        # Where each atom of the chosen rows stands in the batch, and where its part of the row is stored.
        size = counts[having]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        atom = torch.as_tensor(np.repeat(first[having], size) + within, device=self.device)
        stored = torch.as_tensor(np.repeat(self.frames.hessian_ptr[row], size) + within, device=self.device)
        coordinate = (first[having] + self.frames.hessian_atom[row]) * 3 + self.frames.hessian_axis[row]
        atoms = int(counts.sum())
        direction = torch.zeros(atoms * 3, device=self.device)
        direction[torch.as_tensor(coordinate, device=self.device)] = 1.0
        rows, present = torch.zeros(atoms, 3, device=self.device), torch.zeros(atoms, device=self.device)
        rows[atom] = self.hessian_rows[stored]
        present[atom] = 1.0
        return HessianRows(direction.reshape(-1, 3), rows, present, atoms_of_all)

    def in_order(self) -> Iterator[Indices]:
        """All frames in runs of about `PREDICTION_EDGES` edges."""
        run = (np.cumsum(self.edges) - self.edges) // PREDICTION_EDGES
        if len(self):
            yield from np.split(np.arange(len(self)), np.flatnonzero(np.diff(run)) + 1)


def to_system(frames: Frames, device: torch.device) -> System:
    """The structures of all frames, without labels."""
    return System(
        positions=torch.as_tensor(frames.positions, device=device),
        atomic_numbers=torch.as_tensor(frames.numbers.astype(np.int64), device=device),
        cell=torch.as_tensor(frames.cell.astype(np.float32), device=device),
        pbc=torch.as_tensor(frames.pbc, device=device),
        system_index=torch.as_tensor(np.repeat(np.arange(len(frames)), frames.counts), device=device),
    )


def epoch_order(weights: NDArray[np.float64], seed: int, epoch: int) -> Indices:
    """Frames of one epoch in random order; frame f appears weights[f] times, rounded up or down at random.

    It depends on its arguments alone, so a run that is resumed sees the same batches. The length is the same in every epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(weights))
    running = np.cumsum(weights[shuffled])
    number = draws_per_epoch(weights)
    # One draw in each of `number` equal stretches of the running weight: no frame is drawn more often than its weight says.
    points = (np.arange(number) + generator.uniform()) * (running[-1] / number)
    return generator.permutation(shuffled[np.searchsorted(running, points, side="right").clip(max=len(weights) - 1)])


def draws_per_epoch(weights: NDArray[np.float64]) -> int:
    """Number of frames in an epoch."""
    return max(1, round(float(weights.sum())))


def _ragged(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Row of each element of a ragged array, and its place within the row; `total` spares asking the device."""
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=total)
    begin = torch.cumsum(counts, 0) - counts
    return rows, torch.arange(total, device=counts.device) - begin[rows]
