"""`Engine`: structures in, energies, forces and stress out."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from atomjet.data import Conditions, Graph, Prediction, System
from atomjet.data.capacity import DENSITY
from atomjet.engine.capacity import SHARE, free_bytes
from atomjet.engine.captured_path import CapturedPath
from atomjet.engine.eager_path import EagerPath
from atomjet.engine.evaluation import Evaluation, Stages, gpu_stages
from atomjet.engine.fork import survive_forks
from atomjet.engine.hessian import hessian
from atomjet.engine.limits import Limits
from atomjet.engine.settings import Settings, whole_number
from atomjet.engine.trained_at import TrainedAt
from atomjet.engine.uncertainty import Bound
from atomjet.engine.undisturbed import undisturbed
from atomjet.errors import ConfigError, StructureError
from atomjet.models import contract, tensor_file
from atomjet.models.card import checked
from atomjet.models.contract import CapturedBackend, Model
from atomjet.models.ensemble import EnsembleBackend
from atomjet.models.families import choose_backend
from atomjet.neighbors import check_resolution

NOTHING_TO_DO = nullcontext()


class Engine:
    """A model on a device and a backend.

    Attributes:
        backend: name of the one that runs, see `Settings`.
        task: the task of structures that do not name their own; None for models without tasks, or where each must.
        charge, spin: those of structures that do not say their own; None leaves them open.
        card: what the model's makers say of it.
        cutoff: Å.
        elements: atomic numbers it serves. limits: these, and how near atoms may be.
        captured_path: through buffers of fixed size; None for backends that do not work in them.
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
        self.card = checked(card or {})
        self.task = model.check_task(task)
        self.charge, self.spin = whole_number("charge", charge), whole_number("spin", spin)
        self._trained_at = TrainedAt.of(self.card)
        (self._trained_at or model).check_conditions(self.charge, self.spin)
        self.device = torch.device(self.settings.device)  # type: ignore[arg-type]
        self.dtype = self.settings.dtype
        with undisturbed(self.device):
            self.model = tensor_file.frozen(copy.deepcopy(model)).to(self.device, self.dtype)
            self.backend, self.evaluator, self._passed_over = choose_backend(
                self.model, self.settings.backend, self.device, self.settings.precision
            )
        self.bound = Bound.of(self.card) if isinstance(self.evaluator, EnsembleBackend) else None
        self.limits = Limits(model.elements, self.card, self.settings.on_overlap, self.device)
        self._eager = EagerPath(self.model, self.backend, self.settings, self.limits)
        self.captured_path: CapturedPath | None = None
        if isinstance(self.evaluator, CapturedBackend) and self.settings.neighbors == "auto":
            backend, closest = self.evaluator, self.limits.closest
            anything = torch.zeros_like(closest) if self.settings.on_overlap == "warn" else closest
            self.use(gpu_stages(self.model, backend, closest), lenient=gpu_stages(self.model, backend, anything))

    def with_settings(self, **changes: Any) -> Engine:
        """Another engine on the same weights, as they are here: in float32 unless this engine's precision is "float64".

        Args:
            changes: fields of `Settings`, and task, charge and spin; the others stay. `backend` and `device` stay those that run
                here only if they were set by name: "auto" chooses anew.

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

        self.captured_path = CapturedPath(
            stages,
            self.cutoff,
            self.elements,
            self._check_inputs,
            admit,
            self._evaluate,
            self._eager.not_finite,
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
        assert self.captured_path is not None, "only for backends with `stages`"
        with self._on_device():
            return self.captured_path.reserve(structures)

    def enlarge(self, evaluation: Evaluation) -> Evaluation:
        """After `Status.EDGES`: an evaluation of the same structures, with capacity for the edges that the last launch found."""
        assert self.captured_path is not None
        return self.captured_path.enlarged(evaluation)

    def shared(self, graph: Graph) -> AbstractContextManager[Any]:
        """What evaluates one process's part of a structure, lent for a call: the backend, or buffers of fixed size for it.

        Raises:
            StructureError: more than fits into memory.
        """
        if graph.halo is None or self.captured_path is None or self.captured_path.stages.backend.exchanges is None:
            return nullcontext(self.evaluator)
        return self.captured_path.shared(graph)

    def drop_buffers(self) -> None:
        """Give back the memory of buffers that no call is using; the next calls make them anew."""
        if self.captured_path is not None:
            self.captured_path.pool.drop_idle()

    @property
    def stages(self) -> Stages | None:
        """What evaluates in buffers of fixed size; None for backends that do not."""
        return None if self.captured_path is None else self.captured_path.stages

    @property
    def served(self) -> Tensor:
        """(119,) whether each atomic number is served."""
        return self.limits.served

    @property
    def shortest_allowed(self) -> Tensor:
        """(119, 119) Å by atomic numbers: atoms nearer to each other are refused."""
        return self.limits.closest

    @property
    def captures(self) -> bool:
        """Whether what is launched in buffers of fixed size becomes CUDA graphs."""
        return self.captured_path is not None and self.captured_path.pool.capture

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
        """See `Settings`."""
        return self.settings.precision

    def describe(self) -> str:
        """Say in one line what runs."""
        name = self.card.get("name", self.model.family)
        if isinstance(self.evaluator, EnsembleBackend):
            name += f" ({len(self.evaluator.members)} members)"
        threads = f"{torch.get_num_threads()} threads"
        hardware = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else threads
        task = f", task {self.task}" if self.task else ""
        dtype = str(self.dtype).removeprefix("torch.")
        how = ""
        if self.captured_path is not None:
            how = (
                f", without CUDA graphs ({self.captured_path.why_not})"
                if self.captured_path.why_not
                else ", CUDA graphs"
            )
        elif self._passed_over and self.device.type == "cuda":
            how = f" ({self._passed_over})"
        if note := getattr(self.evaluator, "note", ""):
            how += f" ({note})"
        if self.settings.neighbors != "auto":
            how += f", neighbours by {self.settings.neighbors}"
        return f"{name} on {self.device} ({hardware}), backend {self.backend}{how}, precision {self.precision} ({dtype}){task}"

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
        if self.captured_path is not None:
            with self._on_device():
                return self.captured_path.predict(structures)
        # Positions stay in float64 up to the edge vectors: differences of large numbers are taken before rounding.
        if isinstance(structures, System) and structures.dtype == torch.float32:
            check_resolution(structures, self.cutoff)  # of the type in which they came
        with undisturbed(self.device):
            system = System.from_ase(structures, device=self.device, dtype=torch.float64)
            home = structures.device if isinstance(structures, System) else torch.device("cpu")
            return self._evaluate(system).to(home)

    def _on_device(self) -> AbstractContextManager[object]:
        """Make the engine's device the current one, where kernels are launched, if it is not."""
        index = self.limits.closest.device.index  # "cuda" alone does not say
        if index is None or index == torch.cuda.current_device():
            return NOTHING_TO_DO
        return torch.cuda.device(index)

    def _check_inputs(self, system: System) -> System:
        """Refuse what the model does not know; fill in what the structures leave open."""
        self.limits.check_system(system)
        return self.complete(system)

    def complete(self, system: System) -> System:
        """Fill in charges, spins and tasks that the structures leave open, or say what of theirs the model does not know."""
        return self.model.complete(self._as_trained(system), self.task)

    def _as_trained(self, system: System) -> System:
        """What the engine says of structures that say nothing; what they say that the model takes for granted is left out."""
        system = system.with_defaults(self.charge, self.spin)
        return system if self._trained_at is None else self._trained_at.complete(system)

    def _evaluate(self, system: System) -> Prediction:
        return self._eager.predict(self._check_inputs(system), self.evaluator, self.drop_buffers)

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
            self.limits.check_graph(system, self.search(system))
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
        return self._eager.search(system)
