"""The example in the docstring of the library runs: a score before, an edit, a score after."""

import re

import dposcope as ds
from helpers.families import TEXTS
from helpers.labelled import LABELS
from helpers.labelled import TEXTS as LABELLED


def test_the_first_lines_print_a_score_before_and_after(llama, monkeypatch, capsys):
    smaller = {
        "load": lambda name: llama,
        "load_prompts": lambda source: TEXTS,
        "load_comments": lambda source: ds.Comments(tuple(LABELLED), LABELS),
        "load_scorer": lambda name: ds.function_scorer(lambda texts: [len(one) % 7 / 7 for one in texts], name),
    }
    for name, function in smaller.items():
        monkeypatch.setattr(ds, name, function, raising=False)
    code = ds.__doc__[ds.__doc__.index("import dposcope") :]
    assert len(code.split("\n\n", 1)[1].splitlines()) <= 8
    exec(code, {})
    told = re.fullmatch(r"before (0\.\d+)\nafter (0\.\d+)\n", capsys.readouterr().out)
    assert told is not None
    assert told[1] != told[2]
