"""The program: `dposcope`, or `python -m dposcope` for launchers such as `accelerate launch -m`."""

import os
import signal
from types import FrameType

from dposcope.errors import INTERRUPTED


def main() -> None:
    """Run the command line; see `cli/app.py`. Ctrl-C is answered quietly while its parts are still being read, too."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from dposcope.cli import main as run

    signal.signal(signal.SIGINT, usual)
    run()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    # An exception would come up inside a library's import, and some turn it into another one.
    os.write(2, f"\ndposcope: {INTERRUPTED}\n".encode())
    os._exit(130)


if __name__ == "__main__":
    main()
