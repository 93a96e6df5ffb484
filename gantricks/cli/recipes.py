"""`gantricks recipes`: lists, shows or copies the shipped recipes."""

from __future__ import annotations

from pathlib import Path

from gantricks.cli.console import Text, output, typed, write_command, write_json
from gantricks.cli.files import require_folder
from gantricks.cli.streams import exact
from gantricks.errors import Problem, UserError, nearest
from gantricks.files import write_whole
from gantricks.planning.recipe_files import shipped_recipes


def summary(text: str) -> str:
    """Return the first comment line of a recipe."""
    first = text.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def list_recipes(json: bool) -> None:
    """List every shipped recipe with a line on what it trains."""
    found = {name: path.read_text(encoding="utf-8") for name, path in shipped_recipes().items()}
    if json:
        write_json([{"name": name, "summary": summary(text)} for name, text in found.items()])
        return
    from rich.table import Table

    console = output()
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in found.items():
        table.add_row(name, summary(text))
    console.print(table)
    console.print()
    console.print(Text("To read one, to train it, to have a copy to edit:", "dim"))
    for command in ("recipes NAME", "train NAME", "recipes NAME --copy ."):
        write_command(console, f"gantricks {command}")


def show_recipe(name: str, json: bool) -> None:
    """Print the text of a shipped recipe."""
    text = _find(name).read_text(encoding="utf-8")
    if json:
        write_json({"name": name.removesuffix(".toml"), "summary": summary(text), "text": text})
    else:
        exact(text.rstrip("\n"))


def copy_recipe(name: str | None, folder: Path, json: bool) -> None:
    """Copy a shipped recipe to `folder`. An existing file is not overwritten."""
    where = f"--copy {folder}"
    if name is None:
        raise UserError(Problem("which recipe?", where, f"gantricks recipes NAME {where}"))
    source = _find(name)
    require_folder(folder, where)
    target = folder / source.name
    try:
        write_whole(target, source.read_bytes(), fresh=True)
    except FileExistsError as error:
        raise UserError(
            Problem(
                "the file is there already, and nothing is overwritten",
                str(target),
                "name another folder, or move it away",
            )
        ) from error
    if json:
        write_json({"name": source.stem, "path": str(target)})
        return
    console = output()
    console.print(f"{target} is yours to edit. To train it:", soft_wrap=True)
    write_command(console, typed(["gantricks", "train", str(target)]))


def _find(name: str) -> Path:
    known = shipped_recipes()
    bare = name.removesuffix(".toml")
    if bare not in known:
        hint = nearest(bare, known) or f"there are: {', '.join(known)}"
        raise UserError(Problem(f"there is no shipped recipe {name!r}", hint=hint))
    return known[bare]
