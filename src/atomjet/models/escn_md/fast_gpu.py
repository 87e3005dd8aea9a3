"""eSCN-MD in fused Triton kernels, for lmax = 2 and mmax = 1 or 2: one row of launches from edges to energies and gradients.

The same function as `general.py`, with the derivative of `fast_pytorch.py`, in buffers of fixed size and without looking at the
host: charge, spin, task and blend of each structure are data (`ConditionBuffers`, `BlendSlots`), so one CUDA graph serves them
all.

    once        frames, places in the radial tables (`edge_frames`), first features (`edge_degrees_gpu`)
    layer       norm; pack: turn and scale both atoms of every edge; product; gate; product; unpack: turn back and sum;
                what atoms do alone (`atom_wise_gpu`); sums of the charge channels
    head        energies, and x̄ = dE/dx, from which the layers are gone through backwards
    last        edge degrees backwards, and dE/d(edge vectors)

- What belongs to edges is in half precision, with precision "high" in float32; what belongs to atoms and all sums in float32. An
  edge's derivatives are in units of a power of two of its center (`share`), so that they keep their digits.
- An atom's program does what its features need in both edges of a pair: nothing is gathered, nothing added atomically, and results
  are the same to the last bit.
- Gradients are those of forces and virials: what belongs to a reverse edge may be counted at the edge itself (see
  `ops/node_to_edge_wigner_permute_gpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from atomjet.data import Capacity, ConditionBuffers, Conditions, Graph, GraphBuffers, Status, System
from atomjet.errors import BackendError
from atomjet.models.contract import Atomic, Segment, TuningSpace
from atomjet.models.escn_md.blocks import Block
from atomjet.models.escn_md.edges_gpu import GpuEdges, GpuEdgeWeights
from atomjet.models.escn_md.experts import mixture_keys
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.escn_md.layers import evaluate
from atomjet.models.escn_md.workspace import Tiles, Workspace, allocate, bytes_of, tiles_for
from atomjet.models.kernel_device import check_kernel_device
from atomjet.neighbors import search
from atomjet.ops import atom_wise_gpu, channel_balance_gpu, degree_norm_gpu, task_head_gpu
from atomjet.ops.node_to_edge_wigner_permute_gpu import node_to_edge_wigner_permute_fwd_kernel

OLDEST = (8, 0)
"""Compute capability of the oldest GPU whose tensor cores the kernels are written for."""

WIDTHS = (16, 32, 64, 128, 256)
"""Channels, hidden or not, that the kernels serve."""


class FastGpu:
    """The `fast_gpu` backend of eSCN-MD; holds rearranged copies of the weights.

    Args:
        model: on a CUDA device.
        precision: "default" or "high".
        tiles: how the kernels are tiled; default: by the size of the call.

    Raises:
        BackendError: a model, device or precision that the kernels do not serve.
    """

    tuning: TuningSpace | None = None
    silent_conditions: tuple[int, int, int, int] | None = None
    exchanges: int | None = None

    def __init__(self, model: EscnMd, precision: str = "default", tiles: Tiles | None = None) -> None:
        _check(model, precision)
        self.model, self.precision, self.tiles = model, precision, tiles
        self.storage_dtype = torch.float16 if precision == "default" else torch.float32
        config = model.config
        self.device = model.sphere_embedding.weight.device
        self.balanced = [
            (channels, name)
            for channels, name in ((config.charge_channels, "charge"), (config.spin_channels, "spin"))
            if channels[1] > channels[0]
        ]
        with torch.no_grad():
            self.edges = GpuEdgeWeights(model, self.storage_dtype)
            self.slots, self.tables = self.edges.slots, self.edges.tables
            blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
            self.norms = [
                (b.norm_1.affine_weight.detach().float(), b.norm_1.affine_bias.detach().float()) for b in blocks
            ]
            self.atom_wise = [atom_wise_gpu.weights_of(b.norm_2, b.atom_wise) for b in blocks]
            self.head = _head(model)

    # ---------------------------------------------------------------------------------------------------------- conditions

    def admit(self, system: System, task: str | None) -> Conditions | None:
        """See `CapturedBackend`; None where calls hold too many blends."""
        completed = self.model.complete(system, task)
        if (
            self.model.config.max_neighbors
        ):  # the device does not report that it binds; checked here, once a composition
            self.model.warn(completed, search(completed, self.model.cutoff))
        keys = mixture_keys(self.model, completed)
        self._tabulate(completed.atomic_numbers, completed.system_index, completed.num_systems)
        held = self.slots.take(keys)
        if held is None:
            return None
        conditions = Conditions.of(completed, self.model.config.tasks)
        conditions.values[3] = held[0]
        return replace(conditions, lease=held[1])

    def _tabulate(self, numbers: Tensor, system_index: Tensor, systems: int) -> bool:
        """Make the tables of all pairs of elements that stand in one structure; return whether all pairs have one."""
        size = self.model.config.max_z
        there = np.zeros((systems, size), dtype=bool)
        there[system_index.cpu().numpy(), numbers.cpu().numpy()] = True
        pairs = np.einsum("sa,sb->ab", there.astype(np.int64), there.astype(np.int64))
        return self.tables.add((int(a), int(b)) for a, b in np.argwhere(pairs))

    # ---------------------------------------------------------------------------------------------------------- workspace

    def tiles_for(self, capacity: Capacity) -> Tiles:
        """How the kernels are tiled for a capacity."""
        return self.tiles or tiles_for(capacity, self.model.config, self.storage_dtype)

    def _dense(self, capacity: Capacity, tiles: Tiles) -> bool:
        """Whether cuBLAS multiplies: it does not know how many rows are in use, nor more than one blend."""
        return capacity.systems == 1 and capacity.edges > tiles.dense and self.storage_dtype == torch.float16

    def workspace(self, capacity: Capacity) -> Workspace:
        """See `CapturedBackend`."""
        return self._workspace(capacity, self.device)

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates."""
        return bytes_of(self._workspace(capacity, torch.device("meta")))

    def _workspace(self, capacity: Capacity, device: torch.device, networks: bool = False) -> Workspace:
        """With rows of the radial networks where some pairs of elements have no tables."""
        tiles = self.tiles_for(capacity)
        return allocate(
            self.model.config,
            capacity,
            tiles,
            self.storage_dtype,
            device,
            blend=self.slots.weights.shape[1] if self._dense(capacity, tiles) else 0,
            rows=self.edges.row_of_network if networks else None,
        )

    # ---------------------------------------------------------------------------------------------------------- evaluation

    def segments(self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: Workspace) -> Sequence[Segment]:
        """See `CapturedBackend`."""
        call = _Call(self, graph, conditions, workspace)
        return [Segment(call.launch)]

    def result(self, workspace: Workspace) -> Atomic:
        """See `CapturedBackend`."""
        return Atomic(workspace.energies, workspace.gradients, of_reverse=False)

    @torch.no_grad()
    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å as `forces_from_gradients` and virials take them.

        Raises:
            BackendError: more unlike structures than there are slots for their weights.
        """
        keys = mixture_keys(self.model, graph)
        whole = self._tabulate(graph.atomic_numbers, graph.system_index, graph.num_systems)
        held = self.slots.take(keys)
        if held is None:
            raise BackendError(
                f"structures with {len(set(keys))} different mixtures of experts at once, and memory for the weights of "
                f"{len(self.slots.weights)}; give fewer"
            )
        try:
            buffers = GraphBuffers.from_graph(graph)
            conditions = ConditionBuffers.empty(graph.num_systems, graph.num_atoms, self.device)
            conditions.values.copy_(torch.stack([graph.charge, graph.spin, self.model.tasks_of(graph), graph.charge]))
            conditions.values[3] = torch.tensor(held[0], device=self.device)
            conditions.system_index.copy_(graph.system_index)
            workspace = self._workspace(buffers.capacity, self.device, networks=not whole)
            _Call(self, buffers, conditions, workspace).launch()
            atomic = self.result(workspace)
            gradients = atomic.gradients[0, : graph.num_edges, :3].clone()
            energies = atomic.energies.clone()
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
        finally:
            held[1].release()
        return energies, gradients

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        capacity = Capacity(graph.num_systems, graph.num_atoms, max(graph.num_edges, 1), graph.num_atoms)
        numbers, dtype = self.edges.row_of_network
        row = numbers * dtype.itemsize if self.tables.full else 0
        return self.bytes_of(capacity) + (64 + row) * graph.num_edges


class _Call:
    """The `Steps` of one evaluation over fixed buffers: each is enqueued."""

    def __init__(self, backend: FastGpu, graph: GraphBuffers, conditions: ConditionBuffers, w: Workspace) -> None:
        self.backend, self.graph, self.conditions, self.w = backend, graph, conditions, w
        self.edges = GpuEdges(backend.edges, graph, conditions, w)
        self.num_atoms = graph.owned

    def launch(self) -> None:
        """Enqueue everything."""
        evaluate(self, self.backend.model.config.layers)

    def degrees(self) -> None:
        """See `Steps`."""
        self.edges.degrees()

    def messages(self, layer: int) -> None:
        """See `Steps`."""
        b, w, conditions = self.backend, self.w, self.conditions
        weight, bias = b.norms[layer]
        degree_norm_gpu.launch_fwd(
            x=w.x[layer],
            shift=w.shift if b.balanced and layer else None,
            weight=weight,
            bias=bias,
            structures=b.slots.embeddings,
            system_index=conditions.system_index,
            slots=conditions.slot,
            num_atoms=self.num_atoms,
            y=w.y[layer],
        )
        self.edges.messages(layer)

    def atom_wise(self, layer: int) -> None:
        """See `Steps`."""
        b, w = self.backend, self.w
        after = w.x[layer + 1] if layer + 1 < len(w.x) else w.last
        atom_wise_gpu.launch_fwd(
            x=w.middle[layer],
            weights=b.atom_wise[layer],
            num_atoms=self.num_atoms,
            out=after,
            atoms=w.tiles.atoms,
            warps=w.tiles.atom_warps,
        )
        self._balance(after, w.shift, with_target=True)

    def read_out(self) -> None:
        """See `Steps`."""
        b, w = self.backend, self.w
        task_head_gpu.launch(
            x=w.last,
            shift=w.shift if b.balanced else None,
            system_index=self.conditions.system_index,
            tasks=self.conditions.task,
            weights=b.head,
            num_atoms=self.num_atoms,
            energies=w.energies,
            x_bar=w.x_bar,
            status=self.graph.status,
            bit=int(Status.RANGE),
            atoms=w.tiles.atoms,
        )

    def atom_wise_backward(self, layer: int) -> None:
        """See `Steps`; the norm before it too."""
        b, w, conditions = self.backend, self.w, self.conditions
        shift = w.shift_bar if b.balanced else None
        self._balance(w.x_bar, w.shift_bar, with_target=False)
        atom_wise_gpu.launch_bwd(
            x_bar=w.x_bar,
            shift=shift,
            system_index=conditions.system_index,
            x=w.middle[layer],
            weights=b.atom_wise[layer],
            num_atoms=self.num_atoms,
            z_bar=w.y_bar[0],
            gate_bar=w.gate_bar,
            atoms=w.tiles.atoms,
            warps=w.tiles.atom_warps,
        )
        degree_norm_gpu.launch_bwd(
            y_bar=w.y_bar[:1],
            more=w.gate_bar,
            x=w.middle[layer],
            shift=shift,
            weight=b.atom_wise[layer].norm,
            residual=w.x_bar,
            system_index=conditions.system_index,
            num_atoms=self.num_atoms,
            x_bar=w.x_bar,
            unit=w.unit,
        )

    def messages_backward(self, layer: int) -> None:
        """See `Steps`; the norm of what edges read too."""
        self.edges.messages_backward(layer)
        b, w = self.backend, self.w
        degree_norm_gpu.launch_bwd(
            y_bar=w.y_bar,
            more=None,
            x=w.x[layer],
            shift=None,
            weight=b.norms[layer][0],
            residual=w.x_bar,
            system_index=self.conditions.system_index,
            num_atoms=self.num_atoms,
            x_bar=w.x_bar,
            unit=None,
        )

    def degrees_backward(self) -> None:
        """See `Steps`."""
        self.edges.degrees_backward()

    def _balance(self, x: Tensor, shift: Tensor, with_target: bool) -> None:
        for number, (channels, name) in enumerate(self.backend.balanced):
            channel_balance_gpu.launch(
                x=x,
                system_ptr=self.graph.system_ptr,
                target=getattr(self.conditions, name) if with_target else None,
                less=0 if name == "charge" else 1,
                channels=channels,
                shift=shift,
                first=number == 0,
                atoms=self.w.capacity.atoms_per_system,
            )


def _head(model: EscnMd) -> task_head_gpu.Weights:
    (first, second, third) = model.head
    w_1, w_2, w_3 = (layer.weights.detach().float() for layer in (first, second, third))  # type: ignore[union-attr]
    b_1, b_2, b_3 = (layer.bias.detach().float() for layer in (first, second, third))  # type: ignore[union-attr]
    return task_head_gpu.Weights(
        model.norm.affine_weight.detach().float(),
        model.norm.affine_bias.detach().float(),
        atom_wise_gpu.halves(w_1.mT),
        b_1,
        atom_wise_gpu.halves(w_2.mT),
        b_2,
        w_3[:, 0].contiguous(),
        b_3,
        atom_wise_gpu.halves(w_1),
        atom_wise_gpu.halves(w_2),
        model.scales.float(),
    )


def _check(model: EscnMd, precision: str) -> None:
    """Say why the kernels do not serve."""
    config = model.config
    if precision == "float64":
        raise BackendError("backend 'fast_gpu' computes in float32; for precision 'float64' use 'fast_pytorch'")
    if config.lmax != 2 or config.mmax not in (1, 2):
        raise BackendError(
            f"backend 'fast_gpu' is written for lmax 2 with mmax 1 or 2; this model has lmax {config.lmax} and mmax {config.mmax}: "
            "use 'general'"
        )
    for name, width in (("channels", config.channels), ("hidden_channels", config.hidden_channels)):
        if width not in WIDTHS:
            raise BackendError(
                f"backend 'fast_gpu' serves {', '.join(map(str, WIDTHS))} channels; this model has {name} {width}: "
                "use 'fast_pytorch'"
            )
    device = model.sphere_embedding.weight.device
    check_kernel_device(device, node_to_edge_wigner_permute_fwd_kernel, OLDEST)
