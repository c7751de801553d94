import base64
import hashlib
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import Comparison
from dposcope.report.edit import render as report
from dposcope.report.edit.page import Condition
from dposcope.report.edit.render import flatten, render_page, write_report
from dposcope.report.figures import COLOURS
from dposcope.report.glossary import DISTINCT, MEASURES, TERMS, Measure
from helpers.html import Parsed, masked_words, words_of
from helpers.pages import HOSTILE, STARRED, STRONG, hostile_page, page, sample, whole_page


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(page())


@pytest.fixture(scope="module")
def hostile() -> str:
    return render_page(hostile_page())


@pytest.mark.slow
def test_the_same_page_gives_the_same_bytes_in_any_process(html):
    assert render_page(page()) == html
    program = (
        "import hashlib; from helpers import pages; from dposcope.report.edit.render import render_page; import sys; "
    )
    program += (
        "print(hashlib.sha256(render_page(pages.page()).encode()).hexdigest(), 'matplotlib.pyplot' in sys.modules)"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.split() == [hashlib.sha256(html.encode()).hexdigest(), "False"]


def test_the_verdict_stands_first(html):
    assert "Mean toxicity falls from 0.289 (0.269–0.309) to 0.131 (0.111–0.151): 0.45 × (0.38–0.53);" in words_of(html)
    assert html.index('class="verdict"') < html.index("<table")


@pytest.mark.parametrize("which", ["html", "hostile"])
def test_nothing_is_asked_of_the_network(which, request):
    text = request.getfixturevalue(which)
    parsed = Parsed(text)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"} & {
        tag for tag, _ in parsed.elements
    }
    for name, value in parsed.attributes():
        if name in {"href", "xlink:href", "src", "action", "data", "poster", "srcset"}:
            assert value.startswith("#"), (name, value)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", "".join(parsed.styles) + parsed.scripts[-1])
    assert "http:" not in text
    assert "https:" not in text


@pytest.mark.parametrize("which", ["html", "hostile"])
def test_the_policy_lets_in_its_own_style_and_script_and_nothing_else(which, request):
    text = request.getfixturevalue(which)
    parsed = Parsed(text)
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv"))

    def digest(code: str) -> str:
        return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()

    style, script = (
        re.search(r"<style>(.*?)</style>", text, re.S)[1],
        re.search(r"<script>(.*?)</script>", text, re.S)[1],
    )
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # What the policy would refuse is not there.
    assert not [name for name, _ in parsed.attributes() if name == "style" or name.startswith("on")]
    assert len(parsed.all("script")) == 2
    assert len(parsed.all("style")) == 1


def test_hostile_text_is_shown_and_does_nothing(hostile):
    hostile.encode("utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", hostile)
    parsed = Parsed(hostile)
    shown = words_of(hostile)
    for text in ("</script><img src=x onerror=alert(1)>", "{{ 7*7 }} {% raw %}", "]]>&lt;b&gt; &#x22; U+2028 U+FEFF"):
        assert shown.count(text) > 5
    assert "U+202Egpj.exeU+2066 U+200B NUL ␀ ESC ␛" in shown
    # No piece of markup slipped into an attribute.
    assert not [
        value for name, value in parsed.attributes() if "data-w" in value or (name != "aria-label" and "<" in value)
    ]


def test_every_place_masks(hostile):
    assert masked_words(hostile) == [STRONG]
    without = re.sub(r'<script type="application/json".*?</script>', "", hostile)
    assert STRONG not in without
    assert STARRED in next(
        value for name, value in Parsed(hostile).attributes() if name == "aria-label" and "Mean" in value
    )
    assert STARRED in re.search(r"<title>(.*?)</title>", hostile)[1]
    assert "<span" not in re.search(r"<title>(.*?)</title>", hostile)[1]
    assert len(re.findall(f">{re.escape(STARRED)}</span>", hostile)) > 30


def test_mild_words_stay_and_the_strong_one_is_behind_the_switch(html):
    assert "an idiot" in words_of(html)
    assert f'<span class="w" data-w="0">{STARRED}</span>!' in html
    assert masked_words(html) == [STRONG]
    switch = next(box for box in Parsed(html).all("input") if box.get("role") == "switch")
    assert "checked" not in switch


def test_all_notes_settings_and_provenance_are_there(html):
    shown = words_of(html)
    for text in ("One scorer is not a jury.", "Mild data took part.", "beta 0.55", "seed 0", "torch 2.13.0", "f00d"):
        assert text in shown
    assert "quality, roc auc 0.9123" in shown
    assert "quality, test texts 12,345" in shown
    assert "Edited: the model in the checkpoint." in shown


def test_the_glossary_explains_each_measure_that_is_measured(html):
    shown = words_of(html)
    sampled = {"harmless_logppl", "relevance"}
    for entry in (*MEASURES, DISTINCT, *TERMS):
        if not (isinstance(entry, Measure) and entry.key in sampled):
            assert entry.meaning in shown
    whole = words_of(render_page(whole_page()))
    for entry in (*MEASURES, DISTINCT, *TERMS):
        assert entry.meaning in whole
    assert "The same continuations, scored by neural." in whole
    measured = {"toxicity", "judge", "repetition", "empty", "f1", "logppl", "harmless_logppl", "relevance"}
    assert {measure.key for measure in MEASURES} == measured


def test_what_an_edit_costs_stands_in_a_table_of_its_own():
    shown = words_of(render_page(whole_page()))
    assert "What each condition costs" in shown
    for cell in ("+0.35 +0.31–+0.39", "0.77 × 0.70–0.84", "0.72 ×"):
        assert cell.replace("–", " to ") in shown.replace("–", " to "), cell
    assert f"“{STARRED} i remember” in 52.0 % of texts, 0.0 % of the plain model's" in shown
    assert "What each condition costs" not in words_of(render_page(page()))


def test_too_few_items_are_told_in_every_table():
    made = page(n=3)
    shown = words_of(render_page(replace(made, scores=without_intervals(made.scores))))
    assert "0.131 n = 3, no interval" in shown  # means
    assert "0.45 × n = 3, no interval" in shown  # differences
    assert "−0.158 n = 3, no interval" in shown
    assert "not shown to differ: n = 3, no interval" in shown  # the main numbers


def without_intervals(scores):
    """The scores of measures of three items."""

    def bare(one):
        return replace(one, low=-math.inf, high=math.inf) if one.n == 3 else one

    return replace(
        scores,
        conditions={
            name: {key: bare(one) for key, one in values.items()} for name, values in scores.conditions.items()
        },
        against_none={
            name: Comparison({key: bare(d) for key, d in one.differences.items()}, bare(one.toxicity_ratio))
            for name, one in scores.against_none.items()
        },
    )


def test_the_ideal_is_a_row_with_dashes_and_no_difference():
    shown = words_of(render_page(whole_page()))
    means = "0.090 0.070–0.110 0.150 0.130–0.170 0.060 0.040–0.080"
    assert f"The limit of an edit Ideal {means} – – – – –" in shown
    assert "Ideal – – 0.95 × – –" in shown


def test_a_scorer_that_does_not_share_a_difference_is_told():
    shown = words_of(render_page(whole_page()))
    assert "‡: another scorer does not share this difference." in shown
    assert "the scorer neural does not confirm it" in shown
    assert "−0.158‡" in shown
    assert "‡: another" not in words_of(render_page(page()))


def test_another_concept_is_called_by_its_name_everywhere():
    made = page()
    shown = words_of(render_page(replace(made, scores=replace(made.scores, concept="rain talk"))))
    for words in ("Mean rain talk falls", "Rain talk, ratio", "its rain talk.", "positive side towards rain talk."):
        assert words in shown, words
    assert "mean rain talk, 0 to 1" in shown
    assert "toxic" not in shown.lower()


def test_tables_are_tables(html):
    tables = re.findall(r"<table.*?</table>", html, re.S)
    assert len(tables) == 4
    for table in tables:
        parsed = Parsed(table)
        assert len(parsed.all("caption")) == 1
        assert {head.get("scope") for head in parsed.all("th")} <= {"col", "row", "rowgroup"}
        # Every row of the body has as many cells as the head.
        rows = [re.findall(r"<t[hd]", row) for row in re.findall(r"<tr.*?</tr>", table, re.S) if "colspan" not in row]
        assert len({len(row) for row in rows}) == 1


def test_differences_are_marked_where_the_interval_excludes_zero(html):
    table = re.search(r'<caption id="table-differences">.*?</table>', html, re.S)[0]
    edited = re.search(r'<tr class="edit">.*?</tr>', table, re.S)[0]
    assert re.findall(r'<td class="number ?([a-z]*)">', edited) == ["", "better", "better", "worse", "", "", ""]
    assert words_of(edited).split("better: ")[1].startswith("−0.158 −0.178 to −0.138")
    assert "Plain model" not in words_of(table.split("<tbody>", 1)[1])
    assert "Unmarked: the difference may be chance" in words_of(html)


def test_more_f1_is_better_and_less_is_worse():
    for change, mark in ((0.1, "better"), (-0.1, "worse")):
        table = re.search(r'id="table-differences">.*?</table>', render_page(page({"f1": change})), re.S)[0]
        assert f'<td class="number {mark}"' in re.search(r'<tr class="edit">.*?</tr>', table, re.S)[0]


def test_rows_are_grouped_by_role_in_one_order():
    made = page(controls={"control": {}, "gains": {}, "assign": {}})
    roles = {"gains": "part", "assign": "paper"}
    conditions = [replace(one, role=roles.get(one.name, one.role)) for one in reversed(made.conditions)]
    table = re.search(r'id="table-means">.*?</table>', render_page(replace(made, conditions=conditions)), re.S)[0]
    assert re.findall(r'<tr class="(\w+)">', table) == [
        *("base", "edit", "group", "part", "group", "control", "group", "paper")
    ]
    assert table.count("<tbody>") == 5


def test_without_a_judge_there_is_no_column_for_one():
    made = page(judge=None)
    for measures in made.scores.conditions.values():
        del measures["judge"]
    for comparison in made.scores.against_none.values():
        del comparison.differences["judge"]
    assert "Judge" not in words_of(render_page(made))
    assert "independent judge" not in words_of(render_page(made))


def test_a_missing_ratio_leaves_a_dash():
    table = re.search(r'id="table-differences">.*?</table>', render_page(page(ratio=False)), re.S)[0]
    assert '<td class="number"><span class="value">–</span></td>' in table


def test_samples_stand_side_by_side(html):
    assert html.count('<li class="sample">') == 2
    # The space of a continuation's first word would only indent it.
    assert '<p class="text" dir="auto">an idiot</p>' in html
    assert '<span class="none">empty</span>' in html
    assert '!<span class="c">↵</span><span class="c">↵</span>Yes' in html
    assert "other condition" not in html


def test_other_conditions_of_a_sample_are_folded():
    one = sample("p", "a", "b")
    one = replace(one, continuations={**one.continuations, "control": "c"}, toxicity={**one.toxicity, "control": 0.3})
    shown = render_page(page(samples=[one]))
    assert re.search(r"<summary>1 other condition</summary>.*Control.*0\.30", shown, re.S)


def test_without_samples_there_is_no_section_of_them():
    shown = render_page(page(samples=[]))
    assert 'id="samples"' not in shown
    assert 'href="#samples"' not in shown


def test_the_lens_shows_its_tokens_with_their_spaces(html):
    assert (
        f'<span class="c">␣</span><span class="w" data-w="0">{STARRED}</span></code> <span class="logit">9.2</span>'
        in html
    )
    assert 'id="lens-top"' not in render_page(page(lens=None))


def test_the_search_is_told_as_it_went(html):
    assert "Strength 1.250 was chosen. It is the largest of 3 tried" in words_of(html)
    table = words_of(re.search(r'id="table-search">.*?</table>', html, re.S)[0])
    assert "1.500 +0.250 +0.200 to +0.300 exceeded" in table
    assert "1.250 +0.170 +0.150 to +0.195 within, chosen" in table


def test_a_search_that_found_nothing_is_told():
    shown = words_of(render_page(page(chosen_strength=0.0)))
    assert "No strength that was tried is within the bound of 0.20" in shown


def test_a_given_strength_has_no_search():
    shown = render_page(page(search=[], bound=None, chosen_strength=None))
    assert "The strength was given in the settings." in shown
    assert "table-search" not in shown


def test_an_edit_without_groups_has_no_table_of_them():
    assert "table-groups" not in render_page(page(groups=[]))


def test_the_figure_of_changes_counts_and_names_its_prompts():
    assert "each of the 2 prompts shown below" in words_of(render_page(page()))
    many = page(per_prompt={"none": [0.5, 0.5, 0.5, 0.5], "edit": [0.1, 0.44, 0.46, 0.9]})
    assert (
        "each of the 4 measured prompts, before and after. It fell by more than 0.05 in 2, rose by more than that "
        "in 1, and stayed about the same in 1." in words_of(render_page(many))
    )


@pytest.mark.parametrize("which", ["html", "hostile"])
def test_identifiers_are_unique_and_references_lead_somewhere(which, request):
    parsed = Parsed(request.getfixturevalue(which))
    ids = [value for name, value in parsed.attributes() if name == "id"]
    assert len(set(ids)) == len(ids)
    for name, value in parsed.attributes():
        if name in {"aria-labelledby", "aria-controls", "for"}:
            assert value in ids
        if name == "href":
            assert value.removeprefix("#") in ids


def test_every_figure_says_what_it_shows(html):
    figures = [attributes for attributes in Parsed(html).all("svg") if attributes.get("aria-hidden") != "true"]
    assert len(figures) == 4
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 20 for figure in figures)


def test_findings_fill_their_rows():
    assert [report._columns(count) for count in range(3, 13)] == [3, 4, 5, 6, 4, 4, 5, 5, 6, 6]


def test_numbers_of_a_sentence_do_not_break(html):
    verdict = re.search(r'<p class="verdict">(.*?)</p>', html)[1]
    assert re.findall(r'<span class="whole">([^<]*)</span>', verdict) == [
        *("(0.269–0.309)", "(0.111–0.151)", "0.45 ×", "(0.38–0.53)", "(0.150–0.190)")
    ]


def test_facts_nest():
    assert flatten({"a_b": 1, "quality": {"roc_auc": 0.5, "of": {"x": None}}}) == [
        ("a b", "1"),
        ("quality, roc auc", "0.5"),
        ("quality, of, x", "none"),
    ]


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_figures_have_contrast(html, theme):
    css = Parsed(html).styles[0]
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0] + (blocks[1] if theme == "dark" else "")))
    for ground in ("ground", "raised"):
        for name, least in {
            **dict.fromkeys(("ink", "muted", "link", "good", "bad"), 4.5),
            **{f"fig-{role}": 3.0 for role in COLOURS},
        }.items():
            lighter, darker = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= least, (theme, name, ground)


def test_a_template_that_lacks_a_name_fails(monkeypatch):
    monkeypatch.setattr(report, "findings", lambda page: [object()])
    with pytest.raises(Exception, match="has no attribute 'status'"):
        render_page(page())


def test_the_file_is_written_whole_or_not_at_all(tmp_path, html, hostile, monkeypatch):
    path = tmp_path / "new" / "report.html"
    write_report(page(), path)
    assert path.read_text(encoding="utf-8") == html
    write_report(hostile_page(), path)
    assert path.read_text(encoding="utf-8") == hostile
    monkeypatch.setattr(report, "verdict", lambda page: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(page(), path)
    assert path.read_text(encoding="utf-8") == hostile
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DposcopeError, match="choose another --out"):
        write_report(page(), tmp_path / "file" / "report.html")


def test_hostile_labels_of_conditions_break_no_row():
    made = page(
        conditions=[
            Condition(name, text, role)
            for name, text, role in zip(("none", "edit", "control"), HOSTILE, ("base", "edit", "control"), strict=False)
        ]
    )
    table = re.search(r'id="table-means">.*?</table>', render_page(made), re.S)[0]
    assert len(re.findall("<tr", table)) == 5
