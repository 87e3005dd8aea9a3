"""The page that judges students side by side: table, curves, errors by their causes, error against time, what they cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomjet.validate.organic import pictures
from atomjet.validate.organic.suite import Row, table
from atomjet.writing import write_atomically

Results = Mapping[str, dict[str, Any]]
"""What `Report.to_json` gave of each student, by the name under which it is shown."""

CAUSES = ("element", "force", "size", "temperature", "group")
"""First words of the figures of `frames.breakdown`, less single molecules."""

HARDEST = 12
"""Molecules listed."""


def write_page(results: Results, path: Path, title: str) -> list[Path]:
    """Write the page, and its pictures in `pictures/` beside it; return all that was written."""
    folder = path.parent / "pictures"
    folder.mkdir(exist_ok=True)
    drawn = pictures.draw_all(results, folder, path.stem)
    write_atomically(path, page(results, title, {name: f"pictures/{file.name}" for name, file in drawn.items()}))
    return [path, *drawn.values()]


def page(results: Results, title: str, drawn: Mapping[str, str]) -> str:
    """Markdown; `drawn` are the addresses of pictures by name."""
    lines = [f"# {title}", "", _introduction(results), "", *_table(results), "", *_cannot(results)]
    sections = {
        "pareto": "Error against time",
        "errors": "Where the errors of forces are",
        "dimers": "Dimers",
        "contacts": "Compressed contacts",
        "torsions": "Torsions",
    }
    for name, heading in sections.items():
        words = _causes(results) if name == "errors" else _kinds(results) if name == "contacts" else []
        if name in drawn or words:
            lines += ["", f"## {heading}", ""]
        if name in drawn:
            lines += [f"![{heading}]({drawn[name]})"]
        lines += words
    lines += ["", *_hardest(results), "", "## Origin", ""]
    return "\n".join([*lines, *(f"- {name}: {_origin(result)}" for name, result in results.items()), ""])


def _introduction(results: Results) -> str:
    about = next(iter(results.values())).get("about", {})
    teacher = about.get("teacher", {})
    options = "".join(f", {name} {value}" for name, value in teacher.get("options", {}).items())
    return (
        "Made by `atomjet validate --read`; edit nothing here. Students against their teacher, "
        f"{teacher.get('calculator', 'unknown')}{options}, on structures that are fixed and stand in "
        "`src/atomjet/validate/organic`: the teacher's own geometries of small molecules and of molecules that were held out of "
        "training. `atomjet validate --against organic --model STUDENT` measures the same of any student."
    )


def rows_of(result: dict[str, Any]) -> dict[str, Row]:
    """Rows of the table by name."""
    return {row.name: row for row in table(result["checks"])}


def _table(results: Results) -> list[str]:
    """One row for each kind of check, one column for each student; the worst structure where there are several."""
    each = {name: rows_of(result) for name, result in results.items()}
    names = list(dict.fromkeys(name for rows in each.values() for name in rows))
    lines = ["| | at most | " + " | ".join(results) + " |", "| --- " * (2 + len(results)) + "|"]
    for name in names:
        some = next(rows[name] for rows in each.values() if name in rows)
        cells = [_cell(rows.get(name)) for rows in each.values()]
        lines.append(f"| {name} | {some.limit} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    many = f", {row.passed} of {row.of} within; worst {row.structure}" if row.of > 1 else ""
    figure = f"{row.value:.3g}"
    return (f"**{figure}**" if row.passed == row.of else figure) + many


def _cannot(results: Results) -> list[str]:
    """What failed of the last student, with the sentence that each check has for it."""
    name, result = list(results.items())[-1]
    by_check: dict[str, list[str]] = {}
    for check in result["checks"]:
        if not check["passed"]:
            detail = f" ({check['detail']})" if check["detail"] else ""
            by_check.setdefault(check["name"], []).append(check["structure"] + detail)
    said = [f"- {name}: {'; '.join(structures)}" for name, structures in by_check.items()]
    intro = f"Bold: within the bound, in all structures of the row. What {name} cannot do:"
    return [intro, "", *(said or ["- nothing that is measured here"])]


def figures_of(result: dict[str, Any], name: str) -> dict[str, float]:
    """Figures of the first check of a name; none where there is none."""
    return next((check["figures"] for check in result["checks"] if check["name"] == name), {})


def _errors_by_cause(results: Results) -> dict[str, dict[str, float]]:
    return {name: figures_of(result, "force MAE, unseen molecules") for name, result in results.items()}


def _comparison(each: dict[str, dict[str, float]], keys: list[str], shorten: str = "") -> list[str]:
    """A table of figures, one column for each student."""
    lines = ["| | " + " | ".join(each) + " |", "| --- " * (1 + len(each)) + "|"]
    for key in keys:
        values = (_number(figures.get(key)) for figures in each.values())
        lines.append(f"| {key.removeprefix(shorten)} | " + " | ".join(values) + " |")
    return lines


def _causes(results: Results) -> list[str]:
    """Force MAE by element, strength, size, temperature and group of molecules."""
    each = _errors_by_cause(results)
    known = list(dict.fromkeys(key for figures in each.values() for key in figures))
    keys = [key for cause in CAUSES for key in known if key.startswith(f"{cause} ")]
    return ["", "Force MAE, meV/Å, unseen molecules:", "", *_comparison(each, keys)] if keys else []


def _kinds(results: Results) -> list[str]:
    """Which closest pairs are too soft, of the last student."""
    name, result = list(results.items())[-1]
    counts = {kind: count for kind, count in figures_of(result, "compressed contacts").items() if "too soft" in kind}
    soft = [f"{kind.partition(':')[0]} {n:g} of {kind.rpartition(' ')[2]}" for kind, n in counts.items() if n]
    return ["", f"Closest pairs that are too soft, {name}: {', '.join(soft)}."] if soft else []


def _hardest(results: Results) -> list[str]:
    """The molecules with the largest errors of the last student."""
    each = _errors_by_cause(results)
    last = list(each.values())[-1]
    worst = sorted((key for key in last if key.startswith("molecule ")), key=lambda key: -last[key])[:HARDEST]
    if not worst:
        return []
    return ["## The hardest molecules", "", "Force MAE, meV/Å:", "", *_comparison(each, worst, "molecule ")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _origin(result: dict[str, Any]) -> str:
    """What was judged, where and when."""
    about = result.get("about", {})
    origin = about.get("provenance", {})
    versions = ", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items())
    return (
        f"{result['what']}; size {about.get('size', '?')}, seed {about.get('seed', '?')}; {origin.get('device', '?')}, commit "
        f"{(origin.get('commit') or 'unknown')[:12]}, {origin.get('time', '?')}; {versions}"
    )
