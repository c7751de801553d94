"""What a training reads, how many steps it takes, and what it holds are counted before it starts."""

import json
from types import SimpleNamespace

import pytest

from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.estimate import dpo as estimate
from dposcope.jobs.estimate.dpo import Trained, dpo_stages, dpo_work
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import Running, Texts, Work
from dposcope.jobs.settings import LoadSettings
from dposcope.model.load import load
from dposcope.model.quantised import loading
from dposcope.model.size import ModelSize
from dposcope.training import kept, policy
from dposcope.training.batches.examples import Example
from helpers.families import tiny
from helpers.jobs import make_job, write_jsonl
from helpers.preferences import pairs_file

GIVEN = {
    "batch_size": 4, "micro_batch_size": 2, "warmup_steps": 2, "validation": 6, "validate_every": 16,
    "window_tokens": 12, "window_pool": 9, "device": "cpu", "dtype": "float32",
}  # fmt: skip
SCHEDULE = SimpleNamespace(micro_batch_size=2, batch_size=4, validated_at_once=2, windows_per_batch=1)


@pytest.mark.parametrize(
    ("train", "given"),
    [("gains", {"epochs": 2}), ("gains", {"epochs": 1, "kl_on": "pairs"}), ("full", {"epochs": 1})],
    ids=["gains", "no-windows", "full"],
)
def test_its_tokens_and_steps_are_those_of_the_run(train, given, monkeypatch, tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    texts = {"pairs": str(pairs), "learn_text": str(job.neutral)}
    settings = DpoSettings.filled(texts | {"train": train} | GIVEN | given)
    work = dpo_work(str(job.model), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    read, plain = 0, policy.read

    def counting(model, batch, **how):
        nonlocal read
        read += int((batch.example >= 0).sum())
        return plain(model, batch, **how)

    monkeypatch.setattr(policy, "read", counting)
    run_dpo(str(job.model), tmp_path / "out", settings)
    (training,) = (one for one in work.stages if one.steps)
    record = json.loads((tmp_path / "out/training.json").read_text())
    assert training.steps == record["steps"]
    assert training.read == read


def test_a_column_of_the_pairs_that_is_not_read_is_told(tmp_path):
    job = make_job(tmp_path / "job")
    rows = [{"prompt": f"a{n}", "chosen": "b", "rejected": "c", "system": "be kind"} for n in range(20)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    settings = DpoSettings.filled({"pairs": str(pairs), "learn_text": str(job.neutral)} | GIVEN)
    (note,) = dpo_work(str(job.model), tmp_path / "out", settings).notes
    assert note.startswith(f"The column 'system' of {pairs} is not read; ")
    assert note.endswith(".")


@pytest.mark.parametrize("counted", [True, False])
def test_weights_in_double_precision_take_no_less_than_in_float32(counted, monkeypatch, tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    if not counted:
        monkeypatch.setattr(kept, "saved_bytes", lambda *_: 1 / 0)

    def activations() -> float:
        settings = DpoSettings.filled(
            {"pairs": str(pairs), "learn_text": str(job.neutral)} | GIVEN | {"train": "gains", "dtype": "auto"}
        )
        return dpo_work(str(job.model), tmp_path / "out", settings).peak.activations

    single = activations()
    lm = load(job.model)
    lm.model.double().save_pretrained(job.model)
    assert activations() >= single > 0


def test_the_rank_of_an_adapter_is_in_its_memory(tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")

    def activations(rank: int) -> float:
        settings = DpoSettings.filled(
            {"pairs": str(pairs), "learn_text": str(job.neutral)} | GIVEN | {"train": "lora", "lora_rank": rank}
        )
        return dpo_work(str(job.model), tmp_path / "out", settings).peak.activations

    assert activations(64) > activations(1)


def test_places_are_those_of_the_largest_batch_with_its_padding():
    """Without shared prompts each completion has a row, as wide as the longest text of its batch."""
    lengths = [(5, 3, 2), (4, 1, 1), (2, 2, 2), (9, 6, 1), (3, 1, 2)]
    train = [Example([7] * prompt, ([7] * one, [7] * other)) for prompt, one, other in lengths]
    window = Example([7] * 6, ())
    material, schedule = SimpleNamespace(train=train, validation=train[:1], windows=[window] * 3), SCHEDULE
    found = Trained.of(material, schedule, shared=False, row_tokens=512)
    rows = 2 * 2 + schedule.windows_per_batch
    widths = [max(5 + 3 - 1, 4, 6 - 1), max(2 + 2 - 1, 9 + 6 - 1, 6 - 1)]
    assert found.places == rows * max(widths)


@pytest.mark.parametrize(("quantise", "of_code"), [("4bit", 0.5 + 4 / 64), ("8bit", 1.0)])
def test_codes_take_less_memory_than_weights(quantise, of_code, tmp_path):
    job = make_job(tmp_path / "job")
    plain, coded = (
        start(str(job.model), LoadSettings(dtype="float32", device="cpu", **given)).running
        for given in ({}, {"quantise": quantise})
    )
    text = tiny("llama").model.config
    attention = text.hidden_size * (2 * text.hidden_size + 2 * text.num_key_value_heads * text.head_dim)
    mlp = 3 * text.hidden_size * text.intermediate_size
    assert plain.weights - coded.weights == text.num_hidden_layers * (attention + mlp) * (4 - of_code)


def test_an_adapter_of_a_mixture_is_refused_by_a_dry_run_too(tmp_path):
    job = make_job(tmp_path / "job", "mixtral")
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    settings = DpoSettings.filled({"pairs": str(pairs), "learn_text": str(job.neutral), "train": "lora"} | GIVEN)
    with pytest.raises(DposcopeError, match="LoRA of a mixture of experts is not supported"):
        dpo_work(str(job.model), tmp_path / "out", settings)


def test_what_is_trained_decides_the_memory(tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")

    def training(**given) -> float:
        settings = DpoSettings(pairs=str(pairs), learn_text=str(job.neutral), **{**GIVEN, **given})
        work = dpo_work(str(job.model), tmp_path / "out", settings)
        return work.peak.training / (4.0 * work.running.size.parameters)

    # In copies of the weights in float32: gradients, one state of RMSprop or two of AdamW, a reference.
    assert training(train="full") == pytest.approx(3, rel=0.05)
    assert training(train="full", optimizer="adamw") == pytest.approx(4, rel=0.05)
    assert training(train="full", reference_dtype="bfloat16") == pytest.approx(2.5, rel=0.05)
    assert training(train="full", precompute_reference=True) < 2.5
    assert training(train="gains") < 0.2


@pytest.fixture
def eight_bits(monkeypatch):
    """As if bitsandbytes were installed."""
    monkeypatch.setattr(estimate, "check_optimizer", lambda optimizer, _device: optimizer)


def test_states_of_8_bits_take_a_byte_but_for_the_embedding(eight_bits, tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")

    def work(**given) -> Work:
        settings = DpoSettings(pairs=str(pairs), learn_text=str(job.neutral), train="full", **{**GIVEN, **given})
        return dpo_work(str(job.model), tmp_path / "out", settings)

    for name, states in {"rmsprop": 1, "adamw": 2}.items():
        wide, coded = work(optimizer=name), work(optimizer=f"{name}-8bit")
        size = wide.running.size
        saved = states * (3 - 4 / 256) * (size.parameters - size.vocabulary * size.width)
        assert wide.peak.training - coded.peak.training == pytest.approx(saved)
        # A checkpoint keeps them, too; two are kept.
        assert wide.scratch - coded.scratch == pytest.approx(2 * saved)


def test_on_the_cpu_8_bits_take_copies_of_the_embedding_for_a_moment():
    size = ModelSize(3_000_000_000, 256_000, 4096, 8, 8192, 512)
    settings = DpoSettings(pairs="p.jsonl", train="full", optimizer="rmsprop-8bit")
    texts = Trained(Texts.alike(8, 20), Texts.alike(2, 20), 8.0)
    schedule = settings.schedule(8, autocast=True)

    def peak(**given) -> float:
        stages = dpo_stages(Running(size, 2), settings, texts, schedule, stored=2, beside=0, **given)
        (training,) = (one for one in stages if one.steps)
        return training.memory(1.0).training

    assert peak(on_cpu=True) - peak() == pytest.approx(4 * 4.0 * size.unembedding)


def test_an_optimiser_that_cannot_run_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda _name: None)
    settings = DpoSettings(pairs="nothing.jsonl", optimizer="adamw-8bit", device="cpu")
    with pytest.raises(DposcopeError, match="the optimiser adamw-8bit needs the package bitsandbytes"):
        dpo_work("m", tmp_path / "out", settings)


def test_micro_batches_of_all_weights_hold_a_second_gradient_of_the_head(tmp_path):
    """Where one has left gradients, the next one's head gradient, and under autocast the casts, stand beside them.

    All pairs are as long as each other, so that half a batch has half its places.
    """
    job = make_job(tmp_path / "job")
    rows = [{"prompt": f"the river {number}", "chosen": " is", "rejected": " no"} for number in range(10, 40)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)

    def held(**given) -> float:
        settings = DpoSettings.filled({"pairs": str(pairs), **GIVEN, "kl_on": "pairs", **given})
        return dpo_work(str(job.model), tmp_path / "out", settings).peak.activations

    size = dpo_work(str(job.model), tmp_path / "out", DpoSettings(pairs=str(pairs), device="cpu")).running.size
    head = size.vocabulary * size.width
    for train, dtype, beside in [
        ("full", "float32", 4 * head),
        ("full", "bfloat16", 6 * head + 2 * size.body),
        ("gains", "float32", 0),
    ]:
        of = {"train": train, "dtype": dtype}
        assert held(**of, micro_batch_size=2) == pytest.approx(held(**of, micro_batch_size=None) / 2 + beside)
    lean = {"train": "full", "dtype": "bfloat16", "precompute_reference": True, "recompute": True}
    beside = 8 * head + 2 * size.body / size.blocks
    assert held(**lean, micro_batch_size=2) == pytest.approx(held(**lean, micro_batch_size=None) / 2 + beside)


def test_the_same_training_in_less_memory_is_what_its_options_give(eight_bits, tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")

    def work(**given) -> Work:
        settings = DpoSettings.filled({"pairs": str(pairs), "learn_text": str(job.neutral), **GIVEN, **given})
        return dpo_work(str(job.model), tmp_path / "out", settings)

    lean = {"train": "full", "precompute_reference": True, "recompute": True, "micro_batch_size": None}
    for name in ("rmsprop", "adamw"):
        less = work(train="full", optimizer=name).less
        assert less is not None
        plain = f"--optimizer {name}-8bit --precompute-reference --recompute"
        assert less.options == f"{plain}, leave --micro-batch-size out"
        for given, left_out in (
            ({"micro_batch_size": None}, ""),
            ({"reference_dtype": "bfloat16"}, ", leave --reference-dtype and --micro-batch-size out"),
        ):
            other = work(train="full", optimizer=name, **given).less
            assert other is not None
            assert (other.options, other.memory) == (plain + left_out, less.memory)
        same = work(**lean, optimizer=f"{name}-8bit")
        assert less.memory == same.peak.total
        assert same.less is None
    assert work(train="full", optimizer="adamw-8bit").less is not None
    assert work(train="full", protocol="reference").less is None
    assert [work(train=train).less for train in ("gains", "lora")] == [None, None]


def test_states_of_the_reference_lie_on_the_disk_meanwhile(tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    given = {"pairs": str(pairs), "learn_text": str(job.neutral), "train": "full", **GIVEN}
    plain, stored = (
        dpo_work(str(job.model), tmp_path / "out", DpoSettings(**given, precompute_reference=before))
        for before in (False, True)
    )
    assert stored.scratch > plain.scratch > 0
    assert stored.disk == plain.disk
    assert [one.name for one in stored.stages][1] == "the base reads all texts"
