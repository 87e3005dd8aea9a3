"""What a recipe may call to make its teacher, and what is refused before it is called."""

import sys
from pathlib import Path

import pytest
from ase.build import molecule

from atomjet.distill.label import run_label
from atomjet.distill.recipe import load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.teacher import describe_teacher, make_teacher
from atomjet.errors import AtomJetError, ConfigError, TeacherError

OWN = """
from ase.calculators.emt import EMT
def make(scale=1.0):
    class Scaled(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.results = {name: scale * value for name, value in self.results.items()}
    return Scaled()
"""
RECIPE = """
name: copper
output: out
elements: [Cu]
teacher: {{calculator: "{teacher}", options: {options}}}
sample: {{workers: 1, free_atoms: false, split: {{validation: 0, test: 0}}, structures: {{files: [cu.xyz], frames: 2}}}}
label: {{workers: 1}}
"""

PACKAGE = """
import pathlib
from ase.calculators.emt import EMT
from ase.calculators.calculator import Calculator
from somewhere_else import other
def unannotated(**options): return EMT(**options)
def annotated() -> Calculator: return EMT()
def spelled() -> "FastCalculator": return EMT()
def wrong(path=None) -> int: pathlib.Path(path).touch()
class Mine(EMT):
    @classmethod
    def from_name(cls, name): return cls()
class Tool:
    def __init__(self, path): pathlib.Path(path).touch()
instance = Mine()
"""
ALONE = "import pathlib\ndef touch(path): pathlib.Path(path).touch()\n"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch):
    """Two installed packages: one of calculators, one that has nothing to do with them."""
    site = tmp_path / "site"
    (site / "calculators_of_others" / "inner").mkdir(parents=True)
    (site / "calculators_of_others" / "__init__.py").write_text("from calculators_of_others.inner import *\n")
    (site / "calculators_of_others" / "inner" / "__init__.py").write_text(PACKAGE)
    (site / "somewhere_else.py").write_text(ALONE + "def other(path): touch(path)\n")
    monkeypatch.syspath_prepend(str(site))
    yield
    for name in [name for name in sys.modules if name.startswith(("calculators_of_others", "somewhere_else"))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unannotated", {}),
        ("annotated", {}),
        ("spelled", {}),
        ("Mine", {}),
        ("Mine.from_name", {"name": "small"}),
        ("inner:Mine", {}),
    ],
)
def test_calculator_classes_and_functions_that_make_them_pass(packages, name, options):
    module, _, attribute = name.rpartition(":")
    spec = f"calculators_of_others{'.' + module if module else ''}:{attribute}"
    atoms = molecule("CH4")
    atoms.calc = make_teacher(spec, options)
    assert atoms.get_potential_energy() == pytest.approx(EMT_METHANE, abs=1e-12)


EMT_METHANE = make_teacher("ase.calculators.emt:EMT", {}).get_potential_energy(molecule("CH4"))


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("os:system", "belongs to Python's own library: not called; a teacher is an ASE calculator class"),
        ("builtins:exec", "belongs to Python's own library"),
        ("pathlib:Path.touch", "belongs to Python's own library"),
        ("atomjet.distill.teacher:make_teacher", "belongs to AtomJet, whose models are written atomjet:MODEL"),
        ("numpy:save", "not called"),
        ("torch:load", "stands in torch.serialization, which has no ASE calculator: not called"),
        ("ase.io:read", "says that it returns"),
        ("ase:Atoms", "is a class, but no ASE calculator"),
        ("somewhere_else:touch", "stands in somewhere_else, which has no ASE calculator: not called"),
        ("calculators_of_others:wrong", "says that it returns int: not called"),
        ("calculators_of_others:Tool", "is a class, but no ASE calculator: not called"),
        ("calculators_of_others:other", "is defined in somewhere_else, not in calculators_of_others: not called"),
        ("calculators_of_others:instance", "neither a class nor a function"),
        ("calculators_of_others:pathlib.Path", "pathlib is a module"),
        ("calculators_of_others:absent", "has no attribute 'absent'"),
        ("mine.py:make", "is a file that nobody trusted; read it, then call with --trust mine.py"),
        ("mine:make", "cannot be imported"),
    ],
)
def test_what_makes_no_calculator_is_refused_before_it_is_called(packages, tmp_path, spec, complaint):
    mark = tmp_path / "called"
    with pytest.raises(TeacherError) as error:
        make_teacher(spec, {"path": str(mark), "command": f"touch {mark}"})
    assert complaint in str(error.value)
    assert not mark.exists()


def test_a_program_chosen_by_the_recipe_is_not_run(tmp_path):
    with pytest.raises(TeacherError, match=r"option 'command' would run a program that the recipe chooses: not called"):
        make_teacher("ase.calculators.dmol:DMol3", {"command": f"touch {tmp_path / 'called'}"})


def test_a_module_of_the_current_directory_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "lying_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    with pytest.raises(TeacherError, match=r"lies in the current directory and is not installed: not called"):
        make_teacher("lying_here:make", {})


@pytest.mark.parametrize("teacher", ["own.py:make", "own:make"])
def test_a_file_beside_the_recipe_teaches_when_it_is_trusted(tmp_path, monkeypatch, teacher):
    import ase.io
    from ase import Atoms

    from atomjet.distill.dataset import describe_dataset, read_dataset

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "own.py").write_text(OWN)
    ase.io.write(tmp_path / "recipes" / "cu.xyz", Atoms("CuCu", [[0, 0, 0], [0, 0, 2.5]]))
    path = tmp_path / "recipes" / "recipe.yaml"
    path.write_text(RECIPE.format(teacher=teacher, options="{scale: 2.0}"))
    run_sample(load_recipe(path), quiet=True)  # needs no teacher, so none is made
    with pytest.raises(TeacherError, match="own"):
        run_label(load_recipe(path), quiet=True)
    recipe = load_recipe(path, trust=["own.py"])
    run_label(recipe, quiet=True)
    frame = read_dataset(recipe.output / "dataset").atoms(0)
    labelled = frame.get_potential_energy()
    frame.calc = make_teacher("ase.calculators.emt:EMT", {})
    assert labelled == pytest.approx(2 * frame.get_potential_energy(), rel=1e-12)
    before = describe_dataset(recipe.output / "dataset" / "shard-00000.h5")["teacher"]
    assert len(before["sha256"]) == 64
    (tmp_path / "recipes" / "own.py").write_text(OWN + "\n# changed\n")
    file = tmp_path / "recipes" / "own.py"
    assert describe_teacher(teacher, {"scale": 2.0}, (file,))["sha256"] != before["sha256"]


def test_only_python_files_beside_the_recipe_can_be_trusted(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(teacher="own.py:make", options="{}"))
    for name in ("absent.py", "recipe.yaml", __file__):
        with pytest.raises(ConfigError, match=r"give a Python file \(.py\) that lies beside the recipe"):
            load_recipe(path, trust=[name])


def test_the_recipe_itself_cannot_say_what_is_trusted(tmp_path):
    path = tmp_path / "recipe.yaml"
    for key in ("trusted", "_trusted"):
        path.write_text(
            RECIPE.format(teacher="own.py:make", options="{}").replace("teacher: {", f"teacher: {{{key}: [own.py], ")
        )
        with pytest.raises(AtomJetError, match="no such field"):
            load_recipe(path)


def test_a_file_that_an_option_names_with_other_content_is_another_teacher(tmp_path):
    model = tmp_path / "tiny.model"
    model.write_bytes(b"one")
    options = {"model_paths": [str(model)], "device": "cpu"}
    before = describe_teacher("ase.calculators.emt:EMT", options)
    assert before["files"] == {str(model): "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}
    model.write_bytes(b"two")
    assert describe_teacher("ase.calculators.emt:EMT", options) != before
    assert "files" not in describe_teacher("ase.calculators.emt:EMT", {"device": "cpu"})
