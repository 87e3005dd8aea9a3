"""`python -m atomjet` is `atomjet`."""

from atomjet.cli.main import run

run()
