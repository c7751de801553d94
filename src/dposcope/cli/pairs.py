"""`dposcope pairs`, `dposcope pairs check` and `dposcope pairs import`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dposcope.jobs.pairs.settings import CheckSettings, PairsSettings

app = App(name="pairs")

_LEFT_OUT = {
    "identical": "identical",
    "blank": "blank",
    "unpaired": "without a better and a worse answer",
    "apart": "not two answers to one conversation",
}
"""Rows that make no pair; the last two are told where there are any."""


@app.default
def make(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[PairsSettings, Parameter(name="*")] = PairsSettings(),  # noqa: B008 — frozen
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Make preference pairs for dposcope dpo from a model itself; check or convert existing pairs.

    dposcope pairs gemma-3-270m --out pairs.jsonl

    --method pplm (the paper's method): prompts are the beginnings of sentences of a text. The preferred completion is
    the model's own; for the dispreferred one its key-value cache is steered towards the toxic side of a direction.

    --method sample: the model continues each prompt several times; a harmless completion is preferred to a toxic one
    (--pairing says how they are matched).

    The file has one pair per line: prompt_text, unpert_gen_text (preferred), pert_gen_text (dispreferred), method,
    preferred_score, dispreferred_score; pairs.json next to it records the settings. After an interruption, the same
    command continues.

    torchrun --nproc-per-node N -m dposcope pairs … shares the work on N GPUs; the pairs are those of one process.

    Existing pairs are read by dposcope pairs check FILE and dposcope pairs import FILE.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    out
        The file of pairs; its name must end in .jsonl.
    dry_run
        Show what the command would do: its stages with their tokens, and time, memory and disk on this machine. Config,
        tokenizer and data are read and checked; no weights are loaded, and nothing is written.
    raw
        Show offensive words in the texts without stars.
    json
        Print the result as JSON.
    quiet
        No progress bars.
    """
    if dry_run:
        from dposcope.cli.shown.dry_run import show_plan
        from dposcope.jobs.estimate.pairs import pairs_work

        show_plan(lambda: pairs_work(model, out, settings), settings, out=out, json=json)
        return
    from dposcope.cli.console import reporting
    from dposcope.cli.shown.ends import next_dpo, say_pairs
    from dposcope.cli.shown.pair_tables import print_statistics
    from dposcope.jobs.pairs.job import harmless_file, run_pairs
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.pairs.pairs import load_pairs
    from dposcope.terminal import print_json, say

    with reporting(quiet=quiet) as bars:
        use_layout(settings.layout)
        made = run_pairs(model, out, settings, bars)
    if json:
        print_json({"file": str(made.path), "made_before": made.made_before, **made.facts})
        return
    print_statistics(made.statistics, settings.meant)
    say_pairs(load_pairs(str(made.path)), raw=raw)
    done = "made before by the same settings" if made.made_before else "made"
    say(f"file:    {made.path} ({done})")
    beside = harmless_file(made.path)
    next_dpo(model, made.path, beside if beside.exists() else None, asked=settings)


@app.command
def check(
    file: str,
    /,
    *,
    settings: Annotated[CheckSettings, Parameter(name="*")] = CheckSettings(),  # noqa: B008 — frozen
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Show statistics of pairs before training: sizes, faults, scores, leakage.

    dposcope pairs check pairs.jsonl

    The columns are prompt_text, unpert_gen_text, pert_gen_text (Lee et al. 2024, and dposcope pairs); prompt, chosen,
    rejected (TRL; prompt may be missing); toxic, neutral (ParaDetox); prompt, response_0, response_1 (PKU-SafeRLHF); or
    prompt, completion, label (KTO). Cells of chosen, rejected, completion and their prompts may be lists of messages
    (TRL, UltraFeedback). The file is JSONL, CSV, TSV, Parquet or hub:owner/name.

    Parameters
    ----------
    file
        The pairs.
    json
        Print the result as JSON instead of a table.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import reporting
    from dposcope.cli.shown.pair_tables import print_statistics
    from dposcope.evaluation.scorers import load_scorer
    from dposcope.model.chat.prompts import asked_by
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.model.load import load_native
    from dposcope.pairs.checks import check_pairs, completion_logppl
    from dposcope.pairs.pairs import load_pairs
    from dposcope.terminal import print_json, say

    pairs = load_pairs(file)
    validation = None if settings.against is None else load_pairs(settings.against)
    judge = load_scorer(settings.scorer)
    with reporting(quiet=quiet) as bars:
        lm = fluency = None
        if settings.model is not None:
            bars.stage(f"Loading {settings.model}")
            use_layout(settings.layout)
            lm = asked_by(load_native(settings.model), settings.chat_options)
        if lm is not None and settings.logppl:
            bars.stage("Reading both sides")
            fluency = completion_logppl(lm, pairs, progress=bars.progress)
        bars.stage("Checking pairs")
        statistics = check_pairs(pairs, None if lm is None else lm.tokenizer, judge, validation, fluency=fluency)
    notes = list(dict.fromkeys([*pairs.notes, *(() if validation is None else validation.notes)]))
    if json:
        told = statistics.to_json()
        print_json({"file": file, "format": pairs.format, "digest": pairs.digest, "notes": notes, **told})
        return
    print_statistics(statistics)
    for note in notes:
        say(f"note: {note}")


@app.command(name="import")
def convert(file: str, /, *, out: Path, json: bool = False) -> None:
    """Convert existing pairs (formats: dposcope pairs check --help) to JSONL of one format.

    dposcope pairs import pairs.csv --out pairs.jsonl

    Rows that make no pair are left out and counted: two equal sides, a blank side, no word on which answer is better
    (or no worse one to the same prompt), or sides that are not two answers to one conversation.

    Parameters
    ----------
    file
        The pairs.
    out
        The new file; its name must end in .jsonl.
    json
        Print the result as JSON.
    """
    from dposcope.errors import DposcopeError, plural
    from dposcope.pairs.pairs import load_pairs, write_pairs
    from dposcope.terminal import print_json, say

    if out.suffix != ".jsonl":
        raise DposcopeError(f"pairs are written as JSONL, but {out} does not end in .jsonl; choose another --out")
    if out.exists():
        raise DposcopeError(f"{out} exists already; choose another --out, or delete it")
    pairs = load_pairs(file)
    write_pairs(out, pairs, extra={"method": [pairs.format] * len(pairs)})
    left_out = asdict(pairs.dropped)
    if json:
        told = {"file": str(out), "format": pairs.format, "count": len(pairs), "left_out": left_out}
        print_json({**told, "notes": pairs.notes})
        return
    say(
        f"{plural(len(pairs), 'pair')} of the format {pairs.format}; left out: "
        + ", ".join(f"{left_out[name]:,} {told}" for name, told in _LEFT_OUT.items() if left_out[name] or name == told)
    )
    for note in pairs.notes:
        say(f"note: {note}")
    say(f"pairs: {out}")
