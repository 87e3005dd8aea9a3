"""Kernels are compiled before they are launched, each once: in a process without the interpreter, for a GPU that is not there."""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
from tests.compiling import printed


def test_every_variant_is_compiled_once_and_none_is_launched():
    found = json.loads(printed(Path(__file__).with_name("compile_ahead.py")))
    assert found == {"compiled": ["double_kernel"] * 2, "during": [0], "kept": 2, "hook": "None"}
