"""`atomjet`: the application, and how anything that goes wrong becomes one plain line and an exit status.

0 done, 1 a check failed, 2 the request was wrong, 130 interrupted by ctrl-C, SIGTERM, SIGHUP or SIGXCPU. `--debug`, anywhere on
the line, shows the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

from atomjet.cli import (
    bench,
    compare,
    conformers,
    distill,
    doctor,
    ensemble,
    eos,
    md,
    models,
    neb,
    phonons,
    predict,
    profile,
    relax,
    tune,
    validate,
    vib,
)
from atomjet.cli.deferred import defer_packages
from atomjet.cli.terminal import OUT, escaping, one_line, plain_warnings

DESCRIPTION = """Runs machine-learned interatomic potentials as fast as the hardware allows, and distils small ones from
large.

`atomjet COMMAND --help` explains a command and gives examples. Units: eV, Å, eV/Å, GPa, fs, K.

Exit status: 0 done, 1 a check failed, 2 the request was wrong.
"""

EPILOG = """Examples:

\b
  atomjet info organic-xtb
  atomjet predict ethanol.xyz
  atomjet md ethanol.xyz --steps 2000 --temperature 300 -o run.traj --plot run.png
  atomjet doctor
"""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a file that takes no more."""

app = typer.Typer(
    help=DESCRIPTION,
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command(epilog=models.INFO_EXAMPLES)(models.info)
app.command(epilog=predict.EXAMPLES)(predict.predict)
app.command(cls=relax.RelaxCommand, epilog=relax.EXAMPLES)(relax.relax)
app.command(epilog=vib.EXAMPLES)(vib.vib)
app.command(epilog=conformers.EXAMPLES)(conformers.conformers)
app.command(epilog=neb.EXAMPLES)(neb.neb)
app.command(epilog=eos.EXAMPLES)(eos.eos)
app.command(epilog=phonons.EXAMPLES)(phonons.phonons)
app.command(epilog=md.EXAMPLES)(md.md)
app.command(epilog=distill.EXAMPLES)(distill.sample)
app.command(epilog=distill.EXAMPLES)(distill.label)
app.command(epilog=distill.EXAMPLES)(distill.rounds)
app.command(epilog=distill.EXAMPLES)(distill.train)
app.command(epilog=distill.EXAMPLES)(distill.distill)
app.command(epilog=models.CONVERT_EXAMPLES)(models.convert)
app.command(epilog=ensemble.ENSEMBLE_EXAMPLES)(ensemble.ensemble)
app.command(epilog=ensemble.CALIBRATE_EXAMPLES)(ensemble.calibrate)
app.command(epilog=validate.EXAMPLES)(validate.validate)
app.command(epilog=compare.EXAMPLES)(compare.compare)
app.add_typer(bench.app, name="bench")
app.command(epilog=profile.EXAMPLES)(profile.profile)
app.command(epilog=tune.EXAMPLES)(tune.tune)
app.command()(doctor.doctor)


@app.callback(invoke_without_command=True)
def atomjet(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Show version or help where no command is given."""
    if version:
        from atomjet import __version__

        print(f"atomjet {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def run() -> NoReturn:
    """Run the command line in a process of its own and exit."""
    defer_packages()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    sys.exit(main(arguments, debug=len(arguments) < len(sys.argv) - 1))


def main(arguments: list[str], debug: bool = False) -> int:
    """Run one command; return the exit status."""
    with escaping():
        return _run(arguments, debug)


def _run(arguments: list[str], debug: bool) -> int:
    from atomjet.stopping import stoppable

    with stoppable() as heard:
        try:
            with plain_warnings():
                status = app(arguments, prog_name="atomjet", standalone_mode=False)
            sys.stdout.flush()
        except KeyboardInterrupt:
            status = 130
        except Exception as error:
            status = _failed(error, debug)
        if status == 130:
            heard()
            print("interrupted", file=sys.stderr)
    return status or 0


def _failed(error: Exception, debug: bool) -> int:
    """Say what went wrong; return the exit status."""
    if isinstance(error, OSError) and error.filename == OUT:  # it would be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if debug:
        raise error
    status, line = explain(error)
    print(f"error: {line}", file=sys.stderr)
    return status


def explain(error: Exception) -> tuple[int, str]:
    """Exit status and the one line for an error."""
    from atomjet.errors import AtomJetError, SimulationError

    if isinstance(error, AtomJetError):
        return (1 if isinstance(error, SimulationError) else 2), one_line(str(error))
    if hasattr(error, "format_message"):  # typer's own; where the class lives depends on typer's version
        command = getattr(getattr(error, "ctx", None), "command_path", "atomjet")
        text = one_line(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
        return 2, f"{text[:1].lower()}{text[1:]}; see `{command} --help`"
    if isinstance(error, OSError) and error.strerror:
        where = f" {one_line(str(error.filename))}" if error.filename is not None else ""
        if error.errno in FULL:
            return (
                2,
                f"cannot write{where}: {error.strerror}; make room, or choose another place, and run the same again",
            )
        return 2, f"cannot read or write{where}: {one_line(error.strerror)}; check the path, permissions and disk space"
    if isinstance(error, ImportError):
        return 2, f"a part is missing: {one_line(str(error))}; `atomjet doctor` says how to install it"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 2, "not enough memory; take fewer or smaller structures, or another device"
    name = type(error).__name__
    return 2, f"unexpected {name}: {one_line(str(error)) or 'no message'}; --debug shows where, please report it"
