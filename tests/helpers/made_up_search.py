"""A search in a made-up landscape; as a program, one that takes its time: `slowly FOLDER` or `helping FOLDER`."""

import sys
import time
from pathlib import Path

import torch

from dposcope.interventions.gains import Gains
from dposcope.search.family import Family, Point, Source
from dposcope.search.search import search
from dposcope.search.trials import TextBound, Trial, Written

TEXT_BOUND = TextBound(Written(0.3, 0.3, 0.3, 0.15, 0.5, 0.15), 0.9)


def family():
    values = torch.tensor([[1.0, 1.5, 0.5], [2.0, 1.0, 1.0]])
    return Family({"learned": Source.line(Gains(values))}, torch.tensor([3.0, 4.0]), 2)


def formula(point: Point, number: int) -> Trial:
    """A made-up landscape: strength lowers the score and costs its square, tilt costs, too much is out of bounds."""
    kl = 0.1 * point.strength**2 + 0.02 * point.tilt**2 + 0.05 * point.ablate**2
    score = max(0.3 - 0.2 * point.strength - 0.05 * point.ablate, 0.0)
    excess = kl / 0.1 - 1
    written = (
        None if excess > 0 else Written(score, score, score, 0.1 + 0.1 * point.ablate, 0.5, 0.1 + 0.1 * point.ablate)
    )
    return Trial(number, point, kl, kl / 2, None, excess, written, 0.0)


def run(folder, trials=14, try_out=formula, seed=0):
    return search(try_out, family(), folder=folder, trials=trials, text_bound=TEXT_BOUND, seed=seed)


def slowly(point: Point, number: int) -> Trial:
    """Slow enough to be killed between two trials."""
    time.sleep(0.2)
    return formula(point, number)


def slowest_last(point: Point, number: int) -> Trial:
    """The last warm start takes longest."""
    time.sleep(1.0 if number == len(family().warm_starts()) - 1 else 0.1)
    return formula(point, number)


if __name__ == "__main__":
    run(Path(sys.argv[2]), try_out={"slowly": slowly, "helping": slowest_last}[sys.argv[1]])
