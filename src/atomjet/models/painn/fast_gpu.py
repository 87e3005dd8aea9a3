"""PaiNN in fused Triton kernels: energies and dE/d(edge vectors) in 4 L - 1 launches for L layers, without autograd or atomics.

The same function as `general.py`, with the derivative of `fast_pytorch.py`. A layer is two kernels, the message
(`ops/painn_message.py`), which sums over edges, and the update (`ops/painn_update.py`), which takes an atom from one message to the
next; the last update turns round at the readout, and the backward pass is the same two in the opposite order:

    message 0, update 0, message 1, ... message L-1, turn, message L-1 back, update L-2 back, ... message 0 back

The last of them adds the repulsion of nuclei, where the model has it.

- Filters come from a table (`ops/radial_table.py`): nothing is saved of an edge but the derivative.
- `precision="default"` multiplies half-precision numbers and adds in float32 (10 mantissa bits, as TF32, at twice its rate), and
  keeps what travels between atoms in half precision; derivatives are scaled by a power of two so that they keep their digits.
  "high" keeps float32 everywhere, and multiplies two half-precision halves of each number.
- Channels are padded to a power of two with weights of zero.
- Where a channel is gathered, q and μ lie in float32 once and once more as they are stored for others; the derivatives take their
  places in the backward pass.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import linear, silu

from atomjet.data import Capacity, ConditionBuffers, Conditions, Graph, GraphBuffers, System
from atomjet.errors import BackendError
from atomjet.models.contract import Atomic, Segment, TuningSpace, evaluate
from atomjet.models.kernel_device import check_kernel_device
from atomjet.models.painn import tuning
from atomjet.models.painn.general import PaiNN
from atomjet.models.painn.tuning import Tiles
from atomjet.ops import painn_message, painn_update
from atomjet.ops.pdl import has_pdl
from atomjet.ops.radial_table import RadialTable, tabulate

MOST_FEATURES = 128
"""Channels up to which the updates' matrices have room in a GPU's shared memory."""

OLDEST = (8, 0)
"""Compute capability of the oldest GPU whose tensor cores the kernels are written for."""


@dataclass(frozen=True)
class Workspace:
    """Everything that an evaluation writes; N̂ atoms, Ê edges, F channels, L layers. Rows are filled up to whole tiles.

    Attributes:
        q, mu: (N̂, F), (N̂, 3, F) float32; in the backward pass dE/dq and dE/dμ.
        q_bar, mu_bar: the same in the storage type, for the gathers of the backward pass.
        context, mu_sent: of layers 1 ... L-1, (N̂, 3F), (N̂, 3, F) in the storage type; in the backward pass dE/dc takes the place
            of c.
        saved: of layers 0 ... L-2.
        energies: (N̂,) float32. gradients: (parts, Ê, 4) float32, the fourth number zero.
        tiles: how the kernels are tiled.
    """

    q: Tensor
    mu: Tensor
    q_bar: Tensor
    mu_bar: Tensor
    context: tuple[Tensor, ...]
    mu_sent: tuple[Tensor, ...]
    saved: tuple[painn_update.Saved, ...]
    energies: Tensor
    gradients: Tensor
    tiles: Tiles


class FastGpu:
    """The `fast_gpu` backend of PaiNN; holds rearranged copies of the weights.

    Attributes:
        note: what whoever asks which kernels run should know; empty where there is nothing to say.

    Args:
        model: on a CUDA device.
        precision: "default" or "high".
        tiles: of the kernels; default: by the size of the system.

    Attributes:
        storage_dtype: of what travels between atoms, and of the factors of products.

    Raises:
        BackendError: a device or precision that the kernels do not serve.
    """

    silent_conditions = (0, 0, 0, 0)

    def __init__(self, model: PaiNN, precision: str = "default", tiles: Tiles | None = None) -> None:
        _check(model, precision)
        self.model, self.precision, self.tiles = model, precision, tiles
        self.storage_dtype = torch.float16 if precision == "default" else torch.float32
        # Hopper and later start a kernel while the one before still runs; it fetches its weights and waits for the rest.
        device = model.embedding.weight.device
        self.pdl = has_pdl(device)
        self.channels = max(32, 1 << (model.config.features - 1).bit_length())
        self.update: Any
        self.update, self.note = _updates(device, self.storage_dtype, self.channels)
        with torch.no_grad():
            self._rearrange()

    # ------------------------------------------------------------------------------------------------------------- weights

    def _rearrange(self) -> None:
        model, config = self.model, self.model.config
        self.embedding = self._pad(model.embedding.weight.float())
        zbl = model.zbl
        self.nuclei = (
            None if zbl is None else painn_message.Nuclei(zbl.table.float(), *zbl.switch, zbl.reach(model.elements))
        )
        self.tables = [self._table(layer) for layer in range(config.layers)]
        first = copy.deepcopy(model.layer(0)[0].context).double()  # whatever torch may do to products in float32
        table = first[2](silu(first[0](model.embedding.weight.double())))[:, : 2 * config.features]
        parts = [self._pad(part) for part in table.float().chunk(2, dim=1)]
        self.first_context = torch.cat(parts, dim=1) * self.tables[0].scales[: 2 * self.channels]
        self.chains = [self._chain(layer) for layer in range(config.layers)]
        largest = float(model.readout[2].weight.abs().max())  # type: ignore[union-attr, operator]
        self.seed = 2.0 ** (3 - math.frexp(largest)[1]) if largest > 0 else 1.0

    def _pad(self, x: Tensor, rows: int = 0) -> Tensor:
        """(n, m) with m <= F to (rows or n, F), zeros behind."""
        out = x.new_zeros(rows or x.shape[0], self.channels)
        out[: x.shape[0], : x.shape[1]] = x
        return out

    def _table(self, layer: int) -> RadialTable:
        """The filter of one layer with its cutoff, 3F outputs."""
        config, features = self.model.config, self.model.config.features
        start = 0 if config.shared_filters else 3 * features * layer
        weight = self.model.filters.weight[start : start + 3 * features].double()
        bias = self.model.filters.bias[start : start + 3 * features].double()
        basis = copy.deepcopy(self.model.basis).double()

        def filters(lengths: Tensor) -> Tensor:
            # The cosine itself, not `cosine_cutoff`, whose step to zero at the cutoff would be the last knot's.
            envelope = 0.5 * (torch.cos(lengths * (math.pi / config.cutoff)) + 1.0)
            values = linear(basis(lengths), weight, bias) * envelope[:, None]
            return torch.cat([self._pad(part) for part in values.chunk(3, dim=1)], dim=1)

        return tabulate(filters, config.cutoff, self.embedding.device, self.storage_dtype)

    def _chain(self, layer: int) -> Any:  # a `Chain` as the kernels in `self.update` want it
        config, features = self.model.config, self.model.config.features
        mixing = self.model.layer(layer)[1]
        d1, d2 = mixing.context[0], mixing.context[2]
        (s, t, w), (s_0, t_0, w_0) = d2.weight.chunk(3), d2.bias.chunk(3)  # type: ignore[operator, union-attr]
        v, u = mixing.channel_mix.weight.chunk(2)
        matrices = [v, u, d1.weight[:, :features], d1.weight[:, features:], s, w]  # type: ignore[index]
        biases = [d1.bias, s_0, w_0]
        if layer < config.layers - 1:
            c1, _, c2 = self.model.layer(layer + 1)[0].context
            scales = self.tables[layer + 1].scales.view(3, -1)[:, :features].reshape(-1)
            matrices += [t, c1.weight, *(c2.weight * scales[:, None]).chunk(3)]  # type: ignore[list-item, operator]
            biases += [t_0, c1.bias, *(c2.bias * scales).chunk(3)]  # type: ignore[list-item, operator]
        else:
            r1, _, r2 = self.model.readout
            matrices.append(r1.weight)  # type: ignore[arg-type]
            biases += [r1.bias, r2.weight[0], r2.bias]  # type: ignore[list-item, index]
        stacked = torch.stack([self._pad(matrix.T, self.channels) for matrix in matrices])
        rows = torch.cat([self._pad(bias[None].float()) for bias in biases])  # type: ignore[index]
        stacked = stacked.half() if self.storage_dtype == torch.float16 else painn_update.halves(stacked)
        chain = painn_update.Chain(stacked, stacked.mT.contiguous(), rows, config.epsilon)
        return chain if self.update is painn_update else self.update.Chain.of(chain)

    # ---------------------------------------------------------------------------------------------------------- evaluation

    @property
    def exchanges(self) -> int:
        """Those before every segment but the first."""
        return 2 * self.model.config.layers - 1

    @property
    def tuning(self) -> TuningSpace:
        """What `atomjet tune` may try; Hopper's updates have one tile."""
        return tuning.space(self, updates=self.update is painn_update)

    def tiles_for(self, capacity: Capacity) -> Tiles:
        """The tiles of the kernels for so much."""
        return self.tiles or default_tiles(capacity)

    def admit(self, system: System, task: str | None) -> Conditions:
        """Refuse charges, spins and tasks; there is nothing to stage."""
        return Conditions.of(self.model.complete(system, task))

    def workspace(self, capacity: Capacity) -> Workspace:
        """Allocate, once, everything that the segments write."""
        tiles = self.tiles_for(capacity)
        atoms, features, layers = _aligned(capacity.atoms), self.channels, self.model.config.layers
        device = self.embedding.device

        def single(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        def stored(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.storage_dtype, device=device)

        return Workspace(
            q=single(atoms, features),
            mu=single(atoms, 3, features),
            q_bar=stored(atoms, features),
            mu_bar=stored(atoms, 3, features),
            context=tuple(stored(atoms, 3 * features) for _ in range(layers - 1)),
            mu_sent=tuple(stored(atoms, 3, features) for _ in range(layers - 1)),
            saved=tuple(
                painn_update.Saved(stored(atoms, 3, 2 * features), *(stored(atoms, features) for _ in range(4)))
                for _ in range(layers - 1)
            ),
            energies=single(atoms)[: capacity.atoms],
            gradients=single(self._parts(tiles), capacity.edges, 4),
            tiles=tiles,
        )

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates."""
        size, layers = self.storage_dtype.itemsize, self.model.config.layers
        per_atom = self.channels * (16 + 4 * size + 16 * size * (layers - 1)) + 4
        per_edge = 16 * self._parts(self.tiles_for(capacity))
        return per_atom * _aligned(capacity.atoms) + per_edge * capacity.edges

    def _parts(self, tiles: Tiles) -> int:
        return self.channels // min(tiles.message_back.channels, self.channels)

    def segments(self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: Workspace) -> list[Segment]:
        """Messages, each with the updates that follow it: forward to the last layer, and backward to the first.

        A message reads what the atoms around it have sent: c and μ forward, q̄ and μ̄ backward. So ghosts need no rows of edges, only
        these numbers, and no sum of features goes back to their owners: 6 F before each layer but the first and 4 F before each
        backward, in the storage type.
        """
        w, last = workspace, self.model.config.layers - 1
        edges = painn_message.Edges(graph.row_ptr, graph.neighbors, graph.vectors, graph.atomic_numbers, graph.owned)
        context, mu_sent = (self.first_context, *w.context), (None, *w.mu_sent)

        def forward(layer: int) -> None:
            painn_message.launch_fwd(
                edges,
                self.tables[layer],
                self.embedding,
                context[layer],
                mu_sent[layer],
                w.q,
                w.mu,
                w.tiles.message,
                self.pdl,
            )
            self._update_forward(layer, graph.owned, w)

        def backward(layer: int) -> None:
            painn_message.launch_bwd(
                edges,
                self.tables[layer],
                context[layer],
                mu_sent[layer],
                w.q_bar,
                w.mu_bar,
                w.mu,
                w.gradients,
                layer == last,
                1.0 / self.seed,
                w.tiles.message_back,
                self.pdl,
                self.nuclei if layer == 0 else None,
                w.energies,
            )
            if layer > 0:
                self._update_backward(layer - 1, graph.owned, w)

        def bound(work: Callable[[int], None], layer: int) -> Callable[[], None]:
            return lambda: work(layer)

        sent = [(), *zip(w.context, w.mu_sent, strict=True)]
        segments = [Segment(bound(forward, layer), sent[layer]) for layer in range(last + 1)]
        bars = (w.q_bar, w.mu_bar)
        return segments + [Segment(bound(backward, layer), bars) for layer in range(last, -1, -1)]

    def result(self, workspace: Workspace) -> Atomic:
        """Where the segments leave energies and gradients."""
        return Atomic(workspace.energies, workspace.gradients, of_reverse=True)

    def _update_forward(self, layer: int, num_atoms: Tensor, w: Workspace) -> None:
        """From one message to the next; after the last the turning point, at the readout."""
        if layer < self.model.config.layers - 1:
            self.update.launch_fwd(
                num_atoms,
                self.chains[layer],
                w.q,
                w.mu,
                w.saved[layer],
                w.context[layer],
                w.mu_sent[layer],
                w.tiles.update,
                self.pdl,
            )
        else:
            self.update.launch_last(
                num_atoms,
                self.chains[layer],
                w.q,
                w.mu,
                w.energies,
                w.q_bar,
                w.mu_bar,
                self.seed,
                w.tiles.update,
                self.pdl,
            )

    def _update_backward(self, layer: int, num_atoms: Tensor, w: Workspace) -> None:
        self.update.launch_bwd(
            num_atoms,
            self.chains[layer],
            w.q,
            w.mu,
            w.saved[layer],
            w.context[layer],
            w.q_bar,
            w.mu_bar,
            w.tiles.update,
            self.pdl,
        )

    @torch.no_grad()
    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (owned,) eV without reference energies, and dE/d(edge vectors) (E, 3) eV/Å."""
        buffers = GraphBuffers.from_graph(graph, ghosts=graph.halo is not None)
        conditions = ConditionBuffers.empty(1, 1, graph.vectors.device)  # the kernels read none
        atomic = evaluate(self, buffers, conditions, self.workspace(buffers.capacity), graph.halo)
        if graph.halo is not None:
            return atomic.of_owned(graph)
        return atomic.energies, atomic.gradients.sum(0)[graph.reverse, :3]

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        capacity = Capacity(graph.num_systems, graph.num_atoms, graph.num_edges, graph.num_atoms)
        return self.bytes_of(capacity) + 64 * graph.num_edges


def _updates(device: torch.device, storage_dtype: torch.dtype, channels: int) -> tuple[Any, str]:
    """The module whose kernels take atoms from one message to the next, those for Hopper where they serve; and why not."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0):
        try:
            from atomjet.ops import painn_update_hopper
        except (ImportError, AttributeError) as error:  # a Triton whose Gluon, which is experimental, has other names
            return (
                painn_update,
                f"Triton {triton.__version__} lacks what kernels for Hopper need ({error}); slower ones run",
            )
        if painn_update_hopper.serves(storage_dtype, channels):
            note = painn_update_hopper.why_not(device)
            return (painn_update, note) if note else (painn_update_hopper, "")
    return painn_update, ""


def _aligned(atoms: int) -> int:
    """Rows of the workspace: whole tiles, so that the updates need no masks."""
    return -(-atoms // painn_update.ALIGNED) * painn_update.ALIGNED


FEW, MANY = 512, 4096
"""Atoms up to which rows are too few to fill a GPU, so that each is divided among more programs; atoms from which on one program
takes all channels of a row."""

FEWER_REGISTERS = 112
"""Registers of a thread, at most, in the forward message kernel. The compiler orders its work by this limit: 112 made messages up
to 6 % faster."""


def default_tiles(capacity: Capacity) -> Tiles:
    """How the kernels are tiled where nothing was tuned: what was fastest on an H200 among those tried."""
    if capacity.atoms <= FEW:
        tiles = painn_message.Tiles(edges=8, channels=32, warps=2)
    elif capacity.atoms > MANY:
        tiles = painn_message.Tiles(edges=1, channels=128)
    else:
        tiles = painn_message.Tiles(edges=4 if capacity.dense else 2, channels=64)
    return Tiles(tiles._replace(registers=FEWER_REGISTERS), tiles)


def _check(model: PaiNN, precision: str) -> None:
    """Say why the kernels do not serve."""
    if precision == "float64":
        raise BackendError("backend 'fast_gpu' computes in float32 and narrower; for float64 use 'fast_pytorch'")
    if model.config.features > MOST_FEATURES:
        raise BackendError(
            f"backend 'fast_gpu' serves up to {MOST_FEATURES} features, this model has {model.config.features}; "
            "use 'fast_pytorch'"
        )
    device = model.embedding.weight.device
    check_kernel_device(device, painn_message.painn_message_fwd_kernel, OLDEST)
