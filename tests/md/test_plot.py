"""What the picture of a run shows, read from an SVG whose text is text."""

from pathlib import Path

import matplotlib
import pytest
from ase.build import bulk

from atomjet.md import MDSettings
from atomjet.md.observables import COLUMNS
from atomjet.md.plot import plot_log


@pytest.mark.parametrize(
    ("ensemble", "shown", "missing"),
    [
        ("nve", ["mean 310 K"], ["target", "volume"]),
        ("nvt", ["mean 310 K", "target 300 K"], ["volume", "density"]),
        # Four copper atoms, 254.184 amu, in 50 Å³ on the mean of 1/V.
        (
            "npt",
            ["target 300 K", "mean 50 Å³", "mean 1.5 GPa", "target 2 GPa", "density / g/cm³", "mean 8.445 g/cm³"],
            [],
        ),
    ],
)
def test_picture_shows_what_the_ensemble_holds(tmp_path: Path, ensemble: str, shown: list[str], missing: list[str]):
    log = tmp_path / "a.csv"
    rows = [f"{step},{step},-1,0.5,-0.5,{t},1,{v},{p}" for step, t, v, p in ((0, 300, 49, 1), (10, 320, 51, 2))]
    log.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    settings = MDSettings(10, ensemble=ensemble, temperature=300.0, pressure=2.0 if ensemble == "npt" else None)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_log(log, tmp_path / "a.svg", bulk("Cu", cubic=True), settings, "copper")
    drawn = (tmp_path / "a.svg").read_text()
    for words in [*shown, "energy / eV", "from -1.000 eV", "copper"]:
        assert words in drawn
    for words in missing:
        assert words not in drawn
