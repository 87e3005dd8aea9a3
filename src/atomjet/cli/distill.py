"""`atomjet sample`, `label`, `rounds`, `train` and `distill`: the steps of a distillation, and all of them in one resumable
run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import options
from atomjet.cli.arguments import EXECUTING, Backend, Executing, Precision, grouped

if TYPE_CHECKING:
    from atomjet.distill.executors import Executor
    from atomjet.distill.recipe import Recipe

EXAMPLES = """Examples:

\b
  atomjet distill recipe.yaml               (sample, label, rounds and train; what is done already is not done again)
  atomjet distill --molecule 'CC(=O)Nc1ccc(O)cc1' --start-from organic-xtb -o paracetamol
  atomjet distill --structure crystal.cif --teacher chgnet.model.dynamics:CHGNetCalculator -o crystal
  atomjet sample recipe.yaml
  atomjet label recipe.yaml
  atomjet label recipe.yaml --executor ray --ray-address 10.0.0.1:6379
  atomjet rounds recipe.yaml
  atomjet train recipe.yaml --device cuda
"""

Config = Annotated[Path, typer.Argument(help="The recipe, YAML.", metavar="CONFIG.yaml", show_default=False)]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse a molecule or structure that cannot be used, instead of leaving it out."),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", help="Only the students of these seeds, e.g. 0,1.", metavar="K,...", show_default=False),
]


@dataclass(frozen=True)
class Changes:
    """What the command line says otherwise than the recipe, and whose code may run."""

    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Instead of the recipe's name for the student.", metavar="NAME")
    ] = None
    device: Annotated[
        str | None, typer.Option("--device", help="Where to train: cpu, cuda or cuda:N.", metavar="DEVICE")
    ] = None
    backend: Backend = "auto"
    precision: Precision = "default"
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's seed.", show_default=False)] = None
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust",
            help="A Python file beside the recipe that its teacher may come from, as file.py:function. Read it first.",
            metavar="FILE.py",
            show_default=False,
        ),
    ] = None


CHANGES = Changes()


@grouped
def sample(
    config: Config,
    strict: Strict = False,
    changes: Changes = CHANGES,
    embed_only: Annotated[
        bool,
        typer.Option(
            "--embed-only", help="Only the force-field conformers, from which a machine without RDKit can go on."
        ),
    ] = False,
) -> None:
    """Make the structures that a recipe asks for."""
    recipe = _recipe("sample", config, changes)
    _sample(recipe, strict, embed_only=embed_only)


@grouped
def label(
    config: Config,
    changes: Changes = CHANGES,
    executing: Executing = EXECUTING,
) -> None:
    """Label the sampled structures with the teacher.

    That is, compute its energies and forces of them. A run that is killed goes on when called again, with any executor.
    """
    recipe = _recipe("label", config, changes, device_used=executing.executor == "ray")
    with options.executor_of(executing, changes.device) as executor:
        _label(recipe, executor)


@grouped
def rounds(
    config: Config,
    seeds: Seeds = None,
    changes: Changes = CHANGES,
    executing: Executing = EXECUTING,
) -> None:
    """Let students lead and label where they disagree.

    They train for a while, drive MD and relaxations, and the frames on which they differ most are labelled for all to learn
    from. As many rounds as the recipe says; goes on where an earlier run was stopped.
    """
    recipe = _recipe("rounds", config, changes)
    with options.executor_of(executing, changes.device) as executor:
        _rounds(_with_seeds(recipe, seeds), changes.device, executor)


@grouped
def train(
    config: Config,
    seeds: Seeds = None,
    changes: Changes = CHANGES,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", help="Instead of the recipe's train.max_minutes.", metavar="MINUTES", show_default=False
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Train anew instead of going on.")] = False,
) -> None:
    """Train the student on the labels.

    Goes on where an earlier run was stopped.
    """
    recipe = _with_seeds(_recipe("train", config, changes), seeds)
    if minutes is not None:
        recipe = recipe.changed(train=recipe.train.model_copy(update={"max_minutes": minutes}))
    _train(recipe, changes.device, resume=not restart)


@grouped
def distill(
    config: Annotated[
        Path | None, typer.Argument(help="The recipe, YAML.", metavar="[CONFIG.yaml]", show_default=False)
    ] = None,
    molecule: Annotated[
        str | None,
        typer.Option("--molecule", help="A SMILES: writes a recipe for it into -o and runs it.", show_default=False),
    ] = None,
    structure: Annotated[
        Path | None,
        typer.Option("--structure", help="A file of structures, of a crystal say: the same.", show_default=False),
    ] = None,
    teacher: Annotated[
        str, typer.Option("--teacher", help="Of the recipe that is written.", metavar="NAME")
    ] = "tblite:GFN2-xTB",
    start_from: Annotated[
        str | None,
        typer.Option("--start-from", help="A model whose weights are the first.", metavar="MODEL", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the recipe that is written.", show_default=False),
    ] = None,
    strict: Strict = False,
    changes: Changes = CHANGES,
    executing: Executing = EXECUTING,
) -> None:
    """Sample, label, do the rounds and train in one resumable run.

    Stopped anywhere, it goes on there when called again.
    """
    from atomjet.errors import ConfigError

    if config is None:
        from atomjet.distill.one_molecule import write_recipe

        if output is None:
            raise ConfigError("give a recipe, or -o FOLDER with --molecule SMILES or --structure FILE")
        config = write_recipe(output, molecule, structure, teacher, start_from)
        print(f"recipe in {config}")
    elif molecule or structure or output:
        raise ConfigError(f"{config} says what to do: leave --molecule, --structure and -o out")
    recipe = _recipe("distill", config, changes)
    _sample(recipe, strict, to_train=True)
    with options.executor_of(executing, changes.device) as executor:
        _label(recipe, executor)
        if recipe.rounds:
            _rounds(recipe, changes.device, executor)
    _train(recipe, changes.device, resume=True)


def _recipe(command: str, config: Path, changes: Changes, device_used: bool = False) -> Recipe:
    """Read the recipe, change what the command line says otherwise, and print what runs."""
    from atomjet.distill.recipe import load_recipe
    from atomjet.errors import ConfigError

    recipe = load_recipe(config, changes.trust or ())
    if changes.seed is not None and changes.seed < 0:
        raise ConfigError(f"seed {changes.seed} is negative; give 0 or more")
    changed = {"name": changes.model, "seed": changes.seed}
    recipe = recipe.changed(**{name: value for name, value in changed.items() if value is not None})
    if command in ("sample", "label") and not device_used:
        options.say_unused(command, device=(changes.device, None))
    options.say_unused(command, backend=(changes.backend, "auto"), precision=(changes.precision, "default"))
    print(
        f"{command} {recipe.name}: teacher {recipe.teacher.calculator}, seed {recipe.seed}, into {recipe.output}",
        flush=True,
    )
    return recipe


def _sample(recipe: Recipe, strict: bool, to_train: bool = False, embed_only: bool = False) -> None:
    from atomjet.distill.sample import run_sample

    run_sample(recipe, strict=strict, to_train=to_train, embed_only=embed_only)


def _label(recipe: Recipe, executor: Executor | None) -> None:
    from atomjet.distill.label import run_label

    run_label(recipe, executor=executor)


def _rounds(recipe: Recipe, device: str | None, executor: Executor | None) -> None:
    from atomjet.distill.rounds import run_rounds

    run_rounds(recipe, device, executor=executor)


def _train(recipe: Recipe, device: str | None, resume: bool) -> None:
    from atomjet.distill.rounds import train_to_the_end
    from atomjet.distill.train import run_train

    if recipe.seeds:
        train_to_the_end(recipe, resume, device)
    else:
        run_train(recipe, resume=resume, device=device)


def _with_seeds(recipe: Recipe, seeds: str | None) -> Recipe:
    """The recipe with the seeds of the command line, if there are any."""
    from atomjet.errors import ConfigError

    if seeds is None:
        return recipe
    if not all(word.isdigit() for word in seeds.split(",")):
        raise ConfigError(f"--seeds {seeds}: give whole numbers of 0 or more with commas between them, e.g. 0,1")
    return recipe.changed(train=recipe.train.model_copy(update={"seeds": tuple(map(int, seeds.split(",")))}))
