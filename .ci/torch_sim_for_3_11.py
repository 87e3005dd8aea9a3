"""Let Python 3.11 import torch-sim, which is written for 3.12, where a CPU build of PyTorch is not to be had for every Python.

Takes the type parameters (`def f[T: State](state: T)`) out of the installed package, in favour of a `TypeVar`. They are for type
checkers: what the code does is the same. On 3.12 or newer nothing is done.
"""

import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path

PARAMETERS = re.compile(
    r"^(?P<what>\s*(?P<word>def|class) \w+)\[(?P<name>\w+)(?:: [^\]]*)?\](?P<rest>[(:])", re.MULTILINE
)


def without_parameters(source: str) -> str:
    """The same module in the syntax of 3.11."""
    names = sorted({found["name"] for found in PARAMETERS.finditer(source)})
    if not names:
        return source
    source = PARAMETERS.sub(
        lambda found: (
            found["what"] + (f"(Generic[{found['name']}])" if found["word"] == "class" else "") + found["rest"]
        ),
        source,
    )
    statements = ast.parse(source).body
    first = next(one for one in statements if not _must_come_first(one))
    lines = source.splitlines(keepends=True)
    lines.insert(first.lineno - 1, "from typing import Generic, TypeVar\n")
    lines[first.lineno : first.lineno] = [f'{name} = TypeVar("{name}")\n' for name in names]
    return "".join(lines)


def _must_come_first(statement: ast.stmt) -> bool:
    """The docstring, and imports from the future."""
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")


if __name__ == "__main__" and sys.version_info < (3, 12):
    spec = find_spec("torch_sim")
    assert spec is not None, "torch-sim is not installed"
    assert spec.origin is not None
    for path in Path(spec.origin).parent.rglob("*.py"):
        path.write_text(without_parameters(path.read_text(encoding="utf-8")), encoding="utf-8")
