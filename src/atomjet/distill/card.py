"""The model card: what a student was made from, how wrong it is, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.data.elements import SYMBOLS
from atomjet.distill.conditions import Conditions, conditions_in
from atomjet.distill.evaluate import Errors
from atomjet.distill.frames import Frames
from atomjet.distill.recipe import Recipe
from atomjet.distill.round_summary import in_one_line
from atomjet.distill.teacher import default_task, licence_of
from atomjet.models import tensor_file
from atomjet.models.card import IN_SIGHT
from atomjet.models.painn import PaiNN
from atomjet.neighbors import neighbor_list
from atomjet.writing import write_atomically

LICENCE = "MIT"

ORDINARY = Conditions()

SEEN = 2.0
"""Å. Pairs that never come nearer than this in training say nothing about overlap."""

FRAMES_AT_ONCE = 1000
"""Frames whose distances are looked at together."""


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
    conditions = conditions_of(frames, default_task(teacher["calculator"]))
    teachers = licence_of(str(teacher["calculator"]))
    nearest = nearest_distances(frames.select(frames.split == "train"))
    at = "" if conditions == ORDINARY else f" at {conditions}"
    return {
        "name": recipe.name,
        "summary": (
            f"PaiNN student of {teacher['calculator']} for {', '.join(elements)}{at}: "
            f"{sum(p.numel() for p in model.parameters()):,} parameters, cutoff {model.cutoff:g} Å"
        ),
        "elements": elements,
        "teacher": {**teacher, "licence": teachers},
        "data": {
            "recipe": _without_folders(recipe.model_dump(include={"name", "elements", "sample", "label"})),
            "seed": recipe.seed,
            "conditions": {
                "charge": conditions.charge,
                "spin": None if conditions.spin < 0 else conditions.spin,
                "task": conditions.task,
            },
            "frames": count(frames.split),
            "molecules": {str(s): molecules(frames.molecule[frames.split == s]) for s in np.unique(frames.split)},
            "sources": count(frames.source[frames.split == "train"]),
            "periodic": bool(frames.pbc[frames.split == "train"].any()),
        },
        "training": {
            "settings": recipe.train.model_dump(mode="json", exclude={"data", "start_from"}),
            "start_from": Path(recipe.train.start_from).name if recipe.train.start_from else None,
            "student": model.config.model_dump(mode="json"),
            **training,
        },
        "errors": {name: dict(figures) for name, figures in errors.items()},
        "hardest_molecules": {name: dict(figures) for name, figures in hardest.items()},
        "shortest_distances": shortest_distances(nearest),
        "closest_pairs": closest_pairs(nearest, model.elements),
        "limits": limits(frames, elements, conditions, recipe.molecules is not None),
        "licence": recipe.licence
        or (LICENCE if _permits(teachers) else f"ask its maker; the teacher's is: {teachers}"),
    }


def _permits(licence: str) -> bool:
    """Whether a teacher's licence is that of code which says nothing of what is computed with it, or is not known at all."""
    return licence == "unknown" or any(word in licence for word in ("MIT", "BSD", "Apache", "GPL", "GNU", "ISC"))


def count(labels: Any) -> dict[str, int]:
    """How often each string occurs."""
    names, numbers = np.unique(labels, return_counts=True)
    return {str(name): int(number) for name, number in zip(names, numbers, strict=True)}


def molecules(keys: Any) -> int:
    """How many different molecules: those of a cluster count each on its own."""
    return len({member for key in np.unique(keys) for member in str(key).split(".")})


def shortest_distances(nearest: NDArray[np.float64]) -> dict[str, float]:
    """Å: for each pair of elements ("C-H", by atomic number) the nearest that two atoms come, of pairs nearer than `SEEN`.

    An engine refuses structures whose atoms are clearly nearer: there the student only guesses.
    """
    pairs = zip(*np.nonzero(np.triu(nearest < SEEN)), strict=True)
    return dict(sorted((f"{SYMBOLS[a]}-{SYMBOLS[b]}", round(float(nearest[a, b]), 3)) for a, b in pairs))


def closest_pairs(nearest: NDArray[np.float64], elements: Sequence[int]) -> dict[str, float | None]:
    """Å, likewise for every two of the model's elements; None where no two atoms of them come nearer than `IN_SIGHT`."""
    pairs = [(a, b) for a in sorted(elements) for b in sorted(elements) if a <= b]
    return {
        f"{SYMBOLS[a]}-{SYMBOLS[b]}": round(float(nearest[a, b]), 3) if nearest[a, b] < IN_SIGHT else None
        for a, b in pairs
    }


def nearest_distances(train: Frames) -> NDArray[np.float64]:
    """(119, 119) Å by atomic numbers: the nearest that two atoms come in the training frames; infinite where not `IN_SIGHT`."""
    nearest = np.full((len(SYMBOLS), len(SYMBOLS)), np.inf)
    for first in range(0, len(train), FRAMES_AT_ONCE):
        frames = [train.atoms(frame) for frame in range(first, min(first + FRAMES_AT_ONCE, len(train)))]
        graph = neighbor_list(frames, IN_SIGHT)
        numbers = graph.atomic_numbers.numpy()
        np.minimum.at(nearest, (numbers[graph.centers], numbers[graph.neighbors]), graph.lengths.numpy())
    return nearest


def conditions_of(frames: Frames, task: str) -> Conditions:
    """The conditions of the training frames; there is one only, or the student could not have been trained."""
    found = conditions_in(frames.select(frames.split == "train"), task)
    return next(iter(found), ORDINARY)


def limits(frames: Frames, elements: Sequence[str], conditions: Conditions, of_molecules: bool) -> list[str]:
    """What the data say the student cannot know, in words; molecules of SMILES are neutral and closed-shell by the recipe."""
    train = frames.select(frames.split == "train")
    sentences = [
        f"Elements {', '.join(elements)} only; any other is refused.",
        "It is no better than its teacher: the errors here are relative to the teacher, not to experiment.",
        "The teacher was asked for neutral, closed-shell states: ions, radicals, excited states and most broken bonds are outside."
        if of_molecules and conditions[:2] in (ORDINARY[:2], (0, 1))
        else f"The teacher was asked at {conditions}: the student computes nothing else, whatever it is told.",
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
    sentences += never_seen(train)
    if not (frames.split == "test").any():
        sentences.append("No molecules were held out: errors on unseen molecules are unknown.")
    return sentences


def never_seen(train: Frames) -> list[str]:
    """Bounds of the training frames beyond which the student only guesses: densities of crystals and liquids, forces."""
    sentences, solid = [], train.pbc.all(1)
    if solid.any():
        volumes = np.abs(np.linalg.det(train.cell[solid])) / train.counts[solid]
        sentences.append(
            f"Never seen: fully periodic structures outside {volumes.min():.3g} to {volumes.max():.3g} Å³ an atom."
        )
    strongest = float(np.linalg.norm(train.forces, axis=1).max())
    sentences.append(f"Never seen: forces above {strongest:.3g} eV/Å.")
    return sentences


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
    if stresses := {name: e for name, e in card["errors"].items() if "stress_mae_meV_A3" in e}:
        lines += ["", "Stress, MAE in meV/Å³, and relative to that of zero:", ""]
        lines += [
            f"- {name}: {e['stress_mae_meV_A3']:.3g}, {e.get('stress_mae_over_zero', float('nan')):.3f}"
            for name, e in stresses.items()
        ]
    if by_cause := card.get("force_mae_meV_A", {}):
        lines += ["", "Force MAE of frames that were held out, meV/Å, by what may cause it:", ""]
        lines += [f"- {cause}: {value:.1f}" for cause, value in by_cause.items()]
    if card["hardest_molecules"]:
        lines += ["", "Held-out molecules with the largest errors (force MAE meV/Å, energy MAE meV/atom):", ""]
        lines += [
            f"- {name}: {e['force_mae_meV_A']:.0f}, {e['energy_mae_meV_atom']:.0f}"
            for name, e in card["hardest_molecules"].items()
        ]
    if rounds := card.get("rounds"):
        lines += ["", "Frames that the students themselves led to, labelled by the teacher:", ""]
        lines += [f"- {in_one_line(summary)}" for summary in rounds]
    if rows := card.get("judged", {}).get("rows"):
        lines += ["", "## Judged against the teacher", "", "| | worst | at most | within | where |", "| --- " * 5 + "|"]
        lines += [f"| {n} | {r['value']} | {r['at_most']} | {r['within']} | {r['worst']} |" for n, r in rows.items()]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"])]
    options = ", ".join(f"{name} = {value}" for name, value in teacher.get("options", {}).items())
    lines += [
        "",
        "## Origin",
        "",
        f"- Teacher: {teacher['calculator']}, version {teacher['version']}"
        + (f", {options}" if options else "")
        + f"; licence: {teacher.get('licence', 'unknown')}",
        f"- Conditions: {_listed(data['conditions'])}",
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
    tensor_file.write(path, model, dict(card))
    write_atomically(path.with_suffix(".md"), markdown(card))


def _without_folders(settings: Any) -> Any:
    """Settings as JSON, files by their name alone: where they lay on somebody's machine is nobody's business."""
    if isinstance(settings, dict):
        return {str(name): _without_folders(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_without_folders(value) for value in settings]
    return settings.name if isinstance(settings, Path) else settings


def _listed(items: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in items.items() if value not in (None, ""))
