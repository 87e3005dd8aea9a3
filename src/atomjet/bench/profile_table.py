"""A profile as text, and the command that looks into its heaviest kernels."""

from __future__ import annotations

import shutil

from atomjet.bench.profile import Profile


def ncu_command(profile: Profile, arguments: list[str]) -> str | None:
    """The command line that puts Nsight Compute on the heaviest kernels, where `ncu` is installed.

    Args:
        arguments: of `atomjet`, as they were given.
    """
    if not shutil.which("ncu") or profile.provenance["device_type"] != "cuda" or not profile.kernels:
        return None
    import re
    import shlex

    names = "|".join(re.escape(name[:60]) for name, _, _ in profile.kernels[:5])
    return (
        f"ncu --set full --nvtx --nvtx-include predict/ --kernel-name-base demangled --kernel-name {shlex.quote('regex:' + names)} "
        f"--launch-count 10 -o atomjet python -m atomjet {shlex.join(arguments)}"
    )


def table(profile: Profile) -> str:
    """The whole profile as lines of text."""
    c = profile.ceilings
    unit = "kernels" if profile.provenance["device_type"] == "cuda" else "operators"
    lines = [
        profile.what,
        f"ceilings measured here: copy {c.copy / 1e9:.1f} GB/s, products {c.products / 1e9:.0f} GFLOP/s, "
        f"arithmetic {c.arithmetic / 1e9:.0f} GFLOP/s, "
        f"one launch {1e6 * c.launch:.2f} µs",
        f"one evaluation {1e3 * profile.wall:.3f} ms: search {1e3 * profile.stages['search']:.3f}, model "
        f"{1e3 * profile.stages['model']:.3f}, the rest "
        f"{1e3 * max(0.0, profile.wall - sum(profile.stages.values())):.3f}; {profile.launches} {unit}",
    ]
    if profile.work is not None:
        lines.append(
            f"the model's declared work, {profile.work.flops / 1e9:.3f} GFLOP and {profile.work.bytes / 1e9:.3f} GB, would take "
            f"{1e3 * profile.work.flops / c.products:.3f} and {1e3 * profile.work.bytes / c.copy:.3f} ms at these ceilings"
        )
    lines += [
        f"traced: host {1e3 * profile.host:.3f} ms in operators",
    ]
    if profile.device:
        gaps = ", ".join(f"{1e6 * gap:.0f}" for gap in profile.gaps)
        lines[-1] += (
            f", kernels {1e3 * profile.device:.3f} ms, idle between them {1e3 * profile.idle:.3f} ms (longest gaps {gaps} µs)"
        )
    lines += ["", f"heaviest {unit}:"]
    lines += [f"  {1e3 * seconds:9.3f} ms {calls:5d} x  {name[:90]}" for name, calls, seconds in profile.kernels]
    lines += ["", "what is worth doing first (share of time x headroom against the ceilings):"]
    heads = (
        f"{'calls':>5} {'ms':>9} {'share':>6} {'GB/s':>8} {'GFLOP/s':>8} {'bound':>8} {'headroom':>8} {'priority':>8}"
    )
    lines += [f"  {'operator':32} {heads}"]
    for item in profile.items[:20]:
        rates = [
            f"{value:8.1f}" if value is not None else "       -"
            for value in (item.gigabytes_per_s, item.gigaflop_per_s)
        ]
        worth = [f"{value:8.1%}" if value is not None else "       -" for value in (item.headroom, item.priority)]
        lines.append(
            f"  {item.name[:32]:32} {item.calls:5d} {1e3 * item.seconds:9.3f} {item.share:6.1%} {rates[0]} {rates[1]} "
            f"{item.bound:>8} {worth[0]} {worth[1]}"
        )
    return "\n".join(lines)
