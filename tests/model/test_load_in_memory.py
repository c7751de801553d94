"""A model and tokenizer that the caller loaded: the same numbers as from a folder, no copy, and the same refusals."""

import copy
import warnings

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification, OPTConfig, OPTForCausalLM

from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.neurons.activations import collect_means
from dposcope.neurons.groups import cosines
from helpers.adapters import lora
from helpers.families import CONFIGS, TEXTS, VOCABULARY, bits, bos_tokenizer, build, logits_of, random_direction

IDS = [2, 40, 41, 55, 60]


def test_numbers_are_those_of_the_folder_to_the_bit(lm, tmp_path):
    lm.save_pretrained(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    mine, folder = load(model, tokenizer), load(tmp_path / "m")
    assert type(mine) is type(folder)
    assert (mine.name, mine.fingerprint, mine.notes) == (folder.name, folder.fingerprint, folder.notes)
    assert generate(mine, TEXTS) == generate(folder, TEXTS)
    one, other = (collect_means(each, TEXTS, new_tokens=4) for each in (mine, folder))
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.second_moment, other.second_moment)
    assert one.about == other.about
    direction = random_direction(lm)
    assert torch.equal(cosines(mine, direction), cosines(folder, direction))
    losses = [window_losses(each, " ".join(TEXTS), window=16).nll for each in (mine, folder)]
    assert np.array_equal(*losses)


def test_the_model_itself_is_used_and_no_weight_is_copied(llama):
    model, before = copy.deepcopy(llama.model), bits(llama.model)
    mine = load(model, llama.tokenizer)
    assert mine.model is model
    assert mine.tokenizer is llama.tokenizer
    assert bits(model) == before
    assert mine.name == "model"


def test_training_mode_is_ended_and_said(llama):
    model = copy.deepcopy(llama.model).train()
    mine = load(model, llama.tokenizer)
    assert not any(module.training for module in model.modules())
    assert mine.notes == ("set to evaluation mode",)
    assert load(model, llama.tokenizer).notes == ()


def test_a_tuned_model_in_memory_is_compared_with_its_base(family_lm):
    for family in ("llama", "smollm"):  # with and without tied embeddings
        base = family_lm(family)
        model = copy.deepcopy(base.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.resize_token_embeddings(VOCABULARY + 8, mean_resizing=False)
        before = bits(model)
        tuned = load(model, bos_tokenizer(), base=base)
        assert tuned.notes == ("8 rows of its embedding that stand for no token left out",)
        assert torch.equal(logits_of(tuned, IDS), logits_of(base, IDS))
        assert bits(model) == before
        assert model.get_input_embeddings().weight.shape[0] == VOCABULARY + 8
        assert tuned.blocks[0] is not model.model.layers[0]
        assert tuned.mlp_outs[0].weight.data_ptr() == model.model.layers[0].mlp.down_proj.weight.data_ptr()


def quantised(llama):
    model = copy.deepcopy(llama.model)
    codes = torch.zeros(16, 24, dtype=torch.int8)
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(codes, requires_grad=False)
    return model


def broken(llama):
    model = copy.deepcopy(llama.model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    return model


def wrapped(llama):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(copy.deepcopy(llama.model), lora("llama"))


def compiled(llama):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(llama.model)


def unknown(_llama):
    config = OPTConfig(
        vocab_size=96, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=8
    )
    model = OPTForCausalLM(config)
    model.config.model_type = "nothing-known"
    model.model.decoder.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
    return model.eval()


REFUSED = {
    r"an output projection is a Linear with int8, .* load the model unquantised": quantised,
    r"is broken: model\.layers\.1\.mlp\.down_proj\.weight holds NaN": broken,
    r"holds a PEFT adapter; merge it first, with model = model\.merge_and_unload\(\)": wrapped,
    r"holds a PEFT adapter; ": lambda llama: wrapped(llama).base_model.model,
    r"is compiled, and compiled code may skip hooks; give the plain model": compiled,
    r"no layout for model_type 'nothing-known'; call dposcope\.register_layout": unknown,
    r"a Linear is no Hugging Face model; give one such as": lambda _: nn.Linear(2, 2),
    r"a list is no model; give a name": lambda _: [],
    r"not a causal language model; load it with AutoModelForCausalLM": lambda llama: LlamaForSequenceClassification(
        llama.model.config
    ),
    r"some weights of the model are not in memory": lambda llama: copy.deepcopy(llama.model).to("meta"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_no_plain_model_is_refused_in_one_line(llama, line):
    with pytest.raises(DposcopeError, match=line) as told:
        load(REFUSED[line](llama), llama.tokenizer)
    assert "\n" not in str(told.value)


def test_a_merged_adapter_is_an_ordinary_model(llama):
    model = wrapped(llama)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        expected = model.eval()(input_ids=torch.tensor([IDS])).logits[0]
    merged = load(model.merge_and_unload(), llama.tokenizer)
    assert torch.allclose(logits_of(merged, IDS), expected, atol=1e-4)
    assert not torch.allclose(logits_of(merged, IDS), logits_of(llama, IDS), atol=1e-2)


def test_wrong_settings_of_a_model_in_memory(llama, tmp_path):
    model, tokenizer = llama.model, llama.tokenizer
    with pytest.raises(DposcopeError, match=r"needs its tokenizer, and none was given; call load\(model, tokenizer\)"):
        load(model)
    with pytest.raises(DposcopeError, match="a str is none"):
        load(model, "gpt2")
    with pytest.raises(DposcopeError, match=r"is in float32; leave dtype out, or call model\.to\(torch\.bfloat16\)"):
        load(model, tokenizer, dtype="bfloat16")
    with pytest.raises(DposcopeError, match=r"no CUDA device|is on cpu; leave device out"):
        load(model, tokenizer, device="cuda")
    with pytest.raises(DposcopeError, match="has its own tokenizer"):
        load(tmp_path, tokenizer)
    again = load(model, tokenizer, dtype=torch.float32, device="cpu")
    assert again.model is model


def test_a_tokenizer_with_tokens_that_have_no_embedding_is_refused(llama):
    tokenizer = bos_tokenizer()
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(DposcopeError, match="1 token beyond the 96 rows of its embedding"):
        load(llama.model, tokenizer)


def test_half_precision_stays(llama):
    model = build(CONFIGS["llama"](), dtype=torch.bfloat16)
    assert load(model, llama.tokenizer).dtype == torch.bfloat16
