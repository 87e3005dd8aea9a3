"""What `atomjet predict` says of many frames: a summary, a table of comma-separated values, and errors against labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

COLUMNS = (
    "frame",
    "formula",
    "atoms",
    "charge",
    "spin",
    "energy_eV",
    "energy_eV_per_atom",
    "largest_force_eV_per_A",
    "pressure_GPa",
    "label_energy_eV",
    "force_rmse_eV_per_A",
)


@dataclass(frozen=True)
class Predicted:
    """A frame with what was predicted.

    Attributes:
        number: its place in the file.
        atoms: with the prediction as results of its calculator.
        labels: energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt) that the file holds; those that it does.
    """

    number: int
    atoms: Atoms
    labels: dict[str, Any]


def labels_of(atoms: Atoms) -> dict[str, Any]:
    """Finite energy, forces and stress that came with a structure."""
    import numpy as np

    results = {} if atoms.calc is None else atoms.calc.results
    found = {name: results[name] for name in ("energy", "forces", "stress") if results.get(name) is not None}
    shapes = {"energy": (), "forces": (len(atoms), 3), "stress": (6,)}
    return {k: np.asarray(v, float) for k, v in found.items() if np.shape(v) == shapes[k] and np.isfinite(v).all()}


def keep_labels(atoms: Atoms, labels: dict[str, Any]) -> None:
    """Labels beside the predictions, as `label_energy` and so on, unless something of that name is there already."""
    for name, value in labels.items():
        place: dict[str, Any] = atoms.arrays if name == "forces" else atoms.info
        place.setdefault(f"label_{name}", float(value) if name == "energy" else value)


def largest_force(atoms: Atoms) -> float:
    """Length of the largest force on an atom, eV/Å."""
    return float((atoms.get_forces(apply_constraint=False) ** 2).sum(1).max() ** 0.5)


def pressure(atoms: Atoms) -> float | None:
    """GPa; None without three periodic directions."""
    from atomjet.units import GPA

    return -float(atoms.get_stress(apply_constraint=False)[:3].mean()) / GPA if atoms.pbc.all() else None


def summary(frames: Sequence[Predicted]) -> str:
    """The range of energies and forces, and where the extremes are."""
    import numpy as np

    each = np.array([frame.atoms.get_potential_energy() / len(frame.atoms) for frame in frames])
    forces = np.array([largest_force(frame.atoms) for frame in frames])
    rows = [_range("energy / eV/atom", each, frames, "14.6f"), _range("largest force / eV/Å", forces, frames, "14.4f")]
    pressures = [(frame, value) for frame in frames if (value := pressure(frame.atoms)) is not None]
    if pressures:
        held, values = zip(*pressures, strict=True)
        rows.append(_range("pressure / GPa", np.array(values), held, "14.4f"))
    atoms = sum(len(frame.atoms) for frame in frames)
    head = f"{len(frames)} frames, {atoms} atoms\n{'':22} {'lowest':>14} {'':>14} {'median':>14} {'highest':>14}"
    return "\n".join([head, *rows])


def _range(name: str, values: np.ndarray, frames: Sequence[Predicted], style: str) -> str:
    import numpy as np

    low, high = int(values.argmin()), int(values.argmax())
    where = [f"(frame {frames[k].number})" for k in (low, high)]
    return (
        f"{name:22} {values[low]:{style}} {where[0]:>14} {np.median(values):{style}} {values[high]:{style}} {where[1]}"
    )


def table(frames: Sequence[Predicted]) -> str:
    """One row a frame, comma-separated; empty where there is no value."""
    import numpy as np

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for frame in frames:
        atoms, labels = frame.atoms, frame.labels
        energy, own = atoms.get_potential_energy(), pressure(atoms)
        error = ""
        if "forces" in labels:
            difference = atoms.get_forces(apply_constraint=False) - labels["forces"]
            error = f"{float(np.sqrt((difference**2).mean())):.6f}"
        writer.writerow(
            [
                frame.number,
                atoms.get_chemical_formula(),
                len(atoms),
                atoms.info.get("charge", ""),
                atoms.info.get("spin", ""),
                f"{energy:.8f}",
                f"{energy / len(atoms):.8f}",
                f"{largest_force(atoms):.6f}",
                "" if own is None else f"{own:.6f}",
                f"{float(labels['energy']):.8f}" if "energy" in labels else "",
                error,
            ]
        )
    return text.getvalue()


def errors(frames: Sequence[Predicted]) -> str | None:
    """Mean absolute and root mean square errors against the labels of the file; None where it holds none."""
    import numpy as np

    units = {"energy": ("energy, meV/atom", 1e3), "forces": ("forces, meV/Å", 1e3), "stress": ("stress, meV/Å³", 1e3)}
    rows = []
    for name, (title, unit) in units.items():
        held = [frame for frame in frames if name in frame.labels and name in frame.atoms.calc.results]  # type: ignore[union-attr]
        if not held:
            continue
        differences = [unit * _difference(frame, name) for frame in held]
        worst = int(np.argmax([np.abs(difference).max() for difference in differences]))
        every = np.concatenate(differences)
        rows.append(
            f"{title:20} {len(held):7d} {np.abs(every).mean():12.3f} {np.sqrt((every**2).mean()):12.3f} {every.mean():12.3f} "
            f"{np.abs(differences[worst]).max():12.3f} (frame {held[worst].number})"
        )
    if not rows:
        return None
    head = f"{'against the labels':20} {'frames':>7} {'MAE':>12} {'RMSE':>12} {'mean':>12} {'largest':>12}"
    return "\n".join([head, *rows])


def _difference(frame: Predicted, name: str) -> np.ndarray:
    """Predicted less label, flat; energies by atom."""
    import numpy as np

    difference = np.ravel(frame.atoms.calc.results[name] - frame.labels[name])  # type: ignore[union-attr]
    return difference / len(frame.atoms) if name == "energy" else difference


def plot(frames: Sequence[Predicted], title: str, picture: Path) -> None:
    """Parity of energies by atom and of force components."""
    import numpy as np

    from atomjet.distill.plots import plot_parity

    pairs = []
    for name in ("energy", "forces"):
        held = [frame for frame in frames if name in frame.labels]
        scale = [len(frame.atoms) if name == "energy" else 1 for frame in held]
        label = [np.ravel(frame.labels[name]) / n for frame, n in zip(held, scale, strict=True)]
        own = [np.ravel(frame.atoms.calc.results[name]) / n for frame, n in zip(held, scale, strict=True)]  # type: ignore[union-attr]
        pairs.append((np.concatenate([np.zeros(0), *label]), np.concatenate([np.zeros(0), *own])))
    plot_parity(pairs[0], pairs[1], title, picture, names=("label", "predicted"))
