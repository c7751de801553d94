"""Names of stored tensors: whatever a checkpoint calls them, the fingerprint from its files is the loaded model's."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.load import load
from dposcope.shipping.checkpoint import fold_checkpoint

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import families

OWN_NAMES = {
    "ernie4_5_moe": "e_score_correction_bias",
    "flint": "softmax_offset",
    "kolibri1": "expert_bias",
    "mimo_v2_flash": "attention_sink_bias",
    "olmo_hybrid": "k_conv1d.weight",  # one of three tensors that are one parameter of the model
}
"""Type → the end of the stored name of a tensor that is neither `weight` nor `bias` of a module, or not whole."""


@pytest.mark.parametrize("model_type", OWN_NAMES)
@pytest.mark.filterwarnings("ignore")
def test_the_fingerprint_from_files_is_the_models(model_type, tmp_path):
    source = tmp_path / "base"
    load(families.tiny(model_type), families.tokenizer()).save_pretrained(source)
    lm = load(source, dtype="float32", device="cpu")
    edit = Edit.of(Gains(torch.full((lm.n_blocks, lm.d_mlp), 0.5)), about={"fingerprint": lm.fingerprint})
    assert fold_checkpoint(source, edit, tmp_path / "own").notes == ()
    file = source / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(OWN_NAMES[model_type]))
    tensors[name] = tensors[name] + 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert load(source, dtype="float32", device="cpu").fingerprint != lm.fingerprint
    assert "the edit was made for other weights" in fold_checkpoint(source, edit, tmp_path / "other").notes[0]
