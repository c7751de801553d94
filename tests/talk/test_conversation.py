import pytest

from dposcope.model.chat.asking import Turn
from dposcope.model.chat.prompts import encode_prompts, with_chat
from dposcope.talk.conversation import Conversation
from dposcope.talk.session import Session
from helpers.chats import BEGINS, with_template
from helpers.edits import both_of
from helpers.families import hook_count


def conversation_with(lm) -> Conversation:
    return Conversation(Session(with_chat(lm), both_of(lm), 6))


def test_each_side_remembers_its_own_answers(llama):
    talk = conversation_with(with_template(llama, BEGINS))
    first = {edited: talk.ask("the cat", edited=edited) for edited in (False, True)}
    assert first[False].ids != first[True].ids
    second = {edited: talk.ask("who", edited=edited) for edited in (False, True)}
    for edited, answer in second.items():
        turns = [Turn("user", "the cat"), Turn("assistant", first[edited].text), Turn("user", "who")]
        assert answer.prompt_ids == encode_prompts(talk.session.lm, [tuple(turns)])[0]
    assert [second[edited].strength for edited in (False, True)] == [0, 1]


def test_what_an_answer_began_with_is_remembered_as_a_part_of_it(llama):
    lm = with_chat(with_template(llama, BEGINS), prefill="so {prompt} ")
    talk = Conversation(Session(lm, None, 6))
    first, second = (talk.ask(line, edited=False) for line in ("the cat", "who"))
    turns = (Turn("user", "the cat"), Turn("assistant", f"so the cat {first.text}"), Turn("user", "who"))
    assert second.prompt_ids == encode_prompts(lm, [turns])[0]


def test_every_question_is_remembered_as_it_was_asked(llama):
    lm = with_chat(with_template(llama, BEGINS), wrap="by the river {prompt}")
    talk = Conversation(Session(lm, None, 6))
    first, second = (talk.ask(line, edited=False) for line in ("the cat", "who"))
    turns = (Turn("user", "by the river the cat"), Turn("assistant", first.text), Turn("user", "who"))
    assert second.prompt_ids == encode_prompts(lm, [turns])[0]
    assert lm.tokenizer.decode(second.prompt_ids).count("by the river") == 2


def test_a_question_can_be_withdrawn_from_one_side(llama):
    talk = conversation_with(with_template(llama, BEGINS))
    before = talk.ask("the cat", edited=False)
    talk.ask("who", edited=False)
    talk.withdraw(edited=False)
    again = talk.ask("by the river", edited=False)
    turns = (Turn("user", "the cat"), Turn("assistant", before.text), Turn("user", "by the river"))
    assert again.prompt_ids == encode_prompts(talk.session.lm, [turns])[0]
    plain = conversation_with(llama)
    plain.withdraw(edited=False)  # nothing is remembered without a template


def test_what_was_said_can_be_forgotten(llama):
    talk = conversation_with(with_template(llama, BEGINS))
    before = talk.ask("the cat", edited=True)
    talk.reset()
    talk.strength = 0.5
    again = talk.ask("the cat", edited=True)
    assert again.prompt_ids == before.prompt_ids
    assert again.strength == 0.5


def test_an_answer_that_was_broken_off_is_not_remembered(llama):
    talk = conversation_with(with_template(llama, BEGINS))

    def leave(_text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("the cat", edited=True, heard=leave)
    assert talk.ask("who", edited=True).prompt_ids == encode_prompts(talk.session.lm, ["who"])[0]
    assert hook_count(llama.model) == 0


def test_without_a_template_every_line_stands_alone(llama):
    talk = conversation_with(llama)
    first = talk.ask("the cat", edited=False)
    talk.ask("who", edited=False)
    assert talk.ask("the cat", edited=False).prompt_ids == first.prompt_ids


def test_an_answer_is_remembered_without_the_space_that_a_template_puts_before_it(mistral_of_llama2):
    """As the templates of Mistral do, whose tokenizers make that space a part of the first token."""
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ 'assistant:' }}"
    lm = with_chat(with_template(mistral_of_llama2, template))
    spaced = 0
    for line in ("the cat", "who", "by the river", "a man", "it rains", "the old man", "so", "and", "the sea"):
        talk = Conversation(Session(lm, None, 6))
        first = talk.ask(line, edited=False)
        second = talk.ask("who", edited=False)
        said = first.text.removeprefix(" ")
        turns = (Turn("user", line), Turn("assistant", said), Turn("user", "who"))
        assert second.prompt_ids == encode_prompts(lm, [turns])[0]
        spaced += first.text.startswith(" ")
    assert spaced
