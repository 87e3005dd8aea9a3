"""`atomjet bench`: the suites, and what is made of their results."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.bench.suites import SUITES, Suite
from atomjet.cli import options
from atomjet.cli.arguments import COMPUTING, Computing, Overwrite, grouped

if TYPE_CHECKING:
    from atomjet.bench.result import Result
    from atomjet.bench.run import Budget

app = typer.Typer(
    help="Measure speed, memory and accuracy; compare runs and revisions.",
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

EXAMPLES = """Examples:

\b
  atomjet bench latency --json latency.json --report latency.md
  atomjet bench bulk --contenders general,fast_pytorch,peers --max-minutes 10 --json bulk.json
  atomjet bench step --json step.json                                      (on a GPU)
  atomjet bench neighbors --cutoff 6 --contenders vesin_torch,captured       (on a GPU)
  atomjet bench latency --max-atoms 200 --processes 8 --json new.json     (to compare revisions by)
"""

COMPARE_EXAMPLES = """Examples:

\b
  atomjet bench compare base.json new.json
  atomjet bench compare base.json new.json --threshold 0.02
"""

REVISIONS_EXAMPLES = """Examples:

\b
  atomjet bench revisions v0.1 main
  atomjet bench revisions HEAD~3 HEAD~2 HEAD~1 HEAD --command "python speed.py"
  atomjet bench revisions --bisect v0.1 main
"""


@dataclass(frozen=True)
class Race:
    """Who competes, on what, and for how long."""

    settings: Annotated[
        str | None,
        typer.Option(
            "--contenders",
            "--settings",  # the older name
            help="What competes: names of backends, NAME@high, NAME@float64, peers, optimisations (all of ours, one by one).",
            metavar="A,B,...",
            show_default=False,
        ),
    ] = None
    baseline: Annotated[
        str, typer.Option("--baseline", help="What ratios are to, where the suite races backends.", metavar="A")
    ] = "general"
    runs: Annotated[int | None, typer.Option("--runs", help="Timed calls a case.", show_default="100")] = None
    max_atoms: Annotated[
        int | None, typer.Option("--max-atoms", help="Leave out larger cases.", show_default=False)
    ] = None
    threads: Annotated[int, typer.Option("--threads", help="On a CPU.")] = 1
    cutoff: Annotated[
        float | None,
        typer.Option("--cutoff", help="Å, for suite neighbors.", show_default="the model's"),
    ] = None
    process: Annotated[int, typer.Option("--process", hidden=True)] = 0


RACE = Race()


def measure(suite: Suite) -> Any:
    """The command of one suite."""

    @grouped
    def command(
        json_file: Annotated[Path | None, typer.Option("--json", help="Everything measured.", metavar="J")] = None,
        report: Annotated[Path | None, typer.Option("--report", help="Markdown tables.", metavar="MD")] = None,
        plot: Annotated[Path | None, typer.Option("--plot", help="Speed, memory and parts: .png, .pdf.")] = None,
        max_minutes: Annotated[float, typer.Option("--max-minutes", help="For everything.")] = 10.0,
        processes: Annotated[
            int, typer.Option("--processes", help="Fresh processes, one after the other; 8 to compare runs by.")
        ] = 1,
        overwrite: Overwrite = False,
        race: Race = RACE,
        computing: Computing = COMPUTING,
    ) -> None:
        from atomjet.bench.processes import run_processes
        from atomjet.bench.run import Budget

        for output in (json_file, report, plot):
            if output is not None:
                options.check_output(output, Path(), overwrite or bool(race.process))
        options.check_picture(plot)
        options.check_positive(
            max_minutes=max_minutes,
            cutoff=race.cutoff,
            runs=race.runs,
            max_atoms=race.max_atoms,
            processes=processes,
            threads=race.threads,
        )
        if suite.race != "search":
            options.say_unused(f"bench {suite.name}", cutoff=(race.cutoff, None))
            race = replace(race, cutoff=None)
        budget = Budget(60 * max_minutes)
        if processes > 1:
            request = {name: value for name, value in (asdict(race) | asdict(computing)).items() if name != "process"}
            result = run_processes(
                suite.name, processes, budget, json_file, request, say=lambda line: print(line, flush=True)
            )
        else:
            result = _measure(suite, budget, json_file, race, computing)
        if not race.process:
            _write(result, json_file, report, plot)
        if result.about.get("stopped"):
            raise KeyboardInterrupt
        if not any(row["status"] == "ok" for row in result.rows):
            raise typer.Exit(1)

    command.__doc__ = suite.help
    return command


for suite in SUITES.values():
    app.command(suite.name, epilog=EXAMPLES)(measure(suite))


@app.command("compare", epilog=COMPARE_EXAMPLES)
def compare(
    base: Annotated[Path, typer.Argument(help="Result of the older revision.", metavar="BASE.json")],
    new: Annotated[Path, typer.Argument(help="Result of the newer revision.", metavar="NEW.json")],
    threshold: Annotated[float, typer.Option("--threshold", help="Smallest change that matters.")] = 0.05,
) -> None:
    """Say what became slower, larger or less exact; status 1 if anything did."""
    from atomjet.bench.compare import alone, table
    from atomjet.bench.compare import compare as judge
    from atomjet.bench.result import read_result

    before, after = read_result(base), read_result(new)
    changes = judge(before, after, threshold)
    print(table(changes))
    worse = [change for change in changes if change.verdict == "worse"]
    for change in worse:
        print(f"worse: {change.case}, {change.setting}: {change.quantity} {change.change:+.1%}")
    if rest := alone(before, after):
        print(rest)
    print(f"{len(changes)} comparisons, {len(worse)} worse by more than {threshold:.0%}")
    if worse:
        raise typer.Exit(1)


def _measure(suite: Suite, budget: Budget, json_file: Path | None, race: Race, computing: Computing) -> Result:
    """One process's run."""
    import torch

    from atomjet.bench.contender import Unavailable
    from atomjet.bench.contenders import chosen
    from atomjet.bench.measure import settle
    from atomjet.bench.provenance import provenance
    from atomjet.bench.result import Result
    from atomjet.bench.run import run_suite
    from atomjet.bench.startup import startup

    torch.set_num_threads(race.threads)  # before the engine says what runs
    engine = options.load_engine(computing)
    engine.card["file"] = computing.model  # for peers that read the file themselves
    settle(engine.device, race.threads, race.process)
    cases = suite.cases_for(engine.device, engine.model.family, race.max_atoms, computing.seed)
    names = chosen(suite, race.settings or suite.default_names(engine.device, computing.backend), race.baseline)
    about = {
        "suite": suite.name,
        "model": engine.card.get("name", computing.model),
        "precision": engine.precision,
        "settings": names,
        "provenance": provenance(engine.device),
    } | ({"cutoff": race.cutoff} if race.cutoff else {})
    if suite.startup and race.process <= 1:  # once for all processes
        try:
            start = startup(computing.model, engine.device.type, engine.precision)
        except Unavailable as error:
            print(f"what a fresh process takes before its first call is not known: {error}", flush=True)
        else:
            about["startup_seconds"] = start
            text = "a fresh process takes {import} s for atomjet, {torch} s for PyTorch, {load} s for the model"
            print(text.format(**start), flush=True)
    result = Result(about, path=json_file)
    suite = replace(suite, cutoff=race.cutoff)
    run_suite(suite, cases, names, engine, result, budget, race.runs, say=lambda line: print(line, flush=True))
    return result


def _write(result: Result, json_file: Path | None, report: Path | None, plot: Path | None) -> None:
    from atomjet.bench.contenders import OPTIMISATIONS
    from atomjet.bench.plots import plot_optimisations, plot_result
    from atomjet.bench.report import tables
    from atomjet.writing import write_atomically

    if report is not None:
        write_atomically(report, tables(result))
        print(f"wrote {report}")
    if plot is not None:
        plot_result(result, plot)
        print(f"wrote {plot}")
        if result.about["settings"] == list(OPTIMISATIONS):
            steps = plot.with_stem(f"{plot.stem}-steps")
            plot_optimisations(result, steps)
            print(f"wrote {steps}")
    if json_file is not None:
        print(f"wrote {json_file}")


@app.command("revisions", epilog=REVISIONS_EXAMPLES)
@app.command("ladder", hidden=True)  # the older name
def race_revisions(
    revisions: Annotated[list[str] | None, typer.Argument(help="Oldest first.", metavar="REV REV ...")] = None,
    bisect: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--bisect", help="Find the first slower commit between two.", metavar="GOOD BAD", show_default=False
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            help="Run in the root of each revision; the last number it prints is the figure, lower is better. "
            "Default: its own `atomjet bench latency`.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[float, typer.Option("--precision", help="Know each change this well.")] = 0.01,
    max_rounds: Annotated[int, typer.Option("--max-rounds", help="Then say that it cannot be told.")] = 40,
    repository: Annotated[Path, typer.Option("--repository", help="Git repository.")] = Path(),
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="For the default command.", metavar="NAME", show_default=False)
    ] = None,
) -> None:
    """Run one benchmark on several revisions in alternation; status 1 if a step is slower."""
    from atomjet.bench import revisions as race
    from atomjet.bench.worktrees import Bench
    from atomjet.errors import ConfigError, SimulationError

    options.check_positive(precision=precision, max_rounds=max_rounds)
    bench = Bench(repository, command, str(Path(model).absolute()) if model and Path(model).exists() else model)
    say = lambda line: print(line, flush=True)  # noqa: E731
    if bisect is not None:
        if revisions:
            raise ConfigError(f"--bisect takes its two revisions alone; leave out {' '.join(revisions)}")
        found, change = race.bisect(bench, *bisect, max_rounds=max_rounds, say=say)
        words = "first slower commit" if len(found) == 1 else f"one of these {len(found)} is the first slower commit"
        print(f"{words} ({change:+.1%} in all):")
        for commit in found:
            print(f"{commit[:10]} {bench.subject(commit)}")
        return
    made = race.climb(bench, revisions or [], precision, max_rounds, say)
    print(race.table(made))
    if all(math.isnan(step.delta) for step in made):
        raise SimulationError("fewer than two revisions ran; nothing was compared, the table says why")
    if any(step.verdict.startswith("slower") for step in made):
        raise typer.Exit(1)


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Results.", metavar="FOLDER")] = Path("benchmarks/results"),
    output: Annotated[Path, typer.Option("--output", "-o", help="Markdown.")] = Path("docs/performance.md"),
) -> None:
    """Write the performance page, and its pictures beside it, from every result in a folder."""
    from atomjet.bench.page import PICTURES, draw_pictures, performance_page
    from atomjet.writing import write_atomically

    options.check_output(output, folder)
    write_atomically(output, performance_page(folder))
    pictures = draw_pictures(folder, output.parent / PICTURES)
    print(f"wrote {output} and {len(pictures)} pictures in {output.parent / PICTURES}")
