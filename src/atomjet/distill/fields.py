"""Types of the fields of a recipe, and the base of its sections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from ase.data import atomic_numbers
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
)

from atomjet.models import registry

LONGEST_TEXT = 1000
"""Characters of a name or path."""


def _beside_recipe(path: Path, info: ValidationInfo) -> Path:
    _printable(str(path))
    return Path(os.path.normpath(Path((info.context or {}).get("directory", ".")) / path))


def _model_name(name: str, info: ValidationInfo) -> str:
    """A packaged model's name as it is, any other as a file beside the recipe."""
    return name if _printable(name) in registry.packaged() else str(_beside_recipe(Path(name), info))


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"needs two positive values, the smaller first, got {list(pair)}")
    return pair


def _printable(text: str) -> str:
    """Refuse what cannot be printed on one line: control characters, which a terminal would obey, and pages of text."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text):,} characters, the most is {LONGEST_TEXT}")
    if not text.isprintable():
        raise ValueError("has control characters; remove them")
    return text


def file_name(name: str) -> str:
    """The student's name becomes that of its file."""
    if not 0 < len(_printable(name)) <= 100 or name.strip(". ") != name or set(name) & set('/\\:*?"<>|'):
        raise ValueError(
            "must be 1 to 100 characters that can name a file: no slash, colon, star, question mark, quote"
        )
    return name


def _known_element(symbol: str) -> str:
    if atomic_numbers.get(symbol, 0) < 1:
        raise ValueError(f"{symbol!r} is no chemical element")
    return symbol


Text = Annotated[str, AfterValidator(_printable)]
FileName = Annotated[str, AfterValidator(file_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]
RecipePath = Annotated[Path, AfterValidator(_beside_recipe)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Element = Annotated[str, AfterValidator(_known_element)]
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Workers = Annotated[int, Field(ge=1, le=1024)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
