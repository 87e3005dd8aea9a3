"""A recipe for a student of one molecule, or of the structures of one file, from a line on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from atomjet.adapters.structure_files import read_structures
from atomjet.distill.files import require_file, short
from atomjet.distill.molecules import read_smiles
from atomjet.errors import ConfigError
from atomjet.writing import write_atomically

MOLECULE = {
    "split": {"validation": 0.0, "test": 0.0, "in_distribution": 0.1},
    "conformers": {"per_molecule": 4},
    "normal_modes": {"frames": 700, "temperature": [150, 700]},
    "torsions": {"frames": 150, "temperature": [150, 500]},
    "md": {"share": 1, "frames": 150, "temperatures": [300, 500]},
    "free_atoms": False,  # far above all other frames, they would take most of the loss
}
"""What is sampled of one molecule: a thousand frames about its conformers, between them, and in dynamics."""

CRYSTAL = {
    "split": {"validation": 0.0, "test": 0.0, "in_distribution": 0.1},
    "structures": {"relax": True, "frames": 150, "displacement": 0.15, "strain": 0.04, "strained": 40},
}
"""What is sampled of each structure of a file, in two sizes where it is periodic."""

WARM = {"batch_size": 8, "learning_rate": 3.0e-4, "ema_decay": 0.99, "max_minutes": 4.0}
COLD = {"batch_size": 8, "learning_rate": 1.0e-3, "ema_decay": 0.995, "max_minutes": 20.0}
"""How to train from the weights of another student, and from nothing."""


def write_recipe(
    output: Path,
    molecule: str | None = None,
    structure: Path | None = None,
    teacher: str = "tblite:GFN2-xTB",
    start_from: str | None = None,
) -> Path:
    """Write `output/recipe.yaml` and what it reads, for one SMILES or one file; what is there already must be the same.

    Raises:
        ConfigError: not exactly one of the two, no SMILES, a file that cannot be read, another recipe in the way.
    """
    if (molecule is None) == (structure is None):
        raise ConfigError("give a recipe, --molecule SMILES or --structure FILE: one of the three")
    output = output.resolve()
    recipe: dict[str, Any] = {"name": output.name, "seed": 0, "output": "run"}
    if molecule is not None:
        elements, files = _elements_of_smiles(molecule), {"molecules.smi": molecule + "\n"}
        recipe |= {"elements": elements, "molecules": "molecules.smi", "sample": MOLECULE}
    else:
        assert structure is not None
        elements, files = _elements_of_file(structure), {}
        recipe |= {"elements": elements, "sample": _sampled(structure)}
    options = {"accuracy": 0.1} if teacher.startswith("tblite:") else {}
    recipe["teacher"] = {"calculator": teacher, "options": options}
    recipe["train"] = ({"start_from": _start(start_from)} if start_from else {}) | (WARM if start_from else COLD)
    files["recipe.yaml"] = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    for name, text in files.items():
        _write(output / name, text)
    return output / "recipe.yaml"


def _sampled(structure: Path) -> dict[str, Any]:
    return CRYSTAL | {"structures": {"files": [str(structure.resolve())], **CRYSTAL["structures"]}}


def _start(name: str) -> str:
    """A model file by its full path: the recipe lies elsewhere."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _elements_of_smiles(smiles: str) -> list[str]:
    from rdkit import Chem

    return sorted({atom.GetSymbol() for atom in Chem.AddHs(read_smiles(smiles)).GetAtoms()})


def _elements_of_file(path: Path) -> list[str]:
    require_file(path, "--structure")
    return sorted({symbol for atoms in read_structures(path) for symbol in atoms.get_chemical_symbols()})


def _write(path: Path, text: str) -> None:
    """Write a file that is not there; one that is may say the same."""
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{path} is there and says something else; run `atomjet distill {short(path.name)}` there to go on with it, or "
            "give another -o"
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
