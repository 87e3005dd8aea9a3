"""Files that a recipe names, and the recipe itself: regular files of a reasonable size, YAML that cannot blow up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from atomjet.errors import ConfigError

DEEPEST = 20
"""Levels that a recipe may nest."""

MOST_NODES = 20_000
"""Values in a recipe, those behind an alias counted each time."""


def require_file(path: Path, what: str, most_bytes: int | None = None) -> None:
    """Refuse what is not an ordinary file: reading a device or a pipe would never end.

    Raises:
        ConfigError: no such file, no regular file, or more than `most_bytes`.
    """
    if not path.exists():
        raise ConfigError(f"cannot read {what} {path}: No such file or directory")
    if not path.is_file():
        raise ConfigError(f"cannot read {what} {path}: it is not a regular file; give the name of one")
    size = path.stat().st_size
    if most_bytes is not None and size > most_bytes:
        raise ConfigError(
            f"{what} {path} has {size:,} bytes, more than the {most_bytes:,} that are read; make it smaller"
        )


def read_text(path: Path, what: str, most_bytes: int) -> str:
    """Text of an ordinary file.

    Raises:
        ConfigError: see `require_file`; or it cannot be opened, or is not UTF-8.
    """
    require_file(path, what, most_bytes)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not text in UTF-8: byte {error.start}; save it as UTF-8") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file that has one a line; a last line without its end, as a kill leaves it, is none.

    Raises:
        ConfigError: another line is damaged; names it.
    """
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: line {number} is damaged ({short(error)}); remove that line") from None
        entries.append(entry)
    return entries


class _Loader(yaml.SafeLoader):
    """YAML without a field given twice, of which the last would win unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise ConfigError(f"line {key.start_mark.line + 1}: {short(key.value)} is given twice; remove one")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Content of a YAML text of bounded depth and size.

    Raises:
        ConfigError: not YAML, nested too deep, or too many values once its aliases are written out; never repeats the input.
    """
    try:
        _measure(text)
        return yaml.load(text, Loader=_Loader)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"is not YAML: {where}{short(error.problem or error.context)}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"is not YAML: {short(error)}") from error


def _measure(text: str) -> None:
    """Walk over the text once, without building anything, and stop where it is too much."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count before it
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, count))
            if len(open_nodes) > DEEPEST:
                raise ConfigError(
                    f"line {event.start_mark.line + 1}: nests deeper than {DEEPEST} levels; no recipe needs that"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == other for other, _ in open_nodes):
                raise ConfigError(f"line {event.start_mark.line + 1}: an alias contains itself; write the values out")
            count += sizes.get(str(anchor), 1)
        count += isinstance(event, yaml.NodeEvent)
        if count > MOST_NODES:
            raise ConfigError(
                f"line {event.start_mark.line + 1}: more than {MOST_NODES:,} values, those behind aliases counted each time; "
                "name files instead of lists"
            )


def short(words: Any, most: int = 100) -> str:
    """A gist on one line that is safe to print."""
    text = " ".join(str(words).split())
    text = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
