"""Whatever a person gets wrong: exit status 2, what and where and how to mend it, no traceback, nothing overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

CHOOSER = '''
from gantricks import Trick, hookimpl


class Chooser(Trick):
    """Scores in its own way."""

    @hookimpl
    def d_scores(self, real, fake, ctx):
        return ctx.discriminator(*real), ctx.discriminator(*fake)
'''
NEEDY = '''
from gantricks import Trick


class Needy(Trick):
    """Needs what nothing offers."""

    needs = {"moonlight"}
'''
FILES = {
    "chooser.py": CHOOSER,
    "needy.py": NEEDY,
    "syntax.py": "class Trick(:\n",
    "absent.py": "import math\nimport no_such_package_anywhere\n",
    "empty.py": "",
}
RECIPE = """extends = "ring_mlp.toml"
name = "mine"

"""

RECIPES = {
    "unknown key": ("[data]\nmodees = 3", (), ["mine.toml:5", "data.modees", "did you mean 'modes'?"]),
    "unknown table": ("[trian]\nsteps = 3", (), ["mine.toml:4", "trian", "did you mean 'train'?"]),
    "unknown trick": ("[tricks.soft_lables]", (), ["mine.toml:4", "soft_lables", "did you mean 'soft_labels'?"]),
    "unknown source": ('[data]\nsource = "rings"', (), ["mine.toml:5", "'rings'", "did you mean 'ring'?"]),
    "misspelt option": (
        "[tricks.soft_labels]\nreel = [0.7, 1.2]",
        (),
        ["mine.toml:5", "tricks.soft_labels.reel", "did you mean 'real'?"],
    ),
    "wrong type": ('[train]\nsteps = "many"', (), ["mine.toml:5", "train.steps", '"many"']),
    "out of range": ("[train]\nsteps = 0", (), ["mine.toml:5", "train.steps", "1"]),
    "reversed interval": ("[tricks.soft_labels]\nreal = [2, 1]", (), ["mine.toml:5", "tricks.soft_labels.real", "[1"]),
    "not a number": (
        '[generator]\noptimizer = { name = "adam", lr = nan }',
        (),
        ["mine.toml:5", "generator.optimizer.lr", "finite"],
    ),
    "not TOML": ("[train\nsteps = 3", (), ["mine.toml:4", "TOML"]),
    "two for one hook": (
        "[tricks.separate_batches]\n[tricks.chooser]",
        ("--plugin", "chooser.py"),
        ["mine.toml:5", "separate_batches and chooser", "d_scores", "keep one"],
    ),
    "a need nobody meets": ("[tricks.needy]", ("--plugin", "needy.py"), ["mine.toml:4", "needy needs moonlight"]),
    "no such device": ("", ("--device", "cuda:7"), ["train.device=cuda:7", "cuda:7 is not there", '"cpu"']),
    "no such kind of device": ("", ("--device", "abacus"), ["train.device=abacus", "cuda:N"]),
    "bad override": ("", ("--set", "train.steps"), ["--set train.steps", "KEY=VALUE"]),
    "syntax error": ("[tricks.syntax]", ("--plugin", "syntax.py"), ["mine.toml:4", "syntax.py:1", "SyntaxError"]),
    "import error": (
        "[tricks.absent]",
        ("--plugin", "absent.py"),
        ["mine.toml:4", "absent.py:2", "no_such_package_anywhere"],
    ),
    "no trick inside": ("[tricks.empty]", ("--plugin", "empty.py"), ["empty.py", "exactly one Trick class"]),
    "no plugin file": ("[tricks.gone]", ("--plugin", "gone.py"), ["gone.py", "no such file"]),
}


def refused(outcome: Any, fragments: list[str]) -> None:
    assert outcome.status == 2, outcome
    assert "Traceback" not in outcome.err
    missing = [fragment for fragment in fragments if fragment not in outcome.err]
    assert not missing, f"{missing} not in:\n{outcome.err}"


@pytest.fixture
def files(gantricks: Any) -> None:
    for name, text in FILES.items():
        Path(name).write_text(text)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("text", "words", "fragments"), RECIPES.values(), ids=RECIPES)
def test_a_wrong_recipe_is_refused(gantricks: Any, text: str, words: tuple[str, ...], fragments: list[str]) -> None:
    Path("mine.toml").write_text(RECIPE + text)
    for command in ("check", "train"):
        refused(gantricks(command, "mine.toml", *words), fragments)
    assert not Path("runs").exists()


def test_all_problems_of_a_recipe_are_reported_together(gantricks: Any) -> None:
    wrong = "[data]\nmodees = 3\n[train]\nsteps = 0\n[tricks.soft_labels]\nclip = 7\n[tricks.nonesuch]"
    Path("mine.toml").write_text(RECIPE + wrong)
    places = ["mine.toml:5", "mine.toml:7", "mine.toml:9", "mine.toml:10"]
    refused(gantricks("check", "mine.toml"), [*places, "4 problems"])
    told = json.loads(gantricks("check", "mine.toml", "--json").out)["problems"]
    assert [problem["where"] for problem in told] == places


def test_problems_of_plan_and_device_are_reported_together(gantricks: Any) -> None:
    Path("needy.py").write_text(NEEDY)
    words = ("--plugin", "needy.py", "--set", "tricks.needy={}", "--set", "data.batch_size=9000")
    outcome = gantricks("check", "ring_mlp", *words, "--set", "data.samples=99", "--device", "cuda:7")
    refused(outcome, ["needy needs moonlight", "batch_size is 9000", "cuda:7 is not there", "3 problems"])


OTHERS = {
    "missing recipe": (("train", "ring_mpl"), ["ring_mpl", "did you mean 'ring_mlp'?"]),
    "recipe is a folder": (("check", "folder"), ["folder", "name a recipe file"]),
    "missing data": (
        ("train", "folder_dcgan", "--set", "data.path=nowhere"),
        ["--set data.path=nowhere", "no such folder", "set data.path"],
    ),
    "empty data": (("train", "folder_dcgan", "--set", "data.path=folder"), ["folder", "no PNG, JPEG or WebP image"]),
    "run folder below a file": (("train", "ring_mlp", "--run-dir", "file/run"), ["file", "--run-dir"]),
    "not a run": (("resume", "folder"), ["folder", "not a run"]),
    "no run": (("sample", "nowhere", "--out", "x.png"), ["nowhere", "no such folder"]),
    "no such trick": (("tricks", "soft_lables"), ["'soft_lables'", "did you mean 'soft_labels'?"]),
    "no such shipped recipe": (("recipes", "dcgann"), ["'dcgann'", "did you mean 'dcgan'?"]),
    "copy without a name": (("recipes", "--copy", "folder"), ["--copy folder", "gantricks recipes NAME --copy folder"]),
    "copy to no folder": (("recipes", "dcgan", "--copy", "nowhere"), ["--copy nowhere", "mkdir"]),
    "no such command": (("trian",), ["trian", "train"]),
    "no such option": (("train", "ring_mlp", "--steps", "5"), ["--steps"]),
    "a word for a number": (("train", "ring_mlp", "--seed", "x"), ["--seed"]),
}


@pytest.mark.parametrize(("words", "fragments"), OTHERS.values(), ids=OTHERS)
def test_a_wrong_command_is_refused(gantricks: Any, words: tuple[str, ...], fragments: list[str]) -> None:
    Path("folder").mkdir()
    Path("file").write_text("kept")
    refused(gantricks(*words), fragments)
    assert Path("file").read_text() == "kept"
    assert not list(Path("folder").iterdir())
    assert not Path("nowhere").exists()


def test_train_leaves_a_run_with_checkpoints_alone(gantricks: Any, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(gantricks("train", "ring_mlp", "--run-dir", run), ["--run-dir run", "gantricks resume run"])
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_sample_overwrites_and_creates_nothing(gantricks: Any, run: Path) -> None:
    Path("kept.png").write_text("kept")
    refused(gantricks("sample", run, "--out", "kept.png"), ["--out kept.png", "there already", "name another"])
    assert Path("kept.png").read_text() == "kept"
    refused(gantricks("sample", run, "--out", "new/x.png"), ["--out new/x.png", "mkdir -p new"])
    assert not Path("new").exists()
    refused(gantricks("sample", run, "--out", "x.jpg"), ["--out x.jpg", "PNG", "--out x.png"])
    refused(gantricks("sample", run, "--out", "x.png", "--step", 3), ["--step 3", "2, 4"])
    assert not Path("x.png").exists()


def test_copying_a_recipe_overwrites_nothing(gantricks: Any) -> None:
    Path("dcgan.toml").write_text("kept")
    refused(gantricks("recipes", "dcgan", "--copy", "."), ["dcgan.toml", "there already", "name another folder"])
    assert Path("dcgan.toml").read_text() == "kept"


def test_a_changed_byte_in_a_checkpoint_is_found(gantricks: Any, run: Path) -> None:
    path = run / "checkpoints" / "000004" / "generator.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    told = [str(path), "damaged", "gantricks resume run --step 2"]
    refused(gantricks("sample", run, "--out", "x.png"), told)
    refused(gantricks("resume", run), told)
    assert not Path("x.png").exists()
    assert gantricks("resume", run, "--step", 2).status == 0


def test_a_trick_that_breaks_the_contract_is_named(gantricks: Any) -> None:
    Path("forgetful.py").write_text(
        CHOOSER.replace("Chooser", "Forgetful")
        .replace("d_scores(self, real, fake, ctx)", "d_labels(self, labels, ctx)")
        .replace("return ctx.discriminator(*real), ctx.discriminator(*fake)", "labels * 2")
    )
    outcome = gantricks(
        "train", "ring_mlp", *gantricks.small, "--plugin", "forgetful.py", "--set", "tricks.forgetful={}"
    )
    assert outcome.status == 2
    assert "forgetful: d_labels returned None" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_fault_in_a_plugin_is_traced_to_it(gantricks: Any) -> None:
    Path("faulty.py").write_text(CHOOSER.replace("Chooser", "Faulty").replace("return", "return 1 / 0,"))
    outcome = gantricks("train", "ring_mlp", *gantricks.small, "--plugin", "faulty.py", "--set", "tricks.faulty={}")
    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.err
    assert outcome.err.rstrip().endswith(f"This came out of your plugin, {Path('faulty.py').absolute()}:10.")


def test_a_fault_of_ours_keeps_its_traceback(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr("gantricks.cli.recipes.list_recipes", broken)
    outcome = gantricks("recipes")
    assert outcome.status == 1
    assert "Traceback" in outcome.err
    assert "AssertionError: impossible" in outcome.err
    assert "Please report it" in outcome.err


@pytest.mark.parametrize(
    ("error", "fragments"),
    [
        (OSError(28, "No space left on device"), ["No space left", "make room"]),
        (PermissionError(13, "Permission denied", "runs/x"), ["runs/x: Permission denied", "permissions"]),
        (SafetensorError("I/O error: No space left on device (os error 28)"), ["No space left", "make room"]),
        (MemoryError("too large"), ["memory", "data.batch_size"]),
    ],
)
def test_what_the_machine_refuses_is_no_fault_of_ours(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, fragments: list[str]
) -> None:
    def refusing(*_: object) -> None:
        raise error

    monkeypatch.setattr("gantricks.cli.recipes.list_recipes", refusing)
    refused(gantricks("recipes"), fragments)


def test_ctrl_c_outside_a_run_is_quiet(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gantricks.cli.recipes.list_recipes", interrupted)
    outcome = gantricks("recipes")
    assert (outcome.status, outcome.err) == (130, "")


def test_check_refuses_what_surgery_would_refuse(gantricks, tmp_path):
    words = ("--set", 'tricks.leaky_relu.players=["discriminator"]', "--set", "discriminator.activation=leaky")
    for command in ("check", "train"):
        outcome = gantricks(command, "ring_mlp", *words)
        assert outcome.status == 2
        set_here = '--set tricks.leaky_relu.players=["discriminator"]: tricks.leaky_relu: '
        assert f"{set_here}there is no ReLU that LeakyReLU could replace" in outcome.err
    assert not list(tmp_path.glob("runs/*/checkpoints"))


def test_check_of_surgery_reads_no_data(gantricks, monkeypatch):
    from gantricks.data.fashion_mnist import FashionMnist

    def refuse(self, progress=None):
        raise AssertionError("the data were read")

    monkeypatch.setattr(FashionMnist, "load", refuse)
    assert gantricks("check", "dcgan_soft_labels").status == 0


def test_a_trick_that_only_an_override_names_is_told_by_that_override(gantricks):
    refused(
        gantricks("check", "dcgan", "--set", "tricks.grow.blocks=5"),
        ["--set tricks.grow.blocks=5: grow: blocks = 5 are more than can join"],
    )


@pytest.mark.parametrize(
    ("trick", "fragments"),
    [
        ("auxiliary_classifier", ["needs classes", "set a source that has them in [data]"]),
        ("grow", ["needs images", "set a source of images in [data]"]),
    ],
)
def test_data_that_lack_what_a_trick_needs_are_named_with_what_to_write(gantricks, trick, fragments):
    refused(gantricks("check", "ring_mlp", "--set", f"tricks.{trick}={{}}"), fragments)


def test_what_an_override_breaks_is_told_at_the_override(gantricks):
    places = {
        ("generator.conditional=true",): "--set generator.conditional=true: conditional = true needs data with classes",
        ("data.batch_size=99", "data.samples=9"): "--set data.batch_size=99: batch_size is 99",
        ("data.samples=9",): "--set data.samples=9: batch_size is 256 and the data holds 9 samples",
        ("tricks.grow=on",): "--set tricks.grow=on: grow needs images",
        ("generator.network=dcgan",): "--set generator.network=dcgan: dcgan needs images",
        ("evaluate.held_out_error=on",): "--set evaluate.held_out_error=on: held_out_error: it needs",
        ("tricks.least_squares=on", "tricks.minimax=on"): "--set tricks.",
    }
    for overrides, said in places.items():
        outcome = gantricks("check", "ring_mlp", *(word for one in overrides for word in ("--set", one)))
        assert outcome.status == 2
        assert said in outcome.err


def test_a_recipe_that_ships_is_blamed_on_the_one_override_that_it_was_given(gantricks):
    outcome = gantricks("check", "gan_hacks", "--set", "data.source=ring")
    assert outcome.status == 2
    assert "recipes/gan_hacks.toml" not in outcome.err


def test_a_hint_can_be_typed_where_no_file_of_the_user_has_the_key(gantricks):
    outcome = gantricks("check", "ring_mlp", "--set", "data.samples=9")
    assert "--set data.batch_size=9 at most" in outcome.err
    Path("mine.toml").write_text(RECIPE + "[data]\nbatch_size = 99\nsamples = 9\n")
    assert "batch_size = 9 in [data] at most" in gantricks("check", "mine.toml").err


def test_a_published_name_of_a_metric_is_told_by_ours(gantricks, run):
    refused(gantricks("evaluate", run, "--metric", "fid"), ["--metric fid", "frechet_distance", "inception", "weights"])
