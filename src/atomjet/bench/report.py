"""Tables of a result: every figure of every row; nothing here is typed by hand."""

from __future__ import annotations

from typing import Any

from atomjet.bench.measure import Ratio
from atomjet.bench.result import Result
from atomjet.bench.suites import Suite


def tables(result: Result) -> str:
    """One result as markdown: an overview, then every figure."""
    lines = [f"# {_title(result)}", "", origin(result), "", *overview(result), "", "## Details", "", *details(result)]
    return "\n".join(lines) + "\n"


def overview(result: Result) -> list[str]:
    """A line a case, a column a contender: median and ratio to the first contender; what has no figure is listed below, once."""
    contenders = [
        name
        for name in result.about["settings"]
        if any(row["setting"] == name and row["status"] == "ok" for row in result.rows)
    ]
    lines = [
        f"Median in ms, × `{result.about['settings'][0]}`:",
        "",
        f"| case | {' | '.join(contenders)} |",
        "| " + " | ".join(["---"] * (1 + len(contenders))) + " |",
    ]
    for case in result.cases:
        cells = [_short(result.row(case, contender)) for contender in contenders]
        if any(cells):
            lines.append("| " + " | ".join([sized(result, case), *cells]) + " |")
    return lines + missing(result)


def details(result: Result) -> list[str]:
    """Every figure of every row, what calls include, and where the time goes."""
    clock = {
        "cpu": "processor time of the process",
        "wall": "wall time from call to synchronisation",
        "device": "time on the device between events around calls, which are enqueued together where none waits for the host",
    }[result.clock]
    rows = [row for row in result.rows if row["status"] == "ok"]
    lines = [
        f"Times are {clock}, all contenders in alternation, positions changed on every call, warm-up of 10 calls where time "
        f"allows; × is the ratio of medians to `{result.about['settings'][0]}` with its 95 % bootstrap interval.",
        "",
        "| case | contender | median / ms | mean ± std | min ... max | p95, p99 | runs | × | "
        f"{', '.join(result.suite.rates)} | memory / MiB | {'operators' if result.clock == 'cpu' else 'kernels'} | "
        "energy MAE / meV/atom | force RMSE, max / eV/Å | stress RMSE / eV/Å³ |",
        "| " + " | ".join(["---"] * 14) + " |",
        *(_line(result.suite, row) for row in rows),
        "",
    ]
    for includes in dict.fromkeys(row["includes"] for row in rows):
        names = dict.fromkeys(row["setting"] for row in rows if row["includes"] == includes)
        lines.append(f"- A call of {', '.join(names)} includes: {includes}.")
    if start := result.about.get("startup_seconds"):
        package = max(1.0, 1e3 * start["import"])
        lines.append(
            f"- Before the first call a fresh process takes {package:.0f} ms or less to import atomjet, {start['torch']:.2g} s for "
            f"PyTorch and {start['load']:.2g} s to load the model."
        )
    return lines + _parts(rows)


def parts_of(row: dict[str, Any]) -> dict[str, float]:
    """Seconds of search, model and what is left (checks, sums, transfers), as far as they were measured."""
    parts = dict(row.get("parts", {}))
    if parts:
        whole = row["statistics"]["median"]
        parts["overhead"] = max(0.0, whole - parts.get("search", 0.0) - parts.get("energy and forces", 0.0))
        if "energy" in parts:
            parts["forces"] = max(0.0, parts["energy and forces"] - parts["energy"])
    return parts


def _title(result: Result) -> str:
    return f"{result.about['suite']}, {result.about['provenance']['device']}"


def origin(result: Result) -> str:
    """Model, precision, commit, versions, clocks and load, in a line."""
    about, origin = result.about, result.about["provenance"]
    changed = f" and {origin['changed_files']} changed files" if origin.get("changed_files") else ""
    versions = ", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items())
    load = f"load {origin['load'][0]:.1f} on {origin['cores']} cores" if origin.get("load") else ""
    stopped = (
        " The run was stopped before its end; what has no figure was not measured." if about.get("stopped") else ""
    )
    cutoff = f", cutoff {about['cutoff']:g} Å" if "cutoff" in about else ""
    return (
        f"model {about['model']}{cutoff}, precision {about['precision']}, "
        f"commit {(origin.get('commit') or 'unknown')[:12]}{changed}, {origin['time']}. {versions}; "
        f"clocks as seen: {_clocks(result)}; {load}, {origin.get('threads', '?')} threads."
        f"{stopped}"
    )


def _clocks(result: Result) -> str:
    """Before the run and after the races of each case: one figure, or from the lowest to the highest."""
    seen: dict[str, list[float]] = {}
    for clocks in (result.about["provenance"].get("clocks", {}), *(row.get("clocks", {}) for row in result.rows)):
        for name, value in clocks.items():
            seen.setdefault(name, []).append(value)
    spans = {
        name: list(dict.fromkeys(f"{value:.0f}" for value in (min(all_), max(all_)))) for name, all_ in seen.items()
    }
    return ", ".join(f"{name} {' ... '.join(span)} MHz" for name, span in spans.items()) or "not known"


def missing(result: Result, unmentioned: tuple[str, ...] = ()) -> list[str]:
    """One line for each reason why rows have no figure, or less than the others; not of rows of an `unmentioned` status."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in result.rows:
        if row["status"] not in unmentioned and (row["status"] != "ok" or row.get("reason")):
            reasons.setdefault((row["setting"], row["status"], row["reason"].replace("|", "/")), []).append(row["case"])
    lines = []
    for (contender, status, reason), cases in reasons.items():
        where = "everywhere" if len(cases) == len(result.cases) else ", ".join(cases)
        lines.append(f"- {contender}, {where}: {'' if status == 'ok' else status + ': '}{reason}")
    return ["", *lines] if lines else []


def sized(result: Result, case: str) -> str:
    """The name of a case, with its edges where rows know them."""
    edges = {
        row["per_call"]["edges"] for row in result.rows if row["case"] == case and "edges" in row.get("per_call", {})
    }
    return case + "".join(f", {number:,.0f} edges" for number in sorted(edges))


def _short(row: dict[str, Any] | None) -> str:
    if row is None or row["status"] != "ok":
        return "" if row is None or row["status"] == "skipped" else row["status"]
    one = row.get("ratio")
    ratio = (
        f", × {format_ratio(Ratio(one['estimate'], one['low'], one['high']))}"
        if one and one["to"] != row["setting"]
        else ""
    )
    return f"{1e3 * row['statistics']['median']:.4g}{ratio}"


def format_ratio(ratio: Ratio) -> str:
    """Three digits, and the interval."""
    return f"{ratio.estimate:.3g} ({ratio.low:.3g} ... {ratio.high:.3g})"


def _parts(rows: list[dict[str, Any]]) -> list[str]:
    names = ("search", "energy and forces", "energy", "forces", "overhead")
    lines = []
    for row in (row for row in rows if row.get("parts")):
        parts = parts_of(row)
        cells = [f"{1e3 * parts[name]:.3g}" if name in parts else "" for name in names]
        lines.append(f"| {row['case']} | {row['setting']} | " + " | ".join(cells) + " |")
    caption = (
        "Where the time of a call goes, ms (medians, each part timed by itself; forces and overhead by difference; energy alone "
        "where a backend can compute it; not of cases with fewer than 20 rounds, more than 12,000 atoms or a million edges):"
    )
    head = ["", caption, "", "| case | contender | " + " | ".join(names) + " |", "| " + " | ".join(["---"] * 7) + " |"]
    return head + lines if lines else []


def _line(suite: Suite, row: dict[str, Any]) -> str:
    s, r, a = row["statistics"], row.get("ratio"), row.get("accuracy") or {}
    exact = ("same edges", f"{a['edges']:,} edges", "") if "edges" in a else ("", "", "")
    if "force_rmse" in a:
        stress = a.get("stress_rmse")
        exact = (
            f"{a['energy_mae']:.1e}",
            f"{a['force_rmse']:.1e}, {a['force_max']:.1e}",
            f"{stress:.1e}" if stress else "",
        )
    elif not a:
        exact = ("", "not at this size", "")
    cells = [
        row["case"],
        row["setting"],
        f"{1e3 * s['median']:.4g}",
        f"{1e3 * s['mean']:.4g} ± {1e3 * s['std']:.2g}",
        f"{1e3 * s['min']:.4g} ... {1e3 * s['max']:.4g}",
        f"{1e3 * s['p95']:.4g}, {1e3 * s['p99']:.4g}",
        f"{s['runs']}" + (f" in {len(row['samples'])} processes" if len(row["samples"]) > 1 else ""),
        f"{r['estimate']:.2f} ({r['low']:.2f} ... {r['high']:.2f})" if r else "",
        _rates(suite, row["throughput"]),
        f"{row['memory_bytes'] / 2**20:.1f}" if row.get("memory_bytes") else "",
        str(row.get("launches", "")),
        *exact,
    ]
    return "| " + " | ".join(cells) + " |"


def _rates(suite: Suite, throughput: dict[str, float]) -> str:
    calls = throughput["structures/s"]  # of one structure, where a suite speaks of calls
    known = throughput | {"calls/s": calls, "ns/day at 1 fs": calls * 86400e-6}
    return ", ".join(format(known[name], style) for name, style in suite.rates.items())
