# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Forces, stress and energies of structures from what a model says of atoms and edges; sums in float64, in a fixed order.

With r_e = x_j - x_i + S h of edge e from i to j, and p_e either dE/dr of e's reverse (σ = 1) or of e itself (σ = -1):

    forces   F_i = σ Σ_e (p_reverse(e) - p_e)        over the edges of row i
    virial   W_s = -σ Σ_e r_e ⊗ p_e                  over the edges of structure s (= dE/dstrain, symmetrised)
    stress   W_s / |det h_s|                         for structures with three periodic directions, else NaN
    energy   E_s = Σ_i (e_i + reference of i's element in the row of tables that is the structure's)

If any `Status` bit is set, all energies become NaN; and that of a structure where any of its forces, stresses or atomic energies is
not finite. Also looks whether atoms of any pair of elements are nearer than allowed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from atomjet.data import GraphBuffers, PredictionBuffers, Status, SystemBuffers
from atomjet.models.contract import Atomic
from atomjet.ops.pdl import has_pdl, pdl_wait

OVERLAP = tl.constexpr(int(Status.OVERLAP))

FEW = 512
"""Atoms up to which both kernels start while what is before them still runs (Hopper and later). With more, programs that wait take
the place of those that work.
"""


@triton.jit(
    do_not_specialize=["num_atoms", "atomic_energies", "forces", "virials", "edges", "atoms", "elements", "task"]
)
def edge_forces_kernel(
    row_ptr,
    neighbors,
    reverse,
    vectors,
    num_atoms,
    atomic_numbers,
    order,
    energies,
    gradients,
    references,
    system_index,
    task,
    closest,
    status,
    atomic_energies,
    forces,
    virials,
    edges,
    atoms,
    elements,
    reference_elements,
    ROWS: tl.constexpr,
    OF_REVERSE: tl.constexpr,
    PARTS: tl.constexpr,
    EDGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row a program: force, atomic energy and the six numbers of its virial."""
    i = tl.program_id(0).to(tl.int64)
    pdl_wait(PDL)
    if i >= tl.load(num_atoms):
        return
    number = tl.load(atomic_numbers + i).to(tl.int64)
    f_x = tl.zeros((EDGES,), tl.float64)
    f_y = tl.zeros((EDGES,), tl.float64)
    f_z = tl.zeros((EDGES,), tl.float64)
    xx = tl.zeros((EDGES,), tl.float64)
    yy = tl.zeros((EDGES,), tl.float64)
    zz = tl.zeros((EDGES,), tl.float64)
    yz = tl.zeros((EDGES,), tl.float64)
    xz = tl.zeros((EDGES,), tl.float64)
    xy = tl.zeros((EDGES,), tl.float64)
    near = tl.zeros((EDGES,), tl.int32)
    stop = tl.load(row_ptr + i + 1)
    for start in range(tl.load(row_ptr + i), stop, EDGES):
        e = start + tl.arange(0, EDGES).to(tl.int64)
        inside = e < stop
        x = tl.load(vectors + 3 * e, inside, 1e9)
        y = tl.load(vectors + 3 * e + 1, inside, 0.0)
        z = tl.load(vectors + 3 * e + 2, inside, 0.0)
        j = tl.load(neighbors + e, inside, 0).to(tl.int64)
        back = tl.load(reverse + e, inside, 0).to(tl.int64)
        limit = tl.load(closest + number * elements + tl.load(atomic_numbers + j, inside, 0), inside, 0.0)
        near |= (x * x + y * y + z * z < limit * limit).to(tl.int32)
        p_x = tl.zeros((EDGES,), tl.float64)
        p_y = tl.zeros((EDGES,), tl.float64)
        p_z = tl.zeros((EDGES,), tl.float64)
        for part in tl.static_range(PARTS):
            here = gradients + (tl.full((), part, tl.int64) * edges + e) * 4
            there = gradients + (tl.full((), part, tl.int64) * edges + back) * 4
            own_x = tl.load(here, inside, 0.0).to(tl.float64)
            own_y = tl.load(here + 1, inside, 0.0).to(tl.float64)
            own_z = tl.load(here + 2, inside, 0.0).to(tl.float64)
            p_x += own_x
            p_y += own_y
            p_z += own_z
            f_x += tl.load(there, inside, 0.0).to(tl.float64) - own_x
            f_y += tl.load(there + 1, inside, 0.0).to(tl.float64) - own_y
            f_z += tl.load(there + 2, inside, 0.0).to(tl.float64) - own_z
        x = tl.where(inside, x, 0.0).to(tl.float64)
        y = y.to(tl.float64)
        z = z.to(tl.float64)
        xx -= x * p_x
        yy -= y * p_y
        zz -= z * p_z
        yz -= 0.5 * (y * p_z + z * p_y)
        xz -= 0.5 * (x * p_z + z * p_x)
        xy -= 0.5 * (x * p_y + y * p_x)
    if not OF_REVERSE:
        f_x, f_y, f_z = -f_x, -f_y, -f_z
        xx, yy, zz = -xx, -yy, -zz
        yz, xz, xy = -yz, -xz, -xy
    place = number
    if ROWS > 1:
        row = tl.load(task + tl.load(system_index + i)).to(tl.int64)
        place = row * reference_elements + number
    original = tl.load(order + i).to(tl.int64)
    tl.store(forces + 3 * original, tl.sum(f_x, 0))
    tl.store(forces + 3 * original + 1, tl.sum(f_y, 0))
    tl.store(forces + 3 * original + 2, tl.sum(f_z, 0))
    tl.store(atomic_energies + original, tl.load(energies + i).to(tl.float64) + tl.load(references + place))
    tl.store(virials + i, tl.sum(xx, 0))
    tl.store(virials + atoms + i, tl.sum(yy, 0))
    tl.store(virials + 2 * atoms + i, tl.sum(zz, 0))
    tl.store(virials + 3 * atoms + i, tl.sum(yz, 0))
    tl.store(virials + 4 * atoms + i, tl.sum(xz, 0))
    tl.store(virials + 5 * atoms + i, tl.sum(xy, 0))
    if tl.max(near, 0) > 0:
        tl.atomic_or(status, OVERLAP, sem="relaxed")


@triton.jit(do_not_specialize=["system_ptr", "atomic_energies", "energy", "stress", "status_out", "atoms"])
def edge_forces_sums_kernel(
    system_ptr,
    cell,
    pbc,
    status,
    atomic_energies,
    virials,
    energy,
    stress,
    status_out,
    atoms,
    ATOMS: tl.constexpr,
    PDL: tl.constexpr,
):
    """One structure a program: sums over its atoms."""
    s = tl.program_id(0)
    if PDL:
        gdc_wait()  # the last of a step: none is there to be let start
    flags = tl.load(status)
    if s == 0:
        tl.store(status_out, flags.to(tl.float64))
    total = tl.zeros((ATOMS,), tl.float64)
    xx = tl.zeros((ATOMS,), tl.float64)
    yy = tl.zeros((ATOMS,), tl.float64)
    zz = tl.zeros((ATOMS,), tl.float64)
    yz = tl.zeros((ATOMS,), tl.float64)
    xz = tl.zeros((ATOMS,), tl.float64)
    xy = tl.zeros((ATOMS,), tl.float64)
    stop = tl.load(system_ptr + s + 1)
    for start in range(tl.load(system_ptr + s), stop, ATOMS):
        i = start + tl.arange(0, ATOMS).to(tl.int64)
        inside = i < stop
        total += tl.load(atomic_energies + i, inside, 0.0)
        xx += tl.load(virials + i, inside, 0.0)
        yy += tl.load(virials + atoms + i, inside, 0.0)
        zz += tl.load(virials + 2 * atoms + i, inside, 0.0)
        yz += tl.load(virials + 3 * atoms + i, inside, 0.0)
        xz += tl.load(virials + 4 * atoms + i, inside, 0.0)
        xy += tl.load(virials + 5 * atoms + i, inside, 0.0)
    energies = tl.sum(total, 0)
    w_xx = tl.sum(xx, 0)
    w_yy = tl.sum(yy, 0)
    w_zz = tl.sum(zz, 0)
    # A gradient that is not finite makes the trace of the virial so, and every force that it is part of.
    all_of_it = energies + (w_xx + w_yy + w_zz)
    good = (flags == 0) & (all_of_it - all_of_it == 0.0)
    tl.store(energy + s, tl.where(good, energies, float("nan")))

    h = cell + 9 * s
    a_x = tl.load(h)
    a_y = tl.load(h + 1)
    a_z = tl.load(h + 2)
    b_x = tl.load(h + 3)
    b_y = tl.load(h + 4)
    b_z = tl.load(h + 5)
    c_x = tl.load(h + 6)
    c_y = tl.load(h + 7)
    c_z = tl.load(h + 8)
    volume = tl.abs(a_x * (b_y * c_z - b_z * c_y) + a_y * (b_z * c_x - b_x * c_z) + a_z * (b_x * c_y - b_y * c_x))
    periodic = tl.load(pbc + 3 * s) * tl.load(pbc + 3 * s + 1) * tl.load(pbc + 3 * s + 2)
    share = tl.where(periodic != 0, 1.0 / tl.where(periodic != 0, volume, 1.0), float("nan"))
    out = stress + 9 * s
    tl.store(out, w_xx * share)
    tl.store(out + 4, w_yy * share)
    tl.store(out + 8, w_zz * share)
    one = tl.sum(yz, 0) * share
    tl.store(out + 5, one)
    tl.store(out + 7, one)
    two = tl.sum(xz, 0) * share
    tl.store(out + 2, two)
    tl.store(out + 6, two)
    three = tl.sum(xy, 0) * share
    tl.store(out + 1, three)
    tl.store(out + 3, three)


def launch(
    system: SystemBuffers,
    graph: GraphBuffers,
    atomic: Atomic,
    references: Tensor,
    closest: Tensor,
    virials: Tensor,
    out: PredictionBuffers,
) -> None:
    """Enqueue the sums of one evaluation.

    Args:
        system, graph: the structures and their edges.
        atomic: energies and gradients, as the model's segments leave them.
        references: (rows, Z) float64, eV, by atomic number; the row is that of the structure's task.
        closest: (Z', Z') float64 or float32, Å, by atomic numbers; pairs nearer than this set `Status.OVERLAP`.
        virials: (6, N̂) float64, scratch.
        out: filled; NaN energies where any status bit is set.
    """
    assert not graph.has_ghosts, "what edges do to ghosts goes home by `Halo.fold`"
    capacity, gradients = graph.capacity, atomic.gradients
    pdl = capacity.atoms <= FEW and has_pdl(graph.vectors.device)
    edge_forces_kernel[(capacity.atoms,)](
        row_ptr=graph.row_ptr,
        neighbors=graph.neighbors,
        reverse=graph.reverse,
        vectors=graph.vectors,
        num_atoms=graph.owned,
        atomic_numbers=graph.atomic_numbers,
        order=graph.order,
        energies=atomic.energies,
        gradients=gradients,
        references=references,
        system_index=system.system_index,
        task=system.conditions[2],
        closest=closest,
        status=graph.status,
        atomic_energies=out.atomic_energies,
        forces=out.forces,
        virials=virials,
        edges=gradients.shape[1],
        atoms=virials.shape[1],
        elements=closest.shape[1],
        reference_elements=references.shape[1],
        ROWS=references.shape[0],
        OF_REVERSE=atomic.of_reverse,
        PARTS=gradients.shape[0],
        EDGES=32,
        PDL=pdl,
        num_warps=1,
        launch_pdl=pdl,
    )
    _sum(system, graph, virials, out)


def _sum(system: SystemBuffers, graph: GraphBuffers, virials: Tensor, out: PredictionBuffers) -> None:
    """Enqueue the sums over the atoms of each structure."""
    capacity = graph.capacity
    pdl = capacity.atoms <= FEW and has_pdl(graph.vectors.device)
    tile = min(1024, max(64, triton.next_power_of_2(capacity.atoms_per_system)))
    edge_forces_sums_kernel[(capacity.systems,)](
        system_ptr=graph.system_ptr,
        cell=system.cell,
        pbc=system.pbc,
        status=graph.status,
        atomic_energies=out.atomic_energies,
        virials=virials,
        energy=out.energy,
        stress=out.stress,
        status_out=out.status,
        atoms=virials.shape[1],
        ATOMS=tile,
        PDL=pdl,
        num_warps=tile // 128 or 1,
        launch_pdl=pdl,
    )


def reference(
    system: SystemBuffers, graph: GraphBuffers, atomic: Atomic, references: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Forces (N, 3), atomic energies (N,) in the `SystemBuffers`'s order and virials (S, 3, 3) of what is in use; plain float64."""
    atoms, edges = int(graph.owned), int(graph.row_ptr[-1])
    p = atomic.gradients[:, :edges, :3].double().sum(0)
    p = p if atomic.of_reverse else -p
    back = graph.reverse[:edges].long()
    centers = torch.repeat_interleave(graph.row_ptr[: atoms + 1].diff().long())
    order, structures = graph.order[:atoms].long(), system.system_index[:atoms].long()
    forces = p.new_zeros(atoms, 3).index_add_(0, order[centers], p[back] - p)
    energies = torch.empty(atoms, dtype=torch.float64, device=p.device)
    rows = system.conditions[2].long()[structures] if len(references) > 1 else torch.zeros_like(structures)
    energies[order] = atomic.energies[:atoms].double() + references[rows, graph.atomic_numbers[:atoms].long()]
    per_edge = -graph.vectors[:edges, :, None].double() * p[:, None, :]
    virials = p.new_zeros(graph.capacity.systems, 3, 3).index_add_(0, structures[centers], per_edge)
    return forces, energies, 0.5 * (virials + virials.mT)
