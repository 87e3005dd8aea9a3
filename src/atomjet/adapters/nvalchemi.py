"""AtomJet in nvalchemi-toolkit: `NVE(AtomJetWrapper("organic-xtb"), dt=0.5)`, batches of unlike structures on one device.

nvalchemi's units are AtomJet's: eV, Å, fs, amu, and its stress has ASE's sign.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nvalchemi._typing import ModelOutputs
from nvalchemi.data import AtomicData, Batch
from nvalchemi.models.base import BaseModelMixin, ModelConfig, NeighborConfig
from torch import Tensor

from atomjet.data import System
from atomjet.engine import Engine, load, predict_shared
from atomjet.engine.shared import check_shared, owned_part
from atomjet.engine.torch_halo import TorchHalo
from atomjet.engine.uncertainty import Watch, watched
from atomjet.errors import BackendError, StructureError


class AtomJetWrapper(torch.nn.Module, BaseModelMixin):
    """Energies, forces and, when asked for, stress for nvalchemi's integrators and optimisers.

    AtomJet finds neighbours itself, so no `NeighborListHook` is needed. Integrators that need the stress want it switched on:
    `wrapper.set_config("active_outputs", {"energy", "forces", "stress"})`.

    One structure on several processes: nvalchemi's `DistributedModel` and `DomainParallel` with the strategy `HALO`, on CPUs (gloo,
    with the environment variable NVALCHEMI_HALO_P2P=1). Their halo of one cutoff is enough for any number of layers.

    Args:
        model: an `Engine`, or what `atomjet.load` takes: a packaged model's name, or a path.
        options: further ones of `atomjet.load`, where `model` is not an engine.

    Attributes:
        engine: what evaluates.
        watch: warns once of each place of a batch where an ensemble's members disagree.
    """

    def __init__(self, model: Engine | str | Path, **options: Any) -> None:
        super().__init__()
        self.engine = model if isinstance(model, Engine) else load(model, **options)
        self.watch = Watch(self.engine.bound)
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            active_outputs={"energy", "forces"},
            autograd_outputs=frozenset(),  # derivatives are AtomJet's own
            optional_inputs=frozenset({"cell", "pbc", "charge", "spin"}),
            supports_pbc=True,
            neighbor_config=None,
        )

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """No embeddings are given out."""
        return {}

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Refuse.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("AtomJet gives energies, forces and stress, no embeddings")

    def direct_derivative_keys(self) -> set[str]:
        """Outputs that are not derived from the energy by autograd: forces and stress."""
        return {"forces", "stress"}

    def distribution_spec(self, strategy: Any = None) -> Any:
        """What nvalchemi must know to give each process a part of the structure.

        Raises:
            BackendError: another strategy than `HALO`, or a backend that cannot share a structure.
        """
        from nvalchemi.distributed.config import StrategyKind
        from nvalchemi.distributed.spec import SPEC_LJ_HALO

        if strategy not in (None, StrategyKind.HALO):
            raise BackendError(f"strategy {strategy.value!r} is not served; use StrategyKind.HALO")
        check_shared(self.engine)
        return SPEC_LJ_HALO  # energies and stress come complete, forces of own atoms

    def distributed_setup(self, ctx: Any) -> None:
        """Enter nvalchemi's distributed scope, which lists neighbours itself: next to none, as AtomJet finds its own."""
        super().distributed_setup(ctx)
        self.model_config.neighbor_config = NeighborConfig(cutoff=UNUSED_CUTOFF)

    def distributed_teardown(self) -> None:
        """Leave it."""
        super().distributed_teardown()
        self.model_config.neighbor_config = None

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Energy (S, 1) eV, forces (N, 3) eV/Å and, if active, stress (S, 3, 3) eV/Å³, in the type of the positions.

        Raises:
            StructureError: stress asked of a structure without three periodic directions.
            AtomJetError: as `Engine.predict`.
        """
        batch = data if isinstance(data, Batch) else Batch.from_data_list([data])
        context = getattr(self, "_dist_ctx", None)
        if context is not None and context.is_distributed:
            return self._shared(batch, context)
        system = to_system(batch)
        with watched():
            found = self.engine.predict(system)
        self.watch.look(found)
        result = {"energy": found.energy[:, None], "forces": found.forces, "stress": found.stress}
        if "stress" in self.output_data():
            _check_stress(system)
        where = {"dtype": batch.positions.dtype, "device": batch.positions.device}
        return self.adapt_output({key: value.to(**where) for key, value in result.items()}, data)

    def _shared(self, batch: Batch, context: Any) -> ModelOutputs:
        """Own atoms of this process, whose forces stand before rows of zeros for nvalchemi's ghosts; collective."""
        width = context.halo_config.ghost_width
        if width < self.engine.cutoff:
            raise BackendError(
                f"DomainConfig has ghosts within {width:g} Å, the model sees {self.engine.cutoff:g} Å; set its cutoff to that"
            )
        system, ids, owned = _gathered(batch, context)
        graph = self.engine.search(system.to(self.engine.device))
        _, ghosts, part = owned_part(graph, (torch.arange(len(ids)) >= owned).long().to(graph.centers.device), 0)
        halo = TorchHalo(ids[:owned], ids[ghosts], context.strategy.process_group)
        found = predict_shared(self.engine, replace(part, halo=halo), torch.cat([ids[:owned], ids[ghosts]]))
        forces = torch.zeros(context.n_padded, 3, dtype=torch.float64, device=found.forces.device)
        forces[:owned] = found.forces
        result = {"energy": found.energy[:, None], "forces": forces}
        if "stress" in self.output_data():
            _check_stress(system)
            volume = torch.linalg.det(system.cell).abs().to(found.virial.device)
            result["stress"] = found.virial / volume[:, None, None]
        where = {"dtype": batch.positions.dtype, "device": batch.positions.device}
        return self.adapt_output({key: value.to(**where) for key, value in result.items()}, batch)


UNUSED_CUTOFF = 0.1
"""Å of the lists of neighbours that nvalchemi makes and nobody reads: no two atoms are so near."""

RANK_STRIDE = 2**40
"""Ids of one process's atoms begin so far from those of the next; float64 holds 8,000 processes' exactly."""


def _gathered(batch: Batch, context: Any) -> tuple[System, Tensor, int]:
    """Own atoms, then each other process's atom once where nvalchemi has any of its images; ids; how many are own."""
    from nvalchemi.distributed.helpers import refresh_neighbors, to_local

    owned = context.n_owned
    positions = to_local(batch.positions).detach().double()
    ids = torch.arange(len(positions), dtype=torch.float64, device=positions.device) + context.rank * RANK_STRIDE
    # Rows that travel are those of the owners, in the box: images that were moved would be rounded once more.
    rows = refresh_neighbors(torch.cat([positions, ids[:, None]], dim=1))
    ids = rows[:, 3].long()
    seen, first = torch.unique(ids[owned:], return_inverse=True)
    place = torch.full((len(seen),), len(ids), device=ids.device).scatter_reduce(
        0, first, torch.arange(owned, len(ids), device=ids.device), "amin"
    )
    kept = torch.cat([torch.arange(owned, device=ids.device), place[seen // RANK_STRIDE != context.rank]])
    cell, pbc = (to_local(getattr(batch, name)) for name in ("cell", "pbc"))
    system = System(
        positions=rows[kept, :3],
        atomic_numbers=to_local(batch.atomic_numbers).long()[kept],
        cell=cell.detach().reshape(1, 3, 3),
        pbc=pbc.reshape(1, 3),
        system_index=torch.zeros(len(kept), dtype=torch.int64, device=ids.device),
        charge=_whole(batch, "charge"),  # type: ignore[arg-type]
        spin=_whole(batch, "spin"),  # type: ignore[arg-type]
    )
    return system, ids[kept], owned


def to_system(batch: Batch) -> System:
    """Structures of nvalchemi as AtomJet's; without a cell or `pbc` they are not periodic."""
    number = batch.num_graphs
    cell, pbc = (getattr(batch, name, None) for name in ("cell", "pbc"))
    return System(
        positions=batch.positions.detach(),
        atomic_numbers=batch.atomic_numbers.long(),
        cell=None if cell is None else cell.detach().reshape(number, 3, 3),  # type: ignore[arg-type]
        pbc=torch.zeros(number, 3, dtype=torch.bool) if pbc is None else pbc.reshape(number, 3),
        system_index=batch.batch_idx.long(),
        charge=_whole(batch, "charge"),  # type: ignore[arg-type]
        spin=_whole(batch, "spin"),  # type: ignore[arg-type]
    )


def _whole(batch: Batch, name: str) -> Tensor | None:
    """What nvalchemi says of each structure, if it does."""
    value = getattr(batch, name, None)
    return None if value is None else value.reshape(batch.num_graphs).round().long()


def _check_stress(system: System) -> None:
    open_ones = (~system.pbc.all(1)).nonzero().flatten().tolist()
    if open_ones:
        place = open_ones[0]
        raise StructureError(
            f"{system.name(place)}: stress needs three periodic directions, it has pbc {system.pbc[place].tolist()}; "
            "take stress out of active_outputs, or make it periodic with vacuum where it ends"
        )
