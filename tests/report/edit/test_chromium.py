"""The report in a real browser: skipped, with the mend, where there is none."""

import pytest

from dposcope.report.edit.render import write_report
from helpers.chromium import chromium
from helpers.pages import STARRED, STRONG, hostile_page, page, sample, whole_page

SHOWN = "document.body.innerText"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    write_report(page(), folder / "report.html")
    write_report(hostile_page(), folder / "hostile.html")
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as tab:
        yield tab


@pytest.fixture(params=["report.html", "hostile.html"])
def any_report(request, reports):
    return reports / request.param


@pytest.mark.parametrize("width", [375, 1280])
def test_it_opens_in_silence_asks_for_nothing_and_fits(browser, any_report, width):
    browser.console.clear()
    browser.requests.clear()
    browser.open(any_report, width=width)
    assert browser.console == []
    assert browser.requests == [any_report.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("document.images.length + document.querySelectorAll('main script').length") == 0


@pytest.mark.parametrize("further", [("neural",), ("neural", "perspective", "classifier")])
def test_tables_of_many_scorers_fit_a_laptop(browser, tmp_path, further):
    write_report(whole_page(further), tmp_path / "whole.html")
    browser.open(tmp_path / "whole.html", width=1280)
    for table in ("table-means", "table-differences", "table-costs"):
        box = f"document.querySelector('[aria-labelledby={table}]')"
        assert browser.run(f"{box}.scrollWidth") == browser.run(f"{box}.clientWidth") > 1000, table
    # Numbers stay whole: with one further scorer no interval is broken, with three only before its upper end.
    lines = """[...document.querySelectorAll('.scores .interval')].map(
        (one) => one.getBoundingClientRect().height / parseFloat(getComputedStyle(one).lineHeight))"""
    assert max(browser.run(lines)) == pytest.approx(1 if len(further) == 1 else 2, abs=0.1)


def test_the_phrase_of_a_cost_is_no_column_of_single_words_on_a_phone(browser, tmp_path):
    write_report(whole_page(), tmp_path / "whole.html")
    browser.open(tmp_path / "whole.html", width=390)
    row = "document.querySelector('[aria-labelledby=table-costs] tbody tr').getBoundingClientRect().height"
    assert browser.run(row) < 80


def test_the_policy_holds_against_what_is_put_in_later(browser, any_report):
    browser.open(any_report)
    browser.console.clear()
    browser.run(
        """document.body.insertAdjacentHTML("beforeend",
        "<img src=x onerror='globalThis.harm=1'><p id=styled style='color:red'>a</p>"), 0"""
    )
    assert browser.run("typeof globalThis.harm") == "undefined"
    assert len([line for line in browser.console if "Content Security Policy" in line]) >= 2


def test_the_switch_works_by_keyboard(browser, any_report):
    browser.open(any_report)
    assert STRONG not in browser.run(SHOWN)
    assert STARRED in browser.run(SHOWN)
    for _ in range(2):
        browser.press("Tab")
    assert browser.run("document.activeElement.id") == "unmask"
    browser.press(" ", text=" ")
    assert browser.run("document.activeElement.checked")
    assert STRONG in browser.run("document.querySelector('main').innerText")
    assert STARRED not in browser.run(
        "[...document.querySelectorAll('[data-w]')].map((span) => span.textContent).join(' ')"
    )
    browser.press(" ", text=" ")
    assert STRONG not in browser.run(SHOWN)


def test_the_first_tab_skips_to_the_content(browser, reports):
    browser.open(reports / "report.html")
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Skip to the content"
    assert browser.run("document.activeElement.getBoundingClientRect().top") >= 0


def test_samples_are_filtered_as_they_are_shown(browser, reports):
    browser.open(reports / "report.html")
    kept = "[...document.querySelectorAll('.sample')].map((one) => !one.hidden)"
    browser.run("document.getElementById('filter').focus()")
    browser.type("IDIOT")
    assert browser.run(kept) == [True, False]
    assert browser.run("document.getElementById('filter-count').textContent") == "1 of 2 shown"
    browser.run("document.getElementById('filter').select()")
    browser.type(STRONG)
    assert browser.run(kept) == [False, True]  # found by its word, which stays starred
    assert STRONG not in browser.run(SHOWN)
    browser.run("document.getElementById('unmask').click()")
    assert browser.run(kept) == [False, True]
    browser.run("const box = document.getElementById('filter'); box.value = ''; box.dispatchEvent(new Event('input'))")
    assert browser.run(kept) == [True, True]
    assert browser.run("document.getElementById('filter-count').textContent") == ""


def test_many_samples_are_folded_and_a_search_unfolds_them(browser, tmp_path):
    many = [sample(f"Prompt {number}", "one", "other") for number in range(12)]
    write_report(page(samples=many), tmp_path / "many.html")
    browser.open(tmp_path / "many.html")
    seen = "[...document.querySelectorAll('.sample')].filter((one) => one.checkVisibility()).length"
    assert browser.run(seen) == 8
    assert browser.run("document.querySelector('.rest > summary').textContent") == "4 more"
    browser.run("document.getElementById('filter').focus()")
    browser.type("prompt 11")
    assert browser.run("document.querySelector('.rest').open")
    assert browser.run(seen) == 1
    assert browser.run("document.getElementById('filter-count').textContent") == "1 of 12 shown"


def test_figures_and_page_follow_the_theme(browser, reports):
    colours = """[getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector('figure svg text')).fill]"""
    browser.open(reports / "report.html", dark=False)
    light = browser.run(colours)
    browser.open(reports / "report.html", dark=True)
    dark = browser.run(colours)
    assert light == ["rgb(252, 252, 253)", "rgb(92, 99, 109)"]
    assert dark == ["rgb(22, 24, 28)", "rgb(157, 165, 175)"]


def test_assistive_technology_finds_the_switch_the_figures_and_the_tables(browser, reports):
    browser.open(reports / "report.html")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    named = [(node.get("role", {}).get("value"), node.get("name", {}).get("value", "")) for node in nodes]
    assert ("switch", "Show offensive words") in named
    assert ("searchbox", "Only texts that contain") in named
    assert ("table", "Table 1. Means") in named
    assert len([name for role, name in named if role == "image" and name]) == 4
    assert [name for role, name in named if role == "main"]
    assert ("cell", "better: −0.158 −0.178 to\u00a0−0.138") in named


def test_on_paper_it_is_light_without_controls_and_masked(browser, reports):
    browser.open(reports / "report.html", dark=True)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "[...document.querySelectorAll('.bar, nav, .filter')].map((one) => getComputedStyle(one).display)"
    assert browser.run(hidden) == ["none", "none", "none"]
    assert browser.pdf().startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="")


def test_without_scripts_it_reads_as_well_masked_and_without_dead_controls(browser, any_report):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(any_report)
        tree = browser.send("DOM.getDocument", depth=-1)["root"]["nodeId"]
        shown = browser.send("DOM.getOuterHTML", nodeId=tree)["outerHTML"]
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert STARRED in shown
    assert STRONG not in shown.split('<script type="application/json"')[0]
    assert shown.count(' hidden=""') == 2
