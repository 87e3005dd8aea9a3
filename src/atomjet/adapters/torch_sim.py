"""AtomJet in torch-sim: `torch_sim.optimize(state, AtomJetModel("organic-xtb"), ...)`, batches of unlike systems on one device.

torch-sim finds how much fits by running out of memory on purpose. AtomJet knows it before: give `model.autobatcher()` to a runner.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor
from torch_sim.autobatching import BinningAutoBatcher, InFlightAutoBatcher
from torch_sim.io import atoms_to_state
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from atomjet.data import System
from atomjet.engine import Engine, load
from atomjet.engine.capacity import SHARE, free_bytes
from atomjet.engine.uncertainty import Watch, watched
from atomjet.errors import StructureError

WITHOUT_LIMIT = 1_000_000
"""Atoms of a batch where the device does not say how much memory is free."""


class AtomJetModel(ModelInterface):
    """Energies, forces and stress for torch-sim's optimisers, integrators and runners.

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
        self._device, self._dtype = self.engine.device, torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms"

    def forward(self, state: SimState, **kwargs: Any) -> dict[str, Tensor]:
        """Energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³.

        torch-sim wants the stress of molecules too, which is zero. Of what is periodic in one or two directions it is NaN, so that
        nothing relaxes a cell by it.

        Raises:
            AtomJetError: as `Engine.predict`.
        """
        system = to_system(state)
        with watched():
            found = self.engine.predict(system)
        self.watch.look(found)
        stress = torch.where(system.pbc.any(1)[:, None, None], found.stress, 0.0)
        found_by_name = {"energy": found.energy, "forces": found.forces, "stress": stress}
        return {name: value.to(self._dtype) for name, value in found_by_name.items()}

    def state(self, frames: Atoms | Sequence[Atoms]) -> SimState:
        """Hand structures to torch-sim with their charges and spins, which it leaves behind when it is given `ase.Atoms`.

        Raises:
            StructureError: structures that are periodic in different directions; torch-sim has one `pbc` for all.
        """
        structures = [frames] if isinstance(frames, Atoms) else list(frames)
        for place, atoms in enumerate(structures):
            if (atoms.pbc != structures[0].pbc).any():
                first = structures[0].pbc.tolist()
                raise StructureError(
                    f"structure {place} has pbc {atoms.pbc.tolist()}, structure 0 {first}; torch-sim takes one for all, so run "
                    "them apart, or make molecules periodic with vacuum around"
                )
        system = System.from_ase(structures)
        state = atoms_to_state(structures, self._device, self._dtype)
        for name in ("charge", "spin"):
            state.system_extras[name] = getattr(system, name).to(self._device, self._dtype)
        return state

    def most_atoms(self) -> int:
        """Atoms, of dense matter, that fit into the memory that is free now."""
        free = free_bytes(self.engine.device)
        return WITHOUT_LIMIT if free is None else max(1, int(SHARE * free / self.engine.bytes_per_atom()))

    def autobatcher(self, in_flight: bool = False) -> BinningAutoBatcher | InFlightAutoBatcher:
        """Batches that fit, by AtomJet's own account of memory; nothing is tried.

        Args:
            in_flight: for optimisers, which leave converged systems and take others.
        """
        batcher = InFlightAutoBatcher if in_flight else BinningAutoBatcher
        return batcher(self, memory_scales_with="n_atoms", max_memory_scaler=float(self.most_atoms()))


def to_system(state: SimState) -> System:
    """Structures of torch-sim, whose cell vectors are columns, as AtomJet's."""
    number = state.cell.shape[0]
    periodic = torch.as_tensor(state.pbc, device=state.positions.device).reshape(-1, 3).expand(number, 3)
    return System(
        positions=state.positions.detach(),
        atomic_numbers=state.atomic_numbers,
        cell=state.row_vector_cell.detach(),
        pbc=periodic,
        system_index=state.system_idx,
        charge=_whole(state, "charge"),  # type: ignore[arg-type]
        spin=_whole(state, "spin"),  # type: ignore[arg-type]
    )


def _whole(state: SimState, name: str) -> Tensor | None:
    """What torch-sim says of each structure, if it does."""
    value = getattr(state, name, None)
    return None if value is None else value.round().long()
