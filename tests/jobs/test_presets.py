"""Presets, and a sample of the items, in a training."""

import pytest

import selfsame as ss
from selfsame import methods
from selfsame.errors import UserError
from selfsame.records import Preset
from tests.conftest import QUICK
from tests.methods.room import BUDGET


def test_a_preset_is_under_what_is_given(pictures, tmp_path):
    job = ss.jobs.pretrain.Pretrain(
        data=str(pictures), preset="cifar", epochs=3, method={"name": "byol", "momentum": 0.5}
    )
    assert (job.optimizer, job.epochs, job.batch_size) == ("sgd", 3, 256)
    assert job.method.momentum == 0.5 and job.method.hidden == 4096
    with pytest.raises(UserError, match=r"unknown preset of byol 'cifr'. Did you mean 'cifar'"):
        ss.pretrain(pictures, preset="cifr", out=tmp_path / "x")
    settings = {**QUICK, "epochs": 1}
    run = ss.pretrain(pictures, preset="cifar", out=tmp_path / "run", **settings)
    assert run.job["preset"] == "cifar" and run.plan["loop"]["optimizer"] == "sgd"
    assert ss.pretrain(pictures, preset="cifar", out=tmp_path / "run", **settings).result == run.result


def test_view_strengths_are_given_over_those_of_a_preset(pictures):
    wish = {"data": str(pictures), "preset": "cifar", "method": "simsiam"}
    job = ss.jobs.pretrain.Pretrain(**wish, views={"one": {"area": [0.3, 1.0]}}, epochs=None)
    assert job.views == {"name": "moco2", "one": {"blur": 0.0, "area": [0.3, 1.0]}, "two": {"blur": 0.0}}
    assert job.epochs == 800
    assert ss.jobs.pretrain.Pretrain(**wish, views="weak").views == {"name": "weak"}


def test_a_preset_of_a_paper_leaves_nothing_to_be_fitted(pictures):
    job = ss.jobs.pretrain.Pretrain(data=str(pictures), preset="imagenet", method="sce")
    assert job.method.fitted(BUDGET).momentum == 0.99
    quick = ss.jobs.pretrain.Pretrain(data=str(pictures), preset="quick", method="sce")
    assert quick.method.fitted(BUDGET).momentum != 0.99


def test_a_preset_may_be_given_with_a_method_of_python(pictures):
    job = ss.jobs.pretrain.Pretrain(data=str(pictures), preset="imagenet", method=methods.BYOL(out=64))
    assert job.method.out == 64 and job.method.momentum == 0.996 and job.optimizer == "lars"
    assert isinstance(methods.BYOL.presets["imagenet"], Preset)


def test_a_sample_is_drawn_by_the_seed_and_the_held_out_items_stay_out(pictures, tmp_path):
    from selfsame.jobs.pretraining import Pretraining

    def items(**settings):
        work = Pretraining(ss.jobs.pretrain.Pretrain(data=str(pictures), out=tmp_path / "none", **settings))
        work.opened()
        return set(work.learn_from.tolist()), set(work.look_at.tolist())

    some, held = items(sample=20)
    assert len(some) == 20 and not some & held
    assert items(sample=20)[0] == some != items(sample=20, seed=1)[0]
    everything, same = items()
    assert some < everything and held == same
