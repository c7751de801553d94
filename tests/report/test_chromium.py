"""Every type of page in a real browser, at a laptop's and a phone's width, light and dark: nothing sticks out, nothing
is too small to read, nothing is said to the console or asked of the network, and axe-core finds nothing."""

from dataclasses import replace

import pytest

from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.report.browser.page import write_browser
from dposcope.report.edit.page import Tradeoff, TriedEdit
from dposcope.report.edit.render import write_report
from helpers.axe import small_texts, violations
from helpers.browsers import browser, click, hostile_browser, put, state
from helpers.chromium import chromium
from helpers.pages import HOSTILE, STARRED, STRONG, hostile_page, page, whole_page
from helpers.sections import sections
from helpers.told import told

SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]
TABS = {
    "explain.html": ["result", "texts", "neurons", "claims", "method"],
    "hostile-explain.html": ["result", "texts", "neurons", "claims", "method"],
    "neurons.html": ["neurons", "method"],
}
PAGES = ["edit.html", "tune.html", "unchanged.html", "hostile-edit.html", *TABS]


def searched():
    """A page of `tune`."""
    trials = [
        TriedEdit(method, "strength 1.00", 0.01 * n, 0.02, Estimate(0.3 - 0.02 * n, 0.1, 0.4, 20), 0.1, 0.5, n == 5)
        for n, method in enumerate(["learned", "groups", "least-squares", "ablation alone", "learned", "groups"])
    ]
    found = Tradeoff(trials, 0.3, Estimate(0.1, 0.05, 0.15, 20), 0.05, Estimate(0.12, 0.06, 0.2, 20), 0.31, "word list")
    made = whole_page()
    beside = [replace(one, role="paper", label="Learned edit") if one.name == "control" else one
              for one in made.conditions]  # fmt: skip
    return replace(made, command="dposcope tune", tradeoff=found, conditions=beside, warning="Not for use: a control.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pages")
    write_report(page(), made / "edit.html")
    write_report(searched(), made / "tune.html")
    write_report(page(chosen_strength=0.0), made / "unchanged.html")
    write_report(hostile_page(), made / "hostile-edit.html")
    parts = sections(f"v 1.25 {STRONG}")
    write_browser(browser(3, 400), made / "explain.html", sections=parts, explained=told())
    harm = f"{HOSTILE[0]} {STRONG}"
    write_browser(hostile_browser(), made / "hostile-explain.html", sections=sections(harm), explained=told(harm))
    write_browser(browser(3, 400), made / "neurons.html", sections=sections())
    return made


@pytest.fixture(scope="module")
def tab():
    with chromium() as opened:
        yield opened


@pytest.fixture
def explain(tab, folder):
    tab.open(folder / "explain.html")
    tab.console.clear()
    yield tab
    assert tab.console == []


@pytest.mark.parametrize(("width", "dark"), SCREENS, ids=["laptop", "laptop-dark", "phone", "phone-dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_can_be_read_and_is_silent(tab, folder, name, width, dark):
    tab.console.clear()
    tab.requests.clear()
    tab.open(folder / name, width=width, height=900 if width > 600 else 844, dark=dark)
    for part in TABS.get(name, [""]):
        if part:
            go(tab, part)
            tab.run("document.querySelectorAll('.panel:not([hidden]) details').forEach((one) => { one.open = true; })")
        where = (name, part, width, dark)
        assert tab.run("document.documentElement.scrollWidth") == width, where
        assert small_texts(tab) == [], where
    assert tab.console == []
    assert tab.requests == [(folder / name).resolve().as_uri()]


@pytest.mark.parametrize(("width", "dark"), [SCREENS[0], SCREENS[3]], ids=["laptop", "phone-dark"])
@pytest.mark.parametrize("name", ["tune.html", "unchanged.html", "explain.html"])
def test_axe_finds_nothing(tab, folder, name, width, dark):
    tab.open(folder / name, width=width, dark=dark)
    for part in TABS.get(name, [""]):
        if part:
            go(tab, part)
        assert violations(tab) == [], part


def go(tab, anchor: str):
    tab.run(f"new Promise((done) => {{ location.hash = '{anchor}'; setTimeout(done, 60); }})")


def shown(tab) -> list[str]:
    """Headings of the parts in view."""
    return tab.run("[...document.querySelectorAll('.panel:not([hidden]) > h2, .panel:not([hidden]) > section > h2')]"
                   ".map((one) => one.id)")  # fmt: skip


def back(tab):
    tab.run("new Promise((done) => { history.back(); setTimeout(done, 120); })")


def test_one_part_at_a_time_and_back_works(explain):
    assert shown(explain) == ["result"]
    for name in ("texts", "claims"):
        explain.run(f"document.querySelector('.tabs a[data-home={name}]').click()")
        explain.run("new Promise((done) => setTimeout(done, 60))")
        assert shown(explain) == [name]
        assert explain.run("document.querySelector('.tabs [aria-current]').textContent").lower() == name
    back(explain)
    assert shown(explain) == ["texts"]
    back(explain)
    assert shown(explain) == ["result"]


def test_an_anchor_inside_a_part_opens_it_and_what_is_folded(explain):
    go(explain, "section-2")
    assert shown(explain) == ["method"]
    assert explain.run("document.getElementById('section-2').open")
    go(explain, "worst")
    assert shown(explain) == ["texts"]


def test_a_neuron_that_is_named_is_a_link_to_its_view(explain):
    links = explain.run("[...document.querySelectorAll('a.neuron')].map((one) => one.getAttribute('href'))")
    assert set(links) == {"#1.25"}
    assert len(links) == 2  # a claim, and a table
    explain.run("document.querySelector('.claims a.neuron').click()")
    explain.run("new Promise((done) => setTimeout(done, 120))")
    assert shown(explain) == ["neurons", "map"]
    assert explain.run("document.getElementById('opened-name').textContent").startswith("Neuron 1.25 ")
    back(explain)
    assert shown(explain) == ["result"]


def test_filters_and_order_are_in_the_address(tab, folder, explain):
    go(explain, "neurons")
    put(explain, "by-neuron", "1")
    click(explain, "[name=group][value='1']")
    click(explain, "[data-sort=gain]")
    address, told_state = explain.run("location.href"), state(explain)
    assert address.endswith("#neurons?n=1&g=1&o=-gain")
    assert told_state.endswith("largest gain first")
    explain.run("document.querySelector('.tabs a[data-home=claims]').click()")
    explain.run("new Promise((done) => setTimeout(done, 60))")
    explain.run("document.querySelector('.tabs a[data-home=neurons]').click()")
    explain.run("new Promise((done) => setTimeout(done, 60))")
    assert (explain.run("location.href"), state(explain)) == (address, told_state)
    tab.open(folder / "edit.html")
    tab.visit(address)
    tab.run("new Promise((done) => setTimeout(done, 700))")
    assert state(explain) == told_state


def test_the_bars_of_blocks_list_their_neurons(explain):
    go(explain, "neurons")
    explain.run("document.querySelectorAll('.net-bars a')[2].click()")
    explain.run("new Promise((done) => setTimeout(done, 60))")
    assert state(explain).startswith("400 of 1,200 neurons")
    assert explain.run("document.getElementById('by-neuron').value") == "2"


def test_a_part_of_the_cloud_lists_its_neurons(explain):
    go(explain, "neurons")
    # Two frames later the tab that came into view has its final size.
    box = explain.run("new Promise((found) => requestAnimationFrame(() => requestAnimationFrame(() => {"
                      "  const {x, y, width, height} = document.getElementById('cloud').getBoundingClientRect();"
                      "  found([x, y, width, height]); })))")  # fmt: skip
    x, y, width, height = box
    for kind, at in (("Pressed", (0.52, 0.1)), ("Moved", (0.8, 0.4)), ("Released", (0.8, 0.4))):
        explain.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x + at[0] * width, y=y + at[1] * height,
                     button="left", clickCount=1)  # fmt: skip
    asked = explain.run("document.getElementById('by-number').value")
    assert asked.startswith("cosine >= 0.0")
    assert "contribution >= 0.0" in asked
    assert 0 < int(state(explain).split(" ")[0]) < 1200


def test_changes_of_activations_have_a_scale_of_their_own(explain):
    go(explain, "neurons")
    scale = "document.querySelector('.scale-bar').textContent"
    whole = explain.run(scale)
    explain.run("document.querySelector('[name=activation][value=change]').click()")
    assert explain.run(scale) != whole
    # The largest change has the strongest shade.
    shares = explain.run(
        "[...document.querySelectorAll('.readings .t')].map((one) => one.style.getPropertyValue('--share'))"
    )
    assert max(float(share.rstrip("%")) for share in shares) == 70


def test_words_are_found_while_they_are_starred(explain):
    go(explain, "texts")
    put(explain, "filter", STRONG.upper())
    # Three lists have the word, the first screen among them.
    assert explain.run("document.getElementById('filter-count').textContent") == "3 of 4 shown"
    assert STRONG not in explain.run("document.body.innerText")
    assert STARRED in explain.run("document.body.innerText")


def test_the_common_beginning_is_grey_and_the_words_are_marked(explain):
    assert explain.run("document.querySelector('.first .shared').textContent") == "and then he "
    assert explain.run("getComputedStyle(document.querySelector('.first .w')).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_the_verdict_of_a_claim_is_in_view_on_a_phone(tab, folder):
    tab.open(folder / "explain.html", width=390)
    go(tab, "claims")
    rights = tab.run("[...document.querySelectorAll('.badge')].map((one) => one.getBoundingClientRect().right)")
    assert len(rights) == 4
    assert max(rights) <= 390


def test_without_scripts_every_part_stands_there(tab, folder):
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(folder / "explain.html")
        visible = tab.send("DOM.getDocument", depth=0)
        assert visible
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    html = (folder / "explain.html").read_text(encoding="utf-8")
    places = [html.index(f' id="{name}"') for name in TABS["explain.html"]]
    assert places == sorted(places)
    assert '<div class="panel" hidden' not in html
