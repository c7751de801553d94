import base64
import hashlib
import json
import re

import numpy as np
import pytest

from dposcope.report.browser import page as browser_page
from dposcope.report.browser.page import TERMS, browser_html, write_browser
from helpers.browsers import browser, hostile_browser, lens
from helpers.html import Parsed, masked_words, words_of
from helpers.pages import HOSTILE, STARRED, STRONG
from helpers.sections import sections
from helpers.told import told


@pytest.fixture(scope="module")
def html() -> str:
    return browser_html(browser(), sections=sections())


@pytest.fixture(scope="module")
def hostile() -> str:
    return browser_html(hostile_browser(), sections=sections(f"{HOSTILE[0]} {STRONG}"))


def test_the_same_value_gives_the_same_text(html):
    assert browser_html(browser(), sections=sections()) == html


@pytest.mark.parametrize("which", ["html", "hostile"])
def test_it_loads_nothing_and_its_policy_lets_in_its_own_code_alone(which, request):
    text = request.getfixturevalue(which)
    parsed = Parsed(text)
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in (style, script)]
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv"))
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in parsed.elements}
    assert not [name for name, _ in parsed.attributes() if name in {"style", "src", "action"} or name.startswith("on")]
    assert all(value.startswith("#") for name, value in parsed.attributes() if name == "href")
    assert not re.search(r"https?:|@import|url\((?!#)", style + script)
    assert len(parsed.all("script")) == 3


def test_identifiers_are_unique_and_links_lead_somewhere(html):
    named = [value for name, value in Parsed(html).attributes() if name == "id"]
    assert len(set(named)) == len(named)
    assert {link["href"].removeprefix("#").split("?")[0] for link in Parsed(html).all("a")} <= set(named)


def test_the_summary_counts_what_rises_and_what_falls(html):
    total = browser().contribution
    fell, rose = total[total > 0].sum(), -total[total < 0].sum()
    assert f"{100 * (total > 0).mean():.1f} per cent of 120 neurons write less" in words_of(html)
    assert f"{fell:.4g} in all; the others write {rose:.4g} more" in words_of(html)
    assert f"a net {'reduction' if fell > rose else 'increase'} of {abs(fell - rose):.4g}." in words_of(html)


def test_the_summary_of_neurons_that_stand_still_says_so():
    still = np.zeros((2, 4))
    some = still.copy()
    some[0, 0], some[1, 1] = 3.0, -1.0
    said = [words_of(browser_html(browser(2, 4, contribution=one, n_lenses=1, n_opened=1))) for one in (still, some)]
    begun = "per cent of 8 neurons write less along the direction after tuning"
    assert f"0.0 {begun}, the others as much as before." in said[0]
    assert f"12.5 {begun}, 3 in all; 6 write as much as before, the others write 1 more: a net reduct" in said[1]


def test_sections_are_folded_under_method_in_their_order(html):
    places = [
        html.index(f' id="{name}"') for name in ("neurons", "map", "method", "section-1", "section-2", "glossary")
    ]
    assert places == sorted(places)
    assert '<a href="#method">Method</a>' in html
    cell = '<td class="number">0.300<span class="interval whole">0.280–0.330</span></td>'
    assert f'<th scope="row">none</th>{cell}' in html
    assert '<td class="number">–</td><td class="number">0</td>' in html
    assert '<td class="number">−0.25</td><td class="number">12,345</td>' in html
    assert "−0.200" in html
    assert "Groups, a word" in words_of(html)


def test_a_page_without_sections_notes_and_provenance_has_no_empty_headings():
    text = browser_html(browser(notes=[], provenance={}))
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert heads == ["Neurons", "Where it acted", "Method"]
    assert re.findall(r"<summary><h3>(.*?)</h3>", text) == ["Glossary"]


def test_the_heat_map_is_a_table_with_every_number(html):
    table = re.search(r'<table class="map".*?</table>', html, re.S)[0]
    rows = [re.findall(r"<t[hd]", row) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
    assert [len(row) for row in rows] == [4] * 10
    assert len(re.findall(r'<span class="spoken">[+−0]', table)) == 27


def test_the_glossary_explains_the_terms(html):
    for term in TERMS:
        assert term.meaning in words_of(html)


def test_hostile_text_is_masked_visible_and_inert(hostile):
    hostile.encode("utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", hostile)
    assert masked_words(hostile) == [STRONG]
    without = re.sub(r'<script type="application/json" id="masked-words">.*?</script>', "", hostile)
    assert STRONG not in without
    assert STARRED in re.search(r"<title>(.*?)</title>", hostile)[1]
    assert words_of(hostile).count("</script><img src=x onerror=alert(1)>") > 4


def test_it_is_written_whole(tmp_path, html):
    write_browser(browser(), tmp_path / "neurons.html", sections=sections())
    assert (tmp_path / "neurons.html").read_text(encoding="utf-8") == html


def kept_of(html: str) -> dict:
    return json.loads(re.search(r'id="browser-data">(.*?)</script>', html, re.S)[1])["kept"]


def test_a_page_without_room_for_all_has_as_many_of_the_strongest_as_fit(monkeypatch):
    value = browser(3, 4_000)
    whole = browser_html(value)
    assert kept_of(whole) is None
    assert 'id="kept"' not in whole
    limit = len(whole.encode()) - 100_000
    monkeypatch.setattr(browser_page, "MAX_BYTES", limit)
    html = browser_html(value)
    assert limit - 15_000 < len(html.encode()) <= limit
    count = int(re.search(r"This page has ([\d,]+) of the 12,000 neurons", words_of(html))[1].replace(",", ""))
    assert 1_000 < count < 12_000
    assert kept_of(html)["total"] == 12_000
    assert "tables/neurons.parquet" not in words_of(html)
    assert "All of them are in tables/neurons.parquet" in words_of(browser_html(value, explained=told()))
    # Sums and the map are of all neurons.
    assert re.search(r'<p class="lead">.*?</p>', html)[0] == re.search(r'<p class="lead">.*?</p>', whole)[0]
    assert re.search(r'<table class="map".*?</table>', html, re.S)[0] in whole


def test_a_page_with_room_for_nothing_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(browser_page, "MAX_BYTES", 60_000)
    value = browser()
    write_browser(value, tmp_path / "neurons.html")
    shown = {*value.lenses, *value.activations.neurons.tolist(), int(np.abs(value.contribution).argmax())}
    text = (tmp_path / "neurons.html").read_text(encoding="utf-8")
    assert f"This page has {len(shown)} of the 120 neurons" in words_of(text)
    lenses = {neuron: lens(" word") for neuron in range(120)}
    assert 'id="kept"' not in browser_html(browser(lenses=lenses)), "all are needed"
