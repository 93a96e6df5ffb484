"""Line numbers of TOML keys, against tomllib for which keys there are."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gantricks.planning.recipe_files import shipped_recipes
from gantricks.planning.toml_lines import Statement, key_lines, line_of, statements

TEXT = '''
# a comment with = and [brackets]
name = "x"            # trailing
"quoted key" = 1

[data]
list = [1, 2,         # [ in a comment
        "]", 3]
text = """
[not.a.table]
fake = 1
"""
literal = 'a # b'

[a.b."c.d"]
deep.er = { x = 1, y = [2] }
after = 2
'''


def test_each_key_is_found_on_its_line() -> None:
    lines = key_lines(TEXT)
    assert lines[("name",)] == 3
    assert lines[("quoted key",)] == 4
    assert lines[("data",)] == 6
    assert lines[("data", "list")] == 7
    assert lines[("data", "text")] == 9
    assert lines[("data", "literal")] == 13
    assert lines[("a", "b", "c.d")] == 15
    assert lines[("a", "b", "c.d", "deep", "er")] == 16
    assert lines[("a", "b", "c.d", "after")] == 17


def test_text_inside_strings_is_no_key() -> None:
    assert ("not", "a", "table") not in key_lines(TEXT)
    assert not any("fake" in path for path in key_lines(TEXT))


def test_a_key_inside_an_inline_table_stands_where_its_statement_does() -> None:
    assert line_of(key_lines(TEXT), ("a", "b", "c.d", "deep", "er", "y")) == 16
    assert line_of(key_lines(TEXT), ("nowhere",)) is None


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
VALUES = st.recursive(
    st.integers(-5, 5) | st.text(st.sampled_from("ab\"'\\#=[]{}\n"), max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.booleans())
def test_every_key_that_tomllib_reads_has_a_line_that_holds_it(table: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(table, multiline_strings=multiline)
    assert tomllib.loads(text).keys() == table.keys()
    lines, written = key_lines(text), text.split("\n")
    for path in leaves(tomllib.loads(text)):
        line = line_of(lines, path)
        assert line is not None
        if path in lines and path[-1].isascii() and path[-1].isalnum():
            assert path[-1] in written[line - 1]


def test_every_key_of_the_shipped_recipes_is_listed() -> None:
    for path in shipped_recipes().values():
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            key = line.partition("=")[0].strip()
            if "=" in line and key.isidentifier():
                assert number in key_lines(text).values(), f"{path.name}:{number}"


def test_statements_are_told_in_order_with_what_they_are_about() -> None:
    assert list(statements("a.b = 1\n[t]\nc = [\n1]\n[[u]]\n")) == [
        Statement(("a", "b"), ("a", "b"), 1, False),
        Statement(("t",), ("t",), 2, True),
        Statement(("t", "c"), ("c",), 3, False),
        Statement(("u",), ("u",), 5, True),
    ]
