"""A model without its weights: sizes, tokenizer and precision are those of the loaded one."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.model.load import load
from dposcope.model.outline import outline
from dposcope.model.size import model_size
from helpers.families import TEXTS, tiny


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_is_that_of_the_loaded_model(family, tmp_path):
    lm = tiny(family)
    lm.model.to(torch.bfloat16)
    lm.save_pretrained(tmp_path / "model")
    found, loaded = outline(tmp_path / "model"), load(tmp_path / "model", device="cpu")
    assert found.size == model_size(loaded.model)
    assert found.stored == loaded.dtype == torch.bfloat16
    assert found.running("auto", torch.device("cpu")) == torch.bfloat16
    assert found.running("float32", torch.device("cpu")) == torch.float32
    assert found.lm.device.type == "meta"
    assert found.lm.tokenizer(TEXTS)["input_ids"] == loaded.tokenizer(TEXTS)["input_ids"]
    files = [file for file in (tmp_path / "model").iterdir() if file.suffix != ".safetensors"]
    assert found.beside == sum(file.stat().st_size for file in files) > 0


def test_other_weights_in_the_folder_do_not_stand_beside_it(tmp_path):
    """As in many repositories of the hub: they are neither read nor copied."""
    folder = tmp_path / "model"
    tiny("llama").save_pretrained(folder)
    before = outline(folder).beside
    for name in ("pytorch_model.bin", "tf_model.h5", "report.html"):
        (folder / name).write_bytes(bytes(10_000_000))
    assert outline(folder).beside == before


def test_a_bundled_model_is_not_built_for_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path))
    with pytest.raises(DposcopeError, match="is not in the cache, and a dry run writes nothing"):
        outline("gemma-3-270m")
    assert not list(tmp_path.iterdir())
