"""The plan: composition order, choices, needs, conflicts, and the freezing of hooks."""

from __future__ import annotations

import inspect

import pytest
import torch

from gantricks import EvaluationFacts, Metric, Trick, UserError, hookimpl
from gantricks.catalogue.registry import Registry
from gantricks.hooks import KINDS, HookSpecs
from gantricks.metrics.base import NEEDS
from gantricks.planning.contract import contract_problems
from gantricks.planning.plan import make_plan
from gantricks.planning.prepare import plan_recipe
from gantricks.testing import TrickHost


class Double(Trick):
    @hookimpl
    def g_labels(self, labels, ctx):
        return labels * 2


class PlusOne(Trick):
    @hookimpl
    def g_labels(self, labels):
        return labels + 1


class Scores(Trick):
    @hookimpl
    def d_scores(self, real, fake, ctx):
        return ctx.discriminator(*real), ctx.discriminator(*fake)


class NeedsMore(Trick):
    needs = {"classes", "moonlight"}

    @hookimpl
    def before_d_step(self, ctx): ...


class Replaces(Trick):
    replaces = {"d_head"}

    @hookimpl
    def transform_discriminator(self, network, ctx):
        return network


class Hostile(Trick):
    conflicts = {"double": "it says so"}
    cautions = {"plus_one": "mind the step"}

    @hookimpl
    def before_d_step(self, ctx): ...


def refusal(host: TrickHost) -> str:
    with pytest.raises(UserError) as caught:
        host.plan()
    return str(caught.value)


def test_folds_run_in_recipe_order() -> None:
    host = TrickHost()
    assert host.with_trick(Double).with_trick(PlusOne).train(1).game.frame.fake_labels[0] == 3
    assert host.with_trick(PlusOne).with_trick(Double).train(1).game.frame.fake_labels[0] == 4


def test_the_plan_lists_each_hook_with_its_tricks_in_order() -> None:
    plan = TrickHost().with_trick(PlusOne).with_trick(Double).with_trick(Scores).plan()
    assert plan.on == {"g_labels": ("plus_one", "double"), "d_scores": ("scores",)}


def test_one_trick_can_be_there_twice_under_two_names() -> None:
    host = TrickHost().with_trick(Double, "a").with_trick(Double, "b")
    assert host.train(1).game.frame.fake_labels[0] == 4


def test_two_providers_of_one_choice_are_refused() -> None:
    assert "a and b provide d_scores" in refusal(TrickHost().with_trick(Scores, "a").with_trick(Scores, "b"))


def test_a_need_that_nobody_provides_is_refused_with_how_to_provide_it() -> None:
    message = refusal(TrickHost().with_trick(NeedsMore))
    assert "needs_more needs classes" in message
    assert "data with classes" in message
    assert "needs_more needs moonlight" in message
    assert "needs classes" not in refusal(TrickHost(classes=2).with_trick(NeedsMore))


def test_two_replacements_of_one_part_are_refused() -> None:
    assert "d_head" in refusal(TrickHost().with_trick(Replaces, "a").with_trick(Replaces, "b"))


def test_a_conflict_is_refused_with_its_reason_and_a_caution_is_a_warning() -> None:
    assert "it says so" in refusal(TrickHost().with_trick(Hostile).with_trick(Double))
    assert refusal(TrickHost().with_trick(Double).with_trick(Hostile)).count("it says so") == 1
    assert "mind the step" in TrickHost().with_trick(Hostile).with_trick(PlusOne).plan().warnings[0]


def test_all_problems_are_reported_at_once() -> None:
    host = TrickHost(batch_size=100).with_trick(NeedsMore).with_trick(Hostile).with_trick(Double)
    message = refusal(host)
    for part in ("needs classes", "it says so", "batch_size is 100"):
        assert part in message


def test_a_conditional_discriminator_wants_a_conditional_generator() -> None:
    host = TrickHost(classes=3, discriminator={"conditional": True})
    assert "no class to be judged by" in refusal(host)
    host.but(generator={"conditional": True}).train(1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def d_label(self, labels, ctx): return labels", "'d_labels'"),
        ("def d_labels(self, lables, ctx): return lables", "'lables'"),
        ("def d_labels(self, labels, ctx=None): return labels", "default"),
    ],
)
def test_a_broken_contract_is_named(body: str, said: str) -> None:
    space: dict = {}
    exec(body, space)  # the three classes differ in one signature
    name = body.split("(")[0].removeprefix("def ")
    broken = type("Broken", (Trick,), {name: hookimpl(space[name])})
    assert said in " ".join(contract_problems(broken))
    assert said in refusal(TrickHost().with_trick(broken))


def test_a_hook_in_no_use_is_an_empty_tuple() -> None:
    hooks = TrickHost().game().hooks
    assert all(getattr(hooks, hook) == () for hook in KINDS)


def test_every_hook_says_what_it_is_for() -> None:
    for hook in KINDS:
        spec = getattr(HookSpecs, hook)
        assert len(inspect.getdoc(spec) or "") > 25, f"{hook} has no documentation"


def test_a_fold_that_forgets_to_return_is_named() -> None:
    from gantricks import TrickError

    class Forgets(Trick):
        @hookimpl
        def g_labels(self, labels, ctx):
            labels * 2

    with pytest.raises(TrickError, match=r"forgets: g_labels returned None"):
        TrickHost().with_trick(Forgets).train(1)


def test_a_loss_term_that_is_no_scalar_is_named() -> None:
    from gantricks import TrickError

    class Vector(Trick):
        @hookimpl
        def d_loss_terms(self, ctx):
            return {"v": torch.ones(3)}

    with pytest.raises(TrickError, match=r"vector: d_loss_terms returned the term 'v' of shape \(3,\)"):
        TrickHost().with_trick(Vector).train(1)


def test_a_host_number_cannot_be_read_inside_the_step() -> None:
    from gantricks import TrickError

    class Reads(Trick):
        @hookimpl
        def before_d_step(self, ctx):
            if ctx.step > 3:
                raise AssertionError

    with pytest.raises(TrickError, match=r"reads: ctx\.step is a host number"):
        TrickHost().with_trick(Reads).train(1)


def test_what_a_phase_has_not_produced_yet_cannot_be_read() -> None:
    from gantricks import TrickError

    class Early(Trick):
        @hookimpl
        def before_d_step(self, ctx):
            ctx.real_out  # noqa: B018 - reading it is what is tried

    with pytest.raises(TrickError, match=r"early: ctx\.real_out does not exist"):
        TrickHost().with_trick(Early).train(1)


def test_wrong_keys_do_not_hide_what_does_not_fit_together(tmp_path) -> None:
    overrides = ["train.stepz=3", "generator.chanels=8", "data.batch_size=6000", "train.device=cuda:99"]
    with pytest.raises(UserError) as caught:
        plan_recipe("dcgan", overrides, Registry(installed=False))
    for said in ("'steps'", "'channels'", "batch_size is 6000", "cuda:99 is not there"):
        assert said in str(caught.value)


class Fussy(Trick):
    conflicts = {"sof_labels": "it is misspelt", "of_another_package": "it is not there", "ema": "it is there"}
    cautions = {"classes": "a capability", "input_grad": "always at hand"}

    @hookimpl
    def before_d_step(self, ctx): ...


def test_a_foreign_trick_that_names_no_known_trick_is_warned_of() -> None:
    registry = Registry(installed=False, given={"tricks": {"fussy": Fussy}})
    plan, _ = plan_recipe("ring_mlp", ["tricks.fussy=on", "tricks.twin={use='fussy'}"], registry)
    said = [sentence for sentence in plan.warnings if "not a known trick" in sentence]
    assert len(said) == 2
    assert said[0].startswith("fussy names 'sof_labels'")
    assert "did you mean 'soft_labels'?" in said[0]
    assert "'of_another_package'" in said[1]


def test_an_instance_of_the_recipe_is_a_name_too() -> None:
    registry = Registry(installed=False, given={"tricks": {"fussy": Fussy}})
    overrides = ["tricks.fussy=on", "tricks.of_another_package={use='lr_decay'}"]
    with pytest.raises(UserError, match="fussy does not go with of_another_package"):
        plan_recipe("ring_mlp", overrides, registry)


def test_batch_norm_over_single_vectors_is_refused_when_the_recipe_is_checked() -> None:
    alone = TrickHost(batch_size=1)
    assert "batch norm in the generator" in refusal(alone.but(generator={"batch_norm": True}))
    in_d = alone.but(discriminator={"batch_norm": True}).with_trick("separate_batches")
    assert "batch norm in the discriminator" in refusal(in_d)
    alone.but(generator={"batch_norm": True}).with_trick("virtual_batch_norm", reference=4).train(1)
    alone.but(sample=(1, 8, 8)).train(1)


# ---------------------------------------------------------------- batch sizes that change, and parts that are one


@pytest.mark.parametrize("sizes", [{"start": 4, "end": 6}, {"start": 6, "end": 8}])
def test_every_batch_size_of_a_schedule_is_looked_at(sizes):
    host = TrickHost().with_trick("separate_batches").with_trick("minibatch_stddev", group=4)
    with pytest.raises(UserError, match="a batch of 6 cannot be split into groups of 4"):
        host.with_trick("batch_size_schedule", **sizes).plan()
    host.with_trick("batch_size_schedule", start=4, end=8).plan()


def test_a_schedule_takes_the_place_of_the_recipes_batch_size():
    host = TrickHost(batch_size=7).with_trick("separate_batches").with_trick("minibatch_stddev", group=4)
    host.with_trick("batch_size_schedule", start=4, end=8).plan()


@pytest.mark.parametrize("trick", ["minibatch_stddev", "minibatch_discrimination"])
def test_a_schedule_that_begins_with_single_samples_is_refused_where_they_mean_nothing(trick):
    host = TrickHost().with_trick("separate_batches").with_trick(trick)
    with pytest.raises(UserError, match="let batches hold 2 samples or more"):
        host.with_trick("batch_size_schedule", start=1, end=8).plan()


def test_batch_norm_over_single_vectors_is_refused_wherever_they_come_from():
    host = TrickHost(generator={"batch_norm": True}).with_trick("batch_size_schedule", start=1, end=8)
    with pytest.raises(UserError, match="batch norm in the generator needs more than one sample in a pass"):
        host.plan()


ONCE = {
    "batch_size_schedule": {"start": 4, "end": 8},
    "ema": {},
    "equalized_lr": {},
    "grow": {},
    "label_smoothing": {},
    "lr_decay": {},
    "n_critic_schedule": {},
    "network_swap": {},
    "sgd_discriminator": {},
    "soft_labels": {},
    "spectral_norm": {},
    "spherical_latents": {},
    "weight_norm": {},
}


@pytest.mark.parametrize("trick", ONCE)
def test_a_second_one_that_would_erase_the_first_is_refused(trick):
    host = TrickHost(sample=(1, 16, 16)).with_trick(trick, **ONCE[trick])
    host.plan()
    with pytest.raises(UserError, match=f"{trick} and second replace the same part"):
        host.with_trick(trick, "second", **ONCE[trick]).plan()


def test_two_for_different_players_do_not_meet():
    host = (
        TrickHost()
        .with_trick("lr_decay", players=["discriminator"])
        .with_trick("weight_norm", players=["discriminator"])
    )
    host.with_trick("lr_decay", "other", players=["generator"]).with_trick(
        "weight_norm", "more", players=["generator"]
    ).plan()


def test_what_another_trick_needs_can_be_warned_of():
    class Penalty(Trick):
        needs = {"input_grad"}

        @hookimpl
        def d_loss_terms(self, ctx):
            return {}

    host = TrickHost().with_trick("separate_batches").with_trick("minibatch_discrimination")
    assert not host.plan().warnings
    (warning,) = host.with_trick(Penalty, "penalty").plan().warnings
    assert warning.startswith("minibatch_discrimination beside input_grad: D's score of a sample depends on its batch")


def test_an_objective_that_another_trick_makes_idle_is_warned_of():
    (warning,) = TrickHost().with_trick("feature_matching").with_trick("minimax").plan().warnings
    assert warning.startswith("feature_matching beside minimax: it differs from the default in G's loss only")


# ---------------------------------------------------------------- metrics


class Picky(Metric):
    """Needs data with classes."""

    figures = {"first": "lower", "second": "higher"}
    needs = {"classes", "moonlight"}


class Refuses(Metric):
    """Needs nothing and is never content."""

    figures = {"only": "higher"}

    def problems(self, facts):
        seen.append(facts)
        return [f"{facts.samples} samples are too few", "and it rains"]


class ReadsMetrics(Trick):
    def problems(self, setting):
        return [f"{name}: {better}" for name, better in setting.metrics.items()]


seen: list[EvaluationFacts] = []


def test_metrics_are_refused_with_everything_else_when_the_recipe_is_checked() -> None:
    said = refusal(TrickHost().with_trick(NeedsMore).with_metric(Picky, "one").with_metric(Refuses, "two"))
    assert "one: it needs classes: data with classes" in said
    assert "one: it needs moonlight: no trick of this recipe provides it" in said
    assert "two: 64 samples are too few" in said
    assert "two: and it rains" in said
    assert "needs_more needs moonlight" in said
    assert seen[-1].description.count == 40


def test_a_run_that_is_only_looked_at_is_not_refused_for_its_metrics() -> None:
    recipe = TrickHost().with_metric(Refuses).recipe()
    with pytest.raises(UserError):
        make_plan(recipe)
    plan = make_plan(recipe, to_train=False)
    assert [planned.name for planned in plan.metrics] == ["refuses"]


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        (TrickHost(), {"vectors"}),
        (TrickHost(sample=(1, 8, 8)), {"images"}),
        (TrickHost(sample=(1, 8, 8), classes=3), {"images", "classes"}),
    ],
)
def test_the_facts_say_what_the_data_has(host: TrickHost, wanted: set[str]) -> None:
    assert host.plan().facts.provided & set(NEEDS) == wanted


def test_what_tricks_provide_is_there_for_metrics() -> None:
    host = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True})
    assert "class_logits" in host.with_trick("auxiliary_classifier").plan().facts.provided


def test_tricks_can_see_the_metrics_and_their_directions() -> None:
    said = refusal(TrickHost().with_trick(ReadsMetrics).with_metric(Picky, "one").with_metric(Refuses, "two"))
    assert "reads_metrics: one: lower" in said
    assert "reads_metrics: two: higher" in said
