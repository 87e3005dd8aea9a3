"""How an ensemble's spread goes with its error on labelled structures that it was not trained on; and a bound for warnings.

For each atom: error |F - F_label|, and spread as `Prediction.spread` has it. Over all atoms

    scale   rms error / rms spread                     so that scale x spread is the error to be expected
    bound   quantile of the structures' largest spread   beyond which a structure is warned of
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.stats import rankdata

from atomjet.engine import Engine
from atomjet.engine.streams import ATOMS_OF_A_CALL, groups
from atomjet.engine.uncertainty import watched
from atomjet.errors import ConfigError
from atomjet.progress import track
from atomjet.writing import appears_whole

FEWEST = 20
"""Structures that a calibration needs."""

BINS = 10
"""Points of the curve of error against spread, with as many atoms each."""

WORST = 0.05
"""Share of the atoms, those of largest error, that a warning should find."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """Errors and spreads of A atoms in S structures.

    Attributes:
        error, spread: (A,) eV/Å. structure: (A,) which each belongs to.
    """

    error: Array
    spread: Array
    structure: NDArray[np.int64]

    @property
    def largest(self) -> Array:
        """(S,) eV/Å, the largest spread of each structure."""
        found = np.zeros(int(self.structure.max()) + 1)
        np.maximum.at(found, self.structure, self.spread)
        return found


def compare(engine: Engine, structures: Sequence[tuple[Atoms, Array]]) -> Compared:
    """Compute labelled structures.

    Args:
        engine: of an ensemble.
        structures: with forces (atoms, 3) eV/Å.

    Raises:
        ConfigError: a model alone, or too few structures.
    """
    if len(structures) < FEWEST:
        raise ConfigError(
            f"{len(structures)} labelled structures; a calibration needs {FEWEST} or more, held out from training"
        )
    errors, spreads, counts = [], [], [len(atoms) for atoms, _ in structures]
    with track("calibrate", len(structures)) as advance:
        for group in groups(counts, ATOMS_OF_A_CALL[engine.device.type]):
            with watched():
                found = engine.predict([structures[k][0] for k in group])
            if found.spread is None:
                raise ConfigError(
                    "this model is no ensemble, so that nothing disagrees; make one with `atomjet ensemble`"
                )
            labels = np.concatenate([structures[k][1] for k in group])
            errors.append(np.linalg.norm(found.forces.double().numpy() - labels, axis=1))
            spreads.append(found.spread.double().numpy())
            advance(len(group))
    return Compared(np.concatenate(errors), np.concatenate(spreads), np.repeat(np.arange(len(counts)), counts))


def calibration(compared: Compared, quantile: float = 0.95) -> dict[str, Any]:
    """What goes into the card, JSON-able; figures in eV/Å and shares.

    Args:
        compared: errors and spreads.
        quantile: share of the structures that shall bring no warning.

    Raises:
        ConfigError: a quantile outside 0 ... 1, or members that never disagree.
    """
    if not 0 < quantile < 1:
        raise ConfigError(f"quantile {quantile} is not between 0 and 1; 0.95 warns of one held-out structure in twenty")
    error, spread, largest = compared.error, compared.spread, compared.largest
    bound = float(np.quantile(largest, quantile))
    if not bound > 0:
        raise ConfigError("the members agree to the last bit: they are copies; train them from different seeds")
    scale = float(np.sqrt((error**2).mean() / (spread**2).mean()))
    worst = error >= np.quantile(error, 1 - WORST)
    most = spread >= np.quantile(spread, 1 - WORST)
    flagged, warned = spread > bound, (largest > bound)[compared.structure]
    return {
        "bound": bound,
        "scale": scale,
        "quantile": quantile,
        "structures": len(largest),
        "atoms": len(error),
        "spearman": float(np.corrcoef(rankdata(spread), rankdata(error))[0, 1]),
        "warned_structures": float((largest > bound).mean()),
        "atoms_beyond_bound": float(flagged.mean()),
        "worst_5_percent_beyond_bound": float(flagged[worst].mean()),
        "worst_5_percent_in_warned_structures": float(warned[worst].mean()),
        "worst_5_percent_among_5_percent_of_largest_spread": float(most[worst].mean()),
        "mean_error": float(error.mean()),
        "mean_error_beyond_bound": float(error[flagged].mean()) if flagged.any() else None,
        "curve": _curve(compared, scale),
    }


def _curve(compared: Compared, scale: float) -> dict[str, list[float]]:
    """Root mean squares of spread and error in bins of as many atoms each, from the least spread to the largest."""
    order = np.argsort(compared.spread, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    spread, error = (
        [float(np.sqrt((x[part] ** 2).mean())) for part in parts] for x in (compared.spread, compared.error)
    )
    return {"spread": spread, "error": error, "expected": [scale * value for value in spread]}


def plot(compared: Compared, found: dict[str, Any], title: str, picture: Path) -> None:
    """Error of every atom's force against its spread, both logarithmic, with the curve, the scale and the bound."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    step = max(1, len(compared.error) // 20_000)
    axes.loglog(compared.spread[::step], compared.error[::step], ".", markersize=2, alpha=0.3, label="atoms")
    spread = found["curve"]["spread"]
    axes.loglog(spread, found["curve"]["error"], "o-", label="root mean square")
    ends = np.array([spread[0] or spread[-1] / 1e3, compared.spread.max()])
    axes.loglog(ends, found["scale"] * ends, "k--", label=f"{found['scale']:.3g} x spread")
    axes.axvline(found["bound"], color="r", linewidth=0.8, label=f"bound {found['bound']:.3g} eV/Å")
    axes.set(xlabel="spread of the force, eV/Å", ylabel="error of the force, eV/Å", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=120)
