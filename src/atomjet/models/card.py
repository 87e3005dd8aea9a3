"""A model's card: what its makers say of it. Anything JSON can say; what the program reads must have the right type."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from atomjet.data.elements import SYMBOLS
from atomjet.errors import ConfigError, first_line
from atomjet.models import strict_json

IN_SIGHT = 4.0
"""Distance, Å. Of pairs of elements that never come nearer in training a model knows nothing: farther ones hardly push."""


def _symbol(text: str) -> str:
    if text not in SYMBOLS[1:]:
        raise ValueError("no symbol of an element")
    return text


def _pair(text: str) -> str:
    first, dash, second = text.partition("-")
    if not dash or first not in SYMBOLS[1:] or second not in SYMBOLS[1:]:
        raise ValueError("no pair of elements such as 'C-H'")
    return text


class Calibration(BaseModel):
    """What `atomjet calibrate` found of an ensemble."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    bound: float = Field(gt=0, description="eV/Å, spread of a force above which a structure is warned of")
    scale: float = Field(gt=0, description="expected error of a force over its spread")


class Card(BaseModel):
    """Fields that the program itself reads; all may be absent, and others may be there."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    name: str = ""
    summary: str = ""
    licence: str = ""
    elements: list[Annotated[str, AfterValidator(_symbol)]] = []
    tasks: list[str] = []
    limits: list[str] = []
    teacher: dict[str, Any] = {}
    data: dict[str, Any] = {}
    training: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    hardest_molecules: dict[str, Any] = {}
    calibration: Calibration | None = None
    closest_pairs: dict[Annotated[str, AfterValidator(_pair)], Annotated[float, Field(ge=0, le=100)] | None] = Field(
        {},
        description="Å, nearest that two atoms of any two of the model's elements come in training; null: never within 4 Å",
    )
    shortest_distances: dict[Annotated[str, AfterValidator(_pair)], Annotated[float, Field(ge=0, le=100)]] = Field(
        {}, description="Å, nearest that two atoms of these elements come in the training data"
    )


def card_from_json(text: str) -> dict[str, Any]:
    """Parse a card.

    Raises:
        ValueError: not JSON, a key twice, or a field of the wrong type; says which.
    """
    strict_json.validated(Card, text)
    return strict_json.parse(text)


def card_to_json(card: dict[str, Any]) -> str:
    """Write a card as JSON, which has no NaN: figures that are not finite become null.

    Raises:
        ValueError: see `card_from_json`; or something that JSON cannot say.
    """
    try:
        text = json.dumps(_finite(card), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from None
    card_from_json(text)
    return text


def checked(card: Any) -> dict[str, Any]:
    """A card whose fields have the types that the program expects.

    Raises:
        ConfigError: one has another type; says which.
    """
    try:
        card_to_json(card)
    except ValueError as error:
        raise ConfigError(f"card: {first_line(error)}; see atomjet.models.card.Card") from None
    return card


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
