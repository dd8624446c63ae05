"""The command line as a user meets it. Where the wording of one job's errors matters, see tests/jobs."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import selfsame as ss
from selfsame import cli
from selfsame.cli import JOBS, main
from selfsame.jobs.pretrain import Pretrain
from tests.conftest import QUICK
from tests.forked import Forked

COMMON = ("--out", "--method", "--encoder", "--size", "--epochs", "--batch-size", "--seed", "--workers")
COMMON += ("--device", "--max-skipped", "--config", "--json")
ROOT = Path(__file__).parents[1]


def python(*words, **settings):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "COLUMNS": "100"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, **settings)


def error_of(capsys, *argv):
    """The one line on stderr with which a command is refused with exit code 2, stdout empty."""
    assert main([str(word) for word in argv]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), shown.err
    return lines[0].removeprefix("error: ")


def quick(*words):
    """Words of `pretrain` that take a second."""
    flags = ["--encoder", "tests.nets:tiny", "--size", "16", "--epochs", "2", "--batch-size", "16"]
    flags += ["--workers", "0", "--precision", "fp32", "--method.hidden", "16", "--method.out", "8"]
    return ["pretrain", *map(str, words), *flags]


# Quick to start ------------------------------------------------------------------------------------------------------


def loaded_by(program):
    done = python("-c", f"import sys\n{program}\nprint([name for name in sys.modules if '.' not in name])")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_import_and_help_load_neither_torch_nor_what_else_is_slow():
    program = "import selfsame\nfrom selfsame.cli import main\nassert main(['--help']) == 0"
    names = loaded_by(program)
    assert "'selfsame'" in names and "'cyclopts'" in names
    for slow in ("torch", "torchvision", "timm", "sklearn", "scipy", "numpy", "PIL"):
        assert f"'{slow}'" not in names, slow


def test_a_path_that_leads_nowhere_is_told_before_what_is_slow_is_loaded():
    names = loaded_by("from selfsame.cli import main\nassert main(['pretrain', 'nowhere']) == 2")
    assert "'selfsame'" in names and "'torch'" not in names and "'numpy'" not in names


def test_import_alone_loads_almost_nothing():
    names = loaded_by("import selfsame")
    assert not {"'cyclopts'", "'pydantic'", "'rich'"} & set(names.strip("[]").split(", "))


def test_every_public_name_is_there_and_others_are_answered_with_those():
    for name in ss.__all__:
        assert getattr(ss, name) is not None
    assert set(ss.__all__) == set(dir(ss))
    with pytest.raises(AttributeError, match=r"has no attribute 'pretrian'. It has: pretrain"):
        _ = ss.pretrian


# Help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [None, *JOBS])
def test_help_of_every_command_fits_a_screen_and_ends_well(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*([command] if command else []), "--help"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert 5 <= len(lines) <= 60 and max(map(len, lines)) <= 100
    if command:
        assert "--json" in text and "--config" in text
    else:
        assert all(name in text for name in JOBS)


def test_the_common_flags_have_their_names(capsys):
    main(["pretrain", "--help"])
    text = capsys.readouterr().out
    assert [flag for flag in COMMON if flag not in text] == []


def test_the_settings_of_a_method_are_shown_where_it_is_named(capsys):
    main(["pretrain", "--method", "byol", "--help"])
    text = capsys.readouterr().out
    assert "--method.momentum" in text and "--method.loss" in text


def test_without_words_the_help_is_shown(capsys):
    assert main([]) == 0
    assert "pretrain" in capsys.readouterr().out


def test_the_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == ss.__version__


# One record ----------------------------------------------------------------------------------------------------------


def test_flags_yaml_and_python_write_the_same_job_and_give_the_same_run(pictures, tmp_path, finished):
    views = {"name": "small", "one": {"flip": 0.25, "area": [0.3, 1.0]}}
    runs = {kind: tmp_path / kind for kind in ("flags", "yaml", "python")}
    flags = ["--views", "small", "--views.one.flip", "0.25", "--views.one.area", "0.3", "1.0", "--seed", "4"]
    assert main([*quick(pictures, "--out", runs["flags"]), *flags]) == 0
    content = {"data": str(pictures), "out": str(runs["yaml"]), "views": views, "seed": 4}
    content |= {key.replace("_", "-"): value for key, value in QUICK.items()}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(content))
    assert main(["pretrain", "--config", str(tmp_path / "job.yaml")]) == 0
    method = ss.methods.BYOL(hidden=16, out=8)
    ss.pretrain(pictures, out=runs["python"], views=views, seed=4, **{**QUICK, "method": method})
    jobs = {kind: json.loads((folder / "job.json").read_text()) for kind, folder in runs.items()}
    assert all(job.pop("out") == str(runs[kind]) for kind, job in jobs.items())
    assert jobs["flags"] == jobs["yaml"] == jobs["python"]
    weights = [(folder / "encoder.safetensors").read_bytes() for folder in runs.values()]
    assert weights[0] == weights[1] == weights[2] != (finished / "encoder.safetensors").read_bytes()


def job_of(monkeypatch, *argv):
    """The record that a command makes of its words, without doing it."""
    seen = []

    def note(job):
        seen.append(job)
        return type("Result", (), {"folder": Path("x"), "result": {}})()

    monkeypatch.setattr(Pretrain, "run", note)
    monkeypatch.setattr("selfsame.cli.check_there", lambda path: None)
    assert main(["pretrain", *map(str, argv)]) == 0
    return seen[0]


def test_flags_win_over_yaml(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(
        "data: photos\nepochs: 3\nbatch-size: 8\nmethod: {name: byol, momentum: 0.9, hidden: 64}\n"
        "views: {name: small, one: {flip: 0.1, blur: 0.2}}\n"
    )
    config = ["--config", tmp_path / "job.yaml"]
    job = job_of(monkeypatch, *config)
    assert (job.data, job.epochs, job.batch_size, job.method.momentum) == ("photos", 3, 8, 0.9)
    job = job_of(monkeypatch, "other", *config, "--epochs", 5, "--method.momentum", 0.5, "--views.one.blur", 0.7)
    assert (job.data, job.epochs, job.batch_size) == ("other", 5, 8)
    assert (job.method.momentum, job.method.hidden) == (0.5, 64)
    assert job.views == {"name": "small", "one": {"flip": 0.1, "blur": 0.7}}
    job = job_of(monkeypatch, *config, "--views", "weak")  # another recipe: the file's strengths are not its own
    assert job.views == {"name": "weak"}


def test_a_file_may_have_the_names_of_the_flags(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(
        "data: photos\nmethod.momentum: 0.9\nmethod: byol\nmethod.output-norm: plain\n"
        "views.one.vertical-flip: 0.1\nviews.one.blur: 0.3\nviews: {name: small, two: {vertical-flip: 0.2}}\n"
    )
    job = job_of(monkeypatch, "--config", tmp_path / "job.yaml")
    assert (job.method.momentum, job.method.output_norm) == (0.9, "plain")
    assert job.views == {"name": "small", "one": {"vertical_flip": 0.1, "blur": 0.3}, "two": {"vertical_flip": 0.2}}


def test_without_flags_a_record_has_the_defaults_of_python(monkeypatch):
    assert job_of(monkeypatch, "photos") == Pretrain(data="photos")


def test_the_record_of_a_run_goes_through_json_and_back(finished):
    job = json.loads((finished / "job.json").read_text())
    assert Pretrain.model_validate(job).model_dump(mode="json") == job


# Results -------------------------------------------------------------------------------------------------------------


def test_pretrain_prints_one_json_document_and_all_else_goes_to_stderr(pictures, tmp_path, capfd):
    assert main([*quick(pictures, "--out", tmp_path / "run"), "--json"]) == 0
    shown = capfd.readouterr()
    result = json.loads(shown.out)
    assert result["run"] == str(tmp_path / "run") and result["verdict"] in shown.err
    assert {key: value for key, value in result.items() if key != "run"} == ss.Run(tmp_path / "run").result
    assert main([*quick(pictures, "--out", tmp_path / "run"), "--json"]) == 0  # finished: the same again
    assert json.loads(capfd.readouterr().out) == result


def test_without_json_stdout_stays_empty(pictures, tmp_path, capfd):
    assert main(quick(pictures, "--out", tmp_path / "run")) == 0
    assert capfd.readouterr().out == ""


def test_methods_lists_the_methods_and_the_settings_of_one(capsys):
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(ss.methods.names()) and listed["byol"]["about"].startswith("BYOL: ")
    assert listed["byol"]["needs"] == "views: 2 random" and {"imagenet", "cifar"} <= set(listed["byol"]["presets"])
    assert main(["methods", "--name", "byol", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["settings"]["momentum"]["default"] == 0.996 and one["settings"]["loss"]["help"]
    assert one["presets"]["imagenet"]["training"]["encoder"] == "resnet50" and "2006.07733" in one["notes"]
    assert "unknown method 'byl'. Did you mean 'byol'?" in error_of(capsys, "methods", "--name", "byl")


# Wrong words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian", "x"], "unknown command 'pretrian'. Did you mean 'pretrain'?"),
        (["pretrain", "PICTURES", "--epoch", "3"], "Unknown option: --epoch. Did you mean --epochs?"),
        (["pretrain", "PICTURES", "--epochs", "many"], 'Invalid value for --epochs: unable to convert "many"'),
        (["pretrain", "PICTURES", "--epochs", "-3"], "--epochs -3.0: input should be greater than 0"),
        (["pretrain", "PICTURES", "--epochs"], "--epochs"),
        (["pretrain", "PICTURES", "more"], "more"),
        (["pretrain"], "See: selfsame pretrain --help"),
        (["pretrain", "PICTURES", "--method", "bjol"], "unknown method 'bjol'. Did you mean 'byol'?"),
        (["pretrain", "PICTURES", "--method.momentun", "1"], "Did you mean --method.momentum?"),
        (["pretrain", "PICTURES", "--method.momentum", "2"], "--method.momentum '2': input should be less than"),
        (["pretrain", "PICTURES", "--method.loss", "nsme"], "--method.loss"),
        (["pretrain", "PICTURES", "--views.one.blurr", "1"], "Did you mean --views.one.blur?"),
        (["pretrain", "PICTURES", "--views.one.blur", "2"], "--views.one.blur '2': input should be less than"),
        (["pretrain", "PICTURES", "--optimizer", "adam"], 'Did you mean "adamw"?'),
        (["pretrain", "PICTURES", "--out", "r", "--encoder", "resnet81"], "unknown encoder 'resnet81'. Did you mean"),
        (["pretrain", "PICTURES", "--out", "r", "--views", "foto"], "unknown recipe of views 'foto'. Did you mean"),
        (["pretrain", "PICTURES", "--out", "r", "--device", "gpu"], "unknown device 'gpu'. Known: auto, cpu"),
        (["pretrain", "PICTURE", "--out", "r"], "no such file or folder. Did you mean"),
        (["pretrain", "--config", "none.yaml"], "there is no file none.yaml. --config takes a YAML file"),
        (["evaluate", "none", "PICTURES"], "there is no folder none. Give the --out folder of a run."),
        (["evaluate", ".", "PICTURES"], "is not a run folder"),
        (["evaluate", "RUN", "PICTURES", "--protocols", "nkn"], "unknown protocol 'nkn'. Did you mean 'knn'?"),
        (["embed", "RUN", "PICTURES"], "--out"),
        (["embed", "RUN", "PICTURES", "--out", "x.parket"], "Did you mean '.parquet'?"),
        (["export", "RUN", "--to", "tim"], 'Did you mean "timm"?'),
        (["views", "PICTURES", "--cuont", "3"], "Did you mean --count?"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_wrong_words_get_one_clear_line_and_exit_code_2(
    words, message, pictures, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    places = {"PICTURES": pictures, "PICTURE": str(pictures)[:-2], "RUN": finished}
    assert message in error_of(capsys, *[places.get(word, word) for word in words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "unknown key 'epoch'. Did you mean 'epochs'?"),
        ("epochs: many", "--epochs 'many': input should be a valid number"),
        ("batch-size: 1", "--batch-size 1: input should be greater than or equal to 2"),
        ("method: bjol", "unknown method 'bjol'. Did you mean 'byol'?"),
        ("method: {name: byol, momentun: 1}", "unknown key of method 'momentun'. Did you mean 'momentum'?"),
        ("method: {momentum: 2}", "--method.momentum 2: input should be less than or equal to 1"),
        ("views: {one: {blurr: 1}}", "unknown key of views.one 'blurr'. Did you mean 'blur' or"),
        ("views: {one: {area: [1, 0.1]}}", "--views.one.area"),
        ("views: 3", "views is 3; accepted are a name, or settings"),
        ("method: [byol]", "method is ['byol']; accepted are a name, or settings"),
        ("epochs: 3\nepochs.x: 1", "epochs is 3; accepted are a name, or settings"),
        ("method.momentum: 0.9\nmethod: {momentum: 0.5}", "method.momentum is given twice: 0.9 and 0.5"),
        ("- epochs", "must hold `key: value` lines"),
        ("epochs: [", "is no YAML file"),
        ("", "must hold `key: value` lines"),
    ],
)
def test_a_wrong_yaml_file_gets_one_clear_line(content, message, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(content)
    assert message in error_of(capsys, "pretrain", pictures, "--config", "job.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_data_that_nobody_named_is_missed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("epochs: 3")
    assert "data is not given" in error_of(capsys, "pretrain", "--config", "job.yaml")
    (tmp_path / "job.yaml").write_text("data:\nepochs: 3")
    assert "--data None: input should be a valid string" in error_of(capsys, "pretrain", "--config", "job.yaml")


def test_an_error_of_the_program_itself_is_not_dressed_up(monkeypatch):
    monkeypatch.setattr(Pretrain, "run", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["pretrain", str(Path.cwd())])


# Signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_saves_says_so_and_goes_on_when_it_is_run_again(pictures, tmp_path, number):
    """The signal goes to the workers too, as from a terminal or a batch system."""
    out = tmp_path / "run"
    words = quick(pictures, "--out", out)
    words[words.index("--epochs") + 1] = "400"
    words[words.index("--workers") + 1] = "1"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "selfsame", *words]
    running = Forked(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    for _ in range(600):
        if (out / "log.jsonl").exists() and (out / "log.jsonl").read_text().count("\n") > 2:
            break
        time.sleep(0.05)
    os.killpg(running.pid, number)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + number, said
    assert "the state is saved. Run the same command again to go on." in " ".join(said.split())
    assert "Traceback" not in said
    saved = sorted((out / "state").glob("step-*.pt"))
    assert saved and not (out / "result.json").exists()
    assert 0 < int(saved[-1].stem[5:]) < 1525


def test_a_failed_command_of_the_shell_has_code_2_and_no_traceback(tmp_path):
    done = python("-m", "selfsame", "methods", "byoll", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr and "Did you mean" in done.stderr


# The whole road ------------------------------------------------------------------------------------------------------


def test_from_pictures_to_vectors_by_commands_alone(pictures, tmp_path, capfd):
    run, vectors = tmp_path / "run", tmp_path / "x.npy"
    assert main(["views", str(pictures), "--out", str(tmp_path / "views.png"), "--count", "2"]) == 0
    assert main(quick(pictures, "--out", run)) == 0
    assert main(["evaluate", str(run), str(pictures), "--seeds", "1", "--workers", "0", "--protocols", "knn"]) == 0
    assert main(["embed", str(run), str(pictures), "--out", str(vectors), "--workers", "0"]) == 0
    assert main(["export", str(run), "--to", "torch"]) == 0
    assert capfd.readouterr().out == ""
    assert np.load(vectors).shape == (64, 8) and (run / "export" / "torch.pt2").exists()
    assert (run / "report.html").stat().st_size > 10_000


def test_methods_shows_the_settings_of_one(capsys):
    assert main(["methods", "byol"]) == 0
    shown = capsys.readouterr().err
    assert "--method.momentum" in shown and "--method.output-norm" in shown
    assert "--preset imagenet" in shown and "74.3 %" in shown and "Good for: " in shown


def test_methods_lists_each_with_what_it_needs(capsys):
    assert main(["methods"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert all(name in shown for name in ss.methods.names()) and "views: 2 random" in shown


def test_the_size_of_part_views_is_a_flag_and_is_held_to_the_full_ones(pictures, tmp_path, capsys):
    words = [str(pictures), "--views.part-size", "64", "--method", "swav", "--method.part-views", "1"]
    text = error_of(capsys, *quick(*words, "--out", tmp_path / "run"))
    assert "part views of 64 px are larger than the full views of 16 px. Lower --views.part-size" in text


def test_a_switch_of_a_method_can_be_turned_off(monkeypatch):
    seen = []
    monkeypatch.setattr("selfsame.cli.carry_out", lambda name, function, given: seen.append(given) or 0)
    assert main(["pretrain", "x", "--method.no-predictor", "--method.output-norm=plain"]) == 0
    assert seen[0]["method_settings"].model_dump(exclude_unset=True) == {"predictor": False, "output_norm": "plain"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_memory_that_is_freed_is_used_again_and_not_asked_for_anew():
    code = (
        "import resource, sys, numpy as np\n"
        "from selfsame.cli import keep_heap\n"
        "if len(sys.argv) > 1: keep_heap()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(40 << 20, np.uint8)\n"
        "before = faults()\n"
        "for _ in range(20): np.ones(40 << 20, np.uint8)\n"
        "print(faults() - before)"
    )
    asked = [
        int(subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=True).stdout)
        for more in ([], ["kept"])
    ]
    assert asked[1] < 100 < asked[0] / 2


def given_by(words, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "carry_out", lambda name, function, given: seen.append(given) or 0)
    assert cli.main(words) == 0
    return seen[0]


def test_flags_of_a_reading_take_several_words_wherever_the_data_stand(tmp_path, monkeypatch):
    (tmp_path / "s.csv").write_text("id,time,x,y\n" + "".join(f"{k // 10},{k % 10},{k},1.5\n" for k in range(40)))
    flags = ["--modality", "signal", "--reading.columns", "x", "y", "--reading.id", "id"]
    given = given_by(["plan", "--epochs", "1", str(tmp_path / "s.csv"), *flags], monkeypatch)
    assert given["reading_columns"] == ("x", "y") and given["reading_id"] == "id"


def test_flags_of_a_reading_find_their_kind_in_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(f"data: {tmp_path}/nowhere.csv\nmodality: table\n")
    given = given_by(["pretrain", "--config", str(tmp_path / "job.yaml"), "--reading.leave-out", "y"], monkeypatch)
    assert given["reading_leave_out"]


def test_a_number_of_a_reading_that_is_out_of_range_is_said_by_its_flag(pictures, capsys):
    assert cli.main(["pretrain", str(pictures), "--reading.fps", "0"]) == 2
    assert "--reading.fps 0.0: input should be greater than 0. See: selfsame pretrain --help" in capsys.readouterr().err


def test_flags_of_a_reading_without_a_kind_are_refused_with_the_reason(tmp_path, capsys):
    assert cli.main(["pretrain", str(tmp_path / "nowhere.csv"), "--reading.id", "x"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert cli.main(["pretrain", "--reading.id", "x"]) == 2
    assert "goes with a kind of data" in capsys.readouterr().err
