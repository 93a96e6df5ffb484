"""Writes docs/tricks/*.md and docs/hooks.md from the cards and the hook specifications.

    python docs/build.py

A test fails when a page is missing or no longer says what the code says.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from gantricks.cli.options import options, toml
from gantricks.hooks import KINDS, HookSpecs
from gantricks.registry import index
from gantricks.trick import CAPABILITIES

HERE = Path(__file__).parent
KIND_WORDS = {
    "fold": "value in, value out, in recipe order",
    "term": "returns `{name: scalar tensor}`",
    "choice": "at most one provider in a recipe",
    "event": "returns nothing",
}


def pages() -> dict[str, str]:
    """Every generated page, by its path below docs/."""
    cards = index()["tricks"]
    built = {f"tricks/{name}.md": trick_page(name) for name in cards}
    built["tricks/README.md"] = "# The tricks\n\n" + "".join(
        f"- [{name}]({name}.md): {card['summary'].partition(': ')[2] or card['summary']}\n"
        for name, card in cards.items()
    )
    built["hooks.md"] = hooks_page()
    return built


def trick_page(name: str) -> str:
    card = index()["tricks"][name]
    known = list(options(card["options"]))
    parts = [f"# {name}", card["card"]]
    if known:
        rows = "\n".join(
            f"| `{option.name}` | {option.type} | `{option.default or 'left out'}` | {option.description} |"
            for option in known
        )
        parts.append(f"| option | type | default | what it is |\n|---|---|---|---|\n{rows}")
    facts = [f"**Needs** {need}: {CAPABILITIES.get(need, 'another trick provides it')}." for need in card["needs"]]
    facts += [f"**Provides** {', '.join(card['provides'])}." for _ in card["provides"][:1]]
    facts += [f"**Replaces** {', '.join(card['replaces'])}: one trick of a recipe can." for _ in card["replaces"][:1]]
    facts += [f"**Refuses** {other}: {reason}." for other, reason in card["conflicts"].items()]
    facts += [f"**Careful beside** {other}: {reason}." for other, reason in card["cautions"].items()]
    if card["neutral"] is not None:
        settings = ", ".join(f"`{key} = {toml(value)}`" for key, value in card["neutral"].items())
        facts.append(f"**Neutral** at {settings}: a run is then bit-identical to one without it.")
    if facts:
        parts.append("\n".join(f"- {fact}" for fact in facts))
    hooks = ", ".join(f"[`{hook}`](../hooks.md#{hook})" for hook in card["hooks"])
    parts.append(f"Acts on {hooks}. The code: [`plugins/{name}.py`](../../plugins/{name}.py).")
    return "\n\n".join(parts) + "\n"


def hooks_page() -> str:
    module = inspect.getmodule(HookSpecs)
    parts = ["# The hooks", inspect.getdoc(module) or ""]
    users = {hook: [name for name, card in index()["tricks"].items() if hook in card["hooks"]] for hook in KINDS}
    for hook, kind in KINDS.items():
        spec = getattr(HookSpecs, hook)
        arguments = ", ".join(list(inspect.signature(spec).parameters)[1:])
        parts.append(f"## {hook}\n\n`{hook}({arguments})` — **{kind}**: {KIND_WORDS[kind]}.")
        parts.append(inspect.getdoc(spec) or "")
        if users[hook]:
            parts.append("Used by " + ", ".join(f"[{name}](tricks/{name}.md)" for name in users[hook]) + ".")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    (HERE / "tricks").mkdir(exist_ok=True)
    built = pages()
    for old in (HERE / "tricks").glob("*.md"):
        if f"tricks/{old.name}" not in built:
            old.unlink()
    for path, text in built.items():
        (HERE / path).write_text(text, encoding="utf-8")
    print(f"wrote {len(built)} pages")


if __name__ == "__main__":
    main()
