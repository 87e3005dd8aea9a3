"""Predictions of many structures by an executor, batch by batch, remembered in a journal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ase import Atoms
from numpy.typing import NDArray

from atomjet.adapters.predictions import predict
from atomjet.distill.executors import Executor
from atomjet.distill.journal import Journal, Record, content_key
from atomjet.distill.pool import Task
from atomjet.engine import Engine, load
from atomjet.errors import ModelFileError
from atomjet.models import registry

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
    """Task of a worker: see `atomjet.adapters.predictions.predict`."""
    return predict(engine_of(settings), structures)


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
