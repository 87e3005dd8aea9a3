"""Compile a kernel twice in an empty cache, told of it; a listener of someone else's stays."""

import sys
import tempfile

from triton import knobs

from atomjet.neighbors import rows
from atomjet.ops import compile_notice
from tests.neighbors.compile_kernels import name_of

if __name__ == "__main__":
    heard = []
    knobs.cache.dir = tempfile.mkdtemp()
    knobs.compilation.listener = lambda **told: heard.append(told["cache_hit"])
    for _ in range(2):
        compile_notice.announce_compilations()
    compile_notice.SECONDS_BETWEEN_LINES = 0.0
    sys.stderr = sys.stdout
    for pieces in (1, 1, 4):
        name_of(rows.rows_kernel, 90, 4, PIECES=pieces)
    print(heard, knobs.compilation.listener.count)
