"""One of several processes that train together: `python rank.py JOBS`, a JSON list of [model, out, settings]."""

import json
import sys
from pathlib import Path

from dposcope.study.dpo import run_dpo
from dposcope.study.dpo_settings import DpoSettings

if __name__ == "__main__":
    for model, out, settings in json.loads(sys.argv[1]):
        run_dpo(model, Path(out), DpoSettings(**settings))
