"""The version of this package, in a module that imports nothing, so that any other may ask for it."""

VERSION = "0.1.0"
