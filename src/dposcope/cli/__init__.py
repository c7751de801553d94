"""The command line: `dposcope --help`."""

from dposcope.cli.app import main

__all__ = ["main"]
