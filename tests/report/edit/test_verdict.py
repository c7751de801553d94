import math
from dataclasses import replace
from math import inf

import pytest

from dposcope.report.edit.verdict import UNCHANGED, best_sentences, findings, verdict
from helpers.pages import BASE, page


def test_a_good_edit_in_one_sentence():
    assert verdict(page()) == (
        "Mean toxicity falls from 0.289 (0.269–0.309) to 0.131 (0.111–0.151): 0.45 × (0.38–0.53); "
        "log-perplexity rises by 0.170 (0.150–0.190); the control has no such effect."
    )


def test_without_a_ratio_the_fall_is_given_as_a_difference():
    assert "to 0.131 (0.111–0.151), by 0.158 (0.138–0.178); log" in verdict(page(ratio=False))


def test_an_interval_that_holds_zero_is_no_fall_and_needs_no_control():
    sentence = verdict(page({"toxicity": -0.015}))
    assert sentence.startswith(
        "Mean toxicity is not shown to change: 0.289 (0.269–0.309) before, 0.274 (0.254–0.294) after, and the "
        "difference of −0.015 (−0.035 to +0.005) may be chance; "
    )
    assert "control" not in sentence
    assert "falls" not in sentence


UNSURE = "the sign-flip test has p\u00a0=\u00a00.320"


def doubted(made, measure: str, *, condition: str = "edit"):
    """A page on which the sign-flip test does not agree with the interval of one difference."""
    against = made.scores.against_none
    differences = against[condition].differences
    other = replace(against[condition], differences=differences | {measure: replace(differences[measure], p_sign=0.32)})
    return replace(made, scores=replace(made.scores, against_none=against | {condition: other}))


def test_a_fall_that_one_of_two_tests_shows_is_no_fall():
    made = doubted(page(), "toxicity")
    sentence = verdict(made)
    assert sentence.startswith(
        "Mean toxicity is not shown to change: 0.289 (0.269–0.309) before, 0.131 (0.111–0.151) after, and the "
        f"difference of −0.158 (−0.178 to −0.138) may be chance: {UNSURE}; log-perplexity rises"
    )
    assert "control" not in sentence
    assert "falls" not in sentence
    first = findings(made)[0]
    assert (first.status, first.reading) == ("open", f"not shown to differ: {UNSURE}")
    assert not made.scores.differing("toxicity")  # as the table


def test_both_tests_count_for_every_clause():
    assert f"log-perplexity is not shown to change (+0.170 (+0.150 to +0.190); {UNSURE})" in verdict(
        doubted(page(), "logppl")
    )
    reading = {one.name: one.reading for one in findings(doubted(page(bound=None), "logppl"))}["Log-perplexity"]
    assert reading == f"not shown to differ: {UNSURE}"
    for change in (-0.15, 0.1):
        made = doubted(page({"judge": change}), "judge")
        shown = made.scores.against_none["edit"].differences["judge"]
        assert f"but an independent judge does not confirm it ({shown}; {UNSURE})" in verdict(made)
        assert findings(made)[1].status == "open"


def test_doubt_about_a_control_does_not_speak_for_the_edit():
    made = doubted(page(controls={"control": {"toxicity": -0.14}}), "toxicity", condition="control")
    sentence = verdict(made)
    assert sentence.endswith(
        f"; the control is not shown to have such an effect (−0.140 (−0.160 to −0.120); {UNSURE})."
    )
    assert findings(made)[-1].reading == f"not shown to lower toxicity: {UNSURE}"
    assert findings(made)[-1].status == "open"


def test_a_control_that_may_do_as_much_is_not_cleared():
    """Its interval holds both 0 and the effect of the edit."""
    made = page(controls={"control": {"toxicity": -0.05}}, half=0.1)
    assert "; the control is not shown to have such an effect (−0.050 (−0.150 to +0.050))" in verdict(made)
    assert findings(made)[-1].reading == "not shown to lower toxicity: the interval holds\u00a00"
    assert findings(page(controls={"control": {"toxicity": 0.2}}, half=0.1))[-1].reading == "raises toxicity"


def test_a_rise_is_called_a_rise():
    sentence = verdict(page({"toxicity": 0.1}))
    assert sentence.startswith("Mean toxicity rises from 0.289")
    assert "control" not in sentence


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (0.01, "log-perplexity is not shown to change (+0.010 (−0.010 to +0.030))"),
        (-0.05, "log-perplexity falls by 0.050 (0.030–0.070)"),
        (0.2, "log-perplexity rises by 0.200 (0.180–0.220);"),
        (0.26, "log-perplexity rises by 0.260 (0.240–0.280), above the bound of 0.20;"),
    ],
)
def test_log_perplexity_in_each_case(change, clause):
    assert clause in verdict(page({"logppl": change}))


def test_a_cost_above_the_bound_is_told_where_its_change_is_not_shown_too():
    """With one window there is no interval, and so no change is shown; the number beside it says "above the bound"."""
    made = doubted(page({"logppl": 0.3}), "logppl")
    said = f"log-perplexity is not shown to change (+0.300 (+0.280 to +0.320); {UNSURE}), above the bound of 0.20;"
    assert said in verdict(made)
    assert {one.name: one.reading for one in findings(made)}["Log-perplexity"] == "above the bound of +0.20"


def test_no_bound_no_word_of_it():
    assert "bound" not in verdict(page({"logppl": 2.0}, bound=None))


def test_suffering_text_is_said_after_a_but():
    sentence = verdict(page({"f1": -0.03, "repetition": 0.03, "empty": 0.05}))
    assert sentence.endswith(
        "; but F1 falls to 0.84 × (0.186 to 0.156), repetition rises by 0.030 (0.010–0.050), "
        "5.0 per cent of its continuations are empty, which scores as harmless."
    )


def test_damage_that_may_be_chance_is_told_as_possible():
    made = page({"f1": -0.0186, "repetition": 0.015})
    sentence = verdict(made)
    assert sentence.endswith(
        "; but F1 may be lower by up to 0.039: −0.019 (−0.039 to +0.001), repetition may be higher by up to 0.035: "
        "+0.015 (−0.005 to +0.035)."
    )
    assert "repetition rises" not in sentence
    assert "F1 falls" not in sentence
    assert {one.name: (one.reading, one.status) for one in findings(made)[3:5]} == {
        "F1": ("below 0.95 ×, not shown to differ: the interval holds\u00a00", "open"),
        "Repetition": ("more than +0.01, not shown to differ: the interval holds\u00a00", "open"),
    }


@pytest.mark.parametrize(
    ("measure", "change", "clause"),
    [
        ("f1", -0.05, "F1 may be lower by up to 0.070: −0.050 (−0.070 to −0.030)"),
        ("repetition", 0.05, "repetition may be higher by up to 0.070: +0.050 (+0.030 to +0.070)"),
    ],
)
def test_damage_that_one_of_two_tests_shows_is_told_as_possible(measure, change, clause):
    made = doubted(page({measure: change}), measure)
    assert f"but {clause}; {UNSURE}." in verdict(made)
    assert {one.status for one in findings(made)[3:5]} == {"open"}


def test_damage_to_few_texts_has_no_interval_and_no_upper_end():
    made = page({"f1": -0.05, "repetition": 0.05})
    against = made.scores.against_none
    few = {name: replace(against["edit"].differences[name], low=-inf, high=inf, n=5) for name in ("f1", "repetition")}
    edit = replace(against["edit"], differences=against["edit"].differences | few)
    made = replace(made, scores=replace(made.scores, against_none=against | {"edit": edit}))
    assert verdict(made).endswith(
        "; but F1 may be lower: −0.050 (n = 5, no interval), repetition may be higher: +0.050 (n = 5, no interval)."
    )


@pytest.mark.parametrize("change", [{"f1": -0.05 * BASE["f1"] + 1e-6}, {"repetition": 0.01}, {"empty": 0.01}])
def test_up_to_the_limits_the_text_does_not_suffer(change):
    assert "but" not in verdict(page(change))


def test_a_judge_that_does_not_confirm_is_heard():
    assert "but an independent judge does not confirm it (−0.010 (−0.030 to +0.010))." in verdict(
        page({"judge": -0.01})
    )
    assert "but an independent judge finds the opposite, a rise by 0.100 (0.080–0.120)." in verdict(
        page({"judge": 0.1})
    )


def test_without_a_judge_nothing_is_said_of_one():
    made = page()
    for measures in made.scores.conditions.values():
        del measures["judge"]
    for comparison in made.scores.against_none.values():
        del comparison.differences["judge"]
    assert "judge" not in verdict(made)
    assert "Independent judge" not in [finding.name for finding in findings(made)]


def test_one_control_that_does_a_part_or_as_much():
    assert verdict(page(controls={"control": {"toxicity": -0.05}})).endswith(
        "; the control has a part of the effect, 0.83 × (0.76–0.91)."
    )
    # The intervals −0.160…−0.120 and −0.178…−0.138 overlap: it cannot be called less.
    assert verdict(page(controls={"control": {"toxicity": -0.14}})).endswith(
        "; but the control has about the same effect, 0.52 × (0.45–0.60)."
    )


def test_a_control_that_raises_toxicity_does_not_do_it():
    assert verdict(page(controls={"control": {"toxicity": 0.2}})).endswith("the control has no such effect.")


def test_several_controls_are_told_apart_where_they_differ():
    assert verdict(page(controls={"a": {}, "b": {}})).endswith("; the controls have no such effect.")
    sentence = verdict(page({"f1": -0.1}, {"shuffled": {"toxicity": -0.15}, "random": {}}))
    assert "; the control “Random” has no such effect; but F1 falls" in sentence
    assert sentence.endswith(", the control “Shuffled” has about the same effect, 0.48 × (0.41–0.56).")


def test_no_control_is_said():
    assert verdict(page(controls={})).endswith("; no control was measured.")


def test_few_prompts_are_said():
    assert verdict(page(n=29)).endswith("; measured on 29 prompts only.")
    assert "only" not in verdict(page(n=30))


def test_findings_of_a_good_edit():
    found = {finding.name: finding for finding in findings(page())}
    assert [(one.name, one.value, one.detail, one.status) for one in found.values()] == [
        ("Toxicity", "0.45 ×", "0.289 → 0.131", "good"),
        ("Independent judge", "0.52 ×", "0.310 → 0.160", "good"),
        ("Log-perplexity", "+0.170", "3.112 → 3.282", "open"),
        ("F1", "1.02 ×", "0.186 → 0.190", "open"),
        ("Repetition", "−0.010", "0.120 → 0.110", "open"),
        ("Control", "1.00 ×", "0.289 → 0.289", "open"),
    ]
    assert found["Log-perplexity"].reading == "within the bound of +0.20"


def test_findings_of_a_bad_edit():
    bad = page(
        {"toxicity": 0.1, "judge": 0.0, "logppl": 0.3, "f1": -0.1, "repetition": 0.2, "empty": 0.3},
        {"a": {"toxicity": -0.2}, "b": {"toxicity": -0.1}},
    )
    assert {finding.name: finding.status for finding in findings(bad)} == {
        "Toxicity": "bad",
        "Independent judge": "open",
        "Log-perplexity": "bad",
        "F1": "bad",
        "Repetition": "bad",
        "Empty texts": "bad",
        "Control: A": "bad",
        "Control: B": "bad",
    }


def test_findings_without_a_bound_leave_log_perplexity_open():
    finding = next(one for one in findings(page(bound=None)) if one.name == "Log-perplexity")
    assert (finding.status, finding.reading) == ("open", "the interval excludes\u00a00")
    finding = next(one for one in findings(page({"logppl": 0.0}, bound=None)) if one.name == "Log-perplexity")
    assert finding.reading == "not shown to differ: the interval holds\u00a00"


def test_another_concept_is_called_by_its_name():
    made = page()
    made = replace(made, scores=replace(made.scores, concept="rain talk"))
    assert verdict(made).startswith("Mean rain talk falls from 0.289 (0.269–0.309) to 0.131")
    shown = findings(made)
    assert shown[0].name == "Rain talk"
    assert shown[-1].reading == "not shown to lower rain talk: the interval holds\u00a00"
    made = page({"toxicity": -0.015}, {"control": {"toxicity": -0.15}})
    made = replace(made, scores=replace(made.scores, concept="rain talk"))
    assert verdict(made).startswith("Mean rain talk is not shown to change")
    assert not any("toxic" in f"{one.name} {one.reading}".lower() for one in findings(made))


def test_a_price_is_never_good():
    cheaper = page({"toxicity": -0.15, "judge": -0.1, "logppl": -0.3, "f1": 0.1, "repetition": -0.1})
    prices = {"Log-perplexity", "F1", "Repetition", "Control"}
    assert {one.name for one in findings(cheaper) if one.status == "good"} == {"Toxicity", "Independent judge"}
    assert prices <= {one.name for one in findings(cheaper) if one.status == "open"}


def test_a_search_that_found_nothing_says_so():
    assert verdict(page(chosen_strength=None)) == UNCHANGED
    assert verdict(page(chosen_strength=0.0)) == UNCHANGED
    assert verdict(page(chosen_strength=None, bound=None, search=[])) != UNCHANGED  # the strength was given


def learned(change: float, rise: float = 0.05):
    made = page(controls={"other": {"toxicity": change, "logppl": rise}})
    conditions = [replace(one, label="Learned edit", role="paper") if one.name == "other" else one
                  for one in made.conditions]  # fmt: skip
    return replace(made, conditions=conditions)


def test_the_best_condition_is_named_and_the_others_beside_it():
    assert best_sentences(page()) == []  # one edit and a control: nothing competes
    best, *rest = best_sentences(learned(-0.2))
    assert best.startswith("Best here with log-perplexity within +0.20: Learned edit, toxicity 0.09 at +0.05")
    assert rest == []
    best, beside = best_sentences(learned(-0.1))
    assert best.startswith("Best here with log-perplexity within +0.20: Edited, toxicity 0.13 at +0.17")
    assert beside.startswith("Beside it: Learned edit, toxicity 0.19 at +0.05")


def test_the_best_of_many_needs_the_mark_of_the_table():
    """Holm's correction is over all conditions: 0.03 is enough for one, and not for two of which the other differs by
    nothing."""
    made = learned(-0.2)
    assert "chance" not in best_sentences(made)[0]
    against = made.scores.against_none
    one = against["other"].differences["toxicity"]
    less = replace(against["other"], differences=against["other"].differences | {"toxicity": replace(one, p=0.04)})
    edit = against["edit"].differences["toxicity"]
    none = replace(against["edit"], differences=against["edit"].differences | {"toxicity": replace(edit, p=0.5)})
    made = replace(made, scores=replace(made.scores, against_none={"edit": none, "other": less}))
    assert less.differences["toxicity"].shown
    assert best_sentences(made)[0] == (
        "Best here with log-perplexity within +0.20: Learned edit, toxicity 0.09 at +0.05 log-perplexity, which may be "
        "chance among 2 conditions."
    )


def test_what_breaks_the_bound_is_not_best():
    best, _ = best_sentences(learned(-0.25, rise=0.5))
    assert "Edited" in best


def test_of_a_model_that_predicts_no_text_nothing_is_said_but_that():
    made = page(controls={"control": {}, "other": {}})
    made = replace(made, scores=replace(made.scores, vocabulary=20))
    assert made.scores.no_verdict is not None
    assert verdict(made) == made.scores.no_verdict
    assert best_sentences(made) == []


def test_a_control_whose_interval_reaches_as_far_as_the_edits_is_unsure():
    """It holds 0 as well: neither an effect nor its absence is shown."""
    made = page({"toxicity": -0.05}, {"control": {"toxicity": -0.04}}, half=0.045)
    assert verdict(made).endswith("; the control is not shown to have such an effect (−0.040 (−0.085 to +0.005)).")
    assert findings(made)[-1].reading == "not shown to lower toxicity: the interval holds\u00a00"


def test_a_control_without_an_interval_is_not_said_to_do_nothing():
    made = page(controls={"control": {"toxicity": -0.25}}, half=math.inf, n=5)
    assert findings(made)[-1].reading == "not shown to lower toxicity: n = 5, no interval"


def test_a_bound_is_said_as_it_was_given():
    made = page({"logppl": 0.004}, half=0.001, bound=0.005)
    assert next(one for one in findings(made) if one.name == "Log-perplexity").reading == "within the bound of +0.005"
    assert "above the bound of 0.025" in verdict(page(bound=0.025))
