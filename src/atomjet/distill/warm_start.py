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
from atomjet.distill.evaluate import predict
from atomjet.distill.frames import Frames
from atomjet.distill.ranks import Ranks
from atomjet.distill.recipe import Recipe
from atomjet.distill.reference_energies import fit_reference_energies
from atomjet.errors import ConfigError
from atomjet.models import load as model_load
from atomjet.models import registry
from atomjet.models.painn import PaiNN, PaiNNConfig

SHIFT_FRAMES = 2000
"""Training frames that are predicted to find one shift for each element: many more than there are elements."""


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


def take_over(model: PaiNN, start: PaiNN) -> str:
    """Give the student the weights and reference energies of the start; elements that it does not know keep their random embedding.

    Args:
        model: the student.
        start: of the same architecture, on the same device.

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
    words = f"starting from the weights of {len(known)} elements"
    return words + (f"; {', '.join(SYMBOLS[z] for z in new)} it does not know: learned from nothing" if new else "")


def shift_references(model: PaiNN, train: Frames, ranks: Ranks, most: int = SHIFT_FRAMES, quiet: bool = False) -> None:
    """Add to each element's reference energy the shift with which the student is right on average, in place.

    The shifts are the difference between the zeros of energy of two teachers: nothing where the teacher is the same.

    Args:
        model: the student with the weights of its start, on the device of `ranks`.
        train: training frames; more than `most` are represented by a random part of them.
        ranks: the processes.
        most: frames whose energies are predicted.
        quiet: no line and no progress bar.
    """
    chosen = _representatives(train, most)
    if ranks.first and not quiet:
        print(f"fitting a shift of each element's energy to {len(chosen)} of {len(train)} training frames", flush=True)
    part = train.select(chosen)
    store = FrameStore(part, model.reference_energies.cpu().numpy(), model.cutoff, ranks.device)
    predicted = predict(model, store, ranks, progress="" if quiet else "energy shifts")
    part = replace(part, energy=store.energy.double().cpu().numpy() - predicted.energy)
    shifts = fit_reference_energies(part, model.config.max_z)
    model.reference_energies += torch.as_tensor(shifts).to(model.reference_energies)


def _representatives(frames: Frames, most: int) -> NDArray[np.int64]:
    """Indices of about `most` frames at most, ascending: every element in frames of one or two atoms and in larger ones, as far as
    there are such, the others at random. They depend on the frames alone, so that a resumed run has the same shifts.
    """
    if len(frames) <= most:
        return np.arange(len(frames))
    order = np.random.default_rng(0).permutation(len(frames))
    frame_of_atom, small = np.repeat(np.arange(len(frames)), frames.counts), frames.counts <= 2
    elements = np.unique(frames.numbers)
    of_element, with_each = max(1, most // (4 * len(elements))), []
    for z in elements:
        holds = np.zeros(len(frames), dtype=bool)
        holds[frame_of_atom[frames.numbers == z]] = True
        with_each += [order[(holds & size)[order]][:of_element] for size in (small, ~small)]
    first = np.unique(np.concatenate(with_each))
    others = order[~np.isin(order, first)][: max(0, most - len(first))]
    return np.sort(np.concatenate([first, others]))
