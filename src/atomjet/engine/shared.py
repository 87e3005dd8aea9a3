"""One structure shared by several processes: each evaluates the atoms it owns, and rows of features travel through a `Halo`.

A host (a simulation program on many ranks, or `torchrun`) brings the edges of its own atoms as a `Graph` with a halo.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.data.elements import SYMBOLS
from atomjet.errors import AtomJetError, BackendError, StructureError
from atomjet.models.base import atomic_virials, forces_from_gradients, virials_from_gradients
from atomjet.models.families import FAMILIES
from atomjet.models.tensor_file import digest
from atomjet.version import VERSION

if TYPE_CHECKING:
    from atomjet.engine.engine import Engine


class Evaluator(Protocol):
    """A backend, or its buffers."""

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (owned,) eV without reference energies, and (E, 3) eV/Å: dE/d(vector) of every edge."""
        ...


SURPLUS = 0.01
"""Å that the weighed sum of all edge vectors may be off zero: far above rounding, below what one edge adds."""


@dataclass(frozen=True)
class SharedPrediction:
    """What one process learns of a structure that it shares; float64.

    Attributes:
        energy: (S,) eV, of all processes together.
        forces: (owned, 3) eV/Å.
        virial: (S, 3, 3) eV, dE/dstrain of all processes together; divided by the volume it is the stress.
        atomic_energies: (owned,) eV.
        atomic_virials: (owned, 3, 3) eV, symmetric; each atom's share in the virial, an edge's share being its center's. None where
            nobody asked.
    """

    energy: Tensor
    forces: Tensor
    virial: Tensor
    atomic_energies: Tensor
    atomic_virials: Tensor | None = None


def predict_shared(engine: Engine, graph: Graph, ids: Tensor | None = None, atomic: bool = False) -> SharedPrediction:
    """Evaluate the owned atoms of a graph with a halo; collective. Without a halo, of a whole graph.

    Args:
        engine: with a backend that can exchange.
        graph: float64 vectors on the engine's device.
        ids: (N,) what the host calls the atoms, for messages; else their places.
        atomic: whether each atom's share in the virial is wanted.

    Raises:
        AtomJetError: on every process alike where one refuses: see `check_shared`, processes that compute different things, an
            unknown element, atoms too near each other, too little memory for buffers, edges without their reverse, a result that is
            not finite.
    """
    with ExitStack() as lent:  # until the result has been waited for
        if engine.device.type == "cuda":
            lent.enter_context(torch.cuda.device(engine.device))  # where kernels are launched
        graph, evaluator = _agreed(engine, graph, ids, lent)
        found = evaluator.energies_and_gradients(graph.with_vectors(graph.vectors.to(engine.dtype)))
        return _summed_up(engine, graph, *found, atomic)


def _agreed(engine: Engine, graph: Graph, ids: Tensor | None, lent: ExitStack) -> tuple[Graph, Evaluator]:
    """The graph completed and what evaluates it, where no process refuses; collective."""
    evaluator: Evaluator = engine.evaluator
    graph, refusal = _completed(engine, graph)
    refusal = refusal or _refusal(engine, graph, ids)
    if refusal is None:
        try:
            evaluator = lent.enter_context(engine.shared(graph))
        except AtomJetError as error:
            refusal = error
    if graph.halo is not None:
        unlike = _unlike(engine, graph)  # collective, whatever else is refused
        graph.halo.agree(unlike or refusal)
    elif refusal is not None:
        raise refusal
    return graph, evaluator


def _summed_up(engine: Engine, graph: Graph, energies: Tensor, gradients: Tensor, atomic: bool) -> SharedPrediction:
    """What follows from energies and dE/d(edge vectors) of all processes; collective."""
    halo, gradients = graph.halo, gradients.double()
    energies = energies.double() + engine.model.references(graph)[: graph.num_owned]
    owned = graph.system_index[: graph.num_owned]
    energy = torch.zeros(graph.num_systems, dtype=torch.float64, device=energies.device).index_add_(0, owned, energies)
    virial = virials_from_gradients(graph, gradients)
    totals = torch.cat([energy, virial.flatten(), _surplus(graph)])
    forces = forces_from_gradients(graph, gradients)
    if halo is not None:
        halo.sum(totals)
    energy, virial, surplus = totals[: len(energy)], totals[len(energy) : -3].view_as(virial), totals[-3:]
    if bool(surplus.abs().max() > SURPLUS):
        raise StructureError(
            "some edges lack their reverse, so that forces would be wrong: an atom within the cutoff of another does not see it; "
            "give every process all atoms within the cutoff of its own as ghosts"
        )
    if not bool(totals.isfinite().all()):  # the same numbers everywhere, so all raise
        raise BackendError(
            f"the energy is not finite with backend {engine.backend!r} and precision {engine.precision!r}: a number left its "
            "range; use a higher precision"
        )
    shares = None
    if atomic:
        shares = atomic_virials(graph, gradients).reshape(-1, 3, 3)
        shares = 0.5 * (shares + shares.transpose(1, 2))
    return SharedPrediction(energy, forces, virial, energies, shares)


def _completed(engine: Engine, graph: Graph) -> tuple[Graph, AtomJetError | None]:
    """What the structures leave open of charge, spin and task filled in; or why the model does not know what they say."""
    # Conditions are of structures, whatever atoms of them are here: two stand for all.
    number = graph.num_systems
    system = System(
        positions=torch.zeros(2 * number, 3),
        atomic_numbers=torch.full((2 * number,), engine.elements[0]),
        system_index=torch.arange(number).repeat_interleave(2),
        charge=graph.charge.cpu(),
        spin=graph.spin.cpu(),
        task=graph.task or None,  # type: ignore[arg-type]
        charge_given=graph.charge_given or tuple((graph.charge != 0).tolist()),
        spin_given=graph.spin_given or tuple((graph.spin != 0).tolist()),
    )
    try:
        known = engine.complete(system)
    except AtomJetError as error:
        return graph, error
    device = graph.charge.device
    return replace(graph, charge=known.charge.to(device), spin=known.spin.to(device), task=known.task), None


_described: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()


def describe_shared(engine: Engine) -> str:
    """Say in one line what must be the same on all processes that share a structure, weights by the start of their SHA-256."""
    if engine not in _described:
        weights = {name: tensor.detach().cpu() for name, tensor in engine.model.state_dict().items()}
        sha = digest(weights, {"config": engine.model.config.model_dump_json()})
        _described[engine] = (
            f"AtomJet {VERSION}, model {engine.card.get('name') or engine.model.family} (weights {sha[:12]}), backend "
            f"{engine.backend}, precision {engine.precision}"
        )
    return _described[engine]


def _unlike(engine: Engine, graph: Graph) -> BackendError | None:
    """What this process computes, where the others compute something else; collective."""
    said = f"{describe_shared(engine)}, cutoff {graph.cutoff:g} Å"
    conditions = (graph.charge.tolist(), graph.spin.tolist(), graph.task)
    # Two numbers that stand for all that was said. They are equal everywhere if the mean square is the square of the mean.
    sha = hashlib.sha256(repr((said, conditions)).encode()).digest()
    numbers = [int.from_bytes(part, "little") for part in (sha[:3], sha[3:6])]
    sums = torch.tensor([1, *numbers, *(number**2 for number in numbers)], device=graph.charge.device)
    assert graph.halo is not None
    graph.halo.sum(sums)
    count, first, second, first_squares, second_squares = sums.tolist()
    if (count * first_squares, count * second_squares) == (first**2, second**2):
        return None
    if graph.task and any(graph.task):
        said += f", task {', '.join(sorted(set(graph.task)))}"
    said += "".join(
        f", {name} {', '.join(map(str, sorted(set(values))))}"
        for name, values in zip(("charge", "spin"), conditions, strict=False)
        if any(values)
    )
    return BackendError(
        f"the processes that share this structure differ in what they compute; this one runs {said}: give all the same AtomJet, "
        "model, settings and conditions"
    )


def _surplus(graph: Graph) -> Tensor:
    """Sum of this process's edge vectors (3,) Å, each weighed by how far within the cutoff it ends.

    Every edge has its reverse, on whatever process, so that all together sum to nothing; but for those that end at the cutoff
    itself, where rounding decides whether one is an edge, and which count for nothing.
    """
    return ((1 - graph.lengths.double() / graph.cutoff)[:, None] * graph.vectors.double()).sum(0)


def check_shared(engine: Engine) -> None:
    """Refuse an engine whose backend cannot share a structure between processes.

    Raises:
        BackendError: it cannot.
    """
    if engine.evaluator.exchanges is None:
        family = FAMILIES.get(engine.model.family)
        others = [
            repr(name) for name in (family.backends if family else ()) if name not in (engine.backend, "fast_gpu")
        ]
        raise BackendError(
            f"backend {engine.backend!r} of {engine.model.family!r} cannot share a structure between processes, as it exchanges no "
            f"rows with others; use {' or '.join(others) or 'another'} if it can, or one process"
        )


def _refusal(engine: Engine, graph: Graph, ids: Tensor | None) -> AtomJetError | None:
    """Why this process cannot evaluate, if so."""

    def name(atom: int) -> str:
        return f"atom {atom if ids is None else int(ids[atom])}"

    try:
        if graph.halo is not None:
            check_shared(engine)
    except BackendError as error:
        return error
    z = graph.atomic_numbers
    unknown = ~engine.served[z.clamp(0, len(SYMBOLS) - 1)]
    if bool(unknown.any()):
        atom = int(unknown.nonzero()[0])
        return StructureError(f"{name(atom)}: element with Z = {int(z[atom])} is unknown to this model")
    if not bool(graph.vectors.isfinite().all()):
        edge = int((~graph.vectors.isfinite().all(1)).nonzero()[0])
        return StructureError(
            f"{name(int(graph.centers[edge]))}: a position is not finite; the simulation has exploded"
        )
    near = graph.lengths < engine.shortest_allowed[z[graph.centers], z[graph.neighbors]]
    if bool(near.any()):
        edge = int(near.nonzero()[0])
        i, j = int(graph.centers[edge]), int(graph.neighbors[edge])
        limit = float(engine.shortest_allowed[z[i], z[j]])
        return StructureError(
            f"{name(i)} and {name(j)} ({SYMBOLS[int(z[i])]}-{SYMBOLS[int(z[j])]}) are {float(graph.lengths[edge]):.3f} Å apart, "
            f"nearer than {limit:.3f} Å, which this model serves; repair the structure or shorten the time step"
        )
    return None


def owned_part(graph: Graph, owner: Tensor, rank: int) -> tuple[Tensor, Tensor, Graph]:
    """Cut out of a whole graph what one process needs, numbered owned atoms first, then ghosts; `halo` is for the caller to add.

    Args:
        graph: all atoms and edges.
        owner: (N,) the process that owns each atom.
        rank: of the process.

    Returns:
        ids of owned atoms (owned,), ids of ghosts (ghosts,), both places in the whole graph, and the part.
    """
    owned = (owner == rank).nonzero().flatten()
    edges = (owner[graph.centers] == rank).nonzero().flatten()
    reached = torch.unique(graph.neighbors[edges])
    ghosts = reached[owner[reached] != rank]
    atoms = torch.cat([owned, ghosts])
    place = torch.full((graph.num_atoms,), -1, device=owner.device)
    place[atoms] = torch.arange(len(atoms), device=owner.device)
    centers = place[graph.centers[edges]]
    counts = torch.bincount(centers, minlength=len(owned))
    part = replace(
        graph,
        centers=centers,
        neighbors=place[graph.neighbors[edges]],
        shifts=graph.shifts[edges],
        vectors=graph.vectors[edges],
        row_ptr=torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]),
        atomic_numbers=graph.atomic_numbers[atoms],
        system_index=graph.system_index[atoms],
    )
    return owned, ghosts, part
