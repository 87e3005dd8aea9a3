"""`atomjet sample`, `label`, `rounds`, `train` and `distill`: the steps of a distillation, and all of them in one resumable
run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import options
from atomjet.cli.arguments import Backend, Precision

if TYPE_CHECKING:
    from atomjet.distill.recipe import Recipe

EXAMPLES = """Examples:

\b
  atomjet distill recipe.yaml               (sample, label, rounds and train; what is done already is not done again)
  atomjet distill --molecule 'CC(=O)Nc1ccc(O)cc1' --start-from organic-xtb -o paracetamol
  atomjet distill --structure crystal.cif --teacher chgnet.model.dynamics:CHGNetCalculator -o crystal
  atomjet sample recipe.yaml
  atomjet label recipe.yaml
  atomjet rounds recipe.yaml
  atomjet train recipe.yaml --device cuda
"""

Config = Annotated[Path, typer.Argument(help="The recipe, YAML.", metavar="CONFIG.yaml", show_default=False)]
RecipeSeed = Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's seed.", show_default=False)]
RecipeDevice = Annotated[
    str | None, typer.Option("--device", help="Where to train: cpu, cuda or cuda:N.", metavar="DEVICE")
]
RecipeModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Instead of the recipe's name for the student.", metavar="NAME")
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse a molecule or structure that cannot be used, instead of leaving it out."),
]
Trust = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        help="A Python file beside the recipe that its teacher may come from, as file.py:function. Read it first.",
        metavar="FILE.py",
        show_default=False,
    ),
]

Seeds = Annotated[
    str | None,
    typer.Option("--seeds", help="Only the students of these seeds, e.g. 0,1.", metavar="K,...", show_default=False),
]


def sample(
    config: Config,
    model: RecipeModel = None,
    device: RecipeDevice = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    seed: RecipeSeed = None,
    strict: Strict = False,
    trust: Trust = None,
    embed_only: Annotated[
        bool,
        typer.Option(
            "--embed-only", help="Only the force-field conformers, from which a machine without RDKit can go on."
        ),
    ] = False,
) -> None:
    """Make the structures that a recipe asks for."""
    recipe = _recipe("sample", config, model, device, backend, precision, seed, trust)
    _sample(recipe, strict, embed_only=embed_only)


def label(
    config: Config,
    model: RecipeModel = None,
    device: RecipeDevice = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    seed: RecipeSeed = None,
    trust: Trust = None,
) -> None:
    """Label the sampled structures with the teacher.

    That is, compute its energies and forces of them.
    """
    recipe = _recipe("label", config, model, device, backend, precision, seed, trust)
    _label(recipe)


def rounds(
    config: Config,
    model: RecipeModel = None,
    device: RecipeDevice = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    seed: RecipeSeed = None,
    seeds: Seeds = None,
    trust: Trust = None,
) -> None:
    """Let students lead and label where they disagree.

    They train for a while, drive MD and relaxations, and the frames on which they differ most are labelled for all to learn
    from. As many rounds as the recipe says; goes on where an earlier run was stopped.
    """
    recipe = _recipe("rounds", config, model, device, backend, precision, seed, trust)
    _rounds(_with_seeds(recipe, seeds), device)


def train(
    config: Config,
    model: RecipeModel = None,
    device: RecipeDevice = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    seed: RecipeSeed = None,
    seeds: Seeds = None,
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
    recipe = _with_seeds(_recipe("train", config, model, device, backend, precision, seed), seeds)
    if minutes is not None:
        recipe = recipe.changed(train=recipe.train.model_copy(update={"max_minutes": minutes}))
    _train(recipe, device, resume=not restart)


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
    model: RecipeModel = None,
    device: RecipeDevice = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    seed: RecipeSeed = None,
    strict: Strict = False,
    trust: Trust = None,
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
    recipe = _recipe("distill", config, model, device, backend, precision, seed, trust)
    _sample(recipe, strict, to_train=True)
    _label(recipe)
    if recipe.rounds:
        _rounds(recipe, device)
    _train(recipe, device, resume=True)


def _recipe(
    command: str,
    config: Path,
    model: str | None,
    device: str | None,
    backend: str,
    precision: str,
    seed: int | None,
    trust: list[Path] | None = None,
) -> Recipe:
    """Read the recipe, change what the command line says otherwise, and print what runs."""
    from atomjet.distill.recipe import load_recipe
    from atomjet.errors import ConfigError

    recipe = load_recipe(config, trust or ())
    if seed is not None and seed < 0:
        raise ConfigError(f"seed {seed} is negative; give 0 or more")
    changes = {"name": model, "seed": seed}
    recipe = recipe.changed(**{name: value for name, value in changes.items() if value is not None})
    if command in ("sample", "label"):
        options.say_unused(command, device=(device, None))
    options.say_unused(command, backend=(backend, "auto"), precision=(precision, "default"))
    said = f"{command} {recipe.name}: teacher {recipe.teacher.calculator}, seed {recipe.seed}, into {recipe.output}"
    print(said, flush=True)
    return recipe


def _sample(recipe: Recipe, strict: bool, to_train: bool = False, embed_only: bool = False) -> None:
    from atomjet.distill.sample import run_sample

    run_sample(recipe, strict=strict, to_train=to_train, embed_only=embed_only)


def _label(recipe: Recipe) -> None:
    from atomjet.distill.label import run_label

    run_label(recipe)


def _rounds(recipe: Recipe, device: str | None) -> None:
    from atomjet.distill.rounds import run_rounds

    run_rounds(recipe, device)


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
