"""The config of a checkpoint: its sizes are those of a model, and its weights have what it promises."""

import json
import os

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.checks.config import check_files, check_sizes, read_config


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def test_a_true_one_is_read(folder):
    assert read_config(folder).num_hidden_layers == 3


@pytest.mark.parametrize("size", [0, -1, 10**12, 3.5, True, "3", float("nan"), [3, 0], {}])
@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer", "hidden_size", "vocab_size", "head_dim"])
def test_what_is_no_size(name, size):
    with pytest.raises(
        DposcopeError, match=f"somewhere has {name} '.*', and a model has 1 to [0-9,]+; download it again"
    ):
        check_sizes({name: size}, "somewhere")
    with pytest.raises(DposcopeError, match=f"somewhere has {name}"):
        check_sizes({"text_config": {name: size}}, "somewhere")


@pytest.mark.parametrize("config", [{}, {"n_inner": None}, {"intermediate_size": [24, 48]}, {"num_experts": 0}])
def test_what_real_configs_hold(config):
    check_sizes(config, "somewhere")


def test_more_blocks_than_the_weights_have(folder):
    changed(folder, num_hidden_layers=4)
    with pytest.raises(DposcopeError, match="says 4 blocks, but its weights hold 3; download it again"):
        read_config(folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert read_config(folder).num_hidden_layers == 4, "what cannot be read is left to the loader"


def test_fewer_blocks_than_the_weights_have_are_for_the_loader(folder):
    """Some checkpoints hold further ones, to predict several tokens."""
    assert read_config(changed(folder, num_hidden_layers=2)).num_hidden_layers == 2


def test_a_config_that_the_library_stumbles_over(folder):
    changed(folder, num_attention_heads=3, head_dim=None)
    with pytest.raises(DposcopeError, match=r"its config\.json is that of no known model .*not a multiple"):
        read_config(folder)


def test_a_pipe_in_the_folder(folder):
    check_files(folder)
    (folder / "away").symlink_to("nowhere")
    check_files(folder)
    (folder / "templates").mkdir()
    os.mkfifo(folder / "templates" / "chat.jinja")
    with pytest.raises(DposcopeError, match=r"chat\.jinja is a pipe"):
        check_files(folder)
