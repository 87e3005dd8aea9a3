"""`System`: one structure or many, any mix of sizes, cells and periodic directions, as flat tensors.

N atoms, S structures. The atoms of all structures stand one after the other; `system_index` says which structure owns each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomjet.data.fields import check_whole, first_bad_cell, number_of_structures, tensor_of
from atomjet.data.frames import charge_and_spin_of, frames_of, task_of
from atomjet.errors import StructureError


@dataclass(frozen=True, eq=False)
class System:
    """Structures to be computed; checked once, here.

    Args:
        positions: (N, 3) float32 or float64, Å. Need not be wrapped into the cell.
        atomic_numbers: (N,) integers.
        cell: (S, 3, 3) or, for one structure, (3, 3); rows are the cell vectors, Å. Any handedness. Rows of directions
            that are not periodic mean nothing and are stored as zero.
        pbc: (S, 3), (3,) or one bool: which directions are periodic. Default: none.
        system_index: (N,) integers, not decreasing: the structure of each atom. Default: all in one structure.
        charge: (S,) integers, total charge, e. Default 0.
        spin: (S,) integers, spin multiplicity 2S+1; 0 where it was not given, or is no multiplicity at all, which some models know.
            Default 0.
        task: S names of the task (dataset) of models that know several, "" where it was not said. Default: not said.
        labels: S integers, what messages call the structures: their places in a longer list that these are a part of.
            Default: 0 ... S - 1.
        charge_given, spin_given: S bools, whether the structure itself says its charge or spin, so that nothing is filled in for
            it. Default: every charge of a `charge` that was passed, and every spin other than 0.

    Raises:
        StructureError: wrong shape or type, NaN or infinite value (names structure and atom), periodic directions without a
            cell that spans them.
    """

    positions: Tensor
    atomic_numbers: Tensor
    cell: Tensor = None  # type: ignore[assignment]
    pbc: Tensor = None  # type: ignore[assignment]
    system_index: Tensor = None  # type: ignore[assignment]
    charge: Tensor = None  # type: ignore[assignment]
    spin: Tensor = None  # type: ignore[assignment]
    task: tuple[str, ...] = None  # type: ignore[assignment]
    labels: tuple[int, ...] | None = None
    charge_given: tuple[bool, ...] = None  # type: ignore[assignment]
    spin_given: tuple[bool, ...] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Fill the defaults, bring every field to one device and type, check."""
        for name, value in _filled(self).items():
            object.__setattr__(self, name, value)
        _check(self)

    @classmethod
    def from_ase(
        cls,
        structures: Any,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        labels: Sequence[int] | None = None,
    ) -> System:
        """Build from what `frames_of` takes, or from a `System` (moved to the device and type asked for, its labels kept).

        `info["charge"]`, `info["spin"]` and `info["task"]` are read. Initial charges and magnetic moments are not: they are
        guesses for atoms, from which no total follows.
        """
        if isinstance(structures, System):
            return structures.to(device, dtype)
        frames = frames_of(structures)
        counts = torch.tensor([len(frame) for frame in frames], dtype=torch.int64)
        charges, spins = (
            zip(*map(charge_and_spin_of, frames, labels or range(len(frames))), strict=True) if frames else ((), ())
        )
        joined = np.concatenate([frame.get_positions() for frame in frames]) if frames else np.zeros((0, 3))
        numbers = np.concatenate([frame.get_atomic_numbers() for frame in frames]) if frames else np.zeros(0, int)
        return cls(
            positions=torch.as_tensor(np.ascontiguousarray(joined)).to(dtype).to(device),
            atomic_numbers=torch.as_tensor(numbers, dtype=torch.int64, device=device),
            cell=torch.as_tensor(np.array([frame.cell.array for frame in frames]).reshape(-1, 3, 3))
            .to(dtype)
            .to(device),
            pbc=torch.as_tensor(np.array([frame.pbc for frame in frames], dtype=bool).reshape(-1, 3), device=device),
            system_index=torch.repeat_interleave(torch.arange(len(frames)), counts).to(device),
            charge=torch.tensor(charges, dtype=torch.int64, device=device),
            spin=torch.tensor(spins, dtype=torch.int64, device=device),
            task=tuple(task_of(frame) for frame in frames),
            labels=None if labels is None else tuple(labels),
            charge_given=tuple("charge" in frame.info for frame in frames),
            spin_given=tuple("spin" in frame.info for frame in frames),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> System:
        """Return the same structures on another device, with another floating type."""
        dtype = dtype or self.positions.dtype
        if torch.device(device) == self.positions.device and dtype == self.positions.dtype:
            return self
        moved = {
            name: getattr(self, name).to(device) for name in ("atomic_numbers", "pbc", "system_index", "charge", "spin")
        }
        moved |= {"positions": self.positions.to(device, dtype), "cell": self.cell.to(device, dtype)}
        return replace(self, **moved)

    def with_defaults(self, charge: int | None = None, spin: int | None = None) -> System:
        """Return the same structures with a charge and a spin for those that give none; None leaves them open."""
        changed: dict[str, Any] = {}
        for name, value in (("charge", charge), ("spin", spin)):
            given = getattr(self, f"{name}_given")
            if value is not None and not all(given):
                own = torch.tensor(given, dtype=torch.bool, device=self.device)
                changed[name] = torch.where(own, getattr(self, name), value)
                changed[f"{name}_given"] = (True,) * self.num_systems
        return replace(self, **changed) if changed else self

    def with_positions(self, positions: Tensor, cell: Tensor | None = None) -> System:
        """Return the same atoms elsewhere, in the same or another cell.

        In the same cell on a GPU nobody asks here whether all are finite, which would wait for the device: a search of neighbours
        refuses those that are not (`check_positions`).
        """
        if cell is not None or positions.dtype != self.dtype or positions.device != self.device:
            return replace(self, positions=positions, cell=self.cell if cell is None else cell)
        if positions.shape != self.positions.shape:
            raise StructureError(
                f"positions have shape {tuple(positions.shape)}; for these atoms they must be {tuple(self.positions.shape)}"
            )
        # All else was checked, and stays the very tensors it was, by which an engine knows that nothing else is new.
        moved = copy.copy(self)
        object.__setattr__(moved, "positions", positions.contiguous())
        if moved.positions.device.type == "cpu":
            moved.check_positions()
        return moved

    def check_positions(self) -> None:
        """Refuse positions that are not finite.

        Raises:
            StructureError: names the first such atom.
        """
        if math.isfinite(
            self.positions.detach().sum()
        ):  # as all of them are then; it is the cheapest to ask of a device
            return
        finite = torch.isfinite(self.positions).all(1)
        if not bool(finite.all()):
            atom = int((~finite).nonzero()[0])
            value = [round(x, 4) for x in self.positions[atom].tolist()]
            raise StructureError(f"{self.place(atom)}: position {value} is not finite; repair or remove it")

    def part(self, first: int, last: int) -> System:
        """Return structures first ... last - 1, labelled as they are here."""
        atoms = (self.system_index >= first) & (self.system_index < last)
        return System(
            positions=self.positions[atoms],
            atomic_numbers=self.atomic_numbers[atoms],
            cell=self.cell[first:last],
            pbc=self.pbc[first:last],
            system_index=self.system_index[atoms] - first,
            charge=self.charge[first:last],
            spin=self.spin[first:last],
            task=self.task[first:last],
            labels=tuple(range(first, last)) if self.labels is None else self.labels[first:last],
            charge_given=self.charge_given[first:last],
            spin_given=self.spin_given[first:last],
        )

    @property
    def num_atoms(self) -> int:
        """N."""
        return self.positions.shape[0]

    @property
    def num_systems(self) -> int:
        """S."""
        return self.cell.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of positions and cell."""
        return self.positions.dtype

    def counts(self) -> Tensor:
        """Atoms of each structure, (S,)."""
        return torch.bincount(self.system_index, minlength=self.num_systems)

    def name(self, structure: int) -> str:
        """Name a structure for a message: 'structure 3'."""
        return f"structure {structure if self.labels is None else self.labels[structure]}"

    def place(self, atom: int) -> str:
        """Name an atom for a message: 'atom 5', or 'structure 3, atom 5' (counted within it) where there are several."""
        if self.num_systems == 1 and self.labels is None:
            return f"atom {atom}"
        structure = int(self.system_index[atom])
        return f"{self.name(structure)}, atom {atom - int((self.system_index < structure).sum())}"


def _filled(system: System) -> dict[str, Any]:
    """Bring every field to one device and its own type, defaults included."""
    positions = tensor_of("positions", system.positions)
    if positions.dtype not in (torch.float32, torch.float64):
        positions = positions.to(torch.float64)
    positions = positions.contiguous()
    device, dtype = positions.device, positions.dtype

    def given(name: str, default: Tensor, to: torch.dtype) -> Tensor:
        value = getattr(system, name)
        tensor = default if value is None else tensor_of(name, value)
        if to == torch.int64:
            check_whole(name, tensor)
        return tensor.to(device=device, dtype=to).contiguous()

    if positions.ndim != 2 or positions.shape[1] != 3:
        raise StructureError(f"positions have shape {tuple(positions.shape)}; they must be (number of atoms, 3)")
    atoms = positions.shape[0]
    index = given("system_index", torch.zeros(atoms, dtype=torch.int64), torch.int64)
    structures = number_of_structures(system.cell, system.pbc, index if system.system_index is not None else None)
    cell = given("cell", torch.zeros(structures, 3, 3), dtype)
    pbc = given("pbc", torch.zeros(3, dtype=torch.bool), torch.bool)
    cell = cell.expand(structures, 3, 3) if cell.ndim == 2 else cell
    pbc = pbc.expand(structures, 3) if pbc.ndim < 2 else pbc
    if cell.shape != (structures, 3, 3) or pbc.shape != (structures, 3):
        raise StructureError(
            f"cell has shape {tuple(cell.shape)} and pbc {tuple(pbc.shape)}; "
            f"for {structures} structures they must be ({structures}, 3, 3) and ({structures}, 3)"
        )
    none = torch.zeros(structures, dtype=torch.int64)
    spin = torch.atleast_1d(given("spin", none, torch.int64))
    charge_given, spin_given = system.charge_given, system.spin_given
    if charge_given is None:
        charge_given = (system.charge is not None,) * structures
    if spin_given is None:
        spin_given = (False,) * structures if system.spin is None else tuple((spin != 0).tolist())
    return {
        "positions": positions,
        "atomic_numbers": given("atomic_numbers", none[:0], torch.int64),
        "cell": torch.where(pbc[:, :, None], cell, torch.zeros((), dtype=dtype, device=device)),
        "pbc": pbc.contiguous(),
        "system_index": index,
        "charge": torch.atleast_1d(given("charge", none, torch.int64)),
        "spin": spin,
        "task": ("",) * structures if system.task is None else tuple(system.task),
        "charge_given": tuple(charge_given),
        "spin_given": tuple(spin_given),
    }


def _check(system: System) -> None:
    """Refuse what cannot be computed, naming the first bad atom or structure."""
    atoms, structures = system.num_atoms, system.num_systems
    for name, length, what in (
        ("atomic_numbers", atoms, "atom"),
        ("system_index", atoms, "atom"),
        ("charge", structures, "structure"),
        ("spin", structures, "structure"),
    ):
        if getattr(system, name).shape != (length,):
            shape = tuple(getattr(system, name).shape)
            raise StructureError(f"{name} has shape {shape}; it must be ({length},), one value for each {what}")
    if len(system.task) != structures or not all(isinstance(task, str) for task in system.task):
        raise StructureError(f"task is {system.task!r}; it must be {structures} names, one for each structure")
    for name in ("charge_given", "spin_given"):
        if len(getattr(system, name)) != structures:
            raise StructureError(
                f"{name} has {len(getattr(system, name))} values; it must have {structures}, one for each structure"
            )
    if system.labels is not None and len(system.labels) != structures:
        raise StructureError(f"{len(system.labels)} labels were given for {structures} structures; give one for each")
    if atoms and (int(system.system_index[0]) < 0 or int(system.system_index[-1]) >= structures):
        raise StructureError(f"system_index must lie in 0 ... {structures - 1}, the number of cells minus one")
    if bool((system.system_index[1:] < system.system_index[:-1]).any()):
        raise StructureError("system_index decreases; put the atoms of each structure together, structures in order")
    system.check_positions()
    if not bool((system.atomic_numbers >= 0).all()):
        atom = int((system.atomic_numbers < 0).nonzero()[0])
        raise StructureError(f"{system.place(atom)}: atomic number {int(system.atomic_numbers[atom])} is negative")
    if bool(system.pbc.any()):
        _check_cells(system)


def _check_cells(system: System) -> None:
    """The periodic cell vectors of each structure must be finite and independent."""
    if (bad := first_bad_cell(system.cell, system.pbc)) is not None:
        structure, why = bad
        rows = [[round(x, 6) for x in row] for row in system.cell[structure].tolist()]
        axes = "".join("abc"[k] for k in range(3) if system.pbc[structure, k])
        raise StructureError(
            f"{system.name(structure)}: periodic along {axes}, but its cell {rows} {why}; give a cell, or set pbc to False"
        )
