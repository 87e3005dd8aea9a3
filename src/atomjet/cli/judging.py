"""`atomjet validate --against` and `--read`: students judged by their teacher, and several side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atomjet import Engine
    from atomjet.validate import Check, Report


@dataclass(frozen=True)
class Judging:
    """What a student is judged on, and by whom its teacher's answers are computed and kept."""

    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="organic: instead judge a student by its teacher on a set of organic molecules.",
            metavar="SET",
            show_default=False,
        ),
    ] = None
    size: Annotated[str, typer.Option("--size", help="With --against: quick or full.", metavar="SIZE")] = "quick"
    picoseconds: Annotated[
        float | None,
        typer.Option("--ps", help="With --against: length of runs at constant temperature.", show_default=False),
    ] = None
    only: Annotated[
        str | None,
        typer.Option("--only", help="With --against: groups of checks.", metavar="A,B", show_default=False),
    ] = None
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes of the teacher. Default: all CPUs.", show_default=False)
    ] = None
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            help="Where the teacher's answers are kept for the next student. Default: the user's cache.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None
    read: Annotated[
        list[Path] | None,
        typer.Option(
            "--read",
            help="Measure nothing: --report from what --against wrote with --json, a column for each.",
            metavar="J",
            show_default=False,
        ),
    ] = None
    into_card: Annotated[
        bool, typer.Option("--into-card", help="With --against: write the table into the model file's card.")
    ] = False


JUDGING = Judging()


def judge(judging: Judging, engine: Engine, teacher: str | None, seed: int) -> tuple[Report, Iterator[Check]]:
    """An empty report, and the checks that it is for.

    Raises:
        ConfigError: there is no such set, size or group of checks; no teacher is known.
    """
    from atomjet.bench.provenance import provenance
    from atomjet.engine.tuning import user_table
    from atomjet.errors import ConfigError
    from atomjet.validate import Report
    from atomjet.validate.organic.answers import Answers
    from atomjet.validate.organic.sets import SIZES, Judged
    from atomjet.validate.organic.suite import chosen, run_against_teacher, teacher_of

    if judging.against != "organic":
        raise ConfigError(f"there is no set {judging.against!r} to judge students on; there is: organic")
    if judging.size not in SIZES:
        raise ConfigError(f"size {judging.size!r} is not known; choose quick or full")
    names = chosen(judging.only)
    kept = judging.answers or user_table().with_name("answers")
    reference = Answers(teacher_of(engine.card, teacher), kept, judging.workers)
    about = {
        "model": engine.card.get("name", ""),
        "set": judging.against,
        "size": judging.size,
        "picoseconds": judging.picoseconds,
        "seed": seed,
        "teacher": reference.about,
        "provenance": provenance(engine.device),
    }
    size = SIZES[judging.size]
    if judging.picoseconds is not None:
        size = replace(size, replica_fs=1000 * judging.picoseconds, box_fs=1000 * judging.picoseconds)
    judged = Judged(engine, reference, size, seed)
    return Report(engine.describe(), names, about=about), run_against_teacher(judged, names)


def model_file(judging: Judging, model: str) -> Path | None:
    """The file whose card the table goes to, if it is to.

    Raises:
        ConfigError: a packaged model, or a file of another format.
    """
    from atomjet.errors import ConfigError

    if not judging.into_card:
        return None
    path = Path(model)
    if path.suffix != ".safetensors" or not path.is_file():
        raise ConfigError(f"--into-card needs --model FILE.safetensors, a file of your own; got {model}")
    return path


def tell(made: Report, report: Path | None, file: Path | None) -> None:
    """Print the table that the checks come to, and write the page and the model's card where they are wanted."""
    from atomjet.validate.organic.card import write_into_card
    from atomjet.validate.organic.suite import table

    print(*table(check.to_json() for check in made.checks), sep="\n")
    if report is not None and made.checks:
        _write({made.about["model"] or "student": made.to_json()}, report)
    if file is not None and made.checks and not made.stopped:
        write_into_card(file, made.to_json())
        print(f"wrote the table into the card of {file}")


def side_by_side(files: Sequence[Path], report: Path | None) -> None:
    """The page of results that were measured before, named by their files.

    Raises:
        ConfigError: no page to write, or a file that is no such result.
    """
    from atomjet.errors import ConfigError

    if report is None:
        raise ConfigError("--read needs --report, the page to write")
    results: dict[str, Any] = {}
    for file in files:
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            result["about"]["teacher"]["calculator"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is not what `atomjet validate --against` writes with --json: {error}") from error
        results[file.stem] = result
    _write(results, report)


def _write(results: dict[str, Any], report: Path) -> None:
    from atomjet.validate.organic.page import write_page

    models = dict.fromkeys(result["about"]["model"] or "a student" for result in results.values())
    for written in write_page(results, report, f"{', '.join(models)} against the teacher"):
        print(f"wrote {written}")
