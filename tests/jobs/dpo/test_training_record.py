"""`training.json` written and read, and what it tells of an edit and in a card."""

import json
from dataclasses import replace

import pytest
import yaml

from dposcope.artefacts import write_json
from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.training_record import TrainingRecord, tuned_card
from helpers.training_facts import GAINS_TRAINING, TRAINING

records = pytest.mark.parametrize("record", [TRAINING, GAINS_TRAINING], ids=["full", "gains"])


@records
def test_a_record_comes_back_whole(record, tmp_path):
    record.save(tmp_path / "training.json")
    assert TrainingRecord.load(tmp_path / "training.json") == record


@records
def test_the_file_has_plain_names(record):
    told = json.loads(json.dumps(record.to_json()))
    assert set(told) == {
        *("kind", "model", "train", "pairs", "protocol", "objective", "schedule", "settings", "seed", "steps"),
        *("examples", "best_step", "gains_changed", "curves", "versions"),
    }
    assert told["kind"] == "dposcope dpo"
    assert told["model"] == {"name": record.model, "fingerprint": record.fingerprint}
    assert (told["train"], told["seed"]) == (record.settings.train, record.settings.seed)
    assert told["pairs"]["left_out"] == vars(record.pairs.left_out)
    assert told["objective"] == vars(record.objective)
    assert told["schedule"] == vars(record.schedule)
    assert told["settings"] == record.settings.model_dump(mode="json")


def reread(told, folder):
    write_json(folder / "training.json", told)
    return TrainingRecord.load(folder / "training.json")


@pytest.mark.parametrize("gone", ["kind", "model", "pairs", "objective", "settings", "curves"])
def test_what_lacks_something_is_refused(gone, tmp_path):
    told = TRAINING.to_json()
    del told[gone]
    with pytest.raises(DposcopeError, match=rf"training\.json is damaged or of another version: {gone} is missing; "):
        reread(told, tmp_path)


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(DposcopeError, match="told by 'dposcope tune', not by dposcope dpo; name the folder of a train"):
        reread({**TRAINING.to_json(), "kind": "dposcope tune"}, tmp_path)


def test_a_setting_that_is_none_is_refused(tmp_path):
    told = TRAINING.to_json()
    told["settings"]["train"] = "everything"
    with pytest.raises(DposcopeError, match=r"settings\.train should be 'full', .*; run dposcope dpo once more"):
        reread(told, tmp_path)


@pytest.mark.parametrize("entry", [{"loss": 0.5}, {"step": 9, "eval_loss": 0.5}])
def test_a_curve_without_its_step_or_its_measures_is_refused(entry, tmp_path):
    with pytest.raises(DposcopeError, match=r"curves\[0\] has no (step|eval_accuracy)"):
        reread({**TRAINING.to_json(), "curves": [entry]}, tmp_path)


def test_an_edit_tells_of_its_training():
    about = GAINS_TRAINING.about_edit()
    assert (about["made by"], about["pairs_trained_on"], about["learn_text"]) == (
        *("dposcope dpo --train gains", 24_566, "built-in"),
    )
    assert (about["kl_weight"], about["kl_on"], about["optimizer"], about["steps"]) == (0.05, "neutral", "adamw", 1234)


def test_a_name_cannot_leave_its_quotation_in_the_card():
    card = tuned_card(replace(TRAINING, model='a"b`c\\d\ne'))
    assert yaml.safe_load(card.split("---")[1])["base_model"] == 'a"b`c\\d e'
    assert '`` a"b`c\\d e `` after DPO' in card
    assert "- 6 preference pairs (prompt_text), 1 of them kept for validation." in card
