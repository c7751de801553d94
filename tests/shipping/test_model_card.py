"""The folded checkpoint: whole or not at all, and a card that tells what was done."""

import copy
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dposcope.artefacts import current_umask
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import summarise
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import shipped_edit, shipped_edits
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.model_card import model_card, write_checkpoint
from helpers.families import bits, random_direction, random_gains
from helpers.jobs import contents
from helpers.pages import STARRED, STRONG, page, whole_page


def some_edit(lm: LanguageModel, **about) -> Edit:
    return Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm), weight=0.7), about=about)


def test_plain_transformers_loads_it(lm, tmp_path):
    """On every family: weights, tokenizer, generation config."""
    before = bits(lm.model)
    write_checkpoint(lm, some_edit(lm), tmp_path / "model")
    assert bits(lm.model) == before
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([lm.tokenizer("the old man by the river")["input_ids"]])
    if lm.model.config.model_type != "qwen2":  # whose own class of tokenizer is made for another vocabulary
        assert tokenizer("the old man by the river")["input_ids"] == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, fold(lm, some_edit(lm)).model(ids).logits)
    assert model.generation_config.eos_token_id == lm.model.generation_config.eos_token_id
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == lm.model.config.model_type


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_keeps_the_models_precision(llama, tmp_path, dtype):
    from helpers.families import tiny

    write_checkpoint(tiny("llama", dtype=dtype), some_edit(llama), tmp_path / "model")
    assert {tensor.dtype for tensor in load_file(tmp_path / "model/model.safetensors").values()} == {dtype}


def test_others_can_read_all_of_it(llama, tmp_path):
    """A tokenizer with several chat templates leaves a folder of them."""
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ messages }} {{ tools }}"}
    write_checkpoint(replace(llama, tokenizer=tokenizer), some_edit(llama), tmp_path / "model")
    mask = current_umask()
    assert (tmp_path / "model/additional_chat_templates/tool_use.jinja").is_file()
    for path in [tmp_path / "model", *(tmp_path / "model").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_the_edit_lies_beside_it(llama, tmp_path):
    edit = some_edit(llama, note="x")
    write_checkpoint(llama, edit, tmp_path / "model")
    again = Edit.load(tmp_path / "model/dposcope_edit")
    assert torch.equal(again.gains.values, edit.gains.values)
    assert again.about == {"note": "x"}


def test_what_was_there_is_replaced_whole(llama, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old.bin").write_text("x")
    write_checkpoint(llama, some_edit(llama), tmp_path / "model")
    assert not (tmp_path / "model/old.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_others_may_read_it(llama, tmp_path):
    mask = os.umask(0o022)
    try:
        write_checkpoint(llama, some_edit(llama), tmp_path / "model")
    finally:
        os.umask(mask)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "model").iterdir()} == {
        path.name: "0o644" for path in (tmp_path / "model").iterdir()
    }


@pytest.mark.parametrize("kind", ["os", "safetensors", "runtime"])
def test_a_full_disk_leaves_the_old_one(llama, tmp_path, monkeypatch, kind):
    import errno

    from safetensors import SafetensorError

    errors = {
        "os": OSError(errno.ENOSPC, "No space left on device"),
        "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "runtime": RuntimeError("unexpected pos 64 vs 0"),
    }
    write_checkpoint(llama, some_edit(llama), tmp_path / "model")
    before, weights = contents(tmp_path), bits(llama.model)

    def full(*_arguments, **_options):
        raise errors[kind]

    monkeypatch.setattr("dposcope.model.language_model.LanguageModel.save_pretrained", full)
    with pytest.raises(DposcopeError, match=r"cannot write .*model: .*; free some space and run again"):
        write_checkpoint(llama, Edit.of(ablate(random_direction(llama))), tmp_path / "model")
    assert contents(tmp_path) == before
    assert bits(llama.model) == weights


# The card


def scores(n: int = 8):
    draw = np.random.default_rng(0)

    def outcome() -> Outcome:
        return Outcome.from_json(
            {
                "continuations": ["a b"] * n,
                "per_prompt": {name: draw.random(n).tolist() for name in ("toxicity", "repetition", "empty")},
                "f1": draw.random(3).tolist(),
                "window_nll": draw.random(2).tolist(),
                "window_tokens": [5, 5],
            }
        )

    return summarise({"none": outcome(), "edit": outcome(), "other": outcome()}, protocol="reference", model="m")


def test_the_card_has_numbers_before_and_after(llama):
    measured = scores()
    card = model_card(llama, some_edit(llama), measured)
    assert "reference protocol" in card
    for measure, estimate in measured.conditions["edit"].items():
        before = measured.conditions["none"][measure]
        assert f"| {measure} | {before} | {estimate} | {estimate.n} |" in card


def test_the_card_of_another_concept_names_it(llama):
    measured = replace(scores(), concept="rain talk")
    card = model_card(llama, some_edit(llama), measured)
    assert f"| rain talk | {measured.conditions['none']['toxicity']} |" in card
    assert "| toxicity |" not in card


@pytest.mark.parametrize("name", ["plain", 'quo"ted', "back\\slash", "org/model: v2 #1"])
def test_the_cards_head_is_yaml(llama, name):
    from dataclasses import replace

    import yaml

    card = model_card(replace(llama, name=name), some_edit(llama), None)
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == name
    assert head["library_name"] == "transformers"


def test_without_scores_the_card_claims_none(llama):
    card = model_card(llama, some_edit(llama, beta=0.55), None)
    assert "Measured" not in card
    assert "- beta: 0.55" in card
    assert "What was not tested" in card


def test_a_card_speaks_only_of_what_was_done(llama):
    """A card of an ablation alone does not tell of neurons that were chosen."""
    ablation = Edit.of(ablate(random_direction(llama)))
    gains = Edit.of(Gains(random_gains(llama)))
    assert "- Gains:" not in model_card(llama, ablation, None)
    assert "- Ablation:" not in model_card(llama, gains, None)
    assert "- Gains:" in model_card(llama, gains, None)
    assert "- Ablation:" in model_card(llama, ablation, None)
    later = model_card(llama, Edit.of(ablate(random_direction(llama), blocks=(1, 2), attention=False)), None)
    assert "attention" not in later
    assert "1, 2" in later


def test_the_card_tells_the_four_groups_of_their_edits_only(llama):
    gains, said = Gains(random_gains(llama)), "chosen by the four groups"
    dpo = {"beta": 0.1, "pairs": 496}
    for about, trained, told in (
        ({"beta": 0.55, "ranking": "cosine"}, "nothing", True),  # dposcope edit
        ({"made by": "dposcope tune", "source": "groups"}, "nothing", True),
        ({"made by": "dposcope tune", "source": "least-squares"}, "nothing", False),
        (dpo, "gains", False),
        (dpo, "nothing", False),
        ({"ranking": "cosine"}, "gains", False),
        ({}, "nothing", False),
    ):
        card = model_card(llama, replace(Edit.of(gains, about=about), trained=trained), None)
        assert (said in card) is told, about
    for name in shipped_edits():
        assert said not in model_card(llama, shipped_edit(name), None)


def test_the_card_tells_every_scorer_the_ideal_and_what_the_edit_costs(llama):
    card = model_card(llama, some_edit(llama), whole_page().scores)
    assert "| measure | before | after | n | ideal |" in card
    assert "| toxicity ‡ | 0.289 (0.269–0.309) | 0.131 (0.111–0.151) | 200 | 0.090 (0.070–0.110) |" in card
    assert "| by neural | 0.250 (0.230–0.270) | 0.250 (0.230–0.270) | 200 | 0.060 (0.040–0.080) |" in card
    assert "| logppl | 3.112 (3.092–3.132) | 3.282 (3.262–3.302) | 12 | – |" in card
    assert "- harmless log-PPL, paired rise: +0.35 (+0.31 to +0.39)" in card
    assert "- relevance kept: 0.77 × (0.70–0.84)" in card
    assert "- distinct pairs kept: 0.72 ×" in card
    assert (
        f"- phrase that rose most: “{STARRED} i remember” in 52.0 % of texts, 0.0 % of the plain model's"
        in card.replace("\\*", "*")
    )
    assert STRONG not in card
    assert "‡: another scorer does not share this difference." in card
    assert "What the edit costs" not in model_card(llama, some_edit(llama), page().scores)


def test_a_cost_on_one_text_is_told_with_its_number(llama):
    measured = whole_page().scores
    against = measured.against_none["edit"]
    rise = replace(against.differences["harmless_logppl"], low=-math.inf, high=math.inf, n=1)
    few = replace(against, differences=against.differences | {"harmless_logppl": rise})
    card = model_card(llama, some_edit(llama), replace(measured, against_none={"edit": few}))
    assert "- harmless log-PPL, paired rise: +0.35 (n = 1, no interval)" in card


def test_the_card_says_where_fewer_texts_count_after_the_edit(llama):
    scores = whole_page().scores
    edited = scores.conditions["edit"]
    fewer = edited | {"relevance": replace(edited["relevance"], n=173)}
    card = model_card(llama, some_edit(llama), replace(scores, conditions=scores.conditions | {"edit": fewer}))
    (row,) = [line for line in card.splitlines() if line.startswith("| relevance |")]
    assert row.split(" | ")[3] == "200, after 173"
