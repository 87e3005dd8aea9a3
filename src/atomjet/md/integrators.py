"""One time step of many replicas at once, on the device, in float64: the definition, and which form runs where.

A step is two halves around the forces. Every replica has its own count of steps and its own flags; a replica whose flags are
set does not move. With a = F / m, γ the friction, ξ normal numbers (`noise.py`):

    advance (nve)   v += ½ Δt a,  x += Δt v                                                     velocity Verlet
    advance (nvt)   v += ½ Δt a,  x += ½ Δt v,  v = c v + √((1 - c²) kT / m) ξ,  x += ½ Δt v,   c = exp(-γ Δt)
    forces at x
    finish          v += ½ Δt a, then: is what came out sane? If not, x and v go back to where they were before the step.

The second is the BAOAB splitting of Langevin's equation (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34).
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.data import PredictionBuffers
from atomjet.md.motion import Flag, Motion
from atomjet.md.noise import normals


def advance(motion: Motion, forces: Tensor) -> None:
    """Enqueue the first half of a step; `forces` (N̂, 3) eV/Å are those at the positions as they are."""
    if motion.flags.is_cuda:
        from atomjet.md import kernels

        kernels.launch_advance(motion, forces)
    else:
        advance_reference(motion, forces)


def finish(motion: Motion, prediction: PredictionBuffers) -> None:
    """Enqueue the second half; `prediction` is that at the new positions."""
    if motion.flags.is_cuda:
        from atomjet.md import kernels

        kernels.launch_finish(motion, prediction)
    else:
        finish_reference(motion, prediction)


def advance_reference(motion: Motion, forces: Tensor) -> None:
    """The definition of `advance`."""
    replica = _in_use(motion)
    atoms = len(replica)
    moves = (motion.flags[replica] == 0)[:, None]
    x, v = motion.system.positions[:atoms], motion.velocities[:atoms]
    timestep, decay = motion.constants[0], motion.constants[1]
    new_v = v + 0.5 * timestep * (forces[:atoms] * motion.inverse_masses[:atoms, None])
    if motion.langevin:
        half = x + 0.5 * timestep * new_v
        within = torch.arange(atoms, device=x.device) - motion.system.system_ptr.long()[replica]
        xi = normals(motion.seeds[replica], motion.steps[replica], within)
        new_v = decay * new_v + motion.kicks[:atoms, None] * xi
        new_x = half + 0.5 * timestep * new_v
    else:
        new_x = x + timestep * new_v
    motion.last_positions[:atoms] = torch.where(moves, x, motion.last_positions[:atoms])
    motion.last_velocities[:atoms] = torch.where(moves, v, motion.last_velocities[:atoms])
    x.copy_(torch.where(moves, new_x, x))
    v.copy_(torch.where(moves, new_v, v))


def finish_reference(motion: Motion, prediction: PredictionBuffers) -> None:
    """The definition of `finish`."""
    replica = _in_use(motion)
    atoms, systems = len(replica), len(motion.flags)
    x, v, forces = motion.system.positions[:atoms], motion.velocities[:atoms], prediction.forces[:atoms]
    new_v = v + 0.5 * motion.constants[0] * (forces * motion.inverse_masses[:atoms, None])

    def per_replica(values: Tensor) -> Tensor:
        return values.new_zeros(systems).index_add_(0, replica, values)

    kinetic = per_replica(0.5 * new_v.square().sum(1) / motion.inverse_masses[:atoms])
    squares = forces.square().sum(1)
    largest = torch.segment_reduce(squares, "max", offsets=motion.system.system_ptr.long(), initial=0.0)
    finite = torch.isfinite(prediction.energy) & torch.isfinite(kinetic) & torch.isfinite(per_replica(squares))
    flags = torch.where(kinetic > motion.hottest, Flag.HOT, 0)
    flags = torch.where(largest > motion.constants[3], Flag.FORCE, flags)
    flags = torch.where(finite, flags, Flag.NOT_FINITE)
    status = prediction.status.to(torch.int32)
    flags = torch.where(status != 0, status, flags)

    moved = (motion.flags == 0) & (motion.system.system_ptr.diff() > 0)
    good = moved & (flags == 0)
    back = (moved & (flags != 0))[replica][:, None]
    v.copy_(torch.where(good[replica][:, None], new_v, torch.where(back, motion.last_velocities[:atoms], v)))
    x.copy_(torch.where(back, motion.last_positions[:atoms], x))
    motion.flags.copy_(torch.where(moved, flags.to(torch.int32), motion.flags))
    motion.steps.add_(good)
    trace = prediction.stress.diagonal(dim1=1, dim2=2).sum(1)
    values = torch.stack([prediction.energy, kinetic, largest.sqrt(), trace], dim=1)
    rows = motion.steps % len(motion.record)
    every = torch.arange(systems, device=rows.device)
    motion.record[rows, every] = torch.where(good[:, None], values, motion.record[rows, every])


def _in_use(motion: Motion) -> Tensor:
    """(N,) int64, the replica of each atom in use."""
    return motion.system.system_index[: int(motion.system.system_ptr[-1])].long()
