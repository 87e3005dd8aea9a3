"""`FrameTemplate`: frames of structures that differ in positions, momenta and results alone, as bytes of ASE's .traj format (ULM).

ASE writes one such frame. What changes is cut out of it: arrays, and numbers of the JSON text that follows them. Those numbers get
fields of fixed width (JSON does not mind spaces), so that all frames are equally long and many are filled at once.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryWriter

WIDTH = 24
"""Characters of a number: those of the longest float64."""

VARYING = ("positions.", "momenta.", "forces.")


class FrameTemplate:
    """A frame with the numbers and arrays left out.

    Args:
        atoms: structure, with whatever else is to be in every frame.
        stress: whether frames have one.

    Attributes:
        size: bytes of a frame, a multiple of 8.
        text_at: where in it the text begins, by which ULM finds the frame.
    """

    def __init__(self, atoms: Atoms, stress: bool) -> None:
        arrays, fields = _written_by_ase(atoms, stress)
        results = fields["calculator."]
        results["energy"] = _marker(len(arrays))
        fields["info"] |= {"step": _marker(len(arrays) + 1), "time_fs": _marker(len(arrays) + 2)}
        if stress:
            results["stress"] = [_marker(len(arrays) + 3 + k) for k in range(6)]
        numbers = len(arrays) + 3 + 6 * stress
        text = json.dumps(fields).encode()
        text += b" " * (-len(text) % 8)

        self._starts, body = [], b""
        self._arrays: dict[str, slice] = {}
        for name, content in arrays:
            self._starts.append(len(body))
            if name in VARYING:
                self._arrays[name] = slice(len(body), len(body) + len(content))
            body += content + b"#" * (-len(content) % 8)
        self.text_at = len(body)
        frame = body + np.int64(len(text)).tobytes() + text
        self.size = len(frame)
        self._frame = np.frombuffer(frame, np.uint8)
        marks = [self.text_at + 8 + text.index(str(_marker(k)).encode()) for k in range(numbers)]
        self._holes = (np.array(marks)[:, None] + np.arange(WIDTH)).reshape(-1)
        self._format = f"%{WIDTH}d" * len(arrays) + f"%{WIDTH}r%{WIDTH}d%{WIDTH}r" + f"%{WIDTH}r" * (6 * stress)

    def frames(
        self,
        places: list[int],
        arrays: dict[str, np.ndarray],
        energies: list[float],
        stresses: list[list[float]] | None,
        step: int,
        time_fs: float,
    ) -> np.ndarray:
        """(R, size) uint8, one frame for each of R replicas.

        Args:
            places: of each frame in its file.
            arrays: (R, n, 3) float64 positions, momenta and forces, under the names of `VARYING`.
            energies: eV. stresses: six of each, eV/Å³, in ASE's order.
            step, time_fs: of all.
        """
        frames = np.repeat(self._frame[None], len(places), axis=0)
        for name, part in self._arrays.items():
            frames[:, part] = np.ascontiguousarray(arrays[name]).reshape(len(places), -1).view(np.uint8)
        rest = stresses or [[]] * len(places)
        texts = [
            self._format % (*(place + start for start in self._starts), energy, step, time_fs, *stress)
            for place, energy, stress in zip(places, energies, rest, strict=True)
        ]
        frames[:, self._holes] = np.frombuffer("".join(texts).encode(), np.uint8).reshape(len(places), -1)
        return frames


def _marker(index: int) -> int:
    """A number as wide as any may be, to be found again in the text."""
    return 10 ** (WIDTH - 1) + index


def _written_by_ase(atoms: Atoms, stress: bool) -> tuple[list[tuple[str, bytes]], dict[str, Any]]:
    """Arrays and fields of a frame that is not the first; the places of the arrays are markers."""
    sample = atoms.copy()
    sample.set_momenta(np.ones((len(atoms), 3)))
    sample.info |= {"step": 0, "time_fs": 0.0}
    results = {"energy": 0.0, "forces": np.ones((len(atoms), 3))} | ({"stress": np.ones(6)} if stress else {})
    sample.calc = SinglePointCalculator(sample, **results)
    file = io.BytesIO()
    writer = TrajectoryWriter(file, "w")
    writer.write(sample)
    writer.write(sample)
    data = file.getvalue()
    text_at = int(np.frombuffer(data, np.int64, 2, int.from_bytes(data[40:48], "little"))[1])
    length = int.from_bytes(data[text_at : text_at + 8], "little")
    fields = json.loads(data[text_at + 8 : text_at + 8 + length])
    arrays = []

    def collect(group: dict[str, Any]) -> None:
        for name, value in group.items():
            if isinstance(value, dict) and "ndarray" in value:
                shape, dtype, place = value["ndarray"]
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                value["ndarray"][2] = _marker(len(arrays))
                arrays.append((name, data[place : place + size]))
            elif isinstance(value, dict) and name.endswith("."):
                collect(value)

    collect(fields)
    return arrays, fields
