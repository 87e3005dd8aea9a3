"""Hold the structure of the package: no circle among its modules, no long function, no family named from outside `models`.

A circle counts imports inside functions and those for type checkers: a reader meets both. Kernels are long because the compiler
wants one body. Prints what breaks a rule, one line each, and ends with status 1.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST = 60
"""Lines of a function, its signature and docstring included."""

UNAWARE = ("atomjet.engine", "atomjet.md", "atomjet.bench", "atomjet.neighbors", "atomjet.data", "atomjet.cli")
"""Rooms that know models by their contract alone."""

FAMILIES = ("atomjet.models.painn", "atomjet.models.escn_md")


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module below a folder, by its dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, tree: ast.Module, known: dict[str, ast.Module]) -> set[str]:
    """Modules of the package that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(full if full in known else node.module for full in named)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {module for module in found if module in known and module != name}


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Sets of modules that all reach each other (Tarjan 1972)."""
    place: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        place[node] = lowest[node] = len(place)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in place:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], place[other])
        if lowest[node] == place[node]:
            at = stack.index(node)
            found.append(stack[at:])
            del stack[at:]

    for node in graph:
        if node not in place:
            visit(node)
    return (one for one in found if len(one) > 1)


def long_functions(name: str, tree: ast.Module) -> Iterator[str]:
    """Functions of more than LONGEST lines that no kernel compiler reads."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1 if node.end_lineno else 0
            kernel = any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
            if lines > LONGEST and not kernel:
                yield f"{name}.{node.name} has {lines} lines; at most {LONGEST}"


def main(root: Path) -> int:
    """Print what breaks a rule; 1 if anything does."""
    known = modules(root)
    graph = {name: imports(name, tree, known) for name, tree in known.items()}
    broken = [f"import circle: {' -> '.join([*circle, circle[0]])}" for circle in circles(graph)]
    for name, tree in known.items():
        broken.extend(long_functions(name, tree))
        if name.startswith(UNAWARE):
            reached = sorted(module for module in graph[name] if module.startswith(FAMILIES))
            broken.extend(f"{name} imports {module}: it knows models by their contract" for module in reached)
    for line in broken:
        print(line)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1] / "src" / "atomjet"))
