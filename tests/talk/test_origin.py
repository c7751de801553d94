"""Whether the edit was made for the model that answers: silence where it was, a note where it was not."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.model import bundled
from dposcope.model.chat.asking import ChatOptions
from dposcope.model.chat.prompts import asked_how, with_chat
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout import table
from dposcope.model.load import load
from dposcope.talk import subject as subjects
from dposcope.talk.origin import origin_notes
from dposcope.talk.session import Session
from dposcope.talk.subject import Subject
from dposcope.talk.web.server import TalkServer
from helpers.chats import BEGINS, with_template
from helpers.edits import gains_of
from helpers.families import build, copied, tiny
from helpers.jobs import command, make_job

OTHER = "the edit was made for other weights, or for another precision; its shapes fit this model"


def edit_for(lm: LanguageModel) -> Edit:
    return Edit.of(gains_of(lm), about={"fingerprint": lm.fingerprint})


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("made", ["float32", "bfloat16"])
@pytest.mark.parametrize("opened", ["float32", "bfloat16"])
def test_the_same_weights_in_another_precision_are_no_other_weights(stored, made, opened, tmp_path):
    plain = tiny("llama")
    source = tmp_path / "model"
    LanguageModel(build(plain.model.config, dtype=stored), plain.tokenizer).save_pretrained(source)
    edit = edit_for(load(source, dtype=made, device="cpu"))
    session = Session.open(Subject(str(source), edit), dtype=opened, device="cpu")
    assert session.notes == ()
    lm = copied(session.lm)
    with torch.no_grad():
        lm.blocks[1].mlp.down_proj.weight[3, 2] += 1
    lm.save_pretrained(tmp_path / "other")
    assert Session.open(Subject(str(tmp_path / "other"), edit), dtype=opened, device="cpu").notes == (OTHER,)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mixtral"])
def test_the_fingerprint_in_another_precision_is_that_of_the_model_converted(family):
    lm = tiny(family)
    half = copied(lm)
    half.model.to(torch.bfloat16)
    assert lm.fingerprint_in(torch.bfloat16) == half.fingerprint != lm.fingerprint
    assert lm.fingerprint_in(torch.float32) == lm.fingerprint


def test_what_comes_with_dposcope_together_is_not_compared(monkeypatch, llama):
    """The file of a bundled model is checked by its digest; its edit may be of a precision that this machine lacks."""
    foreign = Edit.of(gains_of(llama), about={"fingerprint": f"llama-{32 * '0'}"})
    monkeypatch.setattr(subjects, "shipped_edits", lambda: ("toy",))
    assert origin_notes(Subject("toy", foreign, "toy"), llama) == ()
    assert origin_notes(Subject("toy", foreign, "runs/mine"), llama) == (OTHER,)
    assert origin_notes(Subject("toy", None, "toy"), llama) == ()


def test_another_layout_of_the_same_weights_is_told(monkeypatch):
    monkeypatch.setattr(table, "_LAYOUTS", dict(table._LAYOUTS))
    lm = tiny("llama")
    plain = edit_for(lm)
    table.register_layout("llama", replace(lm.layout, logit_scale=1.0))
    own = edit_for(lm)
    told = "the edit was made for these weights with another layout, so it may change other neurons; "
    assert origin_notes(Subject("m", own), lm) == ()
    assert origin_notes(Subject("m", plain), lm) == (f"{told}leave --layout out",)
    table.register_layout("llama", table._OWN["llama"])
    assert origin_notes(Subject("m", own), lm) == (f"{told}give the file that it was made with as --layout",)


def test_another_way_of_asking_than_that_of_the_edit_is_told(tmp_path, monkeypatch):
    lm = with_template(tiny("llama"), BEGINS)
    lm.save_pretrained(tmp_path / "model")
    behind = Edit.of(gains_of(lm), about={"fingerprint": lm.fingerprint, **asked_how(with_chat(lm, system="be kind"))})
    subject = Subject(str(tmp_path / "model"), behind)

    def notes(chat: ChatOptions) -> tuple[str, ...]:
        return Session.open(subject, dtype="float32", device="cpu", chat=chat).notes

    told = "the edit was made on prompts asked"
    assert notes(ChatOptions(system="be kind")) == ()
    assert notes(ChatOptions()) == (f"{told} with --system; give the same options to ask in that way",)
    assert notes(ChatOptions("off")) == (f"{told} through a chat template; --chat on asks in that way",)
    monkeypatch.setattr(subjects, "shipped_edits", lambda: ("toy",))
    assert origin_notes(Subject("toy", edit_for(lm), "toy"), with_chat(lm)) == (
        f"{told} without a chat template; --chat off asks in that way",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The run `out` of an edit, which was started here and knows its model as `model`."""
    folder = tmp_path_factory.mktemp("here")
    job = make_job(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_edit("model", Path("out"), EditSettings(**job.settings(ablate=0.5, controls=False)))
    return folder


PLAIN = ("--dtype", "float32", "--device", "cpu", "--new-tokens", "2", "--quiet")


@pytest.fixture
def told(folder, monkeypatch, capsys):
    """What each command says of the run, from a folder."""

    def tell(name: str, where: Path) -> str:
        def interrupted(server: TalkServer) -> None:
            assert ("the edit was made for other weights" in server.files[""].body.decode()) == (where != folder)
            raise KeyboardInterrupt

        monkeypatch.chdir(where)
        monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\n"))
        monkeypatch.setattr(TalkServer, "serve_forever", interrupted)
        done = command(capsys, name, folder / "out", *PLAIN, *(["--port", "0"] if name == "serve" else []))
        return done.out + done.err

    return tell


@pytest.mark.parametrize("name", ["generate", "chat", "serve"])
def test_a_run_from_another_folder_may_find_another_model(name, folder, told, tmp_path):
    tiny("llama", seed=1).save_pretrained(tmp_path / "model")
    assert "note:" not in told(name, folder)
    away = told(name, tmp_path).splitlines()
    assert away[1] == f"note: {OTHER}"
    assert away[2].startswith(f"note: the run in {folder / 'out'} calls its model 'model', a path from the folder in")


def test_a_model_that_is_not_here_is_told_with_where_it_may_be(folder, told, tmp_path):
    said = told("generate", tmp_path)
    assert f"the run in {folder / 'out'} calls its model 'model', a path from the folder" in said
    assert f"go there, or give the model itself and --edit {folder / 'out'}" in said
    assert said.count("\n") == 1


def test_only_what_may_lie_elsewhere_is_told_to_lie_there(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = Subject.find(str(folder / "out"))
    assert found.elsewhere is not None
    assert Subject.find(str(folder / "model"), str(folder / "out")).elsewhere is None
    assert replace(found, model=str(folder / "model")).elsewhere is None
    assert replace(found, model=next(iter(bundled.BUNDLED))).elsewhere is None
    with pytest.raises(DposcopeError, match="calls its model 'model'"):
        Session.open(found)
