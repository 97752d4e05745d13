"""Texts of the page: escaped and printable, one by one and all texts of a card at once."""

from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from batchrunner import report
from batchrunner.formatting import printable
from batchrunner.report.page_environment import page_environment, page_texts

HOSTILE = (
    "<b>",
    "a&b",
    "it's",
    'say "x"',
    'it\'s "x"',
    "\x1b[31m",
    "\u202egpj",
    "\ud800",
    "a\nb",
    "c:\\d",
    "ü → 日本",
    "plain",
)


def escaped(text: str) -> str:
    """Escape in the long way."""
    text = printable(text)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;")):
        text = text.replace(char, entity)
    return text


def rendered(source: str, **values: object) -> str:
    return page_environment(lambda _: source, {}, source.encode()).get_template("page").render(**values)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_of_a_template_is_escaped(text: str) -> None:
    assert rendered("<p>{{ text }}</p>", text=text) == f"<p>{escaped(text)}</p>"


@pytest.mark.parametrize("text", HOSTILE)
def test_all_texts_of_a_card_are_escaped_wherever_they_are(text: str) -> None:
    right = escaped(text)
    assert page_texts({"a": "plain", "b": text}) == {"a": "plain", "b": right}
    assert page_texts({"a": ["plain", text], "n": None, "is": True}) == {"a": ["plain", right], "n": None, "is": True}
    assert page_texts({"a": [("plain", text)]}) in ({"a": [["plain", right]]}, {"a": [("plain", right)]})


def test_a_block_without_autoescape_writes_texts_as_they_are() -> None:
    source = "{% autoescape false %}{% for card in cards %}{{ card.a }}, {% endfor %}{% endautoescape %}{{ text }}"
    assert rendered(source, cards=[{"a": "&lt;"}, {"a": "b"}], text="<") == "&lt;, b, &lt;"


def test_a_block_without_autoescape_has_no_missing_value() -> None:
    with pytest.raises(KeyError):
        rendered("{% autoescape false %}{{ card.b }}{% endautoescape %}", card={"a": "x"})


def test_a_block_without_autoescape_writes_only_values_of_cards() -> None:
    """Other values are not escaped before, and a stranger's text in the page could be a program."""
    tree = Environment(autoescape=True).parse((Path(report.__file__).parent / "report.html.j2").read_text("utf-8"))
    blocks = list(tree.find_all(nodes.ScopedEvalContextModifier))
    assert blocks
    for block in blocks:
        loops = list(block.find_all(nodes.For))
        assert {_root(loop.iter) for loop in loops} == {"cards", "card"}
        bound = {
            name.name
            for loop in loops
            for name in (loop.target, *loop.target.find_all(nodes.Name))
            if isinstance(name, nodes.Name)
        }
        written = {name.name for output in block.find_all(nodes.Output) for name in output.find_all(nodes.Name)}
        assert written <= bound


def _root(value: nodes.Node) -> str:
    while isinstance(value, nodes.Getattr):
        value = value.node
    assert isinstance(value, nodes.Name)
    return value.name
