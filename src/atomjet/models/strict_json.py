"""JSON from files that may be damaged or hostile: no key twice, no deep nesting; and its faults in plain words."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

MAX_DEPTH = 40
MAX_VALUES = 100_000
"""Values that a JSON text may hold, at most: a schema may report a fault in each, and faults take far more memory than values."""

Schema = TypeVar("Schema", bound=BaseModel)


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: not JSON, a key that occurs twice in one object, or more values or levels than are allowed; on one line.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check_size(value)
    return value


def validated(schema: type[Schema], text: str) -> Schema:
    """Parse JSON and hold it against a schema: types as JSON has them, no text for a number.

    Raises:
        ValueError: see `parse`; or what does not fit, where, and what was found.
    """
    parse(text)
    try:
        return schema.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(problem(error)) from None


def problem(error: ValidationError) -> str:
    """What does not fit: where, what was expected, what was found; on one line."""
    first = max(
        error.errors(include_url=False), key=lambda fault: len(fault["loc"])
    )  # of alternatives the one that came farthest
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    found = "" if isinstance(first["input"], dict) else f", not {short(first['input'])}"
    return f"{short(where, quote=False)}: {first['msg'].removeprefix('Value error, ')}{found}"


def short(value: Any, quote: bool = True, limit: int = 80) -> str:
    """The value on one line of at most `limit` characters."""
    text = " ".join((repr(value) if quote else str(value)).split())
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {short(name)} occurs twice")
        found[name] = value
    return found


def _check_size(value: Any) -> None:
    level, count = [value], 1
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
