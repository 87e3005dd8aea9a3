"""The report of a validation: a markdown table with plots, and advice in words where something failed."""

from __future__ import annotations

from pathlib import Path

from atomjet.validate.check import Check
from atomjet.validate.suite import Report
from atomjet.writing import appears_whole, write_atomically

ADVICE = (
    (
        "forces = -dE/dx",
        (
            "The forces are not the derivative of the energy (see their ratio to the slope): constant-energy "
            "dynamics cannot be trusted; look for a scale factor, a detached term, or forces predicted "
            "separately."
        ),
    ),
    (
        "stress = dE/dstrain",
        (
            "The stress is not the derivative of the energy: cells will relax to the wrong volume; check "
            "signs, the volume, and the double counting of edges."
        ),
    ),
    (
        "equivariance",
        "The energy depends on the orientation: something mixes Cartesian axes; no amount of data cures it.",
    ),
    (
        "cutoff smoothness",
        (
            "Energy or forces jump at the cutoff: runs drift each time a pair crosses it; the envelope must "
            "multiply everything that depends on the pair, biases included."
        ),
    ),
    ("net force", "The forces do not add up to zero: each must come from a difference of positions."),
    (
        "batch independence",
        (
            "A structure's result depends on its neighbours in the batch: look for sums over the whole batch, "
            "or edges between structures."
        ),
    ),
    ("extensivity", "Two copies are not twice one: look for averages over atoms, or edges lost in small cells."),
)
"""First words of a check's name, and what its failure usually means."""


def write_report(report: Report, path: Path) -> None:
    """Write the markdown file and its pictures, PATH-energy.png and so on, beside it."""
    lines = ["# Validation", "", report.what, "", f"Structures: {', '.join(report.structures)}.", ""]
    failed = [check for check in report.checks if not check.passed]
    verdict = "All checks passed." if report.passed else f"{len(failed)} of {len(report.checks)} checks failed."
    if report.stopped:
        passed = len(report.checks) - len(failed)
        verdict = f"Stopped before the end: {report.stopped}. {passed} of the {len(report.checks)} checks done passed."
    lines += [f"**{verdict}** {report.seconds:.0f} s.", ""]
    lines += [f"- {line}" for line in advice(report.checks)]
    lines += [
        "",
        "| | check | structure | measured | bound | bound from | detail |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for check in report.checks:
        state = "ok" if check.passed else "**failed**"
        cells = (
            state,
            check.name,
            check.structure,
            f"{check.value:.3g} {check.unit}",
            f"{check.bound:.3g}",
            check.source,
            check.detail,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for check in report.checks:
        if check.series:
            picture = path.with_name(f"{path.stem}-{_slug(check)}.png")
            plot_check(check, picture)
            lines += ["", f"![{check.name}, {check.structure}]({picture.name})"]
    write_atomically(path, "\n".join(lines) + "\n")


def advice(checks: list[Check]) -> list[str]:
    """One sentence for each kind of failure, drift last and in the light of the others."""
    failed = [check.name for check in checks if not check.passed]
    said = [words for start, words in ADVICE if any(name.startswith(start) for name in failed)]
    drift = [name for name in failed if name.startswith("energy drift")]
    if drift and not said and "time-step order" not in failed:
        said.append(
            "The energy drifts although forces, symmetry and smoothness are right: take a shorter time "
            "step, compute in float64 (`--precision float64`) to see whether rounding is the cause, and "
            "look at whether the run left the geometries the model was made for."
        )
    elif drift:
        said.append(
            "The energy drifts; repair what failed above first, since it is the likelier cause than the time step."
        )
    if "time-step order" in failed and not any(name.startswith("forces = ") for name in failed):
        said.append(
            "Halving the time step does not divide the energy error by four: forces are noisy or jump "
            "somewhere along the run (look at the smoothness checks, then at rounding), or 1 fs is too "
            "long for the stiffest bond."
        )
    if any(name.startswith(("bonds hold", "bounded forces")) for name in failed):
        said.append(
            "A structure fell apart or forces became absurd: the run reached geometries the model was not "
            "made for; train on such geometries, or stay colder."
        )
    if any("against general" in name for name in failed):
        said.append("The backend does not compute what the definition does; use `--backend general` and report it.")
    return said


def plot_check(check: Check, picture: Path) -> None:
    """Draw a check's series against the first of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    (across, x), *columns = check.series.items()
    for name, values in columns:
        axes.plot(x, values, linewidth=1.0, label=name)
    axes.set_xlabel(across)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    axes.set_title(f"{check.name}, {check.structure}", fontsize=10)
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=150)


def _slug(check: Check) -> str:
    text = f"{check.name} {check.structure}" if "teacher" in check.name else check.name
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
