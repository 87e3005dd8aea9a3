"""Predictions of many structures, some at a time: what an executor runs, and how its records become structures with results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from atomjet.distill.executors import Executor
from atomjet.distill.journal import Journal, Record, content_key
from atomjet.distill.pool import Task
from atomjet.engine import Engine, load
from atomjet.engine.uncertainty import watched
from atomjet.errors import AtomJetError, ModelFileError, StructureError
from atomjet.models import registry

ATOMS_AT_ONCE = 2000
"""Structures are computed together up to this many atoms, which bounds the memory."""

CONDITIONS = ("charge", "spin", "task")


@dataclass(frozen=True)
class ModelSettings:
    """What an engine is made from, wherever it is made; see `atomjet.load`."""

    model: str
    device: str | None = None
    backend: Any = "auto"
    precision: Any = "default"
    task: str | None = None

    def digest(self) -> str:
        """SHA-256 of the model's file."""
        with registry.locate(self.model).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def engine_of(settings: ModelSettings) -> Engine:
    """The engine; the last one of a process is kept."""
    return load(**{field.name: getattr(settings, field.name) for field in fields(settings)})


def check_model(settings: ModelSettings, digest: str) -> None:
    """Build the engine where other machines compute, and see that its file is the one that this run's results are remembered under.

    Raises:
        ModelFileError: it is missing, or another one.
    """
    if settings.digest() != digest:
        raise ModelFileError(
            f"the model {settings.model} is another one than where the run was started; put it where every node sees it"
        )
    engine_of(settings)


def predict_batch(settings: ModelSettings, structures: Sequence[Atoms]) -> Record:
    """Task of a worker: see `predict`."""
    return predict(engine_of(settings), structures)


def predict(engine: Engine, structures: Sequence[Atoms]) -> Record:
    """Energies, forces and stress of S structures together, N atoms in all; where one is refused, of halves, down to that one.

    Returns:
        "energy" (S,) eV; "forces" (N, 3) eV/Å; "stress" (S, 3, 3) eV/Å³; of an ensemble also "energy_spread" (S,) and
        "forces_spread" (N,); "refused", why, by the place of each structure that is. These have NaN.
    """
    try:
        with watched():
            found = engine.predict(list(structures)).to("cpu")
    except AtomJetError as error:
        if len(structures) == 1:
            reason = str(error).removeprefix("structure 0: ")
            shapes = {"energy": (1,), "forces": (len(structures[0]), 3), "stress": (1, 3, 3)}
            return {**{name: np.full(shape, np.nan) for name, shape in shapes.items()}, "refused": {"0": reason}}
        half = len(structures) // 2
        return _joined(predict(engine, structures[:half]), predict(engine, structures[half:]), structures)
    record = {name: getattr(found, name).numpy() for name in ("energy", "forces", "stress")}
    if found.spread is not None and found.energy_spread is not None:
        record |= {"forces_spread": found.spread.numpy(), "energy_spread": found.energy_spread.numpy()}
    return {**record, "refused": {}}


def _joined(first: Record, second: Record, structures: Sequence[Atoms]) -> Record:
    """Records of two parts as one; what only one of them has, because all of the other is refused, is NaN there."""
    names = sorted((first.keys() | second.keys()) - {"refused"})
    sizes = [(len(part["energy"]), len(part["forces"])) for part in (first, second)]
    parts = [
        [
            part.get(name, np.full(size[1] if name.startswith("forces") else size[0], np.nan))
            for part, size in zip((first, second), sizes, strict=True)
        ]
        for name in names
    ]
    shifted = {str(int(k) + sizes[0][0]): reason for k, reason in second["refused"].items()}
    joined = {name: np.concatenate(both) for name, both in zip(names, parts, strict=True)}
    return {**joined, "refused": first["refused"] | shifted}


def results_of(record: Record, structures: Sequence[Atoms]) -> Iterator[Atoms | AtomJetError]:
    """A copy of each structure that carries what a record says of it, or why there is nothing."""
    if "error" in record:
        yield from (StructureError(record["error"]) for _ in structures)
        return
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    forces = np.split(record["forces"].astype(np.float64), ends)
    spread = np.split(record["forces_spread"].astype(np.float64), ends) if "forces_spread" in record else None
    for k, atoms in enumerate(structures):
        if reason := record["refused"].get(str(k)):
            yield StructureError(reason)
            continue
        results = {"energy": float(record["energy"][k]), "forces": forces[k]}
        if atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(record["stress"][k].astype(np.float64))
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **results)
        if spread is not None:
            copy.arrays["forces_spread"] = spread[k]
            copy.info["energy_spread"] = float(record["energy_spread"][k])
        yield copy


def run_batches(
    settings: ModelSettings,
    batches: Iterable[Sequence[Atoms]],
    directory: Path,
    executor: Executor,
    advance: Callable[..., None],
) -> list[bytes]:
    """Predict every batch that a journal of `directory` does not hold yet.

    Args:
        settings: of the engine.
        batches: structures that are computed together; taken as workers become free.
        directory: of the journal files.
        executor: where.
        advance: called with numbers of structures that are done.

    Returns:
        The key of each batch in the journal.
    """
    digest, keys = settings.digest(), []
    about = ("predict", digest, settings.backend, settings.precision, settings.task)
    sizes: list[int] = []
    with Journal(directory) as journal:
        known = journal

    def missing() -> Iterator[Task]:
        handed = set[bytes]()
        for structures in batches:
            bare = [_bare(atoms) for atoms in structures]
            key = content_key(*about, *(part for atoms in bare for part in _content(atoms)))
            keys.append(key)
            if key in handed or (key in known and not known.failed(key)):
                advance(len(bare))
            else:
                handed.add(key)
                sizes.append(len(bare))
                yield Task(key, (settings, bare))

    # Batches end in another order than they begin; the sum is right.
    executor.run(
        predict_batch,
        missing(),
        directory,
        lambda: advance(sizes.pop(0)),
        prepare=partial(check_model, settings, digest),
    )
    return keys


def _bare(atoms: Atoms) -> Atoms:
    """What a prediction depends on."""
    info = {name: atoms.info[name] for name in CONDITIONS if name in atoms.info}
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def _content(atoms: Atoms) -> tuple[NDArray[Any] | str, ...]:
    return atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, repr(sorted(atoms.info.items()))


def groups(sizes: Iterable[int]) -> Iterator[list[int]]:
    """Places of consecutive structures, by their numbers of atoms, that are computed together."""
    group: list[int] = []
    atoms = 0
    for place, size in enumerate(sizes):
        if group and atoms + size > ATOMS_AT_ONCE:
            yield group
            group, atoms = [], 0
        group.append(place)
        atoms += size
    if group:
        yield group
