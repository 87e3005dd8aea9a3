"""What is said while kernels are compiled."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")
from atomjet.ops.compile_notice import CompileNotice
from tests.compiling import printed


def test_kernels_that_are_compiled_are_said_and_cached_ones_are_not():
    assert printed(Path(__file__).with_name("compile_with_notice.py")).splitlines() == [
        "compiling kernels, kept for later: rows_kernel",
        "compiling kernels: 2, now rows_kernel",
        "[False, True, False] 2",
    ]


def test_not_at_every_kernel_nor_of_other_packages(capsys):
    notice = CompileNotice()
    for module in ("atomjet.ops.a", "atomjet.ops.b", "torch._inductor.c"):
        source = SimpleNamespace(fn=SimpleNamespace(module=module))
        notice(src=source, metadata={"name": module[-1]}, metadata_group={}, times=None, cache_hit=False)
    assert capsys.readouterr().err == "compiling kernels, kept for later: a\n"
    assert notice.count == 2
