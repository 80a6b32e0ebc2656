"""Chat templates write conversations so that one tokenisation gives the ids of training."""

from typing import Any

import pytest
from mmcore.data.demo.tiny_tokenizer import make_tokenizer
from mmcore.errors import WeightsError
from mmcore.language.chat_template import chat_template, fitting, to_messages
from mmcore.language.conversation_templates import template
from mmcore.language.llava.placement import place
from mmcore.language.sequence import Turn

LLAMA3 = template("llava_llama_3")
QUESTION = (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A cup."))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def render(tokenizer: Any, text: str, messages: list[dict[str, Any]], **more: Any) -> str:
    return tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False, **more)


def test_a_conversation_reads_as_in_training_with_image_and_tokens_after_it_for_the_marker(tokenizer):
    text = chat_template(LLAMA3, "<I>", ["<t0>", "<t1>"])
    rendered = render(tokenizer, text, to_messages(QUESTION))
    assert rendered == "<|begin_of_text|>" + LLAMA3.render(QUESTION).replace("<image>", "<I><t0><t1>")


def test_the_caller_may_give_a_system_message_as_text_or_as_parts(tokenizer):
    text = chat_template(LLAMA3, "<I>")
    for content in ("Be brief.", [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]):
        rendered = render(tokenizer, text, [{"role": "system", "content": content}, {"role": "user", "content": "Hi"}])
        header = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        assert rendered.startswith(header)
        assert LLAMA3.system not in rendered


def test_the_answer_is_left_open_when_asked(tokenizer):
    rendered = render(tokenizer, chat_template(LLAMA3, "<I>"), to_messages(QUESTION[:1]), add_generation_prompt=True)
    assert rendered.endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


def test_blanks_of_a_message_stay_and_an_image_alone_has_no_break(tokenizer):
    text = chat_template(LLAMA3, "<I>", ["<t>"])
    alone = render(tokenizer, text, to_messages([Turn("user", "<image>"), Turn("assistant", " \n yes \n")]))
    assert "<I><t><|eot_id|>" in alone
    assert "\n\n \n yes \n<|eot_id|>" in alone


def test_two_images_of_a_turn_stand_side_by_side(tokenizer):
    content = [
        {"type": "image"},
        {"type": "image"},
        {"type": "text", "text": "Compare "},
        {"type": "text", "text": "."},
    ]
    rendered = render(tokenizer, chat_template(LLAMA3, "<I>", ["<t>"]), [{"role": "user", "content": content}])
    assert "<I><t><I><t>\nCompare .<|eot_id|>" in rendered


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="unknown role tool; known: user, assistant"):
        render(tokenizer, chat_template(LLAMA3, "<I>"), [{"role": "tool", "content": "1"}])


def test_quotes_and_backslashes_of_a_template_survive(tokenizer):
    import dataclasses

    odd = dataclasses.replace(
        LLAMA3, system='It\'s "\\n" {{ x }} {% y %} é', first='<s>It\'s "\\n" {{ x }} {% y %} é\n\n'
    )
    odd = dataclasses.replace(odd, first=odd.first + odd.user.before)
    assert odd.render(QUESTION[:1]) in render(tokenizer, chat_template(odd, "<image>"), to_messages(QUESTION[:1]))


def test_servers_find_a_loop_over_the_parts_of_a_message():
    """vLLM reads the template's syntax tree: without such a loop it would hand over text with a marker of its own."""
    import jinja2
    from jinja2 import nodes

    tree = jinja2.Environment().parse(chat_template(LLAMA3, "<I>"))
    loops = [node.iter for node in tree.find_all(nodes.For)]
    assert any(isinstance(item, nodes.Getattr) and item.attr == "content" for item in loops)
    assert any(isinstance(item, nodes.Name) and item.name == "rest" for item in loops)


def test_a_template_with_the_instruction_inside_the_first_question_is_refused():
    with pytest.raises(WeightsError, match="llama_2 cannot be written as a chat template"):
        chat_template(template("llama_2"), "<I>")


def test_a_tokenizer_with_which_nothing_fits_is_refused(tokenizer):
    placement = place(tokenizer, 2, 1024)
    other = make_tokenizer()
    other.add_special_tokens({"extra_special_tokens": ["table"]})
    with pytest.raises(WeightsError, match="no chat template of llava_llama_3 gives the token ids of training"):
        fitting(LLAMA3, other, placement.tokenizer, placement.image, placement.after)


@pytest.mark.parametrize("name", ["qwen2", "vicuna_v1", "llava_llama_3", "gemma_instruct"])
def test_other_templates_are_written_from_the_same_data(tokenizer, name):
    chosen = template(name)
    rendered = render(tokenizer, chat_template(chosen, "<image>"), to_messages(QUESTION))
    assert rendered == "<|begin_of_text|>" + chosen.render(QUESTION)
