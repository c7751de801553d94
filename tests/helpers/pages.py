"""Pages of edits from made-up values, for the tests of what is shown and said."""

from dataclasses import replace

from dposcope.data.masking import read_encoded
from dposcope.directions.lens import Lens
from dposcope.evaluation.conditions.scores import Comparison, Scores
from dposcope.evaluation.sampled.phrases import Phrase
from dposcope.evaluation.statistics.intervals import Estimate, Ratio
from dposcope.report.edit.page import Condition, EditPage, GroupSize, Sample, SearchStep
from helpers.outcomes import difference

STRONG = read_encoded("fuvg")
"""A word that is masked."""
STARRED = "sh*t"

BASE = {"toxicity": 0.289, "judge": 0.31, "logppl": 3.112, "f1": 0.186, "repetition": 0.12, "empty": 0.0}
COUNTS = {"toxicity": 200, "judge": 200, "logppl": 12, "f1": 500, "repetition": 200, "empty": 200}

EDIT = {"toxicity": -0.158, "judge": -0.15, "logppl": 0.17, "f1": 0.004, "repetition": -0.01, "empty": 0.0}
"""Differences of a good edit."""
NOTHING = dict.fromkeys(BASE, 0.0)

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\u202egpj.exe\u2066 \u200b NUL \x00 ESC \x1b {{ 7*7 }} {% raw %}",
    "w" * 400,
    "\ud800 half \udfff <!-- -->",
    "\"><svg onload=alert(2)> ' onclick='alert(3)",
    "]]>&lt;b&gt; &#x22; \u2028 \ufeff",
]


def scores(conditions: dict[str, dict[str, float]], *, half: float = 0.02, n: int = 200, ratio: bool = True) -> Scores:
    """Condition → differences from the base; every interval reaches `half` to both sides."""
    counts = COUNTS | {"toxicity": n}
    estimates = {"none": NOTHING, **conditions}
    return Scores(
        "strict",
        "a-model",
        {
            name: {m: estimate(BASE[m] + by, half, counts[m]) for m, by in differences.items()}
            for name, differences in estimates.items()
        },
        {
            name: Comparison(
                {m: difference(by, by - half, by + half, counts[m]) for m, by in differences.items()},
                ratio_of(BASE["toxicity"] + differences["toxicity"], n) if ratio else None,
            )
            for name, differences in conditions.items()
        },
        dict.fromkeys(estimates, 0.48),
    )


def estimate(mean: float, half: float, n: int) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


def ratio_of(mean: float, n: int) -> Ratio:
    ratio = mean / BASE["toxicity"]
    return Ratio(ratio, ratio - 0.07, ratio + 0.08, n)


def page(
    effect: dict[str, float] | None = None,
    controls: dict[str, dict[str, float]] | None = None,
    *,
    half: float = 0.02,
    n: int = 200,
    ratio: bool = True,
    **changes,
) -> EditPage:
    """A page; `effect` and `controls` replace single differences of a good edit and of controls that do nothing."""
    controls = {"control": {}} if controls is None else controls
    measured = {"edit": EDIT | (effect or {}), **{name: NOTHING | by for name, by in controls.items()}}
    fields = {
        "model": "a-model",
        "fingerprint": "f00d",
        "protocol": "strict",
        "edit": "gains on 20 of 40 neurons",
        "scores": scores(measured, half=half, n=n, ratio=ratio),
        "conditions": [
            Condition("none", "Plain model", "base"),
            Condition("edit", "Edited", "edit", "the model in the checkpoint"),
            *(Condition(name, name.title(), "control") for name in controls),
        ],
        "samples": [sample("You are", " an idiot", " a friend"), sample("He said", f" {STRONG}!\n\nYes", "")],
        "lens": Lens([f" {STRONG}", "idiot"], [" the", "\n"], [9.25, 8.0], [7.5, -1.0]),
        "direction": {"kind": "mean_difference", "block": -1, "quality": {"roc_auc": 0.91234, "test_texts": 12345}},
        "groups": [GroupSize("TP", 10, 6), GroupSize("TN", 10, 5), GroupSize("AP", 12, 7), GroupSize("AN", 0, 0)],
        "search": [
            SearchStep(1.0, difference(0.11, 0.09, 0.13, 6)),
            SearchStep(1.5, difference(0.25, 0.2, 0.3, 6)),
            SearchStep(1.25, difference(0.17, 0.15, 0.195, 6)),
        ],
        "bound": 0.2,
        "chosen_strength": 1.25,
        "judge": {"roc_auc": 0.97, "held_out": 1000},
        "settings": [("beta", "0.55"), ("seed", "0")],
        "provenance": {"torch": "2.13.0"},
        "notes": ["One scorer is not a jury.", "Mild data took part."],
    }
    return EditPage(**(fields | changes))


def whole_page(further: tuple[str, ...] = ("neural",)) -> EditPage:
    """A page whose scores have further scorers that do not confirm the first, an ideal, and every cost."""
    made = page()
    base, half = made.scores, 0.02
    conditions, against = dict(base.conditions), dict(base.against_none)
    more = dict.fromkeys(further, 0.25) | {"harmless_logppl": 2.69, "relevance": 1.64}
    for name, values in conditions.items():
        conditions[name] = values | {key: estimate(value, half, 200) for key, value in more.items()}
    for name, comparison in against.items():
        rise = 0.35 if name == "edit" else 0.0
        differences = {
            **dict.fromkeys(further, difference(-0.01, -0.03, 0.01, 200)),
            "harmless_logppl": difference(rise, rise - 0.04, rise + 0.04, 180),
        }
        kept = Ratio(0.77, 0.7, 0.84, 80) if name == "edit" else Ratio(1.0, 0.9, 1.1, 80)
        against[name] = replace(comparison, differences=comparison.differences | differences, relevance_kept=kept)
    ideal = {"toxicity": 0.09, "judge": 0.15, **dict.fromkeys(further, 0.06), "relevance": 1.558}
    conditions["ideal"] = {key: estimate(value, half, 70) for key, value in ideal.items()}
    scores = replace(
        base,
        conditions=conditions,
        against_none=against,
        further=further,
        distinct_kept={"none": 1.0, "edit": 0.72, "control": 1.01},
        phrases={
            "edit": (Phrase(f"{STRONG} i remember", 0.52, 0.0, difference(0.52, 0.45, 0.59, 200)),),
            "control": (),
        },
    )
    shown = [*made.conditions, Condition("ideal", "Ideal", "limit", "the plain model's own harmless samples")]
    return replace(made, scores=scores, conditions=shown)


def sample(prompt: str, before: str, after: str) -> Sample:
    return Sample(prompt, {"none": before, "edit": after}, {"none": 0.8, "edit": 0.1})


def hostile_page() -> EditPage:
    """Every text on it is out to do harm, or cannot be shown."""
    texts = [f"{text} {STRONG}" for text in HOSTILE]
    tokens = [*HOSTILE, f" {STRONG}", "", "  ", "\u00a0", "\t"]
    return page(
        model=texts[0],
        scores=replace(page().scores, concept=texts[2]),
        fingerprint=texts[1],
        edit=texts[4],
        conditions=[
            Condition("none", texts[4], "base", texts[0]),
            Condition("edit", texts[1], "edit", texts[3]),
            Condition("control", f"$x_1$ {texts[2]} 漢字", "control", texts[5]),
        ],
        samples=[sample(text, text, f"{text}\n{text}") for text in texts],
        lens=Lens(tokens, list(reversed(tokens)), [1.0] * len(tokens), [1.0] * len(tokens)),
        direction={text: {text: [text, None, True, 2.5]} for text in texts},
        groups=[GroupSize(text, 10, 5) for text in texts],
        judge={texts[0]: texts[1]},
        settings=[(text, text) for text in texts],
        provenance={text: text for text in texts},
        notes=texts,
    )
