"""What makes one model another beside its weights: its identity tells, and nothing else changes it."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from dposcope.model.checks.identity import identity, tokenizer_digest
from dposcope.model.load import load
from helpers.families import TEXTS, bos_tokenizer, copied, gpt2_like_tokenizer
from helpers.tokenizers import TOKENIZERS


def changed(folder, name, **settings):
    told = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(told | settings))
    return load(folder, dtype="float32", device="cpu")


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_model_that_is_loaded_again_is_the_same(lm, tmp_path):
    lm.save_pretrained(tmp_path / "m")
    one, other = (load(tmp_path / "m", dtype="float32", device="cpu") for _ in range(2))
    assert identity(one) == identity(other)
    assert identity(one).startswith(one.fingerprint)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"rms_norm_eps": 0.5}),
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}),
        ("generation_config.json", {"eos_token_id": [1]}),
    ],
)
def test_settings_that_change_numbers_or_ends_make_another_model_of_the_same_weights(folder, file, settings):
    before = load(folder, dtype="float32", device="cpu")
    after = changed(folder, file, **settings)
    assert after.fingerprint == before.fingerprint
    assert identity(after) != identity(before)


def test_what_a_trainer_notes_in_a_config_changes_nothing(folder):
    before = load(folder, dtype="float32", device="cpu")
    assert identity(changed(folder, "config.json", trained_by="somebody", attention_dropout=0.1)) == identity(before)


def test_a_tokenizer_is_known_by_what_it_does(llama):
    fewer = bos_tokenizer()
    state = json.loads(fewer.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][:-1]
    fewer = type(fewer)(tokenizer_object=type(fewer.backend_tokenizer).from_str(json.dumps(state)))
    assert identity(replace(llama, tokenizer=fewer)) != identity(llama)
    assert identity(replace(llama, writer=gpt2_like_tokenizer())) != identity(llama)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_reading_a_batch_does_not_make_another_tokenizer(kind, tmp_path):
    TOKENIZERS[kind]().save_pretrained(tmp_path)
    used, added, untouched = (AutoTokenizer.from_pretrained(tmp_path) for _ in range(3))
    used.pad_token = used.unk_token or used.eos_token
    used(TEXTS, padding=True, truncation=True, max_length=4)
    assert tokenizer_digest(used) == tokenizer_digest(added) == tokenizer_digest(untouched)
    added.add_tokens(["river"])
    assert tokenizer_digest(added) != tokenizer_digest(untouched)


def test_other_weights_are_another_model(llama):
    other = copied(llama)
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1
    assert identity(other) != identity(llama)
