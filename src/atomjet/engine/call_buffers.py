"""`CallBuffers`: one evaluation with its buffers on both sides, one copy in and one copy out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atomjet.data import Capacity, Conditions, Prediction, PredictionBuffers, System, SystemBuffers
from atomjet.engine.evaluation import Evaluation, Stages
from atomjet.ops.cuda_graph import Replayed


@dataclass(frozen=True)
class Composition:
    """What a `System` consists of, positions and cells aside: its tensors, how often each was written to, and its conditions.

    Attributes:
        said: tasks, and which charges and spins were given.
    """

    tensors: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]
    said: tuple[tuple[str, ...], tuple[bool, ...], tuple[bool, ...]]

    @classmethod
    def of(cls, system: System) -> Composition | None:
        """None for tensors that do not count how often they were written to."""
        tensors = (system.atomic_numbers, system.system_index, system.pbc, system.charge, system.spin)
        if any(tensor.is_inference() for tensor in tensors):
            return None
        said = (system.task, system.charge_given, system.spin_given)
        return cls(tensors, tuple(tensor._version for tensor in tensors), said)

    def describes(self, system: System) -> bool:
        """Whether a system's are the very same tensors, unchanged since."""
        numbers, index, pbc, charge, spin = self.tensors
        return (
            system.atomic_numbers is numbers
            and system.system_index is index
            and system.pbc is pbc
            and system.charge is charge
            and system.spin is spin
            and self.versions == (numbers._version, index._version, pbc._version, charge._version, spin._version)
            and (system.task, system.charge_given, system.spin_given) == self.said
        )


@dataclass(frozen=True)
class Contents:
    """What stands in the buffers on the device, positions aside.

    Attributes:
        atoms: the composition that was put in. conditions: those it was put in with.
        cell, version: the tensor that the cells were copied from, and how often it had been written to.
        positions: where those of these atoms stand, (N, 3).
    """

    atoms: Composition
    conditions: Conditions | None
    cell: torch.Tensor
    version: int
    positions: torch.Tensor

    def has_cell(self, cell: torch.Tensor) -> bool:
        """Whether these cells stand there."""
        return cell is self.cell and cell._version == self.version


class CallBuffers:
    """Everything that one call uses, so that two calls at a time need two of them.

    On the host stand two buffers in pinned memory: what goes in, all arrays one after the other, and what comes out. One replay
    copies the first to the device, evaluates, and copies the second back; of a call whose structures and result are on the device
    it copies back status and energies only.

    Args:
        stages: what evaluates.
        capacity: of all buffers.
        capture: False to launch every time.
    """

    def __init__(self, stages: Stages, capacity: Capacity, capture: bool = True) -> None:
        self.capacity, self.device, self.bytes = capacity, stages.device, stages.bytes_of(capacity)
        on_gpu = stages.device.type == "cuda"
        self.stream = torch.cuda.Stream(stages.device) if on_gpu else None
        size = SystemBuffers.bytes_of(capacity)
        self._sent = torch.zeros(size, dtype=torch.uint8, pin_memory=on_gpu)
        self._received = torch.zeros(size, dtype=torch.uint8, device=stages.device)
        self.evaluation = Evaluation(stages, SystemBuffers.over(self._received, capacity))
        self._silent = stages.backend.silent_conditions
        answer = PredictionBuffers.empty(capacity, "cpu", stages.has_spread).buffer
        self._answer = answer.pin_memory() if on_gpu else answer
        self._numbers = self._answer.numpy()
        self._staged = _Staged(SystemBuffers.over(self._sent, capacity), self._silent)
        self._contents: Contents | None = None
        self._reader: torch.cuda.Stream | None = None  # where the last result on the device may still be read
        self._home = torch.cuda.current_stream(stages.device) if on_gpu else None
        self._known = torch.cuda.Event() if on_gpu else None
        self._systems = 0
        self._round_trip = Replayed(self._copy_in_and_out, self.stream, capture)
        self._on_device = Replayed(self._copy_head_out, self.stream, capture)
        self.evaluation.compile()
        if on_gpu:
            torch.cuda.current_stream(
                stages.device
            ).synchronize()  # buffers are filled there, and used on another stream

    @property
    def replayed(self) -> Replayed:
        """How calls from the host are enqueued."""
        return self._round_trip

    def start(self, frames: Sequence[Any], counts: Sequence[int], conditions: Conditions | None) -> None:
        """Put `ase.Atoms` in and enqueue; returns at once. Without conditions, the backend's `silent_conditions` hold."""
        self._staged.fill(frames, counts, conditions)
        if self.stream is not None:
            self._after_reader(self.stream)
        self._contents, self._systems = None, len(counts)
        self._round_trip.run()
        # Tensors for the result are made while the device computes.
        if len(counts) == 1:
            index = torch.zeros(counts[0], dtype=torch.int64)
        else:
            index = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        self._result = np.empty_like(self._numbers)
        views = self.evaluation.prediction.like(torch.from_numpy(self._result))
        self._prediction = views.in_use(len(counts), index)

    def finish(self) -> int:
        """Wait for the device; return the `Status` bits."""
        if self.stream is not None:
            self.stream.synchronize()
        return int(self._numbers[0])

    @property
    def finite(self) -> bool:
        """Whether every number of a finished call is, if its status is zero."""
        energies = self._numbers[1] if self._systems == 1 else self._numbers[1 : 1 + self._systems].sum()
        return math.isfinite(energies)

    def take(self) -> Prediction:
        """The result of a finished call from the host, on the CPU; later calls leave it as it is."""
        self._result[:] = self._numbers
        return self._prediction

    def predict(
        self, system: System, atoms: Composition | None, conditions: Conditions | None
    ) -> tuple[int, Prediction]:
        """`Status` bits and result of structures on the device, which stays there; enqueued on the caller's stream.

        Status and energies are waited for. The result is copied from the buffers after them, in the order of that stream.

        Args:
            system: structures. atoms: their composition as it is now, the same object as long as it is the same.
            conditions: they were admitted with; None for the backend's `silent_conditions`.
        """
        stream = None if self.stream is None else torch.cuda.current_stream(self.device)
        if stream is not None:
            self._after_reader(stream)
        self._put(system, atoms, conditions)
        self._systems = system.num_systems
        self._on_device.enqueue()
        if stream is not None and self._known is not None:
            self._known.record(stream)
        views = self.evaluation.prediction
        prediction = views.like(views.buffer.clone()).in_use(self._systems, system.system_index)
        if stream is not None and self._known is not None:
            self._reader = stream
            if stream != self._home:
                views.buffer.record_stream(stream)  # freed, it is not to be used anew before it has been read
            self._known.synchronize()
        return int(self._numbers[0]), prediction

    def _after_reader(self, stream: torch.cuda.Stream) -> None:
        """What is enqueued on a stream from now on waits for the copy of the last result, if that is under way on another."""
        if self._reader is not None and self._reader != stream:
            stream.wait_stream(self._reader)
        self._reader = None

    def drop(self) -> None:
        """Give the graphs back, and wait for whoever still reads the buffers."""
        if self._reader is not None:
            self._reader.synchronize()
        self._round_trip.drop()
        self._on_device.drop()

    def _put(self, system: System, atoms: Composition | None, conditions: Conditions | None) -> None:
        """Copy structures on the device into the buffers; of those that stand there only what may be new."""
        buffers, contents = self.evaluation.system, self._contents
        if contents is not None and contents.atoms is atoms and contents.conditions is conditions:
            positions = system.positions
            contents.positions.copy_(positions.detach() if positions.requires_grad else positions)
            if contents.has_cell(system.cell):
                return
            buffers.cell[: system.num_systems].copy_(system.cell.detach())
        else:
            self._contents = None
            with torch.no_grad():
                buffers.fill(system, conditions or Conditions.silent(self._silent, system.num_systems))
        if atoms is not None and not system.cell.is_inference():
            there = buffers.positions[: system.num_atoms]
            self._contents = Contents(atoms, conditions, system.cell, system.cell._version, there)

    def _copy_in_and_out(self) -> None:
        self._received.copy_(self._sent, non_blocking=True)
        self.evaluation.launch()
        self._answer.copy_(self.evaluation.prediction.buffer, non_blocking=True)

    def _copy_head_out(self) -> None:
        head = self.evaluation.prediction.head
        self.evaluation.launch()
        self._answer[: len(head)].copy_(head, non_blocking=True)


class _Staged:
    """The buffer that goes to the device, as numpy sees it."""

    def __init__(self, system: SystemBuffers, silent: Sequence[int] | None) -> None:
        self.positions, self.cell = system.positions.numpy(), system.cell.numpy()
        self.numbers, self.pbc = system.atomic_numbers.numpy(), system.pbc.numpy()
        self.index, self.ptr = system.system_index.numpy(), system.system_ptr.numpy()
        self.conditions = system.conditions.numpy()
        self.silent, self.said = np.array(silent or (0, 0, 0, 0), np.int32)[:, None], True
        self.empty = system.capacity.systems
        self.counts: list[int] = []

    def fill(self, frames: Sequence[Any], counts: Sequence[int], conditions: Conditions | None) -> None:
        """Write structures; `counts` are their atoms."""
        if self.counts != counts:
            self._divide(counts)
        if conditions is not None:
            self.conditions[:, : len(counts)] = conditions.values
            self.said = True
        elif self.said:
            self.conditions[:] = self.silent
            self.said = False
        if len(frames) == 1:
            atoms, number = frames[0], counts[0]
            self.positions[:number] = atoms.positions
            self.numbers[:number] = atoms.numbers
            self.pbc[0] = pbc = atoms.pbc
            np.multiply(atoms.cell.array, pbc[:, None], out=self.cell[0])
            return
        number, total = len(frames), sum(counts)
        np.concatenate([atoms.positions for atoms in frames], out=self.positions[:total])
        np.concatenate([atoms.numbers for atoms in frames], out=self.numbers[:total], casting="same_kind")
        pbc = np.concatenate([atoms.pbc for atoms in frames]).reshape(-1, 3)
        self.pbc[:number] = pbc
        np.concatenate([atoms.cell.array for atoms in frames], out=self.cell[:number].reshape(-1, 3))
        self.cell[:number] *= pbc[:, :, None]

    def _divide(self, counts: Sequence[int]) -> None:
        """Say which atoms belong to which structure."""
        number, total = len(counts), sum(counts)
        self.ptr[: number + 1] = np.concatenate([[0], np.cumsum(counts)])
        self.ptr[number + 1 :] = total
        self.index[:total] = np.repeat(np.arange(number), counts)
        self.index[total:] = self.empty
        self.counts = list(counts)
