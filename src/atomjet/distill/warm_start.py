"""Warm start: a student whose first weights are those of another one of the same architecture."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray

from atomjet.data.elements import SYMBOLS
from atomjet.distill.batches import FrameStore
from atomjet.distill.dataset import Frames
from atomjet.distill.evaluate import predict
from atomjet.distill.ranks import Ranks
from atomjet.distill.recipe import Recipe
from atomjet.distill.reference_energies import fit_reference_energies
from atomjet.errors import ConfigError
from atomjet.models import load as model_load
from atomjet.models import registry
from atomjet.models.painn import PaiNN, PaiNNConfig


def read_start(recipe: Recipe) -> PaiNN | None:
    """The model that `train.start_from` names, or None where it names none.

    Raises:
        ConfigError: no PaiNN, or another architecture than the `student` that the recipe asks for.
        ModelFileError: no such model.
    """
    name = recipe.train.start_from
    if name is None:
        return None
    start, _ = model_load.read(registry.locate(name))
    if not isinstance(start, PaiNN):
        raise ConfigError(f"train.start_from: {name} is no PaiNN, as the student is; start from one, or leave it out")
    if "student" in recipe.model_fields_set:
        wanted = recipe.student
        for field in PaiNNConfig.model_fields.keys() - {"elements"}:
            if getattr(start.config, field) != getattr(wanted, field):
                raise ConfigError(
                    f"train.start_from: {name} has {field} {getattr(start.config, field)}, student.{field} is "
                    f"{getattr(wanted, field)}; leave student out to take the architecture of the start"
                )
    return start


def check_start(recipe: Recipe) -> None:
    """Refuse a start that cannot be one, and say which elements it does not know, before anything is labelled.

    Raises:
        ConfigError: see `read_start`; or a start that has no place for an element.
    """
    start = read_start(recipe)
    if start is None:
        return
    numbers = {symbol: atomic_numbers[symbol] for symbol in recipe.elements}
    for symbol, number in numbers.items():
        if number >= start.config.max_z:
            raise ConfigError(
                f"train.start_from: {recipe.train.start_from} has no place for {symbol} (max_z {start.config.max_z}); start from "
                "another model, or from nothing"
            )
    if new := [symbol for symbol, number in numbers.items() if number not in start.elements]:
        print(
            f"warning: train.start_from: {recipe.train.start_from} does not know {', '.join(new)}: learned from nothing, "
            "and needs more frames",
            file=sys.stderr,
        )


def take_over(model: PaiNN, start: PaiNN, train: Frames, ranks: Ranks) -> str:
    """Give the student the weights of the start, and reference energies with which it is right on average.

    Elements that the start does not know keep their random embedding. The references are those of the start and, for each
    element, a shift that brings its energies to the teacher's: nothing where the teacher is the same.

    Args:
        model: the student, on the device of `ranks`.
        start: of the same architecture.
        train: training frames.
        ranks: the processes.

    Returns:
        What was done, in words.
    """
    known = set(start.elements)
    new = [z for z in model.elements if z not in known]
    fresh = model.embedding.weight.detach().clone()
    model.load_state_dict(start.state_dict())
    with torch.no_grad():
        model.embedding.weight[new] = fresh[new]
        model.reference_energies[new] = 0.0
    model.reference_energies += torch.as_tensor(_shifts(model, train, ranks)).to(model.reference_energies)
    words = f"starting from the weights of {len(known)} elements"
    return words + (f"; {', '.join(SYMBOLS[z] for z in new)} it does not know: learned from nothing" if new else "")


def _shifts(model: PaiNN, train: Frames, ranks: Ranks) -> NDArray[np.float64]:
    """(max_z,) eV by atomic number, fitted to what the model leaves of the energies."""
    store = FrameStore(train, model.reference_energies.cpu().numpy(), model.cutoff, ranks.device)
    left = store.energy.double().cpu().numpy() - predict(model, store, ranks).energy
    return fit_reference_energies(replace(train, energy=left), model.config.max_z)
