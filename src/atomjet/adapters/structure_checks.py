"""What makes a structure other than its file, or its user, means; each check gives one sentence by its kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from atomjet.data.elements import SYMBOLS
from atomjet.engine import Engine
from atomjet.errors import AtomJetError
from atomjet.models.card import IN_SIGHT
from atomjet.models.ensemble import members_of
from atomjet.neighbors import neighbor_list

WHOLE = 1e-3
"""Occupancies nearer to one than this are one."""

Remarks = dict[str, str]


OTHER_WORDS = {
    "charge": ("total_charge", "tot_charge", "net_charge", "molecular_charge", "Charge", "CHARGE", "q", "chrg"),
    "spin": ("multiplicity", "Multiplicity", "spin_multiplicity", "mult", "Spin", "SPIN"),
}
"""What other programs write into a comment line for the `info` that is read."""

CELL_WORDS = ("lattice", "LATTICE", "cell", "Cell", "unit_cell")
"""What other programs write for `Lattice`."""


def remarks_on(atoms: Atoms) -> Remarks:
    """What no model can know of a structure: partly occupied sites, and what a comment says in words that are not read."""
    return _unread(atoms) | _partial_sites(atoms)


def _unread(atoms: Atoms) -> Remarks:
    """A charge, spin or cell under another name than the one that is read."""
    found: Remarks = {}
    for name, words in OTHER_WORDS.items():
        word = next((word for word in words if atoms.info.get(word) is not None), None)
        usual = (0,) if name == "charge" else (0, 1)
        if word and atoms.info.get(name) is None and _number(atoms.info[word]) not in usual:
            found[f"unread {name}"] = (
                f"says {word}={str(atoms.info[word])[:40]}, which is not read; write {name}= for it"
            )
    charges = atoms.arrays.get("initial_charges")
    if charges is not None and atoms.info.get("charge") is None and not any(key.endswith("charge") for key in found):
        total = float(np.sum(charges))
        if round(total) and abs(total - round(total)) < WHOLE:
            found["unread charge"] = (
                f"has initial charges of its atoms that sum to {total:+.3g}, which are not read; write charge= for an ion"
            )
    for word in CELL_WORDS:
        value = atoms.info.get(word)
        if isinstance(value, np.ndarray) and value.size in (3, 6, 9) and not np.any(atoms.cell.array):
            found["unread cell"] = f"says {word}=, which is not read as its cell; write Lattice= for it"
    return found


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _partial_sites(atoms: Atoms) -> Remarks:
    sites: Any = atoms.info.get("occupancy")
    if isinstance(sites, dict):  # of a CIF, by site
        partial = [site for site in sites.values() if isinstance(site, dict) and _is_partial(list(site.values()))]
        if partial:
            said = ", ".join(f"{symbol} {value}" for symbol, value in partial[0].items())
            return {
                "occupancies": f"has occupancies other than one at {len(partial)} of {len(sites)} sites (the first: {said}); "
                "each place is computed as one whole atom, of one element where several share it"
            }
    for name in ("occupancy", "occupancies"):
        values = atoms.arrays.get(name)
        if values is not None and values.dtype.kind in "fiu" and _is_partial(values):
            atom = int(np.flatnonzero(np.abs(values - 1) > WHOLE)[0])
            count = int(np.count_nonzero(np.abs(values - 1) > WHOLE))
            return {
                "occupancies": f"has occupancies other than one, {count} of {len(atoms)} (atom {atom}: {values[atom]:g}); "
                "each is computed as one whole atom"
            }
    return {}


def apply_conditions(atoms: Atoms, charge: int | None, spin: int | None) -> Remarks:
    """Set `info["charge"]` and `info["spin"]` where the structure says none; say where it says another."""
    found: Remarks = {}
    for name, value in (("charge", charge), ("spin", spin)):
        if value is None:
            continue
        if name not in atoms.info:
            atoms.info[name] = value
        elif _said(atoms, name) != value:
            found[name] = f"says {name} {atoms.info[name]} itself, which goes before the {value} of --{name}"
    return found


def remarks_for(engine: Engine, atoms: Atoms) -> Remarks:
    """Where a structure is not of the kind that the model computes; nothing of one that the model refuses."""
    found: Remarks = {}
    if not set(atoms.numbers.tolist()) <= set(engine.elements):
        return found
    if not knows_charge_and_spin(engine):
        electrons = int(atoms.numbers.sum())
        moments = atoms.arrays.get("initial_magmoms")
        crystal = bool(atoms.pbc.any()) and trained_on_periodic(engine.card) is not False
        if _said(atoms, "spin") == 0 and _said(atoms, "charge") == 0:  # ions and other spins such a model refuses
            remedy = "it is computed as a neutral closed shell; use a model that knows charge and spin"
            if moments is not None and bool(np.any(moments)):
                found["unpaired electrons"] = f"has initial magnetic moments, but {remedy}"
            elif electrons % 2 and not crystal:
                found["unpaired electrons"] = f"has an odd number of electrons, {electrons}, but {remedy}"
    if atoms.pbc.any() and trained_on_periodic(engine.card) is False:
        found["periodic"] = (
            "is periodic, but the model was trained on none that are; what it says of solids and liquids is a guess"
        )
    found |= unseen_pairs(engine, atoms)
    if foreign_task(engine, atoms):
        name = atoms.info["task"]
        known = ", ".join(getattr(members_of(engine.model)[0].config, "tasks", ())) or "none"
        found["task"] = f"its info['task'] {name!r} is no task of this model ({known}); ignored"
    return found


def unseen_pairs(engine: Engine, atoms: Atoms) -> Remarks:
    """Atoms of two elements that are nearer than any such pair was in training; nothing where the card does not say."""
    table = engine.card.get("closest_pairs") or {}
    nearest = _nearest(atoms) if table and len(atoms) else {}
    said = [
        f"{pair} at {length:.3f} Å (atoms {i} and {j}; in training "
        + (f"never within {IN_SIGHT:g})" if table[pair] is None else f"{table[pair]:.3f} or more)")
        for pair, (length, i, j) in sorted(nearest.items())
        if pair in table and length < (IN_SIGHT if table[pair] is None else table[pair])
    ]
    if not said:
        return {}
    more = f" and {len(said) - 3} pairs of elements more" if len(said) > 3 else ""
    return {"unseen pairs": f"has {', '.join(said[:3])}{more}; what the model says of that is a guess"}


def _nearest(atoms: Atoms) -> dict[str, tuple[float, int, int]]:
    """For each pair of elements, such as "H-C", its nearest two atoms `IN_SIGHT`: distance in Å and which."""
    try:
        graph = neighbor_list(atoms, IN_SIGHT)
    except AtomJetError:  # the model says it better
        return {}
    order = graph.lengths.argsort(descending=True).tolist()  # the nearest comes last, and stays
    numbers, first, second = atoms.numbers, graph.centers.tolist(), graph.neighbors.tolist()
    found = {(numbers[first[e]], numbers[second[e]]): e for e in order}
    return {
        f"{SYMBOLS[a]}-{SYMBOLS[b]}": (float(graph.lengths[e]), *sorted((first[e], second[e])))  # type: ignore[misc]
        for (a, b), e in found.items()
        if a <= b
    }


def knows_charge_and_spin(engine: Engine) -> bool:
    """Whether the model computes ions and open shells."""
    return hasattr(members_of(engine.model)[0].config, "tasks")


def trained_on_periodic(card: dict[str, Any]) -> bool | None:
    """Whether the model saw periodic structures in training; None where its card does not say.

    Cards say it as `data.periodic`; those written before do in a sentence of their limits.
    """
    data = card.get("data")
    said = data.get("periodic") if isinstance(data, dict) else None
    if isinstance(said, bool):
        return said
    limits = card.get("limits")
    for limit in limits if isinstance(limits, list) else []:
        if isinstance(limit, str) and limit.startswith("Trained on frames of"):
            return "atoms, without periodic directions" not in limit
    return None


def foreign_task(engine: Engine, atoms: Atoms) -> bool:
    """Whether `info["task"]` is the word of another program: one that the model does not know and need not."""
    if not atoms.info.get("task"):
        return False
    tasks = getattr(members_of(engine.model)[0].config, "tasks", ())
    return not tasks or (engine.task is not None and atoms.info["task"] not in tasks)


def _is_partial(values: Any) -> bool:
    """Whether any occupancy is other than one; "." and "?", by which a CIF says none, are not."""
    return any(abs(_occupancy(value) - 1) > WHOLE for value in values)


def _occupancy(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 1.0 if value in (".", "?") else 0.0


def _said(atoms: Atoms, name: str) -> int:
    """A charge or spin as the structure says it; 0 where it does not, or says no number (which is refused elsewhere)."""
    try:
        return round(float(atoms.info.get(name, 0)))
    except (TypeError, ValueError, OverflowError):
        return 0


def gather_fixed_atoms(atoms: Atoms) -> None:
    """Make one `FixAtoms` of what an extended XYZ file says of each atom by itself, where some are held in one direction only.

    ASE reads a `FixCartesian` for every atom then, those that are held in all directions or in none among them.
    """
    fixed: list[int] = []
    others = []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms) or (isinstance(constraint, FixCartesian) and constraint.mask.all()):
            fixed += constraint.index.tolist()
        elif not isinstance(constraint, FixCartesian) or constraint.mask.any():
            others.append(constraint)
    if len(others) + bool(fixed) < len(atoms.constraints):
        atoms.set_constraint(([FixAtoms(sorted(set(fixed)))] if fixed else []) + others)
