"""Small recipes of real molecules, labelled by the real teacher."""

from pathlib import Path

import pytest

from atomjet.distill.recipe import Recipe, load_recipe

SAMPLE = """
  workers: {workers}
  conformers: {{per_molecule: 1}}
  normal_modes: {{frames: {frames}}}
  dimers: {{frames: 3}}
"""
MOLECULES = "O water\nC\nN\nCO\nC=O\nCC\nC#N\nF\nOO\nNN\n"


@pytest.fixture
def write_recipe(tmp_path: Path):
    """Write a recipe and its molecules into a folder of their own; return the loaded recipe."""

    def write(
        name: str = "run",
        molecules: str = MOLECULES,
        sample: str = "split: {validation: 0.2, test: 0.3, in_distribution: 0.1}",
        label: str = "",
        workers: int = 1,
        frames: int = 4,
        more: str = "",
    ) -> Recipe:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        (directory / "molecules.smi").write_text(molecules)
        lines = "".join(f"  {line}\n" for line in sample.splitlines())
        (directory / "recipe.yaml").write_text(
            f"name: {name}\nseed: 7\noutput: out\nelements: [H, C, N, O, F]\nmolecules: molecules.smi\n{more}"
            f"sample:{SAMPLE.format(workers=workers, frames=frames)}{lines}"
            f"label:\n  workers: {workers}\n  shard_size: 25\n{label}"
        )
        return load_recipe(directory / "recipe.yaml")

    return write
