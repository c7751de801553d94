"""The mini-language of conditions: what every form means, and that each control is of the same size."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation, ablate
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.steer import Steer
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.measuring.conditions import parse_condition
from dposcope.model.frames import Positions
from dposcope.model.load import load
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.groups import select_fraction
from dposcope.neurons.sets import NeuronSet
from helpers.families import tiny


@pytest.fixture
def made(llama) -> Ingredients:
    stream = torch.Generator().manual_seed(5)
    direction = Direction(
        torch.randn(llama.d_model, generator=stream, dtype=torch.float64), "mine", -1, {"residual_norm": 12.5}
    )
    mean = torch.randn(llama.n_blocks, llama.d_mlp, generator=stream, dtype=torch.float64)
    return Ingredients(llama, direction, NeuronMeans(mean, mean.square() + 1, 10))


@pytest.fixture
def build(made):
    return lambda text, seed=0: parse_condition(text).build(lambda: made, seed)


def expected_gains(made, *, alpha, beta, ranking="cosine", trim=None) -> torch.Tensor:
    """1−α for TP and AN, 1+α for TN and AP (paper 6.1), group by group."""
    chosen = select_fraction(made.cosine, made.means.mean, beta=beta, ranking=ranking, trim_percentile=trim).sets
    gains = torch.ones_like(made.means.mean)
    for group, neurons in chosen.items():
        gains[neurons.mask] = 1 - alpha if group.value in ("TP", "AN") else 1 + alpha
    return gains


# Forms


@pytest.mark.parametrize(
    ("text", "name", "kinds"),
    [
        ("scale", "scale", ["scale"]),
        ("scale:alpha=0.3,beta=0.55", "scale:alpha=0.3,beta=0.55", ["scale"]),
        ("mild=scale:alpha=0.1", "mild", ["scale"]),
        ("α=0.1=scale:alpha=0.1", None, None),
        ("two words=ablate", "two words", ["ablate"]),
        ("a-b_c.1=steer:alpha=1", "a-b_c.1", ["steer"]),
        ("scale:alpha=0.1+ablate:weight=1", "scale:alpha=0.1+ablate:weight=1", ["scale", "ablate"]),
        ("both=scale:alpha=0.1+ablate", "both", ["scale", "ablate"]),
        ("scale+ablate", "scale+ablate", ["scale", "ablate"]),
        ("assign:alpha=0.01,beta=0.55,ranking=reference", "assign:alpha=0.01,beta=0.55,ranking=reference", ["assign"]),
    ],
)
def test_names_and_parts(text, name, kinds):
    if name is None:
        with pytest.raises(DposcopeError):
            parse_condition(text)
        return
    spec = parse_condition(text)
    assert spec.name == name
    assert [part.kind for part in spec.parts] == kinds


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("scale", {"alpha": 0.1, "beta": 0.55}),
        ("scale:alpha=0.3", {"alpha": 0.3, "beta": 0.55}),
        ("scale:alpha=0.3,beta=0.2,ranking=activation", {"alpha": 0.3, "beta": 0.2, "ranking": "activation"}),
        ("scale:ranking=signed", {"alpha": 0.1, "beta": 0.55, "ranking": "signed"}),
        ("scale:ranking=reference,trim=80", {"alpha": 0.1, "beta": 0.55, "ranking": "reference", "trim": 80}),
        ("scale:alpha=1e-2", {"alpha": 0.01, "beta": 0.55}),
        ("scale:alpha=0", {"alpha": 0.0, "beta": 0.55}),
        ("scale:beta=0", {"alpha": 0.1, "beta": 0.0}),
    ],
)
def test_scale_is_the_papers_gains(build, made, text, settings):
    gains = build(text)
    assert isinstance(gains, Gains)
    assert gains.positions is Positions.ALL
    assert torch.allclose(gains.values.double(), expected_gains(made, **settings), atol=1e-7)


def test_scale_in_some_blocks(build, made):
    whole, part = build("scale:alpha=0.3").values, build("scale:alpha=0.3,blocks=1-2").values
    assert torch.equal(part[1:3], whole[1:3])
    assert (part[0] == 1).all()
    with pytest.raises(DposcopeError, match="no block 3 in a model of 3 blocks"):
        build("scale:blocks=1-3")


def test_assign_freezes_neurons_at_their_shifted_mean(build, made):
    assign = build("assign:alpha=0.05,beta=0.5,ranking=reference,trim=80")
    gains = expected_gains(made, alpha=0.05, beta=0.5, ranking="reference", trim=80)
    assert isinstance(assign, Assign)
    assert assign.positions is Positions.LAST
    assert torch.equal(assign.neurons.mask, gains != 1)
    mask = assign.neurons.mask
    assert torch.allclose(assign.values[mask].double(), (made.means.mean * gains)[mask], rtol=1e-6)
    default = build("assign")
    assert torch.equal(default.neurons.mask, expected_gains(made, alpha=0.01, beta=0.55) != 1)


def test_steer_by_alpha_and_by_mean_norms(build, made):
    plain = build("steer:alpha=1.5,block=1,site=mlp")
    assert isinstance(plain, Steer)
    assert torch.equal(plain.vector, made.direction.vector)
    assert (plain.alpha, plain.block, plain.site) == (1.5, 1, "mlp")
    default = build("steer")
    assert (default.alpha, default.block, default.site) == (1.0, -1, "residual")
    inner = replace(made, direction=replace(made.direction, block=1))
    # Where the direction was read: elsewhere the stream has another length, and W another meaning.
    assert parse_condition("steer").build(lambda: inner, 0).block == 1
    assert parse_condition("steer:block=0").build(lambda: inner, 0).block == 0
    relative = build("steer:relative=0.2")
    shift = relative.alpha * relative.vector
    assert float(shift.norm()) == pytest.approx(0.2 * 12.5)
    assert torch.allclose(shift / shift.norm(), made.direction.unit)


def test_steer_in_norms_needs_to_know_them(made):
    bare = replace(made, direction=Direction(made.direction.vector, "token_contrast", -1))
    with pytest.raises(DposcopeError, match="needs a direction made from comments; use steer:alpha"):
        parse_condition("steer:relative=0.1").build(lambda: bare, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ablate", (1.0, None, True, True)),
        ("ablate:weight=0.5", (0.5, None, True, True)),
        ("ablate:weight=2,blocks=1-2", (2.0, (1, 2), True, True)),
        ("ablate:site=mlp", (1.0, None, True, False)),
        ("ablate:site=attention", (1.0, None, False, True)),
        ("ablate:site=both", (1.0, None, True, True)),
    ],
)
def test_ablate(build, made, text, expected):
    ablation = build(text)
    assert isinstance(ablation, Ablation)
    assert (ablation.weight, ablation.blocks, ablation.mlp, ablation.attention) == expected
    assert torch.allclose(ablation.direction.double(), made.direction.unit, atol=1e-6)


def test_a_block_range_of_one(build):
    assert build("ablate:blocks=2-2").blocks == (2,)


def test_parts_are_joined_in_order(build, made):
    edit = build("scale:alpha=0.3+ablate:weight=0.5+scale:alpha=0.1")
    assert isinstance(edit, Edit)
    one, two = (expected_gains(made, alpha=alpha, beta=0.55) for alpha in (0.3, 0.1))
    assert torch.allclose(edit.gains.values.double(), one * two, atol=1e-6)
    assert [ablation.weight for ablation in edit.ablations] == [0.5]


@pytest.fixture
def saved(made, tmp_path):
    """A saved edit with gains and two ablations."""
    gains = Gains(torch.rand(made.means.mean.shape, generator=torch.Generator().manual_seed(2)) + 0.5)
    edit = Edit.of(gains, ablate(made.direction.vector, weight=0.5), ablate(torch.ones(16), weight=1.0, blocks=(1,)))
    edit.save(tmp_path / "e")
    return edit, tmp_path / "e.safetensors"


@pytest.mark.parametrize("form", ["edit:{0}", "edit:path={0}", "mine=edit:{0}"])
def test_a_saved_edit_comes_back(build, saved, form):
    edit, path = saved
    found = build(form.format(path))
    assert torch.equal(found.gains.values, edit.gains.values)
    assert [ablation.weight for ablation in found.ablations] == [0.5, 1.0]


def test_its_parts_alone(build, saved):
    edit, path = saved
    gains, ablations = build(f"gains-of:{path}"), build(f"x=ablation-of:{path}")
    assert torch.equal(gains.gains.values, edit.gains.values)
    assert gains.ablations == ()
    assert ablations.gains is None
    for mine, theirs in zip(ablations.ablations, edit.ablations, strict=True):
        assert torch.equal(mine.direction, theirs.direction)
        assert (mine.weight, mine.blocks) == (theirs.weight, theirs.blocks)


def test_saved_edits_join_with_others(build, saved):
    edit, path = saved
    joined = build(f"edit:{path}+ablate:weight=2")
    assert [ablation.weight for ablation in joined.ablations] == [0.5, 1.0, 2.0]
    assert torch.equal(joined.gains.values, edit.gains.values)


def test_a_path_may_hold_a_plus(build, saved, tmp_path):
    edit, _ = saved
    (tmp_path / "a+b").mkdir()
    edit.save(tmp_path / "a+b/e")
    assert torch.equal(build(f"edit:{tmp_path}/a+b/e.safetensors").gains.values, edit.gains.values)


# Controls


def test_shuffled_gains_have_the_same_values_in_each_layer(build):
    plain, shuffled = build("scale:alpha=0.3").values, build("scale:alpha=0.3,shuffled=yes").values
    assert not torch.equal(plain, shuffled)
    assert torch.equal(plain.sort(1).values, shuffled.sort(1).values)
    assert torch.equal(build("scale:alpha=0.3,shuffled=yes").values, shuffled)
    assert not torch.equal(build("scale:alpha=0.3,shuffled=yes", 1).values, shuffled)
    assert torch.equal(build("scale:alpha=0.3,shuffled=no").values, plain)


@pytest.mark.parametrize("kind", ["scale", "assign"])
def test_neurons_drawn_at_random_are_as_many_and_follow_the_seed(build, kind):
    def touched(text: str, seed: int = 0) -> torch.Tensor:
        made = build(f"{kind}:beta=0.5{text}", seed)
        return made.touched.mask if kind == "scale" else made.neurons.mask

    ranked, drawn = touched(""), touched(",ranking=random")
    assert drawn.sum() == ranked.sum()
    assert not torch.equal(drawn, ranked)
    assert torch.equal(touched(",ranking=random"), drawn)
    assert not torch.equal(touched(",ranking=random", 1), drawn)


@pytest.mark.parametrize("strength", ["alpha=1.5", "relative=0.3"])
def test_a_random_steer_is_as_long(build, strength):
    plain, random = build(f"steer:{strength}"), build(f"steer:{strength},random=yes")
    assert random.alpha == plain.alpha
    assert float(random.vector.norm()) == pytest.approx(float(plain.vector.norm()))
    cosine = torch.nn.functional.cosine_similarity(plain.vector, random.vector, dim=0)
    assert abs(float(cosine)) < 0.9


def test_a_random_ablation_has_the_same_weight_and_place(build):
    plain, random = (
        build("ablate:weight=2,blocks=1-2,site=mlp"),
        build("ablate:weight=2,blocks=1-2,site=mlp,random=yes"),
    )
    assert (random.weight, random.blocks, random.mlp, random.attention) == (2.0, (1, 2), True, False)
    assert float(random.direction.norm()) == pytest.approx(1, abs=1e-6)
    assert abs(float(plain.direction @ random.direction)) < 0.9
    assert not torch.equal(build("ablate:random=yes", 1).direction, build("ablate:random=yes", 0).direction)


def test_the_control_of_a_saved_edit(build, saved):
    edit, path = saved
    control = build(f"control:{path}")
    assert torch.equal(control.gains.values.sort(1).values, edit.gains.values.sort(1).values)
    assert not torch.equal(control.gains.values, edit.gains.values)
    assert [(a.weight, a.blocks) for a in control.ablations] == [(a.weight, a.blocks) for a in edit.ablations]


def test_the_control_of_a_saved_edit_stays_among_the_neurons_that_a_model_has(saved):
    edit, path = saved
    here = torch.ones_like(edit.gains.values, dtype=torch.bool)
    here[0, : here.shape[1] // 2] = False
    control = parse_condition(f"control:{path}").build(lambda: None, 0, among=NeuronSet(here))
    assert torch.equal(control.gains.values[~here], edit.gains.values[~here])
    for ours, theirs, mask in zip(control.gains.values, edit.gains.values, here, strict=True):
        assert torch.equal(ours[mask].sort().values, theirs[mask].sort().values)
    assert not torch.equal(control.gains.values[here], edit.gains.values[here])


def test_a_saved_edit_asks_for_no_direction(saved):
    def never():
        raise AssertionError("no part needs it")

    for kind in ("edit", "gains-of", "ablation-of", "control"):
        parse_condition(f"{kind}:{saved[1]}").build(never, 0)


@pytest.mark.parametrize("kind", ["edit", "gains-of", "ablation-of", "control"])
def test_a_saved_edit_has_other_strengths(saved, build, folder, kind):
    edit, path = saved
    half = build(f"half={kind}:{path},strength=0.5")
    whole = build(f"{kind}:{path}")
    if whole.gains is not None:
        torch.testing.assert_close(half.gains.values, 1 + 0.5 * (whole.gains.values - 1))
    assert [a.weight for a in half.ablations] == [0.5 * a.weight for a in whole.ablations]
    assert (whole.gains is None) == (kind == "ablation-of")
    assert bool(whole.ablations) == (kind != "gains-of") == bool(edit.ablations and kind != "gains-of")
    facts = [parse_condition(f"{kind}:{path}{end}").depends_on(folder, 0) for end in ("", ",strength=0.5")]
    assert facts[0] != facts[1]


# What a measurement depends on


@pytest.fixture
def folder(made, tmp_path):
    """A run's folder with the direction and means that it made."""
    made.direction.save(tmp_path / "run/direction")
    made.means.save(tmp_path / "run/means")
    return tmp_path / "run"


def test_made_conditions_depend_on_direction_and_means(made, folder, saved):
    for text in ("scale", "steer", "ablate", "assign", f"scale+edit:{saved[1]}"):
        facts = parse_condition(text).depends_on(folder, 0)
        assert parse_condition(text).depends_on(folder, 0) == facts
        assert parse_condition(text).depends_on(folder, 1) != facts
        made.direction.random_like(1).save(folder / "direction")
        assert parse_condition(text).depends_on(folder, 0) != facts
        made.direction.save(folder / "direction")
        replace(made.means, mean=made.means.mean + 1).save(folder / "means")
        assert parse_condition(text).depends_on(folder, 0) != facts
        made.means.save(folder / "means")
        assert parse_condition(text).depends_on(folder, 0) == facts
    assert parse_condition("scale").depends_on(folder, 0) != parse_condition("scale:alpha=0.3").depends_on(folder, 0)


@pytest.mark.parametrize("kind", ["edit", "gains-of", "ablation-of", "control"])
def test_saved_ones_depend_on_their_file_alone(saved, folder, made, kind):
    edit, path = saved

    def facts():
        return parse_condition(f"{kind}:{path}").depends_on(folder, 0)

    before = facts()
    made.direction.random_like(1).save(folder / "direction")
    assert facts() == before
    Edit.of(edit.gains.strength(2.0), *edit.ablations).save(path)
    assert facts() != before
    before = facts()
    Edit.of(edit.gains.strength(2.0), *(ablation.strength(2.0) for ablation in edit.ablations)).save(path)
    assert facts() != before, "the weights of ablations stand in the .json"


def test_a_saved_condition_needs_no_direction_in_the_folder(saved, tmp_path):
    assert parse_condition(f"edit:{saved[1]}").depends_on(tmp_path / "none", 0)


def test_the_stem_of_a_saved_edit_will_do(saved, build, folder):
    stem = str(saved[1]).removesuffix(".safetensors")
    assert build(f"edit:{stem}").gains is not None
    assert parse_condition(f"edit:{stem}").depends_on(folder, 0)


# Errors: test_cli.py has the rest, as people meet them


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no kind ''; choose from scale, assign, steer, ablate, interchange, edit"),
        ("Scale", "no kind 'Scale'"),
        ("mild=", "no kind 'mild='"),
        ("mild=bogus", "no kind 'mild=bogus'"),
        ("scale:alpha=", "alpha needs a number, not ''"),
        ("scale:random=yes", "scale takes .*, not 'random=yes'"),
        ("assign:shuffled=yes", "assign takes .*, not 'shuffled=yes'"),
        ("ablate:blocks=3", "blocks are a range such as 9-17, not '3'"),
        ("scale+bogus", "no kind 'bogus'"),
        ("none", "'none' is always measured; give yours another name"),
        ("none=ablate", "'none' is always measured; give yours another name"),
    ],
)
def test_what_is_no_condition_is_refused(text, words):
    with pytest.raises(DposcopeError, match=words):
        parse_condition(text)


@pytest.mark.parametrize("text", ["steer:alpha=1,relative=0.1", "scale:alpha=0.1,alpha=0.3"])
def test_what_says_two_things_is_refused(text):
    """One of the two would be dropped in silence."""
    with pytest.raises(DposcopeError):
        parse_condition(text)


@pytest.mark.parametrize("text", ["steer:alpha=nan", "steer:alpha=inf", "ablate:weight=-inf", "scale:alpha=nan"])
def test_what_is_no_finite_number_is_refused(text):
    with pytest.raises(DposcopeError, match=r"alpha|weight"):
        parse_condition(text)


@pytest.mark.parametrize("text", ["assign+scale", "steer+ablate", "scale+steer:alpha=1"])
def test_what_does_not_join_is_refused(text, build):
    with pytest.raises(DposcopeError, match=r"only scale, ablate and .*edits? can be joined with \+"):
        build(text)


# A tuned model


@pytest.fixture
def tuned(llama, tmp_path):
    """The folder of a checkpoint of the same architecture, all of its weights different."""
    other = tiny("llama", seed=5)
    other.save_pretrained(tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.mark.parametrize("form", ["model:{0}", "model:path={0}", "tuned=model:{0}"])
def test_a_tuned_model_stands_in(build, llama, tuned, form):
    spec = parse_condition(form.format(tuned))
    assert [part.kind for part in spec.parts] == ["model"]
    assert spec.name == ("tuned" if form.startswith("tuned") else form.format(tuned))
    ids = llama.tokenizer("the river is long", return_tensors="pt")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(tuned).eval()
    with torch.no_grad():
        expected, before = plain(input_ids=ids).logits, llama.model(input_ids=ids).logits
        with build(form.format(tuned)).on(llama):
            found = llama.model(input_ids=ids).logits
        after = llama.model(input_ids=ids).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, before)
    assert torch.equal(after, before)


def test_a_tuned_model_asks_for_no_direction(tuned, tmp_path):
    def never():
        raise AssertionError("no part needs it")

    built = parse_condition(f"model:{tuned}").build(never, 0)
    assert isinstance(built, OtherWeights)
    assert parse_condition(f"model:{tuned}").depends_on(tmp_path / "none", 0)


def test_a_name_that_figures_leave_out_is_refused():
    with pytest.raises(DposcopeError, match="the name '_mine' begins with _, and figures leave such names out"):
        parse_condition("_mine=scale:alpha=0.1")


def test_a_tuned_model_at_another_strength(tuned, tmp_path):
    half = parse_condition(f"half=model:{tuned},strength=0.5")
    assert half.build(lambda: pytest.fail("no part needs it"), 0) == OtherWeights(str(tuned), strength=0.5)
    others = [f"half=model:{tuned}{more}" for more in ("", ",strength=0.4")]
    told = [parse_condition(text).depends_on(tmp_path / "none", 0) for text in others]
    assert half.depends_on(tmp_path / "none", 0) not in told
    with pytest.raises(DposcopeError, match="strength needs a number, not 'most'"):
        parse_condition(f"model:{tuned},strength=most")


def test_a_tuned_model_depends_on_its_weights_alone(made, folder, tuned):
    def facts():
        return parse_condition(f"model:{tuned}").depends_on(folder, 0)

    before = facts()
    made.direction.random_like(1).save(folder / "direction")
    (tuned / "README.md").write_text("another card")
    assert facts() == before
    tiny("llama", seed=6).save_pretrained(tuned)
    assert facts() != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model", "name the file, as in model:runs/mine/model"),
        ("model:", "name the file, as in model:runs/mine/model"),
        ("model:{0}/nothing", "nothing holds no config.json; name the folder of a checkpoint"),
        ("none=model:{0}/tuned", "'none' is always measured"),
        ("model:{0}/tuned+scale", "only scale, ablate and saved edits can be joined with"),
        ("ablate+model:{0}/tuned", "only scale, ablate and saved edits can be joined with"),
    ],
)
def test_what_is_no_tuned_model_is_refused(tuned, tmp_path, text, words):
    with pytest.raises(DposcopeError, match=words):
        parse_condition(text.format(tmp_path))


def test_an_adapter_that_cannot_be_merged_is_told_at_once(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    with pytest.raises(DposcopeError, match="changes no weights"):
        parse_condition(f"tuned=model:{tmp_path}")


def test_a_model_of_another_architecture_is_told_before_anything_is_changed(llama, build, tmp_path):
    tiny("smollm").save_pretrained(tmp_path / "other")
    other = build(f"model:{tmp_path}/other").on(llama)
    with pytest.raises(DposcopeError, match="differ in number of blocks"):
        other.__enter__()


# An interchange


@pytest.fixture
def some(llama, tmp_path):
    """A saved set of neurons."""
    mask = torch.rand(llama.n_blocks, llama.d_mlp, generator=torch.Generator().manual_seed(3)) < 0.3
    NeuronSet(mask).save(tmp_path / "some")
    return tmp_path / "some.safetensors"


def every_head(lm, blocks):
    mask = torch.zeros(lm.n_blocks, lm.n_heads, dtype=torch.bool)
    mask[blocks] = True
    return Parts(heads=mask)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", lambda lm, _: Parts(NeuronSet.all(lm.n_blocks, lm.d_mlp))),
        (",part=neurons,blocks=1-2", lambda lm, _: Parts(NeuronSet.all(lm.n_blocks, lm.d_mlp).in_blocks([1, 2]))),
        (",neurons={1}", lambda _, some: Parts(some)),
        (",neurons={1},blocks=0-1", lambda _, some: Parts(some.in_blocks([0, 1]))),
        (",neurons={1},random=yes", lambda _, some: Parts(some.random_like(0))),
        (",part=heads", lambda lm, _: every_head(lm, [0, 1, 2])),
        (",part=heads,blocks=0-1", lambda lm, _: every_head(lm, [0, 1])),
        (",part=mlp,blocks=1-1", lambda *_: Parts(mlps=[1])),
        (",part=attention", lambda *_: Parts(attentions=[0, 1, 2])),
        (",part=block,blocks=0-0", lambda *_: Parts(mlps=[0], attentions=[0])),
        (",part=residual,blocks=2-2", lambda *_: Parts(residuals=[2])),
    ],
)
def test_an_interchange_takes_what_is_named(llama, build, tuned, some, text, expected):
    built = build(f"interchange:with={tuned}{text.format(None, some)}")
    assert built.parts(llama).digest == expected(llama, NeuronSet.load(some)).digest
    assert built.other == OtherWeights(str(tuned))
    assert not built.reverse


def test_an_interchange_is_done_with_the_model_named(llama, build, tuned, some):
    ids = torch.tensor([[2, 40, 41, 55]])
    with torch.no_grad():
        with Interchange(load(tuned, base=llama), Parts(NeuronSet.load(some))).on(llama):
            expected = llama.model(input_ids=ids).logits
        with build(f"mine=interchange:with={tuned},neurons={some}").on(llama):
            found = llama.model(input_ids=ids).logits
        reverse = build(f"interchange:with={tuned},neurons={some},reverse=yes")
        with reverse.opened(llama) as opened, opened.interchange.on(opened.lm):
            back = opened.lm.model(input_ids=ids).logits
        with Interchange(llama, Parts(NeuronSet.load(some))).on(other := load(tuned, base=llama)):
            wanted = other.model(input_ids=ids).logits
    assert torch.equal(found, expected)
    assert torch.equal(back, wanted)
    assert not torch.equal(back, found)
    with pytest.raises(DposcopeError, match="runs the other model"):
        reverse.on(llama).__enter__()


def test_an_interchange_may_be_with_an_edit(llama, build, saved):
    built = build(f"interchange:with=edit:{saved[1]}")
    assert built.other.edit.gains is not None
    ids = torch.tensor([[2, 40, 41, 55]])
    with torch.no_grad():
        with built.other.edit.gains.on(llama):
            expected = llama.model(input_ids=ids).logits
        with replace(built, other=EditedModel(Edit(built.other.edit.gains))).on(llama):
            found = llama.model(input_ids=ids).logits
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_interchange_depends_on_the_model_and_the_set(tuned, some, tmp_path):
    def facts():
        return parse_condition(f"interchange:with={tuned},neurons={some}").depends_on(tmp_path / "none", 0)

    before = facts()
    assert facts() == before
    NeuronSet.all(3, 24).save(some)
    after = facts()
    assert after != before
    tiny("llama", seed=6).save_pretrained(tuned)
    assert facts() not in (before, after)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name the tuned model, as in interchange:with="),
        (":part=mlp", "name the tuned model"),
        (":with={0}/nothing", "holds no config.json"),
        (":with=edit:{0}/nothing", "names no edit"),
        (":with={0}/tuned,part=brain", "part is one of neurons, heads, mlp, attention, block, residual, not 'brain'"),
        (":with={0}/tuned,part=mlp,random=yes", "belong to part=neurons"),
        (":with={0}/tuned,random=yes", "random=yes needs neurons=FILE"),
        (":with={0}/tuned,neurons={0}/nothing", "nothing"),
        (":with={0}/tuned+scale", "only scale, ablate and saved edits can be joined"),
    ],
)
def test_what_is_no_interchange_is_refused(tuned, tmp_path, text, words):
    assert tuned.exists()
    with pytest.raises(DposcopeError, match=words):
        parse_condition("interchange" + text.format(tmp_path))


def test_a_block_that_is_not_there_is_refused(build, tuned, llama):
    with pytest.raises(DposcopeError, match="no block 5 in a model of 3 blocks"):
        build(f"interchange:with={tuned},part=mlp,blocks=4-5").on(llama).__enter__()
