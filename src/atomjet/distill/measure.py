"""How far several students differ on frames, and how wrong they are: jobs for a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from atomjet.data import System
from atomjet.engine import Engine, load
from atomjet.errors import AtomJetError
from atomjet.units import MEV

FRAMES_AT_ONCE = 1000
"""Frames that are computed together."""


@lru_cache(maxsize=1)
def engines_of(models: tuple[str, ...], device: str) -> tuple[Engine, ...]:
    """Engines of model files; those of the last call are kept."""
    return tuple(load(model, device=device) for model in models)


def forget_engines() -> None:
    """Free the memory of the students that were used last."""
    engines_of.cache_clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def predict_each(engine: Engine, system: System) -> tuple[Tensor, Tensor, Tensor]:
    """Forces (N, 3), stress (S, 3, 3), float64, and which structures (S,) the engine refuses; these have infinite forces."""
    try:
        found = engine.predict(system)
        served = torch.zeros(system.num_systems, dtype=torch.bool, device=system.device)
        return found.forces.to(torch.float64, copy=True), found.stress.to(torch.float64, copy=True), served
    except AtomJetError:
        if system.num_systems == 1:
            refused = torch.ones(1, dtype=torch.bool, device=system.device)
            return torch.full_like(system.positions, torch.inf), torch.full_like(system.cell, torch.nan), refused
    half = system.num_systems // 2
    parts = [predict_each(engine, system.part(*ends)) for ends in ((0, half), (half, system.num_systems))]
    forces, stress, refused = (torch.cat(both) for both in zip(*parts, strict=True))
    return forces, stress, refused


def disagreement(engines: Sequence[Engine], system: System) -> tuple[Tensor, Tensor]:
    """How far students differ: (N,) eV/Å, the root mean square over the members of their forces' deviation from the mean; and
    (N,) the length of the mean. Infinite in structures that a member refuses.
    """
    forces = torch.stack([predict_each(engine, system)[0] for engine in engines])
    mean = forces.mean(0)
    spread = (forces - mean).square().sum(-1).mean(0).sqrt()
    return torch.nan_to_num(spread, nan=torch.inf), mean.norm(dim=-1)


def largest(values: Tensor, system: System) -> Tensor:
    """(S,) largest of the values (N,) of each structure's atoms."""
    out = values.new_zeros(system.num_systems)
    return out.scatter_reduce_(0, system.system_index, values, "amax")


def spreads(models: tuple[str, ...], frames: Sequence[Atoms], device: str) -> NDArray[np.float64]:
    """(F,) eV/Å: the largest disagreement of each frame."""
    engines = engines_of(models, device)
    parts = [largest(disagreement(engines, system)[0], system).cpu().numpy() for system, _ in _parts(frames, device)]
    return np.concatenate([np.zeros(0), *parts])


def mean_error(models: tuple[str, ...], frames: Sequence[Atoms], device: str) -> float | None:
    """meV/Å: mean absolute error of the students' mean forces against those of the frames; None where there is no finite one."""
    engines, found = engines_of(models, device), [np.zeros(0)]
    for system, part in _parts(frames, device):
        mean = torch.stack([predict_each(engine, system)[0] for engine in engines]).mean(0).cpu().numpy()
        found.append(np.abs(mean - np.concatenate([atoms.get_forces() for atoms in part])).ravel())
    errors = np.concatenate(found)
    errors = errors[np.isfinite(errors)]
    return float(errors.mean()) / MEV if len(errors) else None


def _parts(frames: Sequence[Atoms], device: str) -> Iterator[tuple[System, Sequence[Atoms]]]:
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        part = frames[first : first + FRAMES_AT_ONCE]
        yield System.from_ase(part, device=device, dtype=torch.float64), part
