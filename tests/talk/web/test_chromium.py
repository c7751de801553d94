"""The local page in a real browser: a person asks, moves the dial, chooses a neuron, unmasks."""

import json
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from dposcope.talk.session import Session
from helpers.browsers import click
from helpers.chats import BEGINS, with_template
from helpers.chromium import chromium
from helpers.families import tiny
from helpers.pages import STARRED, STRONG
from helpers.served import answering_of, served

HOSTILE = "</p><img src=x onerror=alert(1)><script>alert(2)</script> {{ 7*7 }}"

SMALLEST = """
Math.min(...[...document.querySelectorAll("body *")]
  .filter((one) => one.innerText && one.checkVisibility())
  .map((one) => parseFloat(getComputedStyle(one).fontSize)))
"""
"""Of all text, in pixels."""


@pytest.fixture(scope="module")
def tab():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def model():
    return tiny("gemma3")


@pytest.fixture(scope="module")
def server(model):
    with served(answering_of(model)) as one:
        yield one


@pytest.fixture
def page(tab, server):
    """The page, as it is opened; afterwards nothing was complained of, and nothing came from elsewhere."""
    tab.console.clear()
    tab.requests.clear()
    tab.visit(server.address)
    yield tab
    assert tab.console == []
    assert {urlsplit(url).netloc for url in tab.requests} == {f"127.0.0.1:{server.port}"}
    assert all(urlsplit(url).path.startswith(f"/{server.token}/") for url in tab.requests)


def words(tab, selector: str) -> str:
    return tab.run(f"document.querySelector({json.dumps(selector)}).textContent")


def settled(tab, *, told: str = ""):
    """Wait until the page writes no more."""
    deadline = time.monotonic() + 60
    while tab.run(
        "document.getElementById('go').disabled || document.getElementById('state').textContent === 'Writing …'"
    ):
        assert time.monotonic() < deadline, words(tab, "#state")
        time.sleep(0.02)
    assert told in words(tab, "#state")
    assert bool(told) == bool(words(tab, "#state"))


def set_to(tab, field: str, value: object):
    """As a person sets it, with the events that follow."""
    tab.run(
        f"(() => {{ const field = document.getElementById({json.dumps(field)}); field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event('input')); field.dispatchEvent(new Event('change')); })()"
    )


def ask(tab, prompt: str = "the cat sat", *, told: str = ""):
    set_to(tab, "tokens", 6)
    set_to(tab, "prompt", prompt)
    click(tab, "#go")
    settled(tab, told=told)


def answers(tab) -> dict[str, str]:
    return {side: words(tab, f"#{side} [data-part=text]") for side in ("plain", "edited")}


def test_a_question_gets_both_answers_scores_and_neurons(page, server):
    assert words(page, "#prompt")
    ask(page)
    session = server.answering.session
    wanted = {
        side: session.answer("the cat sat", strength, new_tokens=6).text
        for side, strength in (("plain", 0), ("edited", 1))
    }
    assert answers(page) == wanted
    assert words(page, "#plain [data-part=lead]") == "the cat sat"
    assert words(page, "#plain [data-part=scores] dt") == "softness"
    rows = page.run("[...document.querySelectorAll('#rows button')].map((button) => button.textContent)")
    assert rows == [neuron.name for neuron in server.answering.neurons]
    assert words(page, "#tokens-name") == f"Neuron {rows[0]} on every token"
    assert "the cat sat" in words(page, "#before")


def test_the_dial_asks_again_and_0_is_the_plain_model(page, server):
    ask(page)
    before = answers(page)
    set_to(page, "strength", 0)
    settled(page)
    assert words(page, "#strength-shown") == "0.00"
    assert words(page, "#edited-strength") == "strength 0.00"
    assert answers(page) == {"plain": before["plain"], "edited": before["plain"]}
    gains = page.run("[...document.querySelectorAll('#rows td:nth-child(2)')].map((cell) => cell.textContent)")
    assert set(gains) == {"1.00"}


def test_a_neuron_is_chosen_by_the_keyboard(page, server):
    ask(page)
    page.run("document.querySelectorAll('#rows button')[2].focus()")
    page.press("Enter", text="\r")
    name = server.answering.neurons[2].name
    assert words(page, "#tokens-name") == f"Neuron {name} on every token"
    assert page.run("document.querySelectorAll('#rows [aria-pressed=true]').length") == 1
    tints = page.run(
        "[...document.querySelectorAll('#before span')].map((one) => one.style.getPropertyValue('--share'))"
    )
    assert max(map(float, tints)) <= 1
    assert sum(float(tint) for tint in tints) > 0


def test_control_and_enter_ask(page):
    set_to(page, "tokens", 2)
    page.run(
        "document.getElementById('prompt').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true}))"
    )
    settled(page)
    assert words(page, "#before")


def test_words_are_masked_until_the_switch_says_otherwise(page):
    ask(page, f"oh {STRONG} said")
    masked = words(page, "#before")
    assert STRONG not in masked
    assert STARRED in masked
    click(page, "#unmask")
    assert STRONG in words(page, "#before")
    click(page, "#unmask")
    assert words(page, "#before") == masked


def test_text_is_never_read_as_html(page, monkeypatch):
    answer = Session.answer

    def hostile(self, prompt, strength, **options):
        return replace(answer(self, prompt, strength, **options), text=HOSTILE)

    monkeypatch.setattr(Session, "answer", hostile)
    ask(page, HOSTILE)
    assert answers(page)["edited"] == HOSTILE
    assert page.run("document.querySelectorAll('img, main script, iframe').length") == 0


def test_a_refusal_is_shown(page):
    ask(page, "  ", told="the prompt is blank; type some text")
    ask(page, "a " * 300, told="do not fit into")
    ask(page)


def test_stop_stops_and_the_next_question_is_answered(page, monkeypatch):
    answer = Session.answer

    def slow(self, prompt, strength, *, new_tokens, heard):
        def late(text: str) -> None:
            time.sleep(0.1)
            heard(text)

        return answer(self, prompt, strength, new_tokens=new_tokens, heard=late)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "answer", slow)
        set_to(page, "tokens", 60)
        set_to(page, "prompt", "who is there?")
        click(page, "#go")
        time.sleep(0.3)
        click(page, "#stop")
        settled(page, told="Stopped.")
    ask(page)
    # Where the question came before the other answer had ended, it was asked again.
    page.console[:] = [line for line in page.console if "503" not in line]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_no_text_is_tiny(tab, server, width, dark):
    tab.visit(server.address, width=width, dark=dark)
    for state in ("opened", "answered"):
        if state == "answered":
            ask(tab, "w" * 90 + " the cat")
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(SMALLEST) >= 12


def test_a_chat_model_answers_messages(tab, model):
    with served(answering_of(with_template(model, BEGINS))) as one:
        tab.visit(one.address)
        ask(tab, "who is there?")
        assert words(tab, "label[for=prompt]") == "Message"
        assert words(tab, "#plain [data-part=lead]") == ""
        wanted = one.answering.session.answer("who is there?", 0, new_tokens=6).text
        assert answers(tab)["plain"] == (wanted.strip() or " (nothing)")


def test_a_server_that_has_ended_is_told(tab, model):
    with served(answering_of(model)) as one:
        tab.visit(one.address)
    tab.run("document.getElementById('go').click()")
    settled(tab, told="dposcope serve does not answer. Is it still running?")
