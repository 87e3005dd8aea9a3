"""The performance page for readers: for each quantity a picture, a table of times, and the memory and accuracy that go with them.

Every further figure stays in the files that the page is made from. Nothing on it is typed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from atomjet.bench.contenders import PEERS
from atomjet.bench.measure import Ratio
from atomjet.bench.page_plots import draw_front, draw_section
from atomjet.bench.report import format_ratio, missing, origin, sized
from atomjet.bench.result import LATE, Result, read_result
from atomjet.bench.suites import OTHER_SEARCHES
from atomjet.errors import ConfigError

PICTURES = "pictures"
"""Folder of the pictures, beside the page."""


@dataclass(frozen=True)
class Quantity:
    """What is timed: its name, what it holds, and its clock on a GPU and on a CPU."""

    name: str
    holds: str
    clock: str


STEP = Quantity(
    "device step",
    "new positions, neighbour search, energy, forces and stress of one step, replayed as a CUDA graph",
    "time on the GPU between two events; the host is left out",
)
CALL = Quantity(
    "call",
    "`engine.predict` of structures that are on the device: checks, neighbour search, energy, forces, stress",
    "GPU: wall time from the call until the results are there; CPU: processor time of the process",
)
ASE_CALL = Quantity(
    "call from ASE",
    "`engine.predict` of `ase.Atoms`: what a call holds, and the copies to the device and back",
    "wall time until the results are in the host's memory",
)
MD_STEP = Quantity(
    "MD step",
    "one velocity Verlet step of `atomjet md`: on the GPU with `fast_gpu`, through ASE with the others",
    "wall time; on the GPU, of fifty steps together, divided by fifty",
)
SEARCH = Quantity(
    "search",
    "the neighbour search alone, for new positions in fixed buffers",
    "GPU: time between two events; CPU: processor time of the process",
)
SEARCH_CALL = Quantity(
    "search call", "a search, and what Python takes to start it", "wall time from call to synchronisation"
)

SECTIONS = {
    "step": ("Device step", STEP),
    "latency": ("Call, molecules", CALL),
    "bulk": ("Call, liquid water", CALL),
    "md": ("MD step", MD_STEP),
    "neighbors": ("Search", SEARCH),
    "neighbors by wall time": ("Search call", SEARCH_CALL),
    "uma": ("Call, UMA", CALL),
    "optimisations": ("Call from ASE, one optimisation after the other", ASE_CALL),
}
"""Title and quantity by suite, in the order of the page."""

CONTENDERS = {
    "general": "AtomJet's definition: plain PyTorch, forces by autograd",
    "fast_pytorch": "AtomJet in plain PyTorch, analytic forces",
    "fast_gpu": "AtomJet's kernels, tensor cores with 10-bit mantissas or better",
    "fast_gpu@high": "AtomJet's kernels, float32 throughout",
    "captured": "AtomJet's search",
    "search": "AtomJet's neighbor_list, a graph of its own for each call",
    "brute_force": "AtomJet's definition of the search",
    "torch_compile": "the definition compiled by torch.compile; the neighbour list is given to it, outside the timing",
    "compile_graph": "the definition compiled by torch.compile, TF32 allowed, in a CUDA graph; edges are given to it; no stress",
    "schnetpack": "SchNetPack's PaiNN with the same weights",
    "fairchem": "fairchem, execution mode general",
    "fairchem_compiled": "fairchem, umas_fast_pytorch, compiled, TF32",
    "fairchem_fast_gpu": "fairchem, umas_fast_gpu, compiled, TF32",
    "fairchem_nitro": "fairchem, nitro; its check that the file is a released one is replaced in memory",
    "vesin": "vesin on the CPU",
    "vesin_torch": "vesin-torch on the GPU, float64, with vectors",
    "vesin_torch_pairs": "vesin-torch on the GPU, float64: pairs and shifts alone, no vectors",
    "torchmd_net": "torchmd-net in a CUDA graph, float64, without shifts; its faster strategy for the size",
    "torch_cluster": "torch-cluster; molecules only",
    "nvalchemi": "nvalchemi-toolkit-ops",
}
"""Titles of contenders, by the name that `--contenders` takes."""


def performance_page(folder: Path) -> str:
    """docs/performance.md from every result in a folder.

    Raises:
        ConfigError: no such folder, no results in it, or one that cannot be read.
    """
    results = read_results(folder)
    heads, sections, who = [], [], {}
    for name, result in results.items():
        try:
            heads += [] if section_of(result)[1] is ASE_CALL else headlines(result)
            sections += section(name, result)
            who |= {row["setting"]: None for row in result.rows if row["status"] == "ok"}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{folder / name}: a row or field is missing or wrong ({error}); measure it again"
            ) from error
    quantities = dict.fromkeys(section_of(result)[1] for result in results.values())
    lines = [
        "# Performance",
        "",
        "Made by `atomjet bench report` from `benchmarks/results`, pictures and all; edit nothing here. Contenders of one table "
        "were called in turn within one run, on positions that change with every call; × is the ratio of medians with its 95 % "
        "interval. Different tables are different runs, often of different quantities. [Measuring](concepts/measuring.md) says how "
        "it is done.",
        "",
        "## In short",
        "",
        "How many times as fast as another, on the smallest and on the largest case that both ran, and the geometric mean of all; "
        "intervals stand in the tables below.",
        "",
        *_table(["what, where", "contender", "against", "smallest", "largest", "mean", "cases"], heads),
        "",
        "## What is timed",
        "",
        *_table(["quantity", "holds", "clock"], [[one.name, one.holds, one.clock] for one in quantities]),
        "",
        "## Who competes",
        "",
        *_table(["contender", "what it is"], [[f"`{name}`", CONTENDERS[name]] for name in who if name in CONTENDERS]),
        "",
        *sections,
        "## Measure it yourself",
        "",
        "`atomjet bench SUITE --json benchmarks/results/NAME.json` makes one file (`atomjet bench --help` lists the suites), "
        "`atomjet bench report` this page and its pictures, and `atomjet bench SUITE --report NAME.md` a table of every figure.",
    ]
    return "\n".join(lines) + "\n"


def draw_pictures(folder: Path, pictures: Path) -> list[Path]:
    """The page's pictures, one for each result, and the README's."""
    pictures.mkdir(parents=True, exist_ok=True)
    results = read_results(folder)
    made = [pictures / f"{Path(name).stem}.svg" for name in results]
    for picture, result in zip(made, results.values(), strict=True):
        draw_section(result, shown_rows(result), picture)
    if (newest := newest_for_front(results)) is not None:
        made.append(pictures / "front.svg")
        draw_front(*newest, made[-1])
    return made


def newest_for_front(results: dict[str, Result]) -> tuple[Result, Result] | None:
    """The newest steps and searches that the device timed, for the README's picture; None where one is missing."""
    timed = sorted(
        (one for one in results.values() if one.clock == "device"), key=lambda one: one.about["provenance"]["time"]
    )
    newest = {one.about["suite"]: one for one in timed}
    return (newest["step"], newest["neighbors"]) if {"step", "neighbors"} <= set(newest) else None


def read_results(folder: Path) -> dict[str, Result]:
    """Results by the names of their files, in the order of the page: GPUs first, suites as in `SECTIONS`."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise ConfigError(
            f"{folder}: no results (*.json) here; `atomjet bench SUITE --json {folder}/NAME.json` makes one"
        )
    results = {file.name: read_result(file) for file in files}

    def place(item: tuple[str, Result]) -> tuple[bool, int]:
        return item[1].about["provenance"]["device_type"] == "cpu", list(SECTIONS.values()).index(section_of(item[1]))

    return dict(sorted(results.items(), key=place))


def section_of(result: Result) -> tuple[str, Quantity]:
    """Title and quantity."""
    suite = result.about["suite"]
    if result.about["settings"][0] == "definition":
        suite = "optimisations"
    elif suite == "neighbors" and result.clock == "wall":
        suite = "neighbors by wall time"
    return SECTIONS.get(suite, SECTIONS["latency"])


def title(result: Result) -> str:
    """What was measured and where, as headings say it."""
    within = f" within {result.about['cutoff']:g} Å" if "cutoff" in result.about else ""
    beside = " beside fairchem" if any(name.startswith("fairchem") for name in result.about["settings"]) else ""
    return f"{section_of(result)[0]}{within}{beside}, {result.about['provenance']['device']}"


def headlines(result: Result) -> list[list[str]]:
    """Rows of a table: each of our contenders against the baseline and against each peer."""
    baseline, *others = result.about["settings"]
    peers = [name for name in others if name in PEERS + OTHER_SEARCHES]
    rows = []
    for contender in (name for name in others if name not in peers):
        for against in (baseline, *peers):
            pairs = ((result.row(case, against), result.row(case, contender)) for case in result.cases)
            both = [(one, other) for one, other in pairs if one and other and one["status"] == other["status"] == "ok"]
            if both:
                ratios = [
                    result.ratio(one, other).estimate for one, other in sorted(both, key=lambda pair: pair[0]["atoms"])
                ]
                cells = [f"{one:.3g}" for one in (ratios[0], ratios[-1], geometric_mean(ratios))]
                rows.append([title(result), f"`{contender}`", f"`{against}`", *cells, str(len(ratios))])
    return rows


def section(name: str, result: Result) -> list[str]:
    """A picture, times, memory and accuracy, and where they come from."""
    contenders = _shown_settings(result)
    rows = shown_rows(result)
    cases = dict.fromkeys(row["case"] for row in rows)
    times = [[sized(result, case), *(_cell(result.row(case, contender)) for contender in contenders)] for case in cases]
    return [
        f"## {title(result)}",
        "",
        f"![{title(result)}: time and memory against atoms]({PICTURES}/{Path(name).stem}.svg)",
        "",
        f"One {section_of(result)[1].name}, median in ms, × `{result.about['settings'][0]}`:",
        "",
        *_table(["case", *(f"`{contender}`" for contender in contenders)], times),
        "",
        *_memory_and_accuracy(result, contenders),
        *missing(result, LATE)[1:],
        "",
        f"`{name}`, {origin(result)}",
        "",
    ]


def shown_rows(result: Result) -> list[dict[str, Any]]:
    """Measured rows of the smallest and the largest number of structures in a call; the others are in the file."""
    measured = [row for row in result.rows if row["status"] == "ok"]
    numbers = sorted(row["structures"] for row in measured)
    return [row for row in measured if row["structures"] in (numbers[0], numbers[-1])]


def _shown_settings(result: Result) -> list[str]:
    measured = {row["setting"] for row in result.rows if row["status"] == "ok"}
    return [name for name in result.about["settings"] if name in measured]


def _memory_and_accuracy(result: Result, contenders: list[str]) -> list[str]:
    """A line a contender: memory on the largest case that all measured, largest differences from float64 over all cases."""
    measured = [row for row in result.rows if row["status"] == "ok"]
    common = [case for case in result.cases if sum(row["case"] == case for row in measured) == len(contenders)]
    largest = max(common, key=lambda case: result.row(case, contenders[0])["atoms"], default=None)  # type: ignore[index]
    lines = []
    for contender in contenders:
        mine = [row for row in measured if row["setting"] == contender]
        judged = [row["accuracy"] for row in mine if "force_rmse" in (row.get("accuracy") or {})]
        held = (result.row(largest, contender) or {}).get("memory_bytes") if largest else None
        worst = [
            f"{max(one[name] for one in judged):.1e}" if judged else ""
            for name in ("energy_mae", "force_rmse", "force_max")
        ]
        lines.append([f"`{contender}`", f"{held / 2**20:,.1f}" if held else "", *worst])
    if not lines or not all(line[1] for line in lines):
        return []  # searches in buffers that exist before the call
    heads = [
        "contender",
        f"memory for {largest} / MiB",
        "energy / meV/atom",
        "force RMSE / eV/Å",
        "largest force error / eV/Å",
    ]
    shown = [0, *(k for k in range(1, 5) if any(line[k] for line in lines))]
    caption = (
        f"Memory of one {section_of(result)[1].name}, and the largest differences from the definition in float64, same weights, "
        "over all cases:"
    )
    return [caption, "", *_table([heads[k] for k in shown], [[line[k] for k in shown] for line in lines]), ""]


def _cell(row: dict[str, Any] | None) -> str:
    """Median and ratio; a dash where nothing was measured."""
    if row is None or row["status"] in LATE:
        return "–"
    if row["status"] != "ok":
        return row["status"]
    one = row.get("ratio")
    ratio = (
        f", × {format_ratio(Ratio(one['estimate'], one['low'], one['high']))}"
        if one and one["to"] != row["setting"]
        else ""
    )
    return f"{1e3 * row['statistics']['median']:.4g}{ratio}"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
