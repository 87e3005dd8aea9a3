"""The model card: what a student was made from, how wrong it is, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomjet.data.elements import SYMBOLS
from atomjet.distill.dataset import Frames
from atomjet.distill.evaluate import Errors
from atomjet.distill.recipe import Recipe
from atomjet.models import file as model_file
from atomjet.models.painn import PaiNN

LICENCE = "MIT"

SEEN = 2.0
"""Å. Pairs that never come nearer than this in training say nothing about overlap."""


def model_card(
    recipe: Recipe,
    model: PaiNN,
    frames: Frames,
    teacher: Mapping[str, Any],
    training: Mapping[str, Any],
    errors: Mapping[str, Errors],
    hardest: Mapping[str, Errors],
) -> dict[str, Any]:
    """Put the card together; JSON-able.

    Args:
        recipe: of the whole distillation.
        model: the student.
        frames: all labelled frames, every split.
        teacher: {"calculator", "version", "options"} of the labels.
        training: what ran: device, seconds, epochs, steps ...
        errors: what `evaluate` gives.
        hardest: what `hardest_molecules` gives.
    """
    elements = [SYMBOLS[number] for number in model.elements]
    return {
        "name": recipe.name,
        "summary": (
            f"PaiNN student of {teacher['calculator']} for {', '.join(elements)}: "
            f"{sum(p.numel() for p in model.parameters()):,} parameters, cutoff {model.cutoff:g} Å"
        ),
        "elements": elements,
        "teacher": dict(teacher),
        "data": {
            "recipe": _without_folders(recipe.model_dump(include={"name", "elements", "sample", "label"})),
            "seed": recipe.seed,
            "frames": count(frames.split),
            "molecules": {str(s): molecules(frames.molecule[frames.split == s]) for s in np.unique(frames.split)},
            "sources": count(frames.source[frames.split == "train"]),
            "periodic": bool(frames.pbc[frames.split == "train"].any()),
        },
        "training": {
            "settings": recipe.train.model_dump(mode="json", exclude={"data"}),
            "student": model.config.model_dump(mode="json"),
            **training,
        },
        "errors": {name: dict(figures) for name, figures in errors.items()},
        "hardest_molecules": {name: dict(figures) for name, figures in hardest.items()},
        "shortest_distances": shortest_distances(frames.select(frames.split == "train")),
        "limits": limits(frames, elements),
        "licence": LICENCE,
    }


def count(labels: Any) -> dict[str, int]:
    """How often each string occurs."""
    names, numbers = np.unique(labels, return_counts=True)
    return {str(name): int(number) for name, number in zip(names, numbers, strict=True)}


def molecules(keys: Any) -> int:
    """How many different molecules: those of a cluster count each on its own."""
    return len({member for key in np.unique(keys) for member in str(key).split(".")})


def shortest_distances(train: Frames) -> dict[str, float]:
    """Å: for each pair of elements ("C-H", by atomic number) the nearest that two atoms come in the training frames.

    An engine refuses structures whose atoms are clearly nearer: there the student only guesses.
    """
    found: dict[str, float] = {}
    for frame in range(len(train)):
        atoms = slice(int(train.ptr[frame]), int(train.ptr[frame + 1]))
        numbers, positions = train.numbers[atoms], train.positions[atoms].astype(float)
        first, second = np.triu_indices(len(numbers), 1)
        lengths = np.linalg.norm(positions[first] - positions[second], axis=1)
        pairs = np.sort(np.stack([numbers[first], numbers[second]], 1), axis=1)
        for (a, b), length in zip(pairs[lengths < SEEN].tolist(), lengths[lengths < SEEN].tolist(), strict=True):
            name = f"{SYMBOLS[a]}-{SYMBOLS[b]}"
            found[name] = min(found.get(name, SEEN), round(length, 3))
    return dict(sorted(found.items()))


def limits(frames: Frames, elements: Sequence[str]) -> list[str]:
    """What the data say the student cannot know, in words."""
    train = frames.select(frames.split == "train")
    said = [
        f"Elements {', '.join(elements)} only; any other is refused.",
        "It is no better than its teacher: the errors here are relative to the teacher, not to experiment.",
        "The teacher was asked for neutral, closed-shell states: ions, radicals, excited states and most broken bonds are outside.",
        f"Trained on frames of {int(train.counts.min())} to {int(train.counts.max())} atoms, "
        + ("with and without" if train.pbc.any() and not train.pbc.all() else "with" if train.pbc.any() else "without")
        + " periodic directions."
        + (
            ""
            if train.pbc.any()
            else " Liquids and solids are extrapolation, compressed ones and cell relaxation most of all."
        ),
        "Nothing beyond the cutoff is seen except through atoms between: no long-range electrostatics or dispersion.",
    ]
    if not (frames.split == "test").any():
        said.append("No molecules were held out: errors on unseen molecules are unknown.")
    return said


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page to read."""
    teacher, data, training = card["teacher"], card["data"], card["training"]
    lines = [
        f"# {card['name']}",
        "",
        card["summary"] + ".",
        "",
        "## Errors relative to the teacher",
        "",
        "| frames of | frames | energy MAE / RMSE, meV/atom | force MAE / RMSE, meV/Å | cos(F, F̂) | force MAE / that of zero |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, e in card["errors"].items():
        relative = f"{e['force_cosine']:.4f} | {e['force_mae_over_zero']:.3f}" if "force_cosine" in e else "- | -"
        lines.append(
            f"| {name} | {e['frames']} | {e['energy_mae_meV_atom']:.2f} / {e['energy_rmse_meV_atom']:.2f} "
            f"| {e['force_mae_meV_A']:.1f} / {e['force_rmse_meV_A']:.1f} | {relative} |"
        )
    if card["hardest_molecules"]:
        lines += ["", "Held-out molecules with the largest errors (force MAE meV/Å, energy MAE meV/atom):", ""]
        lines += [
            f"- {name}: {e['force_mae_meV_A']:.0f}, {e['energy_mae_meV_atom']:.0f}"
            for name, e in card["hardest_molecules"].items()
        ]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"])]
    options = ", ".join(f"{name} = {value}" for name, value in teacher.get("options", {}).items())
    lines += [
        "",
        "## Origin",
        "",
        f"- Teacher: {teacher['calculator']}, version {teacher['version']}" + (f", {options}" if options else ""),
        f"- Data: seed {data['seed']}; frames: {_listed(data['frames'])}; molecules: {_listed(data['molecules'])}",
        f"- Training frames by source: {_listed(data['sources'])}",
        f"- Training: {_listed({k: v for k, v in training.items() if k not in ('settings', 'student')})}",
        f"- Settings: {_listed(training['settings'])}",
        f"- Student: {_listed(training['student'])}",
        f"- Licence: {card['licence']}",
        "",
    ]
    return "\n".join(lines)


def write_model(path: Path, model: PaiNN, card: Mapping[str, Any]) -> None:
    """Write the model with its card inside, and the card as markdown beside it."""
    model_file.write(path, model, dict(card))
    path.with_suffix(".md").write_text(markdown(card), encoding="utf-8")


def _without_folders(settings: Any) -> Any:
    """Settings as JSON, files by their name alone: where they lay on somebody's machine is nobody's business."""
    if isinstance(settings, dict):
        return {str(name): _without_folders(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_without_folders(value) for value in settings]
    return settings.name if isinstance(settings, Path) else settings


def _listed(items: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in items.items() if value is not None)
