"""The environment of the page's templates: how a template reads a value, and how the value becomes text of the page.

A page has 100,000 values, so each takes few calls. In a block without autoescape, the template writes texts of
`page_texts`, and makes no call for a value. Import it only where a page is made, because Jinja is large.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FunctionLoader, StrictUndefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS

from batchrunner.formatting import printable
from batchrunner.report.compiled_templates import CompiledTemplates

_METHODS = frozenset(dir(dict))
# ASCII without the characters that are escaped: most texts
_is_plain = re.compile(r"[ !#-%(-;=?-~]*").fullmatch
_is_special = re.compile(r"[&<>\"\\]").search
_escape = cast("Callable[[object], str]", FILTERS["escape"])


def page_environment(
    asset: Callable[[str], str], filters: Mapping[str, Callable[..., object]], settings: bytes
) -> Environment:
    """Return the environment. asset: returns a template by name. settings: what else its compiled code depends on."""
    own = Path(__file__)
    environment = _Page(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_page_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(asset),
        bytecode_cache=CompiledTemplates(own.with_name("__pycache__"), settings + own.read_bytes()),
    )
    environment.filters |= filters
    return environment


def _page_text(value: object) -> str:
    """Return a value of a template as text of the page: printable and escaped. Markup is safe already."""
    if type(value) is not str:
        return _escape(value)
    return value if _is_plain(value) else _escape(printable(value))


def page_texts(values: dict[str, Any]) -> dict[str, Any]:
    r"""Return the values with all texts, also those in lists and tuples, as texts of the page.

    Most need no change. One look at the `repr` of all values shows this: it writes a character that is not printable
    with a ``\``, and a text with a ``'`` between two ``"``.
    """
    return {name: _page_texts(value) for name, value in values.items()} if _is_special(repr(values)) else values


def _page_texts(value: object) -> object:
    if isinstance(value, str):
        return _page_text(value)
    return [_page_texts(item) for item in value] if isinstance(value, list | tuple) else value


class _OneCall(CodeGenerator):
    """Write one call for each value, because `_page_text` also escapes, and none in a block without autoescape.

    In such a block, values are dicts and `page_texts`.
    """

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802 (the name of a method of Jinja)
        if frame.eval_ctx.autoescape:
            super().visit_Getattr(node, frame)
        else:
            self.visit(node.node, frame)
            self.write(f"[{node.attr!r}]")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write((finalize.src or "") if frame.eval_ctx.autoescape else "(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write(")")


class _Page(Environment):
    """The values of a page are dicts: look for a key first. Methods of dicts stay reachable."""

    code_generator_class = _OneCall

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _METHODS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)
