"""Recipes and lists of molecules that are wrong in any way: a recipe, or one short line, soon and in little memory."""

import random
import resource
import time
from pathlib import Path

import pytest

from atomjet.distill.molecules import read_molecules
from atomjet.distill.recipe import load_recipe
from atomjet.distill.teacher import make_teacher
from atomjet.errors import AtomJetError

SECONDS, MEGABYTES = 5.0, 1000
"""Seconds of the processor: what others do meanwhile is not counted."""
ROUNDS = 1500

RECIPE = """
name: small
seed: 3
output: out
elements: [H, C, N, O]
molecules: molecules.smi
teacher: {calculator: 'tblite:GFN2-xTB', options: {accuracy: 0.1}}
sample:
  workers: 2
  split: {validation: 0.1, test: 0.2, in_distribution: 0.05}
  conformers: {per_molecule: 2, fmax: 0.05, max_steps: 100}
  normal_modes: {frames: 20, temperature: [200, 900]}
  md: {share: 0.5, frames: 4, temperatures: [300, 600], keep_every: 10, timestep: 0.5}
  torsions: {frames: 5, step: 15, temperature: [200, 500]}
  dimers: {frames: 3, contact: [0.7, 2.0]}
  clusters: {water: 2, mixed: 3, molecules: [2, 5], max_atoms: 30, frames: 2}
  walls: {points: 10, distance: [0.5, 5.0]}
  structures: {files: [a.xyz, b.cif], frames: 3, displacement: 0.1, strain: 0.02}
label: {shard_size: 100, max_force: 40, hessian_rows: 2}
student: {features: 16, layers: 2, cutoff: 4.0, radial_basis: bessel}
train: {epochs: 10, batch_size: 8, learning_rate: 0.001, data: [{path: x.h5, weight: 0.5}]}
"""
SMILES = ["O", "C", "CCO", "c1ccccc1", "CC(=O)O", "N#N", "C[N+](C)(C)C", "F/C=C/F", "[2H]O[2H]", "C1CC1", "O=C=O.N"]
VALUES = [
    *(
        "null",
        "~",
        "true",
        "-1",
        "0",
        "1e400",
        "-.inf",
        ".nan",
        "''",
        '"\\e[31m"',
        "1:1:1",
        "0x1F",
        "1_0",
        "2001-01-01",
        "99" * 60,
    ),
    *(
        "[]",
        "{}",
        "[[[]]]",
        "[1, [2, [3]]]",
        "{a: {b: {c: 1}}}",
        "!!binary aGk=",
        "!!python/name:os.system",
        "&a [*a]",
        "*a",
        "? x",
    ),
    *(
        "/dev/zero",
        "../../../etc/passwd",
        "'os:system'",
        "|",
        ">",
        "%",
        "@",
        "`",
        "\t",
        "---",
        "...",
        "#",
        "é\u202eb",
        "\ufeff",
    ),
]
PIECES = [
    "\n",
    ":",
    " ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "<<: *a",
    "'",
    '"',
    "\\",
    "\0",
    "\x1b[2J",
    "\u2028",
    "? ",
    "!",
    "|",
]


def mutated(text: str, drawn: random.Random) -> str:
    """The text with one to four of: a value exchanged, a line doubled, moved or lost, a piece put in or cut out, a repetition."""
    for _ in range(drawn.randint(1, 4)):
        lines = text.split("\n")
        line, place = drawn.randrange(len(lines)), drawn.randrange(len(text) + 1)
        kind = drawn.randrange(7)
        if kind == 0 and ":" in lines[line]:
            lines[line] = lines[line].partition(":")[0] + ": " + drawn.choice(VALUES)
        elif kind == 1:
            lines.insert(drawn.randrange(len(lines)), lines[line])
        elif kind == 2:
            del lines[line]
        elif kind == 3:
            lines[line] = " " * drawn.randint(1, 5) + lines[line]
        text = "\n".join(lines) or "x"
        place = min(place, len(text))
        if kind == 4:
            text = text[:place] + drawn.choice(PIECES) + text[place:]
        elif kind == 5:
            text = text[:place] + text[place + drawn.randint(1, 30) :]
        elif kind == 6:
            text = text[:place] + drawn.choice(PIECES) * drawn.choice([2, 50, 3000]) + text[place:]
    return text


def one_line(error: AtomJetError) -> bool:
    """Short, on one line, and nothing in it that a terminal would obey."""
    return str(error).isprintable() and 0 < len(str(error)) < 800


def refusal(path: Path) -> AtomJetError | None:
    """Why the recipe is refused, or None."""
    try:
        load_recipe(path)
    except AtomJetError as error:
        return error
    return None


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_recipe_is_read_or_refused_in_one_line(tmp_path: Path, seed: int):
    drawn, path, before = random.Random(seed), tmp_path / "recipe.yaml", megabytes()
    (tmp_path / "molecules.smi").write_text("\n".join(SMILES[:5]))
    accepted = 0
    for number in range(ROUNDS):
        text = mutated(RECIPE, drawn)
        path.write_text(text, encoding="utf-8")
        started = time.process_time()
        error = refusal(path)
        assert error is None or one_line(error), (seed, number, error)
        accepted += error is None
        assert time.process_time() - started < SECONDS, (seed, number)
    assert megabytes() - before < MEGABYTES
    assert ROUNDS // 20 < accepted < ROUNDS  # neither all nor nothing passes


@pytest.mark.parametrize("seed", range(2))
def test_bytes_that_are_no_text_are_refused_in_one_line(tmp_path: Path, seed: int):
    drawn, path = random.Random(seed), tmp_path / "recipe.yaml"
    for number in range(ROUNDS // 3):
        content = bytearray(RECIPE.encode())
        for _ in range(drawn.randint(1, 8)):
            content[drawn.randrange(len(content))] = drawn.randrange(256)
        path.write_bytes(content)
        error = refusal(path)
        assert error is None or one_line(error), (seed, number, error)


@pytest.mark.parametrize("seed", range(3))
def test_molecules_are_read_or_left_out_for_a_reason(tmp_path: Path, seed: int):
    drawn, before = random.Random(seed), megabytes()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    for number in range(ROUNDS // 50):
        lines = ["C", "CCO"]
        for _ in range(20):
            smiles = list(drawn.choice(SMILES))
            for _ in range(drawn.randint(0, 3)):
                smiles.insert(drawn.randint(0, len(smiles)), drawn.choice("CNO()[]=#+-1290@/\\.%:*~\x1b\x07é"))
            lines.append("".join(smiles) * drawn.choice([1, 1, 1, 1, 200]))
        drawn.shuffle(lines)
        (tmp_path / "molecules.smi").write_text("\n".join(lines))
        left_out, started = [], time.process_time()
        molecules = read_molecules(recipe, left_out)
        assert molecules
        named = [failure["reason"] for failure in left_out]
        assert all(reason.startswith("molecules.smi line ") and reason.isprintable() for reason in named), (
            seed,
            number,
        )
        assert time.process_time() - started < SECONDS, (seed, number)
    assert megabytes() - before < MEGABYTES


def test_names_of_teachers_are_refused_before_anything_is_called(tmp_path: Path):
    drawn, mark = random.Random(0), tmp_path / "called"
    modules = [
        "os",
        "posix",
        "subprocess",
        "shutil",
        "builtins",
        "importlib",
        "ase",
        "ase.io",
        "numpy",
        "yaml",
        "pydantic",
        "typer",
    ]
    names = [
        "system",
        "run",
        "Popen",
        "exec",
        "eval",
        "open",
        "__import__",
        "Atoms",
        "read",
        "save",
        "load",
        "echo",
        "mkdir",
        "a.b",
    ]
    for _ in range(400):
        spec = drawn.choice(modules) + drawn.choice([":", ":", ":", ".", "::", ""]) + drawn.choice(names)
        spec = spec if drawn.random() < 0.7 else mutated(spec, drawn)
        with pytest.raises(AtomJetError) as error:
            make_teacher(spec, {"command": f"touch {mark}", "file": str(mark), "name": str(mark)})
        assert one_line(error.value), spec
        assert not mark.exists()
