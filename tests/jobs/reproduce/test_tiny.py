"""The tiny model of the smoke preset."""

import pytest

from dposcope.data.comments import load_comments
from dposcope.data.prompts import load_prompts
from dposcope.errors import DposcopeError
from dposcope.jobs.reproduce.tiny import tiny_model
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.model.size import size_of
from helpers.jobs import contents


def test_it_is_written_once_and_always_the_same(tmp_path):
    first, second = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b")
    assert contents(first) == contents(second)
    (first / "config.json").write_text("{}")
    assert tiny_model(first) == first
    assert (first / "config.json").read_text() == "{}", "what is there stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "no scratch is left"


def test_scratch_of_a_killed_process_goes(tmp_path):
    (tmp_path / ".a-x1y2").mkdir()
    (tmp_path / ".a-x1y2/model.safetensors").write_text("half")
    tiny_model(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_config_of_something_else_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DposcopeError, match=r"config.json is that of no known model"):
        size_of(str(tmp_path))


def test_another_seed_is_another_model(tmp_path):
    one, other = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b", seed=1)
    differ = {name for name, content in contents(one).items() if contents(other)[name] != content}
    assert differ == {"model.safetensors"}


def test_it_reads_and_writes_the_built_in_texts(tmp_path):
    lm = load(tiny_model(tmp_path / "tiny"))
    prompts = load_prompts(None)[:8]
    texts = [one.text for one in generate(lm, prompts, new_tokens=10)]
    assert len(set(texts)) > 4, "greedy text does not wander"
    for text in (*prompts, *load_comments(None).texts[:20]):
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert lm.tokenizer.decode(ids) == text


def test_its_size_is_that_of_its_weights(tmp_path):
    folder = tiny_model(tmp_path / "tiny")
    lm = load(folder)
    size = size_of(str(folder))
    assert size is not None
    assert size.parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    assert (size.blocks, size.mlp, size.width, size.vocabulary) == (4, 64, 32, 512)
    assert size.key_width == 2 * 8
    assert size.body == size.parameters - 512 * 32
    assert size_of(str(tmp_path / "nothing")) is None
