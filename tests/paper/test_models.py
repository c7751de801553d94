"""The paper's models are known by their hub ids, and by the config of a folder; their siblings are not."""

import json
from pathlib import Path

import pytest

from dposcope.errors import DposcopeError
from dposcope.paper.models import MODELS, recognise

GPT2, LLAMA, GEMMA, MISTRAL = MODELS

CONFIGS = {
    # GPT-2's config names its sizes in its own way and leaves the MLP's width out.
    GPT2.name: {"model_type": "gpt2", "n_layer": 24, "n_embd": 1024, "n_inner": None, "n_positions": 1024},
    LLAMA.name: {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
    },
    GEMMA.name: {"model_type": "gemma2", "num_hidden_layers": 26, "hidden_size": 2304, "intermediate_size": 9216},
    MISTRAL.name: {"model_type": "mistral", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336},
}


def folder(path: Path, config: dict[str, object], name: str = "checkpoint") -> str:
    made = path / name
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(made)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_hub_ids_are_known_by_name(model):
    for name in (*model.hub_ids, model.hub_ids[0].upper()):
        found = recognise(name)
        assert found is not None
        assert (found.model, found.remark) == (model, "")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_folders_are_known_by_their_config_alone(model, tmp_path):
    name = folder(tmp_path, CONFIGS[model.name])
    found = recognise(name)
    assert found is not None
    assert found.model is model
    assert found.remark == f"{name} is taken for {model.name} by its config alone, which says nothing of its weights"


def test_a_config_at_hand_needs_no_folder():
    found = recognise("mistralai/Mistral-7B-v0.3", CONFIGS[MISTRAL.name])
    assert found is not None
    assert found.model is MISTRAL
    assert "by its config alone" in found.remark


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("change", ["model_type", "blocks", "width", "mlp"])
def test_another_architecture_or_size_is_another_model(name, change, tmp_path):
    config = dict(CONFIGS[name])
    places = {
        "model_type": ("model_type",),
        "blocks": ("n_layer", "num_hidden_layers"),
        "width": ("n_embd", "hidden_size"),
        "mlp": ("n_inner", "intermediate_size"),
    }
    (place,) = [place for place in places[change] if place in config]
    config[place] = "phi3" if change == "model_type" else (config[place] or 4096) + 1
    assert recognise(folder(tmp_path, config)) is None


def test_an_older_llama_of_the_same_size_is_another_model(tmp_path):
    config = {**CONFIGS[LLAMA.name], "max_position_embeddings": 8192}
    assert recognise(folder(tmp_path, config)) is None
    del config["max_position_embeddings"]
    assert recognise(folder(tmp_path, config, "bare")) is None


@pytest.mark.parametrize(
    "name", ["google/gemma-2-2b-it", "some/Gemma-2-2B-Instruct", "gemma-2-2b_chat", "/models/gemma2-dpo", "it"]
)
def test_a_name_that_says_it_was_tuned_is_another_model(name):
    assert recognise(name, CONFIGS[GEMMA.name]) is None


@pytest.mark.parametrize("name", ["gemma-2-2b-copy", "kitten", "italic/gemma-2-2b"])
def test_other_names_do_not_matter(name):
    assert recognise(name, CONFIGS[GEMMA.name]) is not None


def test_without_a_config_an_unknown_name_is_no_model_of_the_paper(tmp_path):
    assert recognise("gemma-3-270m") is None
    assert recognise(str(tmp_path)) is None


def test_a_folder_called_like_a_hub_id_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, CONFIGS[MISTRAL.name], "gpt2-medium")
    found = recognise("gpt2-medium")
    assert found is not None
    assert found.model is MISTRAL


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_config_is_told(text, tmp_path):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(DposcopeError, match=r"config\.json.*; name a folder written by save_pretrained"):
        recognise(str(tmp_path))
