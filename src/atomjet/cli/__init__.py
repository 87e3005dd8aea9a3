"""The command line: parses arguments and prints; whatever is computed is computed elsewhere.

Modules here import nothing heavy at the top, so that `atomjet --help` answers at once.
"""
