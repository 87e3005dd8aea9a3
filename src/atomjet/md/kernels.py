"""`integrators.py` as Triton kernels: the same numbers, to the last digits of float64 that compilers are free in."""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from atomjet.data import PredictionBuffers
from atomjet.md.motion import COLUMNS, Flag, Motion

NOT_FINITE = tl.constexpr(int(Flag.NOT_FINITE))
FORCE = tl.constexpr(int(Flag.FORCE))
HOT = tl.constexpr(int(Flag.HOT))
WIDTH = tl.constexpr(COLUMNS)


@triton.jit
def _normals(seed, step, atom, two_pi):
    """See `noise.normals`."""
    low = (step & 0xFFFFFFFF).to(tl.uint32)
    high = (step >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, atom.to(tl.uint32), low, high, tl.zeros_like(low))
    first = tl.sqrt(-2.0 * tl.log((w0.to(tl.float64) + 0.5) * 2.0**-32))
    last = tl.sqrt(-2.0 * tl.log((w2.to(tl.float64) + 0.5) * 2.0**-32))
    angle = two_pi * ((w1.to(tl.float64) + 0.5) * 2.0**-32)
    other = two_pi * ((w3.to(tl.float64) + 0.5) * 2.0**-32)
    return first * tl.cos(angle), first * tl.sin(angle), last * tl.cos(other)


@triton.jit
def _push(x, v, force, inverse_mass, timestep, decay, kick, xi, LANGEVIN: tl.constexpr):
    """One component: new position and velocity."""
    v = v + 0.5 * timestep * (force * inverse_mass)
    if LANGEVIN:
        x = x + 0.5 * timestep * v
        v = decay * v + kick * xi
        x = x + 0.5 * timestep * v
    else:
        x = x + timestep * v
    return x, v


@triton.jit(do_not_specialize=["systems"])
def advance_kernel(
    system_index,
    system_ptr,
    positions,
    velocities,
    last_positions,
    last_velocities,
    forces,
    inverse_masses,
    kicks,
    seeds,
    flags,
    steps,
    constants,
    systems,
    LANGEVIN: tl.constexpr,
    ATOMS: tl.constexpr,
):
    """A few atoms a program."""
    n = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    inside = n < tl.load(system_ptr + systems)
    replica = tl.load(system_index + n, inside, 0).to(tl.int64)
    moves = inside & (tl.load(flags + replica, inside, 1) == 0)
    timestep = tl.load(constants)
    decay = tl.load(constants + 1)
    inverse_mass = tl.load(inverse_masses + n, moves, 0.0)
    kick = tl.load(kicks + n, moves, 0.0)
    xi_0 = kick
    xi_1 = kick
    xi_2 = kick
    if LANGEVIN:
        within = n - tl.load(system_ptr + replica, moves, 0)
        seed = tl.load(seeds + replica, moves, 0)
        xi_0, xi_1, xi_2 = _normals(seed, tl.load(steps + replica, moves, 0), within, tl.load(constants + 2))
    for k in tl.static_range(3):
        at = 3 * n + k
        x = tl.load(positions + at, moves, 0.0)
        v = tl.load(velocities + at, moves, 0.0)
        tl.store(last_positions + at, x, moves)
        tl.store(last_velocities + at, v, moves)
        xi = xi_0
        if k == 1:
            xi = xi_1
        if k == 2:
            xi = xi_2
        force = tl.load(forces + at, moves, 0.0)
        x, v = _push(x, v, force, inverse_mass, timestep, decay, kick, xi, LANGEVIN)
        tl.store(positions + at, x, moves)
        tl.store(velocities + at, v, moves)


@triton.jit(do_not_specialize=["systems", "rows"])
def finish_kernel(
    system_ptr,
    positions,
    velocities,
    last_positions,
    last_velocities,
    forces,
    energy,
    stress,
    status,
    inverse_masses,
    flags,
    steps,
    hottest,
    constants,
    record,
    systems,
    rows,
    ATOMS: tl.constexpr,
):
    """One replica a program; sums over its atoms in a fixed order."""
    s = tl.program_id(0).to(tl.int64)
    first = tl.load(system_ptr + s)
    stop = tl.load(system_ptr + s + 1)
    if tl.load(flags + s) != 0 or first == stop:
        return
    half = 0.5 * tl.load(constants)
    kinetics = tl.zeros((ATOMS,), tl.float64)
    largests = tl.zeros((ATOMS,), tl.float64)
    sizes = tl.zeros((ATOMS,), tl.float64)
    for start in range(first, stop, ATOMS):
        n = start + tl.arange(0, ATOMS).to(tl.int64)
        inside = n < stop
        inverse_mass = tl.load(inverse_masses + n, inside, 1.0)
        force_square = tl.zeros((ATOMS,), tl.float64)
        speed_square = tl.zeros((ATOMS,), tl.float64)
        for k in tl.static_range(3):
            force = tl.load(forces + 3 * n + k, inside, 0.0)
            v = tl.load(velocities + 3 * n + k, inside, 0.0) + half * (force * inverse_mass)
            force_square += force * force
            speed_square += v * v
        kinetics += 0.5 * speed_square / inverse_mass
        largests = tl.maximum(largests, force_square)
        sizes += force_square
    kinetic = tl.sum(kinetics, 0)
    largest = tl.max(largests, 0)
    potential = tl.load(energy + s)
    # NaN and infinity fail every comparison with something finite.
    size = tl.abs(potential) + kinetic + tl.sum(sizes, 0)
    flag = tl.where(kinetic > tl.load(hottest + s), HOT, 0)
    flag = tl.where(largest > tl.load(constants + 3), FORCE, flag)
    flag = tl.where(size < 1e300, flag, NOT_FINITE)
    said = tl.load(status).to(tl.int32)
    flag = tl.where(said != 0, said, flag)
    good = flag == 0
    for start in range(first, stop, ATOMS):
        n = start + tl.arange(0, ATOMS).to(tl.int64)
        inside = n < stop
        inverse_mass = tl.load(inverse_masses + n, inside, 1.0)
        for k in tl.static_range(3):
            at = 3 * n + k
            v = tl.load(velocities + at, inside, 0.0) + half * (tl.load(forces + at, inside, 0.0) * inverse_mass)
            tl.store(velocities + at, tl.where(good, v, tl.load(last_velocities + at, inside, 0.0)), inside)
            tl.store(positions + at, tl.load(last_positions + at, inside, 0.0), inside & (flag != 0))
    done = tl.load(steps + s) + good.to(tl.int64)
    tl.store(steps + s, done)
    tl.store(flags + s, flag)
    if good:
        row = record + ((done % rows) * systems + s) * WIDTH
        tl.store(row, potential)
        tl.store(row + 1, kinetic)
        tl.store(row + 2, tl.sqrt(largest))
        h = stress + 9 * s
        tl.store(row + 3, tl.load(h) + tl.load(h + 4) + tl.load(h + 8))


def launch_advance(motion: Motion, forces: Tensor) -> None:
    """Enqueue `integrators.advance`."""
    system = motion.system
    advance_kernel[(triton.cdiv(system.capacity.atoms, 32),)](
        system_index=system.system_index,
        system_ptr=system.system_ptr,
        positions=system.positions,
        velocities=motion.velocities,
        last_positions=motion.last_positions,
        last_velocities=motion.last_velocities,
        forces=forces,
        inverse_masses=motion.inverse_masses,
        kicks=motion.kicks,
        seeds=motion.seeds,
        flags=motion.flags,
        steps=motion.steps,
        constants=motion.constants,
        systems=system.capacity.systems,
        LANGEVIN=motion.langevin,
        ATOMS=32,
        num_warps=1,
    )


def launch_finish(motion: Motion, prediction: PredictionBuffers) -> None:
    """Enqueue `integrators.finish`."""
    system = motion.system
    few = system.capacity.atoms_per_system <= 128
    finish_kernel[(system.capacity.systems,)](
        system_ptr=system.system_ptr,
        positions=system.positions,
        velocities=motion.velocities,
        last_positions=motion.last_positions,
        last_velocities=motion.last_velocities,
        forces=prediction.forces,
        energy=prediction.energy,
        stress=prediction.stress,
        status=prediction.status,
        inverse_masses=motion.inverse_masses,
        flags=motion.flags,
        steps=motion.steps,
        hottest=motion.hottest,
        constants=motion.constants,
        record=motion.record,
        systems=system.capacity.systems,
        rows=len(motion.record),
        ATOMS=32 if few else 1024,
        num_warps=1 if few else 8,
    )
