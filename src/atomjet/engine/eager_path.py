"""`EagerPath`: structures to predictions without buffers of fixed size, on any device; its errors name atoms and structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from atomjet.data import Graph, Prediction, System
from atomjet.engine.capacity import fits, free_bytes, refusal
from atomjet.engine.limits import Limits
from atomjet.engine.settings import Settings
from atomjet.engine.streams import halved
from atomjet.errors import BackendError
from atomjet.models.base import forces_from_gradients, virials_from_gradients
from atomjet.models.contract import Backend, Model
from atomjet.models.ensemble import EnsembleBackend, members_of
from atomjet.neighbors import search


class EagerPath:
    """The way of a call through search, checks, backend and sums, one after the other.

    Args:
        model: what the backend evaluates, in the type of its weights.
        backend: its name, for messages.
        settings: of the engine.
        limits: of the model.
    """

    def __init__(self, model: Model, backend: str, settings: Settings, limits: Limits) -> None:
        self.model, self.backend, self.settings, self.limits = model, backend, settings, limits
        self.device = torch.device(settings.device)  # type: ignore[arg-type]

    def search(self, system: System) -> Graph:
        """Find the neighbours of structures."""
        return search(system, self.model.cutoff, self.settings.neighbors)

    def predict(self, system: System, evaluator: Backend, drop_buffers: Callable[[], None]) -> Prediction:
        """Compute structures together, or as few at a time as fit into memory.

        Args:
            system: float64, on the path's device, of elements that are served, with charges, spins and tasks filled in.
            evaluator: what computes energies and gradients.
            drop_buffers: gives back memory that is held for later calls; called where the free memory is too little.

        Raises:
            StructureError: atoms too near each other, or a structure that does not fit into memory.
            BackendError: a result that is not finite.
        """

        def some(first: int, last: int) -> Prediction | None:
            whole = last - first == system.num_systems
            return self._together(system if whole else system.part(first, last), evaluator, drop_buffers)

        return halved(system.num_systems, some)

    def _together(self, system: System, evaluator: Backend, drop_buffers: Callable[[], None]) -> Prediction | None:
        """None for several structures that do not fit into memory; a single one is refused before anything is computed."""
        graph = self.search(system)
        self.limits.check_graph(system, graph)
        self.model.warn(system, graph)
        needed, free = evaluator.bytes_needed(graph), free_bytes(self.device)
        if not fits(needed, free):
            drop_buffers()
            free = free_bytes(self.device)
        if not fits(needed, free):
            if system.num_systems > 1:
                return None
            raise refusal(graph.num_atoms, graph.num_edges, needed, free, self.device, system.labels)
        graph = graph.with_vectors(graph.vectors.to(self.settings.dtype))
        if isinstance(evaluator, EnsembleBackend):
            members = zip(members_of(self.model), evaluator.members, strict=True)
            prediction = Prediction.mean_of([_prediction(system, graph, *member) for member in members])
        else:
            prediction = _prediction(system, graph, self.model, evaluator)
        if not bool((prediction.energy.sum() + prediction.forces.sum()).isfinite()):
            raise self.not_finite(prediction, system.labels)
        return prediction

    def not_finite(self, prediction: Prediction, labels: Sequence[int] | None = None) -> BackendError:
        """The error that names the first structure without a finite result."""
        atoms = prediction.forces.isfinite().all(1)
        bad = ~prediction.energy.isfinite()
        bad[prediction.system_index[~atoms]] = True
        structure = int(bad.nonzero()[0])
        precision = self.settings.precision
        wider = {"default": "high", "high": "float64"}.get(precision)
        remedy = f"use precision={wider!r}" if wider else "check the weights"
        return BackendError(
            f"structure {labels[structure] if labels else structure}: energy or forces are not finite with backend "
            f"{self.backend!r} and precision {precision!r}: a number left its range; {remedy}"
        )


def _prediction(system: System, graph: Graph, model: Model, backend: Backend) -> Prediction:
    """What one model says of structures, summed over atoms and edges."""
    energies, gradients = backend.energies_and_gradients(graph)
    # Sums over many edges and atoms in float64: they cost nothing beside the model.
    graph, gradients = graph.with_vectors(graph.vectors.double()), gradients.double()
    atomic = energies.double() + model.references(graph)
    energy = torch.zeros(system.num_systems, dtype=torch.float64, device=graph.vectors.device)
    energy.index_add_(0, system.system_index, atomic)
    volume = torch.linalg.det(system.cell).abs()
    stress = virials_from_gradients(graph, gradients) / volume[:, None, None]
    stress = torch.where(system.pbc.all(1)[:, None, None], stress, torch.nan)
    return Prediction(energy, forces_from_gradients(graph, gradients), stress, atomic, system.system_index)
