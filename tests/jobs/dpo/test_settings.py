"""What the settings of `dposcope dpo` come to: the paper's training, the best one, and what a user asks for."""

from dataclasses import asdict, replace

import pytest
from pydantic import ValidationError

from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.settings import PAPER_KL_WEIGHTS, DpoSettings
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule, examples_seen, told_steps


def settings(**given) -> DpoSettings:
    return DpoSettings(pairs="pairs.jsonl", **given)


def schedule(pairs: int = 10_000, **given) -> Schedule:
    return settings(**given).schedule(pairs, autocast=False)


PAPER = Schedule(
    optimizer="rmsprop",
    learning_rate=1e-5,
    warmup_steps=150,
    batch_size=4,
    micro_batch_size=1,
    validation_batch_size=8,
    steps=12_500,
    max_grad_norm=10.0,
    validate_every=25,
    patience=30,
)
BEST = Schedule(
    optimizer="rmsprop",
    learning_rate=1e-5,
    warmup_steps=0,
    batch_size=8,
    micro_batch_size=None,
    steps=375,
    max_grad_norm=None,
    validate_every=12,
    patience=None,
    windows_per_batch=2,
)


def test_the_papers_training():
    """SPEC 6, Table 9: RMSprop 1e-5, 150 warm-up steps, batch 1 × 4, norm 10, validation by 8 every 100 pairs, 30."""
    assert schedule(preset="paper") == PAPER
    assert schedule(24_576, preset="paper").steps == 30_720  # all of its 5 epochs
    paper = settings(preset="paper")
    assert (paper.max_prompt_tokens, paper.max_completion_tokens) == (64, 64)
    assert paper.validation_pairs(24_576) == 64
    assert PAPER.validate_every * PAPER.batch_size == 100
    # The paper trained all weights; at its rate gains would not move.
    for train, rate in (("lora", 2e-4), ("gains", 1e-2)):
        assert schedule(preset="paper", train=train) == replace(PAPER, learning_rate=rate)


@pytest.mark.parametrize(
    ("examples", "steps", "warmup"), [(400, 100, 20), (2_996, 749, 149), (4_000, 1_000, 150), (8, 2, 0)]
)
def test_the_papers_warmup_leaves_a_short_training_its_rate(examples, steps, warmup):
    """150 steps of 30,720; of a hundred they would end before the learning rate had risen."""
    short = schedule(preset="paper", max_examples=examples)
    assert (short.steps, short.warmup_steps) == (steps, warmup)


@pytest.mark.parametrize(
    ("family", "weight"), [("gpt2", 0.02), ("llama", 0.1), ("gemma2", 0.05), ("mistral", 0.05), ("qwen3", 0.05)]
)
def test_the_papers_objective(family, weight):
    """β 0.1, λ by family (Table 10), KL on both completions."""
    assert settings(preset="paper").objective(family) == Objective(0.1, weight, "pairs", "strict")
    assert settings(preset="paper", protocol="reference").objective(family) == Objective(
        0.1, weight, "pairs", "reference"
    )
    assert PAPER_KL_WEIGHTS.get(family, 0.05) == weight


def test_the_defaults():
    assert schedule() == BEST
    assert settings().objective("llama") == Objective(0.1, 1.0, "neutral", "strict")
    # Only of all weights was it measured that neither a warm-up nor a bound on gradients does better.
    gains = replace(BEST, optimizer="adamw", learning_rate=1e-2, warmup_steps=10, max_grad_norm=1.0)
    assert schedule(train="gains") == gains
    assert schedule(train="lora") == replace(gains, learning_rate=2e-4)
    assert settings(protocol="reference").objective("llama") == Objective(0.1, 1.0, "pairs", "reference")


GIVEN = {
    "learning_rate": 3e-4,
    "optimizer": "adamw",
    "batch_size": 6,
    "micro_batch_size": 2,
    "warmup_steps": 3,
    "decay": "linear",
    "max_grad_norm": 2.5,
    "patience": 7,
    "windows_per_batch": 5,
    "seed": 9,
}


@pytest.mark.parametrize("preset", ["best", "paper"])
@pytest.mark.parametrize("option", GIVEN)
def test_what_is_given_beside_a_preset_wins(preset, option):
    on = {"kl_on": "neutral"} if option == "windows_per_batch" else {}  # the paper's KL reads none
    found, usual = (asdict(schedule(preset=preset, **on, **given)) for given in ({option: GIVEN[option]}, {}))
    assert found.pop(option) == GIVEN[option] != usual.pop(option)
    if option == "batch_size":  # the same number of examples
        for size in (found, usual):
            del size["steps"], size["validate_every"], size["warmup_steps"]
    assert found == usual


def test_a_teacher_weighs_one_unless_it_is_told_otherwise():
    assert settings(train="gains").objective("llama").teacher_weight == 0
    assert settings(train="gains", teacher="m").objective("llama").teacher_weight == 1
    assert settings(train="lora", teacher="m", teacher_weight=0.3).objective("llama").teacher_weight == 0.3


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_the_objective_that_is_given_wins(preset):
    chosen = settings(preset=preset, beta=0.3, kl_weight=0.0, kl_on="neutral").objective("gpt2")
    assert chosen == Objective(0.3, 0.0, "neutral", "strict")
    assert settings(preset=preset, kl_on="pairs", kl_weight=2).objective("gpt2") == Objective(0.1, 2, "pairs", "strict")


@pytest.mark.parametrize(
    ("pairs", "given", "steps"),
    [
        (100, {}, 26),  # 2 epochs of 100 pairs: twice 12 batches of 8, and one of 4
        (101, {}, 26),
        (100, {"train": "gains"}, 39),  # 3 epochs
        (100, {"preset": "paper"}, 125),  # 5 epochs, 4 at a time
        (100, {"epochs": 0.5}, 7),
        (100, {"epochs": 50}, 390),  # 30 epochs are --max-examples
        (100, {"max_examples": 16}, 2),
        (100, {"max_examples": 17}, 3),
        (1, {"epochs": 0.1}, 1),
        (5, {"epochs": 3}, 3),  # fewer pairs than a batch has
        (43, {"epochs": 2.5}, 15),  # 6 batches, again 6, and 22 pairs in 3
        (43, {"epochs": 2, "max_examples": 50}, 7),  # 6 batches, and 7 pairs in one
        (24_576, {"preset": "paper"}, 30_720),
        (24_576, {"preset": "paper", "max_examples": 3000}, 750),
        (24_576, {}, 375),
    ],
)
def test_steps_follow_from_pairs_epochs_and_examples(pairs, given, steps):
    assert schedule(pairs, **given).steps == steps


@pytest.mark.parametrize(
    ("given", "every"),
    [
        ({}, 12),
        ({"validate_every": 8}, 1),
        ({"validate_every": 1}, 1),
        ({"batch_size": 1}, 100),
        ({"max_examples": 40}, 5),
    ],
)
def test_validations_are_counted_in_examples_and_there_is_always_one(given, every):
    assert schedule(**given).validate_every == every


@pytest.mark.parametrize(
    ("pairs", "given", "kept"),
    [(2, None, 1), (19, None, 1), (282, None, 28), (640, None, 64), (9999, None, 64), (50, 7, 7)],
)
def test_a_tenth_is_kept_for_validation(pairs, given, kept):
    assert settings(validation=given).validation_pairs(pairs) == kept


@pytest.mark.parametrize(
    ("steps", "pairs", "batch", "seen"), [(3, 10, 4, 10), (4, 10, 4, 14), (6, 10, 4, 20), (5, 8, 4, 20), (2, 3, 8, 6)]
)
def test_pairs_seen_are_counted_where_a_pass_ends_within_a_batch(steps, pairs, batch, seen):
    assert examples_seen(steps, pairs=pairs, batch_size=batch) == seen


@pytest.mark.parametrize(
    ("steps", "pairs", "told"),
    [
        (6, 41, "6 steps of up to 8 pairs"),
        (5, 41, "5 steps of 8 pairs"),
        (7, 41, "7 steps of up to 8 pairs"),
        (10, 40, "10 steps of 8 pairs"),
        (3, 5, "3 steps of 5 pairs"),
        (1, 1, "1 step of 1 pair"),
    ],
)
def test_steps_are_told_with_the_pairs_that_they_read(steps, pairs, told):
    """The last of a pass over 41 pairs reads one."""
    assert told_steps(steps, pairs=pairs, batch_size=8) == told


def test_autocast_is_passed_on():
    assert settings().schedule(10, autocast=True).autocast
    assert not schedule().autocast


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"protocol": "reference", "kl_on": "neutral"}, "leave --kl-on neutral out, or choose"),
        ({"protocol": "reference", "precompute_reference": True}, "leave --precompute-reference"),
        ({"train": "gains", "recompute": True}, "leave --recompute out"),
        ({"train": "full", "quantise": "4bit"}, "give --train gains or lora, or leave --quantise out"),
        ({"train": "full", "device_map": "auto"}, "give --train gains or lora, or leave --device-map out"),
        ({"train": "gains", "quantise": "3bit"}, "'4bit' or '8bit'"),
        ({"train": "gains", "sparsity": 1}, "less than 1"),
        ({"train": "gains", "reference_dtype": "bfloat16"}, "the model itself, .*; leave --reference-dtype out"),
        ({"train": "lora", "reference_dtype": "bfloat16"}, "the model itself, .*; leave --reference-dtype out"),
        ({"reference_dtype": "bfloat16", "precompute_reference": True}, "is no second copy"),
        ({"max_examples": 0}, "greater than or equal to 1"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"epochs": 0}, "greater than 0"),
        ({"beta": 0}, "greater than 0"),
        ({"max_grad_norm": 0}, "greater than 0"),
        ({"kl_weight": -1}, "greater than or equal to 0"),
        ({"kl_weight": float("nan")}, "finite number"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"micro_batch_size": 0}, "greater than or equal to 1"),
        ({"validation": 0}, "greater than or equal to 1"),
        ({"window_tokens": 1}, "greater than or equal to 2"),
        ({"train": "head"}, "'full', 'lora' or 'gains'"),
        ({"teacher": "m"}, "--teacher is for --train gains or lora"),
        ({"unlikelihood": 0.5}, "--unlikelihood is for --loss likelihood"),
        ({"train": "gains", "teacher": "m", "teacher_weight": 0}, "greater than 0"),
        ({"train": "gains", "teacher": "m", "protocol": "reference"}, "leave --teacher out, or choose"),
        ({"magic": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_trained_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        settings(**given)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(DposcopeError, match=r"cannot be divided into micro-batches of 3; .*--micro-batch-size"):
        schedule(micro_batch_size=3)


def test_every_option_says_what_it_is():
    for name, field in DpoSettings.model_fields.items():
        assert field.description, name
