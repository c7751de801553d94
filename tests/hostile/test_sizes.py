"""Sizes that no model has, texts that are too long or too short, and fields that are long but good."""

import io
import json
import os
import shutil
import struct
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from dposcope.model.adapter import WEIGHTS
from helpers.families import bos_tokenizer, tiny
from helpers.gguf_models import write_llama
from helpers.hostile import refused
from helpers.jobs import Job, command, contents, make_job, write_csv, write_jsonl


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    tiny("gpt2").save_pretrained(folder)
    return folder


def changed(model: Path, place: Path, **values: object) -> Path:
    """A copy of a checkpoint with other values in its config."""
    shutil.copytree(model, place)
    config = json.loads((model / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | values))
    return place


# Configs

NAMES = ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "head_dim"]
OLD_NAMES = ["n_layer", "n_embd", "n_inner", "n_head", "n_positions"]


@pytest.mark.parametrize("name", [*NAMES, *OLD_NAMES, "num_key_value_heads", "max_position_embeddings"])
def test_sizes_of_a_config(job, gpt2, tmp_path, name):
    for number, size in enumerate((0, -1, 10**18, "3", 3.5, True, {})):
        model = changed(gpt2 if name in OLD_NAMES else job.model, tmp_path / f"{number}", **{name: size})
        line = refused(["lens", model, "--neuron", "0.0"])
        assert f"config.json has {name} {str(size)!r}, and a model has 1 to " in line
        assert line.endswith("; download it again")


@pytest.mark.parametrize("depth", [4, 1000, 10**6])
@pytest.mark.parametrize("order", ["lens", "fold", "edit", "explain", "dpo", "reproduce"])
def test_a_model_that_promises_blocks(job, tmp_path, depth, order):
    """A million blocks would take hours to build; four are one more than the weights have."""
    model = changed(job.model, tmp_path / "model", num_hidden_layers=depth)
    pairs = write_jsonl(
        tmp_path / "pairs.jsonl", [{"prompt": f"{n}", "chosen": " a", "rejected": " b"} for n in range(4)]
    )
    out = ["--out", tmp_path / "out"]
    given = {
        "lens": ["lens", model, "--neuron", "0.0"],
        "fold": ["fold", model, "--edit", "gemma-3-270m", *out],
        "edit": ["edit", model, *out, *job.flags()],
        "explain": ["explain", model, job.model, *out, *job.flags()],
        "dpo": ["dpo", model, "--pairs", pairs, *out],
        "reproduce": ["reproduce", model, "--preset", "smoke", "--dry-run", *out],
    }[order]
    line = refused(given)
    told = f"says {depth:,} blocks, but its weights hold 3" if depth <= 1000 else f"has num_hidden_layers '{depth}'"
    assert told in line


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "1", "null", '"x"', "[" * 100_000, "9" * 5000, '{"a": 1', "\0", "é"]
)
def test_configs_that_are_none(job, tmp_path, content):
    model = tmp_path / "model"
    shutil.copytree(job.model, model)
    (model / "config.json").write_bytes(content.encode("latin-1"))
    line = refused(["lens", model, "--neuron", "0.0"])
    assert "config.json " in line


def test_a_config_of_gigabytes(job, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(job.model, model)
    os.truncate(model / "config.json", 1 << 40)
    assert "bytes, the most that are read of such a file" in refused(["lens", model, "--neuron", "0.0"])


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "nonsense"},
        {"model_type": 7},
        {"model_type": None},
        {"num_attention_heads": 5},
        {"hidden_size": 17},
        {"num_attention_heads": 16, "num_key_value_heads": 5},
        {"vocab_size": 95},
        {"vocab_size": 10_000_000},
        {"intermediate_size": 10_000_000},
        {"pad_token_id": 10**12},
        {"pad_token_id": "x"},
        {"hidden_act": "nonsense"},
        {"rope_parameters": {"rope_type": "nonsense"}},
        {"torch_dtype": "nonsense", "dtype": "nonsense"},
    ],
    ids=str,
)
def test_configs_that_fit_nothing(job, tmp_path, values):
    """Libraries answer them each in its own way."""
    model = changed(job.model, tmp_path / "model", **values)
    assert refused(["lens", model, "--neuron", "0.0"])


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size"])
@pytest.mark.parametrize("size", [0, 10**12])
def test_sizes_of_a_classifier(job, tmp_path, name, size):
    config = BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    bos_tokenizer().save_pretrained(tmp_path / "bert")
    scorer = changed(tmp_path / "bert", tmp_path / "model", **{name: size})
    line = refused(["edit", job.model, "--out", tmp_path / "out", *job.flags(scorer=str(scorer))])
    assert f"config.json has {name} '{size}'" in line


# GGUF

GGUF = {
    "as many blocks as the file has": ({"block_count": 200}, "says 200 blocks, but holds 3"),
    "a million blocks": ({"block_count": 10**6}, "has num_hidden_layers '1000000'"),
    "no block": ({"block_count": 0}, "has num_hidden_layers '0'"),
    "no width": ({"embedding_length": 0}, "has hidden_size '0'"),
    "a large width": ({"embedding_length": 10**12}, "has hidden_size"),
    "no neurons": ({"feed_forward_length": 0}, "has intermediate_size '0'"),
    "no heads": ({"head_count": 0}, "has num_attention_heads '0'"),
    "a large vocabulary": ({"vocab_size": 10**12}, "has vocab_size"),
    "a large context": ({"context_length": 10**18}, "has max_position_embeddings"),
}


@pytest.mark.parametrize("name", GGUF)
@pytest.mark.parametrize("order", ["lens", "fold"])
def test_sizes_of_a_gguf_file(tmp_path, name, order):
    sizes, told = GGUF[name]
    model = write_llama(tiny("llama"), tmp_path / "a.gguf", **sizes)
    rest = ["--neuron", "0.0"] if order == "lens" else ["--edit", "gemma-3-270m", "--out", tmp_path / "b.gguf"]
    assert told in refused([order, model, *rest])


COUNTS = {
    "fields": struct.pack("<IQQ", 3, 0, 2**62),
    "tensors": struct.pack("<IQQ", 3, 2**62, 0),
    "letters of a name": struct.pack("<IQQQ", 3, 0, 1, 2**62),
    "items of a list": struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**62),
    "texts of a list": struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 8, 2**62),
    "lists of a list": struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 2**62),
    "letters of a text": struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IQ", 8, 2**62),
    "dimensions": struct.pack("<IQQQ", 3, 1, 0, 1) + b"a" + struct.pack("<I", 2**32 - 1),
    "another version": struct.pack("<IQQ", 2**31, 0, 0),
    "nothing": b"",
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_a_gguf_file(tmp_path, name):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + COUNTS[name])
    line = refused(["lens", tmp_path / "a.gguf", "--neuron", "0.0"])
    assert "cannot read" in line
    assert "as GGUF" in line
    assert line.endswith("; is the file whole?")


def test_a_gguf_file_that_lacks_a_tensor(tmp_path):
    model = write_llama(tiny("llama"), tmp_path / "a.gguf", leave_out=["blk.0.attn_q"])
    assert "has no model.layers.0.self_attn.q_proj.weight" in refused(["lens", model, "--neuron", "0.0"])


@pytest.mark.parametrize("rank", [0, -1, 10**9, "8", 2.5, True])
@pytest.mark.parametrize("name", ["r", "rank_pattern"])
def test_ranks_of_an_adapter(job, tmp_path, rank, name):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    where = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    save_file({where: torch.zeros(2, 24), where.replace("_A", "_B"): torch.zeros(16, 2)}, adapter / WEIGHTS)
    ranks = {"r": rank} if name == "r" else {"r": 2, "rank_pattern": {"down_proj": rank}}
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "target_modules": ["down_proj"], "lora_alpha": 4, **ranks})
    )
    given = ["explain", job.model, adapter, "--out", tmp_path / "out", *job.flags()]
    assert f"has the rank {str(rank)!r}, and its tensors have at most 24" in refused(given)


# Tables


def repeated(text: str, rows: int) -> bytes:
    """A table of equal rows as Parquet: a few kilobytes, whatever it holds."""
    stream = io.BytesIO()
    pl.DataFrame({"prompt": pl.Series([text]).new_from_index(0, rows)}).write_parquet(stream)
    return stream.getvalue()


def test_a_small_file_of_many_rows(job, tmp_path):
    path = tmp_path / "prompts.parquet"
    path.write_bytes(repeated("a", 10_000_001))
    assert path.stat().st_size < 1_000_000
    line = refused(["edit", job.model, "--out", tmp_path / "out", *job.flags(prompts=path)])
    assert "has 10,000,001 rows or more, and at most 10,000,000 are read; give a part of it" in line


def test_a_small_file_of_many_bytes(job, tmp_path):
    path = tmp_path / "prompts.parquet"
    path.write_bytes(repeated("a" * 10_000, 110_000))
    assert path.stat().st_size < 1_000_000
    line = refused(["edit", job.model, "--out", tmp_path / "out", *job.flags(prompts=path)])
    assert "bytes of data, and at most 1,073,741,824 are read; give a part" in line


@pytest.mark.parametrize(
    ("suffix", "row"), [(".jsonl", "{}\n"), (".csv", "\n"), (".txt", "\n"), (".txt", "\r"), (".json", "{{{,")]
)
def test_rows_that_are_too_many(job, tmp_path, suffix, row, monkeypatch):
    monkeypatch.setattr("dposcope.data.tables.MOST_ROWS", 1000)
    path = tmp_path / f"prompts{suffix}"
    path.write_bytes(("prompt" + row * 1001).encode())
    line = refused(["edit", job.model, "--out", tmp_path / "out", *job.flags(prompts=path)])
    assert "has 1,001 rows or more, and at most 1,000 are read; give a part of it" in line


# Texts


def prose(count: int) -> str:
    return ("the river is long and quiet. you are a stupid idiot, said the old man. " * (count // 70 + 1))[:count]


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> dict[str, Path]:
    """Tables with one text of three million letters among short ones."""
    root = tmp_path_factory.mktemp("long")
    text = prose(3_000_000)
    prompts = [{"prompt": f"the river {n}"} for n in range(12)]
    write_jsonl(root / "prompts.jsonl", [*prompts, {"prompt": text}])
    rows = [[f"kind words {n}", 0] for n in range(40)] + [[f"you idiot {n}", 1] for n in range(40)]
    shuffled = [row for pair in zip(rows[:40], rows[40:], strict=True) for row in pair]
    write_csv(root / "comments.csv", ["comment_text", "toxic"], [[text, 1], *shuffled, [text[1:], 1]])
    pair = [{"prompt": f"the {n}", "chosen": " river is long", "rejected": " stupid man"} for n in range(8)]
    write_jsonl(root / "pairs.jsonl", [*pair, {"prompt": text, "chosen": " " + text, "rejected": " a " + text}])
    return {path.stem: path for path in root.iterdir()}


def test_a_field_of_hundreds_of_kilobytes_is_read(job, long, tmp_path, capsys):
    """In a CSV file, whose reader has a limit of its own of 128 kB."""
    told = command(capsys, "probe", job.model, "--comments", long["comments"], "--out", tmp_path / "d", "--json")
    assert told.code == 0, told.err


def test_a_quotation_mark_that_never_closes_is_still_told(job, tmp_path):
    path = tmp_path / "comments.csv"
    path.write_text('comment_text,toxic\nfine,0\n"open,1\n' + "a word,0\n" * 50_000)
    line = refused(["probe", job.model, "--comments", path, "--out", tmp_path / "d"])
    assert "look for a quotation mark that never closes" in line


@pytest.mark.slow
def test_long_texts_cost_what_short_ones_do(job, long, tmp_path, capsys):
    """Each of these took a gigabyte and more, and most of a minute."""
    learn = [
        "--max-examples",
        8,
        "--train",
        "gains",
        "--learn-text",
        job.neutral,
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    told = command(capsys, "dpo", job.model, "--pairs", long["pairs"], "--out", tmp_path / "dpo", *learn, "--quiet")
    assert told.code == 0, told.err
    told = command(capsys, "pairs", "check", long["pairs"], "--json")
    assert told.code == 0, told.err


@pytest.mark.parametrize("letter", ["a", " ", "\u3042"])
def test_a_run_of_one_letter_is_refused_where_it_cannot_be_cut(job, tmp_path, letter):
    rows = [{"prompt": f"the {n}", "chosen": " river is long", "rejected": " stupid man"} for n in range(8)]
    run = "x" + letter * 2_000_000 + "y"
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [*rows, {"prompt": "the", "chosen": run, "rejected": run + "z"}])
    flags = ["--train", "gains", "--dtype", "float32", "--device", "cpu"]
    line = refused(["dpo", job.model, "--pairs", pairs, "--out", tmp_path / "out", *flags], within=60)
    assert "characters, too many to be made tokens of at once; shorten it to" in line


# Texts that are too short

SHORT = {
    "edit": ("has 0 windows of 128 tokens; give a longer one, with at least 10", []),
    "edit as given": ("gives no window of 128 tokens; give a longer text", ["--alpha", "0.1"]),
    "evaluate": ("gives no window of 128 tokens; give a longer text", []),
    "explain": ("gives no window of 128 tokens; give a longer text", []),
    "dpo": ("fewer than a window of 127; use a longer text", []),
    "tune": ("cannot be divided; give a longer one, or two files", []),
    "tune with a text of its own": ("has 0 windows of 128 tokens; give a longer one", []),
}


@pytest.mark.parametrize("order", SHORT)
def test_neutral_text_that_is_too_short_is_told_at_once(job, tmp_path, order):
    """Before anything is computed: the folder is not there, and the mended command finds it free."""
    short = tmp_path / "short.txt"
    short.write_text("the river is long and quiet")
    told, flags = SHORT[order]
    given: list[object] = [order.split()[0], job.model]
    if order == "explain":
        given.append(job.model)
    if order == "dpo":
        rows = [{"prompt": f"the {n}", "chosen": " river is long", "rejected": " stupid man"} for n in range(8)]
        pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
        given += ["--pairs", pairs, "--learn-text", short, "--train", "gains", "--dtype", "float32", "--device", "cpu"]
    elif order == "tune":
        given += job.learn_flags(learn_text=short, split="halves")
    elif order == "tune with a text of its own":
        given += job.learn_flags(learn_text=short, neutral=str(job.neutral), split="halves")
    else:
        given += job.flags(neutral=short)
    assert told in refused([*given, *flags, "--out", tmp_path / "out"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["edit", "evaluate"])
def test_the_mended_command_is_accepted_in_the_folder(job, tmp_path, capsys, order):
    short = tmp_path / "short.txt"
    short.write_text("the river is long and quiet")
    out = tmp_path / "out"
    flags = ["--alpha", "0.1", "--no-controls"] if order == "edit" else []
    (tmp_path / "out").mkdir()
    refused([order, job.model, "--out", out, *job.flags(neutral=short), *flags])
    assert contents(out) == {}
    told = command(capsys, order, job.model, "--out", out, *job.flags(), *flags, "--quiet")
    assert told.code == 0, told.err


def test_too_few_prompts_for_a_search_are_told_at_once(job, tmp_path):
    few = write_jsonl(tmp_path / "few.jsonl", [{"prompt": f"the river {n}"} for n in range(12)])
    line = refused(["tune", job.model, "--out", tmp_path / "out", *job.learn_flags(prompts=few)])
    assert "the search has 3 prompts; give more in --prompts" in line
