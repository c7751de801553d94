"""Texts that servers write, through `dposcope evaluate`: the same numbers, and what a run remembers of a server."""

import json

import pytest

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.measuring.engine import Servers
from dposcope.jobs.reporter import Quiet
from dposcope.model.load import load
from helpers.completions import Manners, refused, writing
from helpers.endpoints import serving
from helpers.families import TEXTS, random_gains, tiny
from helpers.jobs import make_job

pytestmark = pytest.mark.usefixtures("lighter")

EDITED, FAMILY = "mild", "gemma3"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("job"), FAMILY)


@pytest.fixture(scope="module")
def plain(job):
    return load(str(job.model), dtype="float32")


@pytest.fixture(scope="module")
def edit(plain):
    return Edit(gains=Gains(1 + 0.3 * (random_gains(plain) - 1)))


@pytest.fixture(scope="module")
def condition(edit, tmp_path_factory):
    place = tmp_path_factory.mktemp("edit") / "edit.safetensors"
    edit.save(place)
    return f"{EDITED}=edit:{place}"


@pytest.fixture(scope="module")
def models(plain, edit):
    return {"tiny": plain, "tiny-edited": fold(plain, edit)}


class Notes(Quiet):
    def __init__(self):
        self.notes, self.taken = [], []

    def note(self, line):
        self.notes.append(line)

    def reused(self, title):
        self.taken.append(title)


def evaluated(job, out, condition, server=None, *, reporter=None, **settings):
    if server is not None:
        settings |= {"engine": "openai", "concurrency": 4}
        settings["base_url"] = [f"{server.url}#tiny", f"{EDITED}={server.url}#tiny-edited"]
    asked = EvaluateSettings(**job.settings(condition=[condition], **settings))
    return run_evaluate(str(job.model), out, asked, reporter=reporter)


def stored(out, name):
    return json.loads((out / f"conditions/{name}.json").read_text())


@pytest.fixture(scope="module")
def local(job, condition, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "run"
    evaluated(job, out, condition)
    return out


@pytest.mark.parametrize("manners", [Manners(tells_ids=True), Manners(takes_ids=False, takes_further=False)])
def test_servers_give_the_numbers_of_the_model_itself(manners, job, condition, models, local, tmp_path):
    out, notes = tmp_path / "run", Notes()
    with serving(writing(models, manners)) as server:
        evaluated(job, out, condition, server, reporter=notes)
    for name in ("none", EDITED):
        mine, own = stored(out, name), stored(local, name)
        assert mine["continuations"] == own["continuations"]
        assert mine["per_prompt"] == own["per_prompt"]
        assert mine["window_nll"] == own["window_nll"]
        if manners.tells_ids:
            assert mine["f1"] == own["f1"]
            assert mine["relevance"] == own["relevance"]
            assert mine["agreement"]["same"] == mine["agreement"]["tokens"] > 50
    told = json.loads((out / "scores.json").read_text())["about"]["engine"]
    assert told["none"]["model"] == "tiny"
    assert told[EDITED]["model"] == "tiny-edited"
    assert told[EDITED]["prompts"] == ("token ids" if manners.takes_ids else "text")
    assert told["none"]["address"] == server.url
    assert "texts written by servers" in (out / "scores.md").read_text()
    assert "engine" not in json.loads((local / "scores.json").read_text())["about"]


def test_a_run_goes_on_at_another_address_and_notices_another_model(job, condition, models, plain, tmp_path):
    out = tmp_path / "run"
    with serving(writing(models)) as server:
        evaluated(job, out, condition, server)
        texts = len(server.requests)
    with serving(writing(models)) as server:
        notes = Notes()
        evaluated(job, out, condition, server, reporter=notes)
        assert {"Measuring: none", f"Measuring: {EDITED}"} <= set(notes.taken)
        assert len(server.requests) < texts / 2
    other = fold(plain, Gains(1 + 0.5 * (random_gains(plain) - 1)))
    with serving(writing(models | {"tiny-edited": other})) as server:
        notes = Notes()
        evaluated(job, out, condition, server, reporter=notes)
        assert "Measuring: none" in notes.taken
        assert f"Measuring: {EDITED}" not in notes.taken
    with pytest.raises(DposcopeError, match=r"holds another run's results \(engine"):
        evaluated(job, out, condition)


def test_a_server_of_another_model_is_refused_and_one_that_breaks_leaves_what_is_done(job, condition, models, tmp_path):
    stranger = tiny(FAMILY, seed=9)
    with (
        serving(writing(models | {"tiny": stranger})) as server,
        pytest.raises(DposcopeError, match=r"does not write what .* check which model it serves"),
    ):
        evaluated(job, tmp_path / "other", condition, server)
    left = [12]

    def breaks(request):
        left[0] -= request.body.get("model") == "tiny-edited"
        return refused("out of order", 403) if left[0] < 0 else writing(models)(request)

    with serving(breaks) as server, pytest.raises(DposcopeError, match="out of order"):
        evaluated(job, tmp_path / "run", condition, server)
    assert (tmp_path / "run/conditions/none.json").exists()
    with serving(writing(models)) as server:
        notes = Notes()
        evaluated(job, tmp_path / "run", condition, server, reporter=notes)
    assert "Measuring: none" in notes.taken


@pytest.mark.parametrize(
    ("addresses", "fault"),
    [
        (["http://a/v1"], "no server for mild; give --base-url 'mild=http://localhost:8000/v1'"),
        (["mild=http://a/v1"], "no server for none"),
        (["http://a/v1", "other=http://me:secret@a/v1"], r"--base-url other=… names no condition \(mild\)"),
        (["http://a/v1", "none=http://b/v1"], "two servers are named for none"),
        (["http://a/v1", "mild=http://a/v1"], "mild and none have one server and one model"),
        (["http://a/v1#x", "mild=http://a/v1/#x"], "mild and none have one server and one model"),
        (["localhost:8000"], "no http or https address"),
        (["http://me:secret@a/v1"], "put the key in DPOSCOPE_API_KEY"),
    ],
)
def test_addresses_that_name_no_server_for_each_condition(addresses, fault):
    with pytest.raises(DposcopeError, match=fault):
        Servers.read(addresses, ["mild"], at_once=1)


def test_one_model_of_one_server_is_not_two_conditions(plain):
    with serving(writing({"tiny": plain})) as server:
        servers = Servers.read([server.url, f"mild={server.url}#tiny"], ["mild"], at_once=1)
        with pytest.raises(DposcopeError, match="mild and none are the same model of one server"):
            servers.connect(Quiet(), plain, TEXTS)


def test_a_condition_may_have_any_name():
    name = "edit:runs/mine,strength=0.5"
    servers = Servers.read(["http://a/v1#x=y", f"{name}=http://a/v1#z"], [name], at_once=2)
    assert list(servers.endpoints) == ["none", name]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"engine": "openai"}, "--engine openai needs the address of a server"),
        ({"engine": "openai", "base_url": ["http://a/v1"], "concurrency": 0}, "concurrency"),
    ],
)
def test_settings_that_do_not_fit(given, fault):
    with pytest.raises(ValueError, match=fault):
        EvaluateSettings(**given)
