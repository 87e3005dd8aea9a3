"""AtomJet in nvalchemi-toolkit: `NVE(AtomJetWrapper("organic-xtb"), dt=0.5)`, batches of unlike structures on one device.

nvalchemi's units are AtomJet's: eV, Å, fs, amu, and its stress has ASE's sign.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nvalchemi._typing import ModelOutputs
from nvalchemi.data import AtomicData, Batch
from nvalchemi.models.base import BaseModelMixin, ModelConfig
from torch import Tensor

from atomjet.data import System
from atomjet.engine import Engine, load
from atomjet.engine.uncertainty import Watch, watched
from atomjet.errors import StructureError


class AtomJetWrapper(torch.nn.Module, BaseModelMixin):
    """Energies, forces and, when asked for, stress for nvalchemi's integrators and optimisers.

    AtomJet finds neighbours itself, so no `NeighborListHook` is needed. Integrators that need the stress want it switched on:
    `wrapper.set_config("active_outputs", {"energy", "forces", "stress"})`. One process computes a whole structure; nvalchemi's
    domain decomposition is not served.

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

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Energy (S, 1) eV, forces (N, 3) eV/Å and, if active, stress (S, 3, 3) eV/Å³, in the type of the positions.

        Raises:
            StructureError: stress asked of a structure without three periodic directions.
            AtomJetError: as `Engine.predict`.
        """
        batch = data if isinstance(data, Batch) else Batch.from_data_list([data])
        system = to_system(batch)
        with watched():
            found = self.engine.predict(system)
        self.watch.look(found)
        result = {"energy": found.energy[:, None], "forces": found.forces, "stress": found.stress}
        if "stress" in self.output_data():
            _check_stress(system)
        where = {"dtype": batch.positions.dtype, "device": batch.positions.device}
        return self.adapt_output({key: value.to(**where) for key, value in result.items()}, data)


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
