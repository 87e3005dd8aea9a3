"""What CIF files say of their sites beyond what ASE makes of them: disorder that is not told by occupancies, and dummies."""

from __future__ import annotations

import warnings
from io import BytesIO

Remarks = dict[str, str]


def cif_remarks(text: str, frames: int) -> list[Remarks]:
    """For each structure of a file, in order, what is odd about it; nothing where blocks and structures do not correspond."""
    if not any(tag in text for tag in ("_disorder_group", "_calc_flag")):
        return [{} for _ in range(frames)]
    from ase.io.cif import parse_cif  # imports SciPy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = [block for block in parse_cif(BytesIO(text.encode()), reader="ase") if block.has_structure()]
    return [_remarks(block) for block in blocks] if len(blocks) == frames else [{} for _ in range(frames)]


def _remarks(block: object) -> Remarks:
    found: Remarks = {}
    groups = [str(group) for group in _column(block, "_atom_site_disorder_group")]
    named = sorted({group for group in groups if group not in (".", "?", "0", "None")})
    if len(named) > 1 or any(group.startswith("-") for group in named):
        count = sum(group in named for group in groups)
        found["disorder"] = (
            f"has {count} sites in disorder groups {', '.join(named[:4])}, which exclude each other; all are computed as atoms: "
            "leave one group in the file"
        )
    dummies = [place for place, flag in enumerate(_column(block, "_atom_site_calc_flag")) if str(flag) == "dum"]
    if dummies:
        found["dummies"] = (
            f"has {len(dummies)} dummy sites (the first is site {dummies[0]}); they are computed as atoms"
        )
    return found


def _column(block: object, tag: str) -> list[object]:
    values = block.get(tag)  # type: ignore[attr-defined]
    return values if isinstance(values, list) else [] if values is None else [values]
