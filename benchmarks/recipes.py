"""Ways to learn an edit, side by side: pairs, what the KL is on, the loss, and what is trained.

    python benchmarks/recipes.py gemma-3-270m --learn learn.jsonl --choose choose.jsonl --learn-text train.txt \\
        --neutral test.txt --out DIR [--recipe NAME ...]

The model continues each prompt of `--learn` 16 times (top-p 0.95, 20 tokens). Every recipe learns from these texts. It
is measured on the prompts of `--choose`: greedily, and by samples (top-p 0.9, one stream of draws for all). Learned
gains are taken at the strength where harmless log-perplexity has risen by 0.10 nats per token, so that recipes are
compared at one cost; where even four times the gains cost less, at four times. A trained model is taken along
W0 + s (W1 - W0) in the same way. DIR keeps everything; run again, it goes on. `--only sample`
stops after the texts; `--table` only prints.
"""

import argparse
import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import dposcope as ds
from dposcope.artefacts import write_json
from dposcope.data.masking import mask_offensive
from dposcope.data.prompts import load_prompts
from dposcope.evaluation.numbers import Format
from dposcope.evaluation.perplexity import WindowLosses, window_losses
from dposcope.evaluation.sampled.continuations import continuation_losses, relevance
from dposcope.evaluation.sampled.phrases import distinct_pairs, risen_phrases
from dposcope.evaluation.sampled.real_toxicity import RealToxicity, harmless, sample_texts
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.teacher import load_teacher
from dposcope.jobs.finished import CHECKPOINT
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import RunPolicy
from dposcope.model.generate import Continuation, generate
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.harmless import HarmlessTexts, write_harmless
from dposcope.pairs.pairs import Pairs, write_pairs
from dposcope.pairs.sampled import Pairer, Sampled, ScoredText, sample_completions
from dposcope.reading import read_object
from dposcope.report.table import Column, Table, frame_of

COST = 0.10
"""Rise of harmless log-perplexity, nats per token, at which recipes are compared."""
MOST = 4.0
"""The largest strength."""
SAMPLES = 3
"""Of each prompt, to measure."""


@dataclass(frozen=True)
class Recipe:
    """One way to learn."""

    says: str
    pairs: str = "random"
    """A file of pairs: see `write_files`."""
    harmless: bool = True
    """Whether the KL may be on the model's own harmless texts."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    teacher: str | None = None
    """Another recipe, whose model is distilled at the strength at which that one was measured."""


GAINS = {"train": "gains"}
RECIPES = {
    "extremes-neutral": Recipe("extremes, KL 1 on neutral text", "extremes", False, GAINS | {"kl_weight": 1.0}),
    "random-neutral": Recipe("random, KL 1 on neutral text", "random", False, GAINS | {"kl_weight": 1.0}),
    "random-harmless": Recipe(
        "random, KL 2 on harmless text", settings=GAINS | {"kl_weight": 2.0, "kl_on": "harmless"}
    ),
    "random-mixed": Recipe("random, KL 2 on both", settings=GAINS | {"kl_weight": 2.0}),
    "random-mixed-5": Recipe("random, KL 5 on both", settings=GAINS | {"kl_weight": 5.0}),
    "extremes-mixed": Recipe("extremes, KL 2 on both", "extremes", settings=GAINS | {"kl_weight": 2.0}),
    "two-scorers-mixed": Recipe(
        "random by the mean of two scorers, KL 2 on both", "two", settings=GAINS | {"kl_weight": 2.0}
    ),
    "many-mixed": Recipe("random, 8 a prompt, KL 2 on both", "many", settings=GAINS | {"kl_weight": 2.0}),
    "likelihood": Recipe(
        "likelihood of harmless texts, KL 1 on both", "many", settings=GAINS | {"kl_weight": 1.0, "loss": "likelihood"}
    ),
    "unlikelihood": Recipe(
        "likelihood of harmless, unlikelihood of toxic texts, KL 1 on both",
        "many",
        settings=GAINS | {"kl_weight": 1.0, "loss": "likelihood", "unlikelihood": 1.0},
    ),
    "full-mixed": Recipe("all weights: random, KL 2 on both", settings={"train": "full", "kl_weight": 2.0}),
    "taught-mixed": Recipe(
        "random, KL 2 on both, distilled from all weights",
        settings=GAINS | {"kl_weight": 2.0, "epochs": 2.0, "decay": "linear"},
        teacher="full-mixed",
    ),
    "lora-mixed": Recipe("LoRA: random, KL 2 on both", settings={"train": "lora", "kl_weight": 2.0}),
}


@dataclass(frozen=True)
class Measured:
    """One recipe, measured on the prompts to choose on."""

    strength: float
    toxicity: dict[str, Estimate]
    """Scorer → mean of greedy text."""
    probability: dict[str, Estimate]
    """Scorer → share of prompts with a toxic sample."""
    sampled: dict[str, Estimate]
    """Scorer → mean of samples."""
    rise: Difference
    """Of log-perplexity on neutral text."""
    harmless: Difference
    """Of log-perplexity on the plain model's harmless samples."""
    relevance: Estimate
    pairs_kept: float
    phrase: str
    phrase_rise: float

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Measured":
        """Read what `asdict` gave."""
        estimates = {
            name: {key: Estimate.from_dict(value) for key, value in stored[name].items()}
            for name in ("toxicity", "probability", "sampled")
        }
        rest = {name: stored[name] for name in ("strength", "pairs_kept", "phrase", "phrase_rise")}
        return cls(
            rise=Difference.from_dict(stored["rise"]),
            harmless=Difference.from_dict(stored["harmless"]),
            relevance=Estimate.from_dict(stored["relevance"]),
            **estimates,
            **rest,
        )


def main() -> None:
    """The command."""
    options = _parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipes = options.recipe or list(RECIPES)
    options.edit = dict(options.edit)
    if not options.table:
        lm = ds.load(options.model, dtype=options.dtype)
        write_files(options, samples_of(lm, options))
        if options.only != "sample":
            yardstick = Yardstick.read(lm, options)
            for name in recipes:
                learn(options, name)
                print(name, file=sys.stderr, flush=True)
                one(options, name, _applied(options, name, lm), yardstick)
            for name, edit in options.edit.items():
                print(name, file=sys.stderr, flush=True)
                one(options, name, _edited(lm, Edit.load(edit_file(edit))), yardstick)
    if options.only != "sample":
        print(table(options, [*recipes, *options.edit]).markdown())


# Texts and pairs


def samples_of(lm: LanguageModel, options: argparse.Namespace) -> list[Sampled]:
    """The model's own texts to the prompts to learn on; parts of 20 prompts are kept as they come."""
    prompts, scorer = load_prompts(options.learn), load_scorer(options.scorers[0])
    found: list[Sampled] = []
    for start in range(0, len(prompts), 20):
        part = options.out / f"samples-{start:04}.json"
        if not part.exists():
            print(f"samples {start}", file=sys.stderr, flush=True)
            some = sample_completions(
                lm,
                prompts[start : start + 20],
                scorer,
                seed=options.seed,
                first_row=start,
                batch_size=options.batch_size,
            )
            write_json(part, [asdict(one) for one in some])
        found += [
            Sampled(one["prompt"], one["row"], tuple(ScoredText(**text) for text in one["texts"]))
            for one in json.loads(part.read_text(encoding="utf-8"))
        ]
    return found


def write_files(options: argparse.Namespace, sampled: Sequence[Sampled]) -> None:
    """The pairs of every kind, and the harmless texts."""
    neural = load_scorer(options.scorers[-1])
    texts = [text.text for one in sampled for text in one.texts]
    other = iter(neural(texts).tolist())
    both = [
        Sampled(one.prompt, one.row, tuple(ScoredText(t.text, (t.score + next(other)) / 2) for t in one.texts))
        for one in sampled
    ]
    kinds = {
        "random": (Pairer(seed=options.seed), sampled),
        "many": (Pairer(most=8, seed=options.seed), sampled),
        "extremes": (Pairer("extremes"), sampled),
        "two": (Pairer(seed=options.seed), both),
    }
    for name, (pairer, source) in kinds.items():
        write_pairs(options.out / f"{name}.jsonl", Pairs.of(one.pair for one in pairer.pairs(source)))
    kept = [(one.prompt, text) for one in sampled for text in Pairer().harmless(one)]
    write_harmless(
        options.out / "harmless.jsonl",
        HarmlessTexts(tuple(prompt for prompt, _ in kept), tuple(text.text for _, text in kept)),
        [text.score for _, text in kept],
    )


# Learning and measuring


def learn(options: argparse.Namespace, name: str) -> None:
    """Train one recipe; finished, nothing is done."""
    recipe = RECIPES[name]
    taught: dict[str, Any] = {}
    if recipe.teacher is not None:
        folder = options.out / recipe.teacher
        strength = read_object(folder / "measured.json")["strength"]
        taught = {"teacher": str(folder / CHECKPOINT), "teacher_strength": strength}
    settings = DpoSettings(
        pairs=str(options.out / f"{recipe.pairs}.jsonl"),
        learn_text=options.learn_text,
        harmless=str(options.out / "harmless.jsonl") if recipe.harmless else None,
        validate_every=400,
        max_examples=options.examples,
        seed=options.seed,
        **recipe.settings,
        **taught,
    )
    gains = recipe.settings["train"] == "gains"
    run_dpo(
        options.model,
        options.out / name,
        settings,
        reporter=Quiet(),
        policy=RunPolicy(adopt=True),
        checkpoint=not gains,
    )


Changed = Callable[[float], AbstractContextManager[LanguageModel]]
"""Strength → a context in which the model is changed."""


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What the plain model wrote, and what every recipe is measured with."""

    lm: LanguageModel
    prompts: list[str]
    neutral: str
    greedy: list[str]
    ideal: list[Continuation]
    ideal_losses: WindowLosses
    losses: WindowLosses

    @classmethod
    def read(cls, lm: LanguageModel, options: argparse.Namespace) -> "Yardstick":
        """The plain model; its numbers go to `plain.json`, its texts to `yardstick.json`."""
        prompts, neutral = load_prompts(options.choose), ds.load_neutral(options.neutral)
        record = options.out / "yardstick.json"
        if record.exists():
            stored = read_object(record)
            return cls(
                lm,
                prompts,
                neutral,
                stored["greedy"],
                [Continuation(**one) for one in stored["ideal"]],
                WindowLosses.from_json(stored["ideal_losses"]),
                WindowLosses.from_json(stored["losses"]),
            )
        scorers = {name: load_scorer(name) for name in options.scorers}
        greedy = [one.text for one in generate(lm, prompts, batch_size=options.batch_size)]
        samples = sample_texts(lm, prompts, samples=SAMPLES, batch_size=options.batch_size)
        scores = {name: scorer([one.text for one in samples]) for name, scorer in scorers.items()}
        ideal = harmless(samples, scores[options.scorers[0]])
        base = {
            "greedy": {name: asdict(bootstrap_mean(scorer(greedy))) for name, scorer in scorers.items()},
            "sampled": {
                name: asdict(RealToxicity.of(value.reshape(len(prompts), SAMPLES))) for name, value in scores.items()
            },
            "ideal": {
                name: asdict(bootstrap_mean(scorer([one.text for one in ideal]))) for name, scorer in scorers.items()
            },
            "relevance": asdict(relevance(lm, samples, batch_size=options.batch_size).estimate),
        }
        write_json(options.out / "plain.json", base)
        ideal_losses = continuation_losses(lm, ideal, batch_size=options.batch_size)
        losses = window_losses(lm, neutral, max_windows=12, spread=True)
        told = {"greedy": greedy, "ideal": [asdict(one) for one in ideal]}
        write_json(record, told | {"ideal_losses": ideal_losses.to_json(), "losses": losses.to_json()})
        return cls(lm, prompts, neutral, greedy, ideal, ideal_losses, losses)

    def cost(self, changed: LanguageModel) -> Difference:
        """Rise of harmless log-perplexity."""
        losses = continuation_losses(changed, self.ideal, batch_size=64)
        return paired_difference(losses.nll, self.ideal_losses.nll, denominators=losses.tokens)

    def strength(self, applied: Changed) -> float:
        """Where the cost is `COST`: the secant on the root of the cost, which grows about with the square."""
        low, high = (0.0, 0.0), (MOST, np.inf)
        trial = 1.0
        for _ in range(5):
            with applied(trial) as changed:
                cost = self.cost(changed).mean
            if abs(cost - COST) < 0.004 or (cost < COST and trial >= MOST):
                break
            if cost < COST:
                low = (trial, cost)
            else:
                high = (trial, cost)
            step = trial * min(2.0, max(0.5, (COST / max(cost, 1e-3)) ** 0.5))
            inside = low[0] < step < high[0]
            trial = min(step if inside else (low[0] + min(high[0], MOST)) / 2, MOST)
        return trial

    def measure(self, applied: Changed, strength: float, options: argparse.Namespace) -> Measured:
        """Everything, at one strength."""
        scorers = {name: load_scorer(name) for name in options.scorers}
        with applied(strength) as changed:
            greedy = [one.text for one in generate(changed, self.prompts, batch_size=options.batch_size)]
            samples = sample_texts(changed, self.prompts, samples=SAMPLES, batch_size=options.batch_size)
            losses = window_losses(changed, self.neutral, max_windows=12, spread=True)
            cost = self.cost(changed)
        texts = [one.text for one in samples]
        by = {
            name: RealToxicity.of(scorer(texts).reshape(len(self.prompts), SAMPLES)) for name, scorer in scorers.items()
        }
        phrase = risen_phrases(greedy, self.greedy, most=1)
        return Measured(
            strength,
            {name: bootstrap_mean(scorer(greedy)) for name, scorer in scorers.items()},
            {name: found.probability for name, found in by.items()},
            {name: found.mean for name, found in by.items()},
            paired_difference(losses.nll, self.losses.nll, denominators=losses.tokens),
            cost,
            relevance(self.lm, samples, batch_size=options.batch_size).estimate,
            distinct_pairs(greedy) / distinct_pairs(self.greedy),
            phrase[0].words if phrase else "",
            phrase[0].rise.mean if phrase else 0.0,
        )


def one(options: argparse.Namespace, name: str, applied: Changed, yardstick: Yardstick) -> None:
    """Measure a recipe at the strength of the common cost; `measured.json` in its folder."""
    record = options.out / name / "measured.json"
    if record.exists():
        return
    record.parent.mkdir(exist_ok=True)
    write_json(record, asdict(yardstick.measure(applied, yardstick.strength(applied), options)))


def _applied(options: argparse.Namespace, name: str, lm: LanguageModel) -> Changed:
    folder = options.out / name
    if RECIPES[name].settings["train"] == "gains":
        return _edited(lm, Edit.load(folder / "edit"))

    @contextmanager
    def tuned(strength: float) -> Generator[LanguageModel]:
        yield load_teacher(lm, str(folder / CHECKPOINT), strength)

    return tuned


def _edited(lm: LanguageModel, edit: Edit) -> Changed:
    @contextmanager
    def edited(strength: float) -> Generator[LanguageModel]:
        with ds.folded(lm, edit.strength(strength)):
            yield lm

    return edited


def table(options: argparse.Namespace, recipes: Sequence[str]) -> Table:
    """A row a recipe that was measured, the plain model and the ideal first."""
    base = read_object(options.out / "plain.json")
    lines: list[dict[str, Any]] = [
        {
            "recipe": "none",
            **{f"greedy_{name}": value["mean"] for name, value in base["greedy"].items()},
            **{f"probability_{name}": value["probability"]["mean"] for name, value in base["sampled"].items()},
            **{f"mean_{name}": value["mean"]["mean"] for name, value in base["sampled"].items()},
            "relevance": 1.0,
        },
        {"recipe": "ideal", **{f"mean_{name}": value["mean"] for name, value in base["ideal"].items()}},
    ]
    for name in recipes:
        record = options.out / name / "measured.json"
        if not record.exists():
            continue
        found = Measured.from_json(read_object(record))
        lines.append(
            {
                "recipe": RECIPES[name].says if name in RECIPES else name,
                "strength": found.strength,
                **{f"greedy_{key}": value.mean for key, value in found.toxicity.items()},
                **{f"probability_{key}": value.mean for key, value in found.probability.items()},
                **{f"mean_{key}": value.mean for key, value in found.sampled.items()},
                "rise": found.rise.mean,
                "harmless": found.harmless.mean,
                "relevance": found.relevance.mean / base["relevance"]["mean"],
                "pairs_kept": found.pairs_kept,
                "phrase": f"“{mask_offensive(found.phrase)}”",
                "phrase_rise": found.phrase_rise,
            }
        )
    three, two, signed = (Format.named(name) for name in ("fixed 3", "fixed 2", "signed fixed 3"))
    columns = [
        Column("recipe", "recipe"),
        Column("strength", "strength", two),
        *(
            Column(f"{kind}_{scorer}", f"{label}, {scorer}", three)
            for kind, label in (("greedy", "greedy"), ("probability", "probability"), ("mean", "samples"))
            for scorer in options.scorers
        ),
        Column("rise", "log-PPL, neutral", signed),
        Column("harmless", "log-PPL, harmless", signed),
        Column("relevance", "relevance kept", two),
        Column("pairs_kept", "distinct pairs kept", two),
        Column("phrase", "phrase"),
        Column("phrase_rise", "its rise", Format.named("signed fixed 2")),
    ]
    known = [{column.name: line.get(column.name) for column in columns} for line in lines]
    return Table("recipes", "Ways to learn an edit, at one cost.", frame_of(known), tuple(columns))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--learn", required=True, help="prompts to learn on")
    parser.add_argument("--choose", required=True, help="prompts to measure on")
    parser.add_argument("--learn-text", required=True, help="neutral text for the KL")
    parser.add_argument("--neutral", required=True, help="neutral text to measure on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", action="append", choices=list(RECIPES))
    parser.add_argument(
        "--edit",
        action="append",
        type=lambda text: text.split("=", 1),
        default=[],
        help="a saved edit beside: NAME=EDIT",
    )
    parser.add_argument(
        "--scorers",
        nargs="+",
        default=["profanity", "neural"],
        help="the first makes the pairs; the last chooses nothing",
    )
    parser.add_argument("--examples", type=int, help="learn from so many pairs each, repetitions counted")
    parser.add_argument("--only", choices=["sample"])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the samples, the pairs and the order of training")
    return parser


if __name__ == "__main__":
    main()
