"""`dposcope probe` and `dposcope lens`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dposcope.jobs.numbers import LensTokens, within
from dposcope.jobs.settings import LoadSettings, ProbeSettings

if TYPE_CHECKING:
    from torch import Tensor

    from dposcope.directions.lens import Lens
    from dposcope.model.language_model import LanguageModel


def probe(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[ProbeSettings, Parameter(name="*")] = ProbeSettings(),  # noqa: B008 — frozen
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Fit a direction, and show its quality and its tokens.

    dposcope probe gemma-3-270m --out toxic

    The default is the paper's logistic probe; --kind chooses another.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    out
        Path of the direction; NAME.safetensors and NAME.json are written.
    dry_run
        Show what the command would do: its stages with their tokens, and time, memory and disk on this machine. Config,
        tokenizer and data are read and checked; no weights are loaded, and nothing is written.
    raw
        Show offensive words without stars.
    json
        Print the result as JSON.
    quiet
        No progress bars.
    """
    if dry_run:
        from dposcope.cli.shown.dry_run import show_work
        from dposcope.jobs.estimate.probe import probe_work
        from dposcope.model.checks.layout_file import use_layout

        use_layout(settings.layout)
        work = probe_work(model, out, settings)
        show_work(work, device=settings.device, device_map=settings.device_map, out=out, json=json)
        return
    from dposcope.artefacts import check_path, value_files
    from dposcope.cli.console import reporting
    from dposcope.directions.lens import lens as read_lens
    from dposcope.jobs.ingredients.data import read_comments
    from dposcope.jobs.ingredients.direction import check_direction, make_direction
    from dposcope.jobs.ownership import refuse_foreign_value
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.model.load import load_native

    check_path(out)
    refuse_foreign_value(out)
    check_direction(settings.kind, settings.meant)
    comments = read_comments(settings).first(settings.direction_rows)
    with reporting(quiet=quiet) as bars:
        bars.stage(f"Loading {model}")
        use_layout(settings.layout)
        lm = load_native(model, **settings.loading)
        bars.stage("Direction from comments")
        direction = make_direction(lm, comments, settings.direction_spec, progress=bars.progress)
    direction.save(out)
    quality = dict(direction.about.get("quality", {}))
    _show(
        {
            "direction": direction.kind,
            "block": direction.block,
            "norm": direction.norm,
            **{name: value for name, value in direction.about.items() if name != "quality"},
            **(quality if json else _told(quality)),
            "file": str(value_files(out).tensors),
        },
        read_lens(lm, direction.vector)[0],
        raw=raw,
        json=json,
    )


def lens(
    model: str,
    /,
    *,
    direction: Path | None = None,
    neuron: str | None = None,
    tokens: Annotated[int, Parameter(validator=within(LensTokens))] = 10,
    machine: Annotated[LoadSettings, Parameter(name="*")] = LoadSettings(),  # noqa: B008 — frozen
    raw: bool = False,
    json: bool = False,
) -> None:
    """Read a direction or a neuron's value vector through the logit lens: the tokens that it promotes and suppresses.

    dposcope lens gemma-3-270m --neuron 12.345

    dposcope lens gemma-3-270m --direction toxic

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    direction
        A saved direction. Give this or --neuron. Default: none.
    neuron
        A neuron as BLOCK.INDEX, such as 12.345, both from 0; in a mixture of experts as BLOCK.EXPERT.INDEX. Give
        this or --direction. Default: none.
    tokens
        Tokens per side.
    raw
        Show offensive words without stars.
    json
        Print the result as JSON.
    """
    from dposcope.directions.direction import Direction
    from dposcope.directions.lens import lens as read_lens
    from dposcope.errors import DposcopeError
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.model.load import load_native

    if (direction is None) == (neuron is None):
        raise DposcopeError("give either --direction FILE or --neuron BLOCK.INDEX")
    if neuron is not None and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){1,2}", neuron) is None:
        raise DposcopeError(f"there is no neuron {neuron!r}; give BLOCK.INDEX, both from 0, as in 3.17")
    saved = None if direction is None else Direction.load(direction)
    use_layout(machine.layout)
    lm = load_native(model, **machine.loading)
    if neuron is not None:
        vector, name = _value_vector(lm, neuron), f"neuron {neuron}"
    else:
        assert saved is not None
        vector, name = saved.vector, str(direction)
    _show({"vector": name}, read_lens(lm, vector, k=tokens)[0], raw=raw, json=json)


def _value_vector(lm: "LanguageModel", neuron: str) -> "Tensor":
    """Of a neuron with a name of two numbers, or three in a mixture of experts."""
    from dposcope.errors import DposcopeError

    block, *rest = map(int, neuron.split("."))
    experts = lm.experts
    if experts is None:
        if len(rest) == 1 and block < lm.n_blocks and rest[0] < lm.columns.widths[block]:
            return lm.value_vectors(block)[rest[0]].detach()
        raise DposcopeError(
            f"there is no neuron {neuron!r}; blocks are 0 … {lm.n_blocks - 1}, neurons 0 … {lm.d_mlp - 1}, as in 3.17"
        )
    if len(rest) == 2 and block < lm.n_blocks and rest[1] < experts.width:
        place = rest[0] * experts.width + rest[1]
        if place < lm.columns.widths[block]:
            return lm.value_vectors(block)[place].detach()
    raise DposcopeError(
        f"there is no neuron {neuron!r} in this mixture of experts; blocks are 0 … {lm.n_blocks - 1}, experts 0 … "
        f"{experts.count - 1}, neurons 0 … {experts.width - 1}, as in 3.1.17"
    )


def _told(quality: dict[str, Any]) -> dict[str, Any]:
    """The quality of a probe for people: how many texts it was tried on stands beside the number."""
    from dposcope.evaluation.numbers import percent
    from dposcope.evaluation.statistics.comparisons import wilson

    if not quality:
        return {}
    texts = quality["test_texts"]
    accuracy = f"{wilson(quality['accuracy'], texts)} on {texts:,} held-out texts"
    return {"accuracy": f"{accuracy}; the larger class alone: {percent(quality['majority'])}"}


def _show(facts: dict[str, object], tokens: "Lens", *, raw: bool, json: bool) -> None:
    from dposcope.data.masking import mask_offensive
    from dposcope.evaluation.numbers import fact
    from dposcope.terminal import print_json, say

    def shown(words: list[str]) -> list[str]:
        return words if raw else [mask_offensive(word) for word in words]

    if json:
        print_json({**facts, "top": shown(tokens.top), "bottom": shown(tokens.bottom)})
        return
    for name, value in facts.items():
        # Digits that say nothing are for JSON.
        say(f"{name.replace('_', ' ')}: {fact(value) if isinstance(value, float) else value}")
    say("top tokens:    " + "  ".join(map(repr, shown(tokens.top))))
    say("bottom tokens: " + "  ".join(map(repr, shown(tokens.bottom))))
