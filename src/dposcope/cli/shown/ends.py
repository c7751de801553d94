"""The end of a run: the effect, what it costs, three texts before and after, where the report is, what to do next."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dposcope.data.masking import mask_offensive
from dposcope.data.named import BUILTIN
from dposcope.errors import plural
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import fixed
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.foreign_text import one_line
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.settings import MeasureSettings, Settings
from dposcope.protocols import Quantise
from dposcope.talk.shown import NOTHING
from dposcope.terminal import say

if TYPE_CHECKING:
    from dposcope.pairs.pairs import Pairs
    from dposcope.shipping.push import Pushed

TEXTS: Final = 3
_LONGEST: Final = 110
"""Characters of a text that is shown."""
_MASKED: Final = " (offensive words have stars; --raw shows them)"
_ASKED: Final = ("chat", "system", "wrap", "prefill")
_DATA: Final = (
    *("concept", "prompts", "prompt_column", "report_prompts", "comments", "text_column", "label_column"),
    *("positive_label", "neutral", "neutral_column", "passages", "passage_prompt_column", "passage_gold_column"),
    *("scorer", "limit", "split", *_ASKED, "dtype", "device", "device_map", "quantise", "layout"),
)
"""Settings that the next command takes over: what is read and how a model is asked, who scores it, where it runs."""


@dataclass(frozen=True)
class Rewritten:
    """One prompt's continuation before and after."""

    prompt: str
    before: str
    after: str

    def lines(self, *, raw: bool) -> Iterator[str]:
        """For the terminal; `raw` leaves offensive words as they are."""
        yield f"  {_short(self.prompt, raw=raw)} …"
        yield f"    before: {_short(self.before, raw=raw)}"
        yield f"    after:  {_short(self.after, raw=raw)}"


def say_effect(scores: Scores, name: str) -> None:
    """Say what a condition does to the concept and what it costs, each with its interval; and where there is none, why.

    Args:
        scores: of the run.
        name: of the condition.
    """
    against, base, there = scores.against_none[name], scores.conditions[BASE], scores.conditions[name]
    found = against.differences["toxicity"]
    ratio = "" if against.toxicity_ratio is None else f", {against.toxicity_ratio}"
    means = f"{fixed(base['toxicity'].mean)} → {fixed(there['toxicity'].mean)}"
    say(f"effect:  {scores.concept} {means}{ratio}; {plural(found.n, 'prompt')}")
    costs = [f"log-perplexity {against.differences['logppl']} on neutral text"]
    if "harmless_logppl" in against.differences:
        costs.append(f"{against.differences['harmless_logppl']} on harmless text")
    costs += [
        f"{label} {against.differences[measure]}"
        for measure, label in (("f1", "F1"), ("repetition", "repetition"))
        if measure in against.differences
    ]
    say(f"cost:    {'; '.join(costs)}")
    if scores.no_verdict is not None:
        say(scores.no_verdict)
    elif not found.shown:
        say(_why_nothing(scores, found))


def _why_nothing(scores: Scores, found: Difference) -> str:
    if scores.conditions[BASE]["toxicity"].mean == 0 and found.mean == 0:
        return (
            f"No effect: the scorer finds no {scores.concept} in the plain model's texts. Give other --prompts, or "
            "another --scorer."
        )
    if not found.known:
        few = f"{plural(found.n, 'prompt')} {'is' if found.n == 1 else 'are'} too few"
        return f"No effect is shown: {few} for an interval. Give more --prompts."
    reason = f": {found.doubt}" if found.excludes_zero else ""
    return (
        f"No effect is shown: the difference of {found} may be chance{reason}. More --prompts make its interval "
        "narrower; a stronger edit makes the difference larger."
    )


def say_texts(texts: Sequence[Rewritten], *, raw: bool) -> None:
    """Show a few texts before and after."""
    if not texts:
        say("texts:   none scores lower than before")
        return
    say(f"texts:   the {len(texts)} whose score fell most{'' if raw else _MASKED}")
    for one in texts:
        for line in one.lines(raw=raw):
            say(line)


def most_changed(folder: Path, name: str) -> list[Rewritten]:
    """The texts of a run whose score fell most under a condition; fewer than three where fewer fell.

    Args:
        folder: of the run, with `samples.parquet`.
        name: of the condition.
    """
    import polars as pl

    columns = ["condition", "row", "prompt", "continuation", "toxicity"]
    table = pl.read_parquet(folder / "samples.parquet", columns=columns)
    before, after = (table.filter(pl.col("condition") == one) for one in (BASE, name))
    fall = pl.col("toxicity") - pl.col("toxicity_after")
    both = before.join(after, on="row", suffix="_after").with_columns(fall=fall).filter(pl.col("fall") > 0)
    most = both.sort(["fall", "row"], descending=[True, False]).head(TEXTS)
    return [Rewritten(row["prompt"], row["continuation"], row["continuation_after"]) for row in most.to_dicts()]


def say_pairs(pairs: "Pairs", *, raw: bool) -> None:
    """Show the first pairs: the side that training turns away from, and the side that it prefers."""
    say(f"pairs:   the first ones{'' if raw else _MASKED}")
    for prompt, dispreferred, preferred in zip(
        pairs.prompts[:TEXTS], pairs.dispreferred[:TEXTS], pairs.preferred[:TEXTS], strict=True
    ):
        say(f"  {_short(prompt, raw=raw)} …")
        say(f"    dispreferred: {_short(dispreferred, raw=raw)}")
        say(f"    preferred:    {_short(preferred, raw=raw)}")


def say_checkpoint(model: str, out: Path, *, label: str = "model:  ") -> None:
    """Say where the edited model is, or how to get one where the run could not write it."""
    folder = out / "model"
    say(f"{label} {folder if folder.exists() else _elsewhere(model, out)}")


def _elsewhere(model: str, out: Path) -> str:
    words = ["dposcope", "fold", model, "--edit", str(out), "--out", _beside(out, "model")]
    return f"none, as the weights are quantised; for one, give the unquantised model to: {shlex.join(words)}"


def say_pushed(done: "Pushed | None", *, base: str) -> None:
    """Say where a folder is on the hub, if it was uploaded."""
    if done is None:
        return
    say(f"hub:     {done.url} ({'public' if done.public else 'private'})")
    if done.licence is None:
        say(f"note:    no licence of {base} is known; name one in the model card before others use it")


def next_explain(base: str, tuned: str, out: Path, settings: Settings) -> None:
    """Say how to take a quick look at what an edit or a tuned model changed, on the same data."""
    from dposcope.jobs.explain.settings import ExplainSettings

    given = _same_data(settings, ExplainSettings)
    _next("explain", base, tuned, "--out", _beside(out, "explained"), "--neurons-only", *given)


def next_patching() -> None:
    """Say how a quick look becomes a whole explanation."""
    say("next:    the same command without --neurons-only: it continues here, patches, and judges the paper's claims")


def next_chat(out: Path, settings: MeasureSettings) -> None:
    """Say how to read what the plain and the edited model answer."""
    _next("chat", str(out), *_asking(settings), *_quantising(settings.quantise))


def next_edit(model: str, out: Path, settings: Settings) -> None:
    """Say how to get a part of the effect without training, on the same data."""
    _next("edit", model, "--out", _beside(out, "edit"), *_same_data(settings, EditSettings))


def next_evaluate(
    model: str, changed: str | None, out: Path, quantise: Quantise | None = None, *, asked: Settings | None = None
) -> None:
    """Say how to measure a condition, such as a new checkpoint, beside its base, or a model alone; asked as before."""
    condition = [] if changed is None else ["--condition", changed]
    _next("evaluate", model, *condition, "--out", _beside(out, "scores"), *_asking(asked), *_quantising(quantise))


def next_dpo(model: str, pairs: Path, harmless: Path | None, *, asked: Settings | None = None) -> None:
    """Say how to train on new pairs, which the model is asked for as it was when they were made."""
    beside = [] if harmless is None else ["--harmless", str(harmless)]
    out = _beside(pairs.with_suffix(""), "dpo")
    _next("dpo", model, "--pairs", str(pairs), *beside, "--out", out, *_asking(asked))


def _quantising(quantise: Quantise | None) -> list[str]:
    return [] if quantise is None else ["--quantise", quantise]


def _next(*words: str) -> None:
    say(f"next:    {shlex.join(['dposcope', *words])}")


def _beside(out: Path, name: str) -> str:
    return f"{out}-{name}"


def _asking(settings: Settings | None) -> Iterator[str]:
    """How a chat model is asked, for a command that takes the same."""
    return iter(()) if settings is None else _taken_over(settings, _ASKED, type(settings))


def _same_data(settings: Settings, takes: type[Settings]) -> Iterator[str]:
    return _taken_over(settings, _DATA, takes)


def _taken_over(settings: Settings, names: Sequence[str], takes: type[Settings]) -> Iterator[str]:
    """Flags of the settings of these names that are not at their defaults, and that a command takes."""
    values: dict[str, Any] = settings.model_dump(mode="json", include=set(names))
    defaults = {name: info.default for name, info in type(settings).model_fields.items()}
    for name in names:
        value = values.get(name)
        built_in = isinstance(value, str) and value.startswith(BUILTIN)
        if name in takes.model_fields and value is not None and value != defaults[name] and not built_in:
            # --system, --wrap and --prefill read \\n as a line break.
            yield from (f"--{name.replace('_', '-')}", str(value).replace("\n", "\\n"))


def _short(text: str, *, raw: bool) -> str:
    words = one_line(text if raw else mask_offensive(text), most=_LONGEST)
    return words if words.strip() else NOTHING
