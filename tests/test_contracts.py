"""What every method and every modality promises, checked on each that is found; a new one needs no test here."""

import ast
import inspect
import json
from pathlib import Path

import pytest
import torch

from selfsame import jobs, methods, modalities
from selfsame.engine.optim import make_optimizer, set_rates
from selfsame.jobs.pretrain import Pretrain
from selfsame.nn.ema import Target
from selfsame.records import Budget, Method, Preset, Record, ViewPlan
from selfsame.types import Draws, Further, Learner, Modality, Source, Step
from tests.conftest import Tiny
from tests.methods.room import BUDGET, ITEMS, encoder_for, settings_of, surveyed, views_for, views_of

FOUND = methods.names()


def learner_of(method, seed=0):
    torch.manual_seed(seed)
    return method.build(encoder_for(method), ITEMS)


def stepped(learner, views):
    """Loss and logs of one pass, the way the engine asks for them."""
    return learner(views, torch.arange(len(views[0]))) if learner.by_item else learner(views)


def trained(learner, views, steps, lr=0.01):
    """As the engine trains it: optimiser and all calls between; a survey before the first step."""
    optimizer = make_optimizer("adamw", learner, lr, 0.01)
    losses = []
    for step in range(steps):
        if step == 0 and learner.surveys(0):
            with torch.no_grad():
                learner.survey(surveyed(ITEMS))
        set_rates(optimizer, lr, lr, 0.01)
        optimizer.zero_grad()
        loss = stepped(learner, views).loss
        loss.backward()
        learner.before_update(step / steps)
        optimizer.step()
        learner.after_step(step / steps)
        losses.append(float(loss.detach()))
    return losses


# Methods -------------------------------------------------------------------------------------------------------------


def test_there_is_a_method():
    assert "byol" in FOUND


@pytest.fixture(params=FOUND)
def method(request):
    return settings_of(request.param)


def test_a_method_is_found_by_the_name_of_its_file(method):
    assert isinstance(method, Method)
    assert type(method).name in FOUND and type(method).__module__ == f"selfsame.methods.{type(method).name}"
    assert getattr(methods, type(method).__name__) is type(method)


def test_every_setting_has_a_default_and_a_help_text(method):
    for name, field in type(method).model_fields.items():
        assert not field.is_required(), name
        assert field.description and "\n" not in field.description.strip(), name


def test_a_method_says_what_it_is_good_for_and_what_it_needs(method):
    assert len(type(method).good_for.split()) > 3
    assert set(type(method).needs) <= {"tokens", "maps", "pieces", "steps", "words"}


def test_presets_are_settings_that_exist(method):
    for name, preset in type(method).known_presets().items():
        assert isinstance(preset, Preset) and name.islower() and preset.source
        chosen = type(method)(**preset.method)
        assert chosen.cautions() == [] or preset.published, name
        Pretrain(data="somewhere", method=chosen, **preset.training)


def test_the_defaults_fit_a_usual_run_and_a_small_one(method):
    kind = type(method)
    for budget in (BUDGET, Budget(items=50_000, batch=256, steps=20_000, dim=512)):
        assert kind().fitted(budget).misfits(budget) == kind().fitted(budget).doubts(budget) == []


def test_the_record_of_a_method_goes_through_json_and_back(method):
    assert type(method).model_validate(json.loads(method.model_dump_json())) == method


def test_the_plan_is_a_view_plan_with_something_to_see(method):
    assert isinstance(method.plan, ViewPlan)
    assert method.plan.full + method.plan.part + method.plan.plain >= 1


def test_cautions_are_sentences_and_the_defaults_need_none(method):
    assert type(method)().cautions() == []
    assert all(isinstance(text, str) and len(text.split()) > 3 for text in method.cautions())


def test_fitting_to_a_budget_leaves_what_the_user_decided(method):
    budget = Budget(items=500, batch=32, steps=1000, dim=64)
    fitted = method.fitted(budget)
    assert type(fitted) is type(method)
    assert all(getattr(fitted, name) == getattr(method, name) for name in method.model_fields_set)
    assert fitted.fitted(budget) == fitted


def test_a_step_is_a_finite_scalar_with_scalar_logs(method):
    learner = learner_of(method)
    assert isinstance(learner, Learner) and isinstance(learner.encoder, Tiny)
    step = stepped(learner, views_of(method))
    assert isinstance(step, Step)
    assert step.loss.shape == () and step.loss.isfinite() and step.loss.requires_grad
    assert "loss" not in step.logs  # the engine's own
    assert all(value.shape == () and value.isfinite() for value in step.logs.values())


def test_every_weight_that_learns_gets_a_gradient(method):
    learner = learner_of(method)
    stepped(learner, views_of(method)).loss.backward()
    learning = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    assert learning
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_state_of_a_learner_is_all_of_it(method):
    """Loaded into a fresh one, it gives the same steps to the bit."""
    views, learner = views_of(method), learner_of(method)
    trained(learner, views, 3)
    other = learner_of(method, seed=7)
    other.load_state_dict(learner.state_dict(), strict=True)
    for one in (learner, other):
        torch.manual_seed(3)
        trained(one, views, 2)
    mine, theirs = learner.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_few_steps_lower_the_loss(method):
    torch.manual_seed(0)
    losses = trained(learner_of(method), views_of(method), 30)
    start = max(losses[:3])  # a queue holds random vectors at first, which are easy to tell from a key
    assert sum(losses[-3:]) / 3 < start - 0.02 * abs(start)


def test_no_gradient_reaches_the_slow_copies(method):
    learner = learner_of(method)
    stepped(learner, views_of(method)).loss.backward()
    slow = [p for part in learner.modules() if isinstance(part, Target) for p in part.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in slow)


def test_half_precision_gives_a_finite_loss_and_finite_gradients(method):
    learner = learner_of(method)
    with torch.autocast("cpu", torch.bfloat16):
        step = stepped(learner, views_of(method))
    step.loss.backward()
    assert step.loss.isfinite() and abs(float(step.loss.detach())) < 1e4
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_after_step_may_be_called_at_any_progress(method):
    learner = learner_of(method)
    stepped(learner, views_of(method)).loss.backward()
    for progress in (0.0, 0.5, 1.0):
        learner.after_step(progress)
    assert all(value.isfinite().all() for value in learner.state_dict().values())


def test_users_who_own_their_loop_get_the_same_parts():
    import selfsame as ss

    torch.manual_seed(0)
    learner = ss.methods.BYOL(momentum=0.99, hidden=16, out=8).build(Tiny())
    views = views_for(ViewPlan())
    before = [p.clone() for p in learner.target.parameters()]
    loss = learner(views).loss
    loss.backward()
    assert loss.isfinite()
    torch.optim.SGD(learner.parameters(), lr=0.1).step()
    learner.after_step(0.5)
    moved = [float((now - was).abs().max()) for now, was in zip(learner.target.parameters(), before, strict=True)]
    assert max(moved) > 0


def test_a_method_of_another_name_has_a_nearest_one():
    with pytest.raises(ValueError, match=r"unknown method 'bjol'. Did you mean 'byol'\?"):
        methods.load("bjol")
    with pytest.raises(AttributeError, match="has no attribute 'BJOL'"):
        _ = methods.BJOL


# Modalities ----------------------------------------------------------------------------------------------------------

PROMISED = {name for name in {*vars(Modality), *Modality.__annotations__} if not name.startswith("_")}


@pytest.fixture(params=modalities.names())
def modality(request):
    return modalities.load(request.param)


def test_a_modality_offers_every_name_of_the_protocol(modality):
    assert {"name", "Views", "open_source", "make_views"} < PROMISED
    assert [name for name in sorted(PROMISED) if not hasattr(modality, name)] == []
    assert modality.name in modalities.names()
    assert issubclass(modality.Views, Record) and issubclass(modality.Stats, Record)


def test_a_modality_takes_the_parameters_of_the_protocol_in_their_order(modality):
    for name in sorted(PROMISED & vars(Modality).keys() - {"name", "Views", "Stats", "Reading"}):
        _, *wanted = inspect.signature(getattr(Modality, name)).parameters.values()
        taken = list(inspect.signature(getattr(modality, name)).parameters.values())
        shown = [(parameter.name, parameter.default) for parameter in taken]
        assert shown[: len(wanted)] == [(parameter.name, parameter.default) for parameter in wanted], name
        assert all(parameter.default is not parameter.empty for parameter in taken[len(wanted) :]), name


def test_jobs_use_nothing_of_a_modality_that_the_protocol_does_not_promise():
    """Whatever is read of something called `modality` or `known`, or of what `modalities.load` gives."""
    used = set()
    for file in Path(jobs.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner.rpartition(".")[2] in ("modality", "known") or "modalities.load(" in owner:
                    used.add(node.attr)
    assert {"picture", "load_encoder", "save_encoder", "export", "sample"} <= used
    assert used <= PROMISED | {name for name in {*vars(Further), *Further.__annotations__} if not name.startswith("_")}


def test_nothing_is_no_data_of_a_modality(modality, tmp_path):
    assert not modality.reads(str(tmp_path)) and not modality.reads(str(tmp_path / "none"))
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=str(path)):
            modality.open_source(str(path))


def test_images_go_from_the_source_to_a_vector(pictures):
    """The whole flow by the names of the protocol alone; a folder of another modality brings its own data."""
    known = modalities.of(str(pictures))
    source = known.open_source(str(pictures))
    assert isinstance(source, Source) and len(set(source.labels)) == 4
    assert len({source.name(i) for i in range(len(source))}) == len(source) == 64
    stats, skipped = known.measure(source, 0)
    assert skipped == {} and known.Stats.model_validate(json.loads(stats.model_dump_json())) == stats
    source.fit(stats)
    assert source.array is None  # files, each read and decoded
    views = known.recipe("auto", 16, stats)
    assert known.Views.model_validate(json.loads(views.model_dump_json())) == views
    plan = ViewPlan(full=2, part=1, plain=1)
    samples = known.sample(source, [0, 1, 2], plan, views, Draws(0, 0, 3, stream=0))
    assert len(samples) == 4 and all(len(sample) == 3 for sample in samples)
    made = [known.make_views(samples, plan, views, stats, Draws(0, 0, 3, stream=1)) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))
    encoder = known.make_encoder("tests.nets:tiny", 16, stats)
    assert encoder(made[0][0]).shape == (3, encoder.dim)
    again = known.build_encoder(json.loads(json.dumps(encoder.spec)))
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(again.eval()(made[0][3]), encoder.eval()(made[0][3]))
