"""`Engine`: structures in, energies, forces and stress out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomjet.data import Conditions, Graph, Prediction, System
from atomjet.data.capacity import DENSITY
from atomjet.data.elements import SYMBOLS
from atomjet.engine.capacity import SHARE, fits, free_bytes, refusal
from atomjet.engine.captured_path import CapturedPath
from atomjet.engine.evaluation import Evaluation, Stages, gpu_stages
from atomjet.engine.fork import survive_forks
from atomjet.engine.hessian import hessian
from atomjet.engine.settings import BELOW_TRAINING, CLOSEST, OnOverlap, Precision, Settings
from atomjet.engine.streams import halved
from atomjet.engine.trained_at import TrainedAt
from atomjet.engine.uncertainty import Bound
from atomjet.engine.undisturbed import undisturbed
from atomjet.errors import BackendError, ConfigError, StructureError
from atomjet.models import contract, registry, tensor_file
from atomjet.models.base import forces_from_gradients, virials_from_gradients
from atomjet.models.card import card_to_json
from atomjet.models.contract import CapturedBackend, Model
from atomjet.models.ensemble import EnsembleBackend, members_of
from atomjet.models.families import FAMILIES
from atomjet.models.load import read, read_ensemble
from atomjet.neighbors import check_resolution, search

NOTHING_TO_DO = nullcontext()


def load(
    model: str | Path | Sequence[str | Path],
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: Precision = "default",
    task: str | None = None,
    on_overlap: OnOverlap = "error",
    neighbors: str = "auto",
    charge: int | None = None,
    spin: int | None = None,
) -> Engine:
    """Make an engine from a packaged model's name, a model file (.safetensors) or a fairchem checkpoint (.pt); or from several.

    Args:
        model: name (`atomjet info` lists them) or path. A list of them makes an ensemble: the mean of its members, which says how
            far they disagree (`Prediction.spread`).
        device, backend, precision, on_overlap, neighbors: see `Settings`.
        task: for models that know several: the one for structures that do not name their own (`info["task"]`).
        charge, spin: total charge, e, and multiplicity 2S + 1 of structures that do not say their own (`info["charge"]`,
            `info["spin"]`).

    Raises:
        ModelFileError: see `atomjet.models.load.read`.
        BackendError: a device or backend that cannot serve this model.
        ConfigError: an unknown setting or task, a charge or spin that the model does not know; members that do not go together.
    """
    settings = Settings(device, backend, precision, on_overlap, neighbors)
    if not isinstance(model, str | Path | Sequence):
        raise ConfigError(
            f"model is {type(model).__name__} {str(model)[:60]!r}; give a name, a path, or a list of them"
        )
    with undisturbed(settings.device):  # type: ignore[arg-type]
        if isinstance(model, str | Path):
            network, card = read(registry.locate(model))
        else:
            network, card = read_ensemble([registry.locate(member) for member in model])
        return Engine(network, settings, card, task, charge, spin)


class Engine:
    """A model on a device and a backend.

    Attributes:
        backend: name of the one that runs, see `Settings`.
        task: the task of structures that do not name their own; None for models without tasks, or where each must.
        charge, spin: those of structures that do not say their own; None leaves them open.
        card: what the model's makers say of it.
        cutoff: Å.
        elements: atomic numbers it serves. served: (119,) whether it serves each.
        bound: beyond which an ensemble's spread is warned of; None where it was not calibrated, and for a single model.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        card: dict[str, Any] | None = None,
        task: str | None = None,
        charge: int | None = None,
        spin: int | None = None,
    ) -> None:
        """Take a model (copied, so that the caller's stays as it is), settings, card and defaults of structures.

        Raises:
            BackendError, ConfigError: see `load`; also for a card with fields of wrong types (`atomjet.models.card`).
        """
        if missing := contract.lacking(model):
            raise ConfigError(
                f"{type(model).__name__} has no {', '.join(missing)}; a model gives all that Model in models/contract.py names"
            )
        survive_forks()
        self.settings = settings or Settings()
        self.card = _checked(card or {})
        self.task = model.check_task(task)
        self.charge, self.spin = _whole("charge", charge), _whole("spin", spin)
        self._trained_at = TrainedAt.of(self.card)
        (self._trained_at or model).check_conditions(self.charge, self.spin)
        self.device = torch.device(self.settings.device)  # type: ignore[arg-type]
        self.dtype = self.settings.dtype
        with undisturbed(self.device):
            self.model = tensor_file.frozen(copy.deepcopy(model)).to(self.device, self.dtype)
            self.backend, self.evaluator, self._passed_over = _choose(self.settings, self.model)
        self.bound = Bound.of(self.card) if isinstance(self.evaluator, EnsembleBackend) else None
        self.served = torch.zeros(len(SYMBOLS), dtype=torch.bool, device=self.device)
        self.served[list(model.elements)] = True
        self._closest = _closest(self.card, self.device)
        self._path: CapturedPath | None = None
        if isinstance(self.evaluator, CapturedBackend) and self.settings.neighbors == "auto":
            backend = self.evaluator
            anything = torch.zeros_like(self._closest) if self.settings.on_overlap == "warn" else self._closest
            self.use(gpu_stages(self.model, backend, self._closest), lenient=gpu_stages(self.model, backend, anything))

    def with_settings(self, **changes: Any) -> Engine:
        """Another engine on the same weights, as they are here: in float32 unless this engine's precision is "float64".

        Args:
            changes: fields of `Settings`, and task, charge and spin; the others stay. `backend` and `device` stay those that run
                here only if they were asked for: "auto" chooses anew.

        Raises:
            ConfigError: no such setting, or a value that it cannot have.
            BackendError: a backend that cannot serve this model.
        """
        defaults = {name: changes.pop(name, getattr(self, name)) for name in ("task", "charge", "spin")}
        names = [field.name for field in fields(Settings)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise ConfigError(f"setting {unknown[0]!r} is unknown; choose from {', '.join([*names, *defaults])}")
        given = {name: value for name, value in defaults.items() if value is not None}
        return type(self)(self.model, replace(self.settings, **changes), self.card, **given)

    def use(self, stages: Stages, capture: bool = True, lenient: Stages | None = None) -> None:
        """Evaluate through buffers of fixed size from now on; see `CapturedPath`."""

        def admit(system: System) -> Conditions | None:
            return stages.backend.admit(self._as_trained(system), self.task)

        self._path = CapturedPath(
            stages,
            self.cutoff,
            self.elements,
            self._check_inputs,
            admit,
            self._evaluate,
            self._not_finite,
            capture,
            lenient,
        )

    def reserve(self, structures: Any) -> Evaluation:
        """Buffers of their own for whoever evaluates the same atoms many times, such as dynamics on the device.

        Args:
            structures: as for `predict`.

        Raises:
            StructureError: what the model does not serve, or more than fits into memory.
        """
        assert self._path is not None, "only for backends with `stages`"
        with self._there():
            return self._path.reserve(structures)

    def enlarge(self, evaluation: Evaluation) -> Evaluation:
        """After `Status.EDGES`: an evaluation of the same structures, with room for all the edges that the last launch found."""
        assert self._path is not None
        return self._path.enlarged(evaluation)

    def shared(self, graph: Graph) -> AbstractContextManager[Any]:
        """What evaluates one process's part of a structure, lent for a call: the backend, or buffers of fixed size for it.

        Raises:
            StructureError: more than fits into memory.
        """
        if graph.halo is None or self._path is None or self._path.stages.backend.exchanges is None:
            return nullcontext(self.evaluator)
        return self._path.shared(graph)

    def drop_buffers(self) -> None:
        """Give back the memory of buffers that no call is using; the next calls make them anew."""
        if self._path is not None:
            self._path.pool.drop_idle()

    @property
    def stages(self) -> Stages | None:
        """What evaluates in buffers of fixed size; None for backends that do not."""
        return None if self._path is None else self._path.stages

    @property
    def shortest_allowed(self) -> Tensor:
        """(119, 119) Å by atomic numbers: atoms nearer to each other are refused."""
        return self._closest

    @property
    def captures(self) -> bool:
        """Whether what is launched in buffers of fixed size becomes CUDA graphs."""
        return self._path is not None and self._path.pool.capture

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.model.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model serves."""
        return self.model.elements

    @property
    def precision(self) -> str:
        """The precision asked for."""
        return self.settings.precision

    def describe(self) -> str:
        """Say in one line what runs."""
        name = self.card.get("name", self.model.family)
        if isinstance(self.evaluator, EnsembleBackend):
            name += f" ({len(self.evaluator.members)} members)"
        kind = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        task = f", task {self.task}" if self.task else ""
        dtype = str(self.dtype).removeprefix("torch.")
        how = ""
        if self._path is not None:
            how = f", without CUDA graphs ({self._path.why_not})" if self._path.why_not else ", CUDA graphs"
        elif self._passed_over and self.device.type == "cuda":
            how = f" ({self._passed_over})"
        if note := getattr(self.evaluator, "note", ""):
            how += f" ({note})"
        if self.settings.neighbors != "auto":
            how += f", neighbours by {self.settings.neighbors}"
        return (
            f"{name} on {self.device} ({kind}), backend {self.backend}{how}, precision {self.precision} ({dtype}){task}"
        )

    def predict(self, structures: Any) -> Prediction:
        """Compute energy, forces and stress.

        Args:
            structures: ase.Atoms, many of them (a list, a generator, an open trajectory; any mix of sizes, cells and periodic
                directions), or a `System`.

        Structures on which an ensemble's members disagree beyond the bound in its card bring an `UncertaintyWarning`.

        Raises:
            StructureError: no structures or an empty one, an element, charge, spin or task the model does not know, overlapping
                atoms, or anything `System` refuses; names structure and atom.
            ConfigError: the model knows several tasks, and neither the engine nor the structure names one.
            BackendError: the result is not finite: a number left the range of its type.

        Returns:
            Tensors where the structures were: on the CPU for ase.Atoms, on its device for a `System`.
        """
        prediction = self._predict(structures)
        if self.bound is not None:
            self.bound.warn(prediction)
        return prediction

    def _predict(self, structures: Any) -> Prediction:
        if self._path is not None:
            with self._there():
                return self._path.predict(structures)
        # Positions stay in float64 up to the edge vectors: differences of large numbers are taken before rounding.
        if isinstance(structures, System) and structures.dtype == torch.float32:
            check_resolution(structures, self.cutoff)  # of the type in which they came
        with undisturbed(self.device):
            system = System.from_ase(structures, device=self.device, dtype=torch.float64)
            home = structures.device if isinstance(structures, System) else torch.device("cpu")
            return self._evaluate(system).to(home)

    def _not_finite(self, prediction: Prediction, labels: Sequence[int] | None = None) -> BackendError:
        """Say which structure has no result."""
        atoms = prediction.forces.isfinite().all(1)
        bad = ~prediction.energy.isfinite()
        bad[prediction.system_index[~atoms]] = True
        structure = int(bad.nonzero()[0])
        wider = {"default": "high", "high": "float64"}.get(self.precision)
        remedy = f"use precision={wider!r}" if wider else "check the weights"
        return BackendError(
            f"structure {labels[structure] if labels else structure}: energy or forces are not finite with backend "
            f"{self.backend!r} and precision {self.precision!r}: a number left its range; {remedy}"
        )

    def _there(self) -> AbstractContextManager[object]:
        """Make the engine's device the current one, where kernels are launched, if it is not."""
        index = self._closest.device.index  # "cuda" alone does not say
        if index is None or index == torch.cuda.current_device():
            return NOTHING_TO_DO
        return torch.cuda.device(index)

    def _check_inputs(self, system: System) -> System:
        """Refuse what the model does not know; fill in what the structures leave open."""
        self._check_system(system)
        return self.complete(system)

    def complete(self, system: System) -> System:
        """Fill in charges, spins and tasks that the structures leave open, or say what of theirs the model does not know."""
        return self.model.complete(self._as_trained(system), self.task)

    def _as_trained(self, system: System) -> System:
        """What the engine says of structures that say nothing; what they say that the model takes for granted is left out."""
        system = system.with_defaults(self.charge, self.spin)
        return system if self._trained_at is None else self._trained_at.complete(system)

    def _evaluate(self, system: System) -> Prediction:
        system = self._check_inputs(system)

        def some(first: int, last: int) -> Prediction | None:
            whole = last - first == system.num_systems
            return self._evaluate_together(system if whole else system.part(first, last))

        return halved(system.num_systems, some)

    def _evaluate_together(self, system: System) -> Prediction | None:
        """None for several structures that do not fit into memory; a single one is refused before anything is computed."""
        graph = self.search(system)
        self._check_graph(system, graph)
        self.model.warn(system, graph)
        needed, free = self.evaluator.bytes_needed(graph), free_bytes(self.device)
        if self._path is not None and not fits(needed, free):
            self._path.pool.drop_idle()
            free = free_bytes(self.device)
        if not fits(needed, free):
            if system.num_systems > 1:
                return None
            raise refusal(graph.num_atoms, graph.num_edges, needed, free, self.device, system.labels)
        graph = graph.with_vectors(graph.vectors.to(self.dtype))
        if isinstance(self.evaluator, EnsembleBackend):
            members = zip(members_of(self.model), self.evaluator.members, strict=True)
            prediction = Prediction.mean_of([self._prediction(system, graph, *member) for member in members])
        else:
            prediction = self._prediction(system, graph, self.model, self.evaluator)
        if not bool((prediction.energy.sum() + prediction.forces.sum()).isfinite()):
            raise self._not_finite(prediction, system.labels)
        return prediction

    @torch.inference_mode(False)  # whatever the host's mode
    def hessian(self, structure: Any) -> Tensor:
        """Second derivatives of the energy of one structure, in float64 whatever the engine's precision.

        Args:
            structure: ase.Atoms, or a `System` of one structure.

        Returns:
            (3N, 3N) eV/Å², symmetric; components in the order x y z of atom 0, of atom 1, ... On the CPU for ase.Atoms.

        Raises:
            StructureError: see `predict`; also for more than one structure.
        """
        with undisturbed(self.device):
            system = System.from_ase(structure, device=self.device, dtype=torch.float64)
            if system.num_systems != 1:
                raise StructureError(f"{system.num_systems} structures given; a Hessian is of one, so call it for each")
            system = self._check_inputs(system)
            self._check_graph(system, self.search(system))
            definition = copy.deepcopy(self.model).double() if self.dtype != torch.float64 else self.model
            found = hessian(definition, system, self.search, free_bytes(self.device), SHARE)
        return found.to(structure.device if isinstance(structure, System) else "cpu")

    def bytes_per_atom(self) -> float:
        """Upper estimate of the memory that a prediction takes for each atom of dense matter; for whoever makes batches."""
        side, spacing = 6, DENSITY ** (-1 / 3)
        places = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3) * spacing
        cell = torch.eye(3, dtype=torch.float64) * side * spacing
        system = System(places, torch.full((side**3,), self.elements[0]), cell, torch.tensor(True))
        if self._trained_at is None:  # said, so that no model warns of what it fills in
            system = system.with_defaults(self.charge or 0, self.spin or 1)
        graph = self.search(self._check_inputs(system.to(self.device)))
        return (self.evaluator.bytes_needed(graph) + 100 * graph.num_edges) / graph.num_atoms

    def search(self, system: System) -> Graph:
        """Find the neighbours of structures on the engine's device."""
        return search(system, self.cutoff, self.settings.neighbors)

    def _prediction(self, system: System, graph: Graph, model: Model, backend: contract.Backend) -> Prediction:
        energies, gradients = backend.energies_and_gradients(graph)
        # Sums over many edges and atoms in float64: they cost nothing beside the model.
        graph, gradients = graph.with_vectors(graph.vectors.double()), gradients.double()
        atomic = energies.double() + model.references(graph)
        energy = torch.zeros(system.num_systems, dtype=torch.float64, device=self.device)
        energy.index_add_(0, system.system_index, atomic)
        volume = torch.linalg.det(system.cell).abs()
        stress = virials_from_gradients(graph, gradients) / volume[:, None, None]
        stress = torch.where(system.pbc.all(1)[:, None, None], stress, torch.nan)
        return Prediction(energy, forces_from_gradients(graph, gradients), stress, atomic, system.system_index)

    def _check_system(self, system: System) -> None:
        if not system.num_systems:
            raise StructureError("no structures given; give at least one")
        empty = system.counts() == 0
        if bool(empty.any()):
            raise StructureError(f"{system.name(int(empty.nonzero()[0]))} has no atoms; leave it out")
        served = self.served[system.atomic_numbers.clamp(max=len(SYMBOLS) - 1)]
        if not bool(served.all()):
            atom = int((~served).nonzero()[0])
            number = int(system.atomic_numbers[atom])
            symbol = SYMBOLS[number] if number < len(SYMBOLS) else "?"
            known = " ".join(SYMBOLS[z] for z in self.elements[:20]) + (" ..." if len(self.elements) > 20 else "")
            raise StructureError(
                f"{system.place(atom)}: element {symbol} (Z = {number}) is unknown to this model; it knows {known}"
            )

    def _check_graph(self, system: System, graph: Graph) -> None:
        z = system.atomic_numbers
        limits = self._closest[z[graph.centers], z[graph.neighbors]]
        near = graph.lengths < limits
        if not bool(near.any()):
            return
        edge = int(near.nonzero()[0])
        i, j = int(graph.centers[edge]), int(graph.neighbors[edge])
        first = int((system.system_index < system.system_index[i]).sum())
        length, limit = float(graph.lengths[edge]), float(limits[edge])
        image = " (a periodic image)" if bool((graph.shifts[edge] != 0).any()) else ""
        pair = f"{SYMBOLS[int(z[i])]}-{SYMBOLS[int(z[j])]}"
        why = (
            f"{CLOSEST} Å"
            if limit <= CLOSEST
            else f"{limit:.3f} Å, {BELOW_TRAINING} of the shortest {pair} in the model's training data"
        )
        message = f"{system.place(i)} and atom {j - first}{image} are {length:.3f} Å apart, nearer than {why}"
        if self.settings.on_overlap == "error" or length == 0.0:
            raise StructureError(f"{message}; repair the structure, or pass on_overlap='warn' for distances above zero")
        warnings.warn(f"{message}; the result means little", stacklevel=3)


def _checked(card: Any) -> dict[str, Any]:
    """A card whose fields have the types that the program expects."""
    try:
        card_to_json(card)
    except ValueError as error:
        raise ConfigError(f"card: {tensor_file.first_line(error)}; see atomjet.models.card.Card") from None
    return card


def _whole(name: str, value: Any) -> int | None:
    """A charge or spin as int; None stays."""
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number")
    return number


def _closest(card: dict[str, Any], device: torch.device) -> Tensor:
    """Shortest distance allowed for each pair of elements, Å: a little under that of the training data, if the card says it."""
    limits = torch.full((len(SYMBOLS), len(SYMBOLS)), CLOSEST, dtype=torch.float64, device="cpu")
    numbers = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    for pair, length in card.get("shortest_distances", {}).items():
        a, b = (numbers[symbol] for symbol in pair.split("-"))
        limits[a, b] = limits[b, a] = max(CLOSEST, BELOW_TRAINING * float(length))
    return limits.to(device)


def _choose(settings: Settings, model: Model) -> tuple[str, contract.Backend, str]:
    """The backend that runs, and why a faster one does not; of the one asked for, the reason why it cannot."""
    backends, device = FAMILIES[model.family].backends, torch.device(settings.device)  # type: ignore[arg-type]
    if settings.backend == "auto":
        reason = ""
        for name, choice in backends.items():
            if device.type not in choice.devices:
                continue
            try:
                return name, choice.make(model, settings.precision), reason
            except BackendError as error:
                reason = reason or str(error)
    if settings.backend not in backends:
        raise BackendError(
            f"backend {settings.backend!r} does not serve {type(model).__name__} yet; use one of {', '.join(backends)}"
        )
    return settings.backend, backends[settings.backend].make(model, settings.precision), ""
