"""verify, outliers, clusters and select as a user meets them: known truth, every kind of data, wrong input."""

import csv
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import selfsame as ss
from selfsame import modalities
from selfsame.cli import main
from selfsame.downstream import outliers, selection, verification
from selfsame.errors import UserError
from selfsame.jobs.given import labels_if_any, opened
from selfsame.jobs.outliers import Outliers

SMALL = {"workers": 0, "seeds": 1}
COLOURS = ((250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20), (20, 240, 240), (240, 20, 240))


@pytest.fixture
def run(finished, tmp_path):
    """A copy: results are kept in the run folder."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Six colours, eight noisy pictures of each: any network that keeps the colour tells them apart."""
    root = tmp_path_factory.mktemp("coloured")
    rng = np.random.default_rng(0)
    for number, colour in enumerate(COLOURS):
        (root / f"c{number}").mkdir()
        for k in range(8):
            picture = (np.array(colour) + rng.normal(0, 3, (16, 16, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(root / f"c{number}" / f"{k}.png")
    return root


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written_pairs(path, rows, head=("a", "b", "same")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows] if head else rows)
    return path


def pairs_by(names, group):
    """Every item with the next three and with one further on; the same where `group` is."""
    n = len(names)
    near = [(k, (k + step) % n) for k in range(n) for step in (1, 2, 3, n // 2)]
    return [[names[a], names[b], int(group[a] == group[b])] for a, b in near]


# verify --------------------------------------------------------------------------------------------------------------


def test_colours_are_verified_on_colours_that_the_threshold_was_not_chosen_on(run, coloured):
    found = ss.verify(run, coloured, far=0.05, seeds=2, workers=0)
    assert found == json.loads((run / "verification" / "verification.json").read_text())
    assert found["identities"] == {"development": 3, "test": 3}
    assert found["development"] == {"same": 3 * 28, "different": 3 * 64} and found["test"]["same"] == 84
    own, random, raw = found["rows"]
    assert [row["features"] for row in found["rows"]] == ["encoder", "random", "raw"] and random["seeds"] == 2
    assert own["figures"]["auc"]["mean"] > 0.9 and raw["figures"]["auc"]["mean"] > 0.99
    # The same, from the vectors that `embed` gives.
    embedded = ss.embed(run, coloured, workers=0)
    _, identities = np.unique([Path(name).parts[0] for name in embedded.names], return_inverse=True)
    side = verification.sides_of(identities, 0.5, 0)
    for part, inside in (("development", side), ("test", ~side)):
        places = np.flatnonzero(inside)
        pairs, same = verification.pairs_of(identities[places], 200_000, 0)
        scores = verification.cosines(torch.from_numpy(embedded.vectors), places[pairs])
        if part == "development":
            assert verification.threshold_at(scores, same, 0.05) == found["threshold"]
        else:
            assert verification.auc(scores, same) == pytest.approx(found["figures"]["auc"])
            rates = verification.rates_at(scores, same, found["threshold"])
            assert (rates.far, rates.tar) == (found["test"]["far"], found["test"]["tar"])
    page = (run / "verification" / "report.html").read_text()
    assert "random" in page and "data:image/webp" in page and "Different, but most alike" in page


def test_two_files_are_the_same_or_different_by_the_threshold_that_was_kept(run, coloured, capsys):
    one, two, other = (str(coloured / name) for name in ("c0/0.png", "c0/1.png", "c2/0.png"))
    with pytest.raises(UserError, match=r"there is no threshold in .*Choose one first"):
        ss.verify(run, one, two)
    ss.verify(run, coloured, far=0.05, **SMALL)
    assert ss.verify(run, one, one)["cosine"] == pytest.approx(1) and ss.verify(run, one, one)["same"] is True
    assert ss.verify(run, one, two)["same"] is True
    capsys.readouterr()
    assert main(["verify", str(run), one, other, "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["same"] is False and told["cosine"] < told["threshold"] and "different: cosine" in shown.err
    with pytest.raises(UserError, match=r"holds 48 items; to compare two, give two files with one item each"):
        ss.verify(run, one, coloured)
    with pytest.raises(UserError, match=r"leave --pairs and --labels out"):
        ss.verify(run, one, two, pairs="p.csv")


def test_a_threshold_of_another_encoder_is_refused(run, coloured, tmp_path):
    ss.verify(run, coloured, **SMALL)
    other = shutil.copytree(run, tmp_path / "other")
    weights = load_file(other / "encoder.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "encoder.safetensors")
    with pytest.raises(UserError, match=r"chosen for another encoder than that of .*other"):
        ss.verify(other, coloured / "c0/0.png", coloured / "c0/1.png")


def test_given_pairs_divide_by_who_they_make_one_and_are_listed_with_their_scores(run, coloured, tmp_path):
    names = sorted(str(path.relative_to(coloured)) for path in coloured.rglob("*.png"))
    group = [name[:2] for name in names]
    given = pairs_by(names, group)
    path = written_pairs(tmp_path / "p.csv", [[same, b, a] for a, b, same in given], ("same", "b", "a"))
    found = ss.verify(run, coloured, pairs=path, far=0.2, **SMALL)
    listed = rows_of(run / "verification" / "scores.csv")
    test = {name[:2] for row in listed for name in (row["a"], row["b"])}
    assert len(test) == found["identities"]["test"] == 3
    across = sum((a[:2] in test) != (b[:2] in test) for a, b, _ in given)
    assert found["pairs_across_parts"] == across > 0
    assert len(listed) == found["test"]["same"] + found["test"]["different"]
    assert {(row["a"], row["b"], row["same"]) for row in listed} <= {(a, b, str(same)) for a, b, same in given}
    accepted = [row for row in listed if row["accepted"] == "1"]
    assert min(float(row["cosine"]) for row in accepted) >= found["threshold"] - 1e-6


def test_pairs_of_items_that_cannot_be_read_are_left_out(run, coloured, tmp_path):
    data = shutil.copytree(coloured, tmp_path / "data")
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*.png"))
    path = written_pairs(tmp_path / "p.csv", pairs_by(names, [name[:2] for name in names]), head=None)
    (data / names[0]).write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 48 items .* cannot be read"):
        ss.verify(run, data, pairs=path, **SMALL)
    assert ss.verify(run, data, pairs=path, far=0.2, max_skipped=0.1, **SMALL)["unread_pairs"] == 8


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([["c0/0.png", "c0/1.png"]], r"rows must have three cells, a, b and same"),
        ([["c0/0.png", "c0/1.png", "maybe"], ["c0/0.png", "c1/1.png", 1]], r"1 of 2 rows \(maybe\) do not say 1 or 0"),
        ([["c0/0.png", "c9/1.png", 1]], r"1 of 2 cells \(c9/1.png\) name no item of"),
        ([["c0/0.png", "c0/0.png", 1]], r"1 pairs are an item and itself, the first is c0/0.png"),
        ([["c0/0.png", "c0/1.png", 1], ["c0/1.png", "c0/0.png", 0]], r"1 of 2 pairs are said to differ"),
        ([["c0/0.png", "c0/1.png", 1], ["c1/1.png", "c1/0.png", 1]], r"2 identities: at least four"),
        ([[f"c{k}/0.png", f"c{k}/1.png", 1] for k in range(6)], r"the development part has no different pairs"),
    ],
)
def test_lists_of_pairs_that_cannot_be_used_are_refused(run, coloured, tmp_path, rows, reason):
    with pytest.raises(UserError, match=reason) as error:
        ss.verify(run, coloured, pairs=written_pairs(tmp_path / "p.csv", rows), **SMALL)
    assert "\n" not in str(error.value) and not (run / "verification").exists()


def test_a_rate_too_small_for_the_pairs_is_said(run, coloured, capsys):
    ss.verify(run, coloured, far=0.001, **SMALL)
    assert "0.001 needs about 3,000 different pairs to be told; the development part has 192" in capsys.readouterr().err


# outliers ------------------------------------------------------------------------------------------------------------


def test_planted_strangers_come_first_and_are_measured_beside_baselines(run, coloured, tmp_path):
    data = shutil.copytree(coloured, tmp_path / "data")
    (data / "strange").mkdir()
    for k, level in enumerate((0, 128, 255)):  # a grey of its own
        Image.new("RGB", (16, 16), (level, level, level)).save(data / "strange" / f"{k}.png")
    found = ss.outliers(run, data, neighbour=5, anomalies="strange", **SMALL)
    listed = rows_of(run / "outliers" / "outliers.csv")
    distances = [float(row["distance"]) for row in listed]
    embedded = ss.embed(run, data, workers=0)
    mine = outliers.kth_distances(torch.from_numpy(embedded.vectors), 5)
    assert distances == sorted(distances, reverse=True) and len(listed) == 51
    by_name = dict(zip(embedded.names, mine, strict=True))
    assert all(float(row["distance"]) == pytest.approx(by_name[row["name"]], abs=1e-5) for row in listed)
    strange = np.array([row["label"] == "strange" for row in listed])
    assert strange.sum() == 3
    auroc = outliers.found_by(np.array(distances), strange)["auroc"]
    assert found["rows"][0]["figures"]["auroc"]["mean"] == pytest.approx(auroc, abs=1e-3)
    assert {row["features"] for row in found["rows"]} == {"encoder", "random", "raw"}
    assert found["rows"][2]["figures"]["auroc"]["mean"] > 0.9  # thumbnails: a grey is far from all colours
    assert found["strangest"][0][0] == listed[0]["name"] and found["neighbours_among"] == 51
    page = (run / "outliers" / "report.html").read_text()
    assert "strange/0.png" in page and "AUROC" in page and "data:image/webp" in page


def test_without_labels_items_are_listed_all_the_same(run, pictures):
    found = ss.outliers(run, pictures, **SMALL)
    assert found["rows"] == [] and set(rows_of(run / "outliers" / "outliers.csv")[0]) == {"name", "distance"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"anomalies": "disk"}, r"unknown label in --anomalies 'disk'. Did you mean 'disc'"),
        ({"anomalies": "disc,across,down,chequer"}, r"name some of the labels, not none and not all"),
        ({"neighbour": 64}, r"neighbour 64: each of 64 items has 63 others"),
        ({"labels": "l.csv"}, r"--labels goes with --anomalies"),
    ],
)
def test_wrong_settings_of_outliers_are_refused(run, pictures, settings, reason):
    with pytest.raises(UserError, match=reason):
        ss.outliers(run, pictures, **{**SMALL, **settings})
    assert not (run / "outliers").exists()


# clusters ------------------------------------------------------------------------------------------------------------


def test_colours_are_clustered_and_agree_with_their_folders(run, coloured):
    found = ss.clusters(run, coloured, count=6, seeds=2, workers=0)
    listed = rows_of(run / "clusters" / "clusters.csv")
    assert found["sizes"] == [sum(row["cluster"] == str(k) for row in listed) for k in range(1, 7)]
    assert sum(found["sizes"]) == 48 and found["sizes"] == sorted(found["sizes"], reverse=True)
    own, random, raw = found["rows"]
    assert raw["figures"] == {key: {"mean": pytest.approx(1), "std": 0} for key in ("nmi", "ari", "purity")}
    assert own["figures"]["nmi"]["mean"] > 0.5 and random["seeds"] == 2
    page = (run / "clusters" / "report.html").read_text()
    assert "Cluster 1 · " in page and "purity" in page and page.count('class="strip"') == 6


def test_the_count_is_chosen_by_the_silhouette_and_said(run, coloured, capsys):
    found = ss.clusters(run, coloured, **SMALL)
    tried = {int(count): score for count, score in found["silhouettes"].items()}
    assert found["count"] == max(tried, key=tried.get) and found["chosen_by"] == "silhouette"
    assert max(tried) <= 24 and "they have the largest silhouette" in capsys.readouterr().err
    assert "Mean silhouette by count" in (run / "clusters" / "report.html").read_text()


def test_items_without_classes_are_clustered_without_figures(run, pictures, tmp_path):
    found = ss.clusters(run, pictures / "disc", count=2, **SMALL)
    assert found["rows"] == [] and "label" not in rows_of(run / "clusters" / "clusters.csv")[0]
    for part in ("train", "test"):  # parts are no classes
        shutil.copytree(pictures / "disc", tmp_path / "set" / part)
    job = Outliers(run_folder=run, data=str(tmp_path / "set"))
    assert labels_if_any(opened(job)) is None
    with pytest.raises(UserError, match=r"--count 40: 16 items have 16 different vectors"):
        ss.clusters(run, pictures / "disc", count=40, **SMALL)


# select --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["k-centre", "facility", "random"])
def test_a_subset_is_listed_measured_and_can_be_learned_from(run, coloured, by):
    found = ss.select(run, coloured, 6, by=by, seeds=3, workers=0)
    listed = rows_of(run / "selection" / "selection.csv")
    assert [row["name"] for row in listed] == found["names"] and len(set(found["names"])) == 6
    embedded = ss.embed(run, coloured, workers=0)
    chosen = np.array([embedded.names.index(name) for name in found["names"]])
    mine = selection.coverage(torch.from_numpy(embedded.vectors), chosen)
    own = found["rows"][0]
    assert own["features"] == by and own["figures"]["labels"]["mean"] == pytest.approx(
        len({name[:2] for name in found["names"]}) if by != "random" else own["figures"]["labels"]["mean"]
    )
    if by != "random":
        assert own["figures"]["radius"]["mean"] == pytest.approx(mine["radius"])
        assert found["rows"][1]["features"] == "random" and found["rows"][1]["seeds"] == 3
    again = ss.embed(run, run / "selection" / "selection.csv", workers=0)  # a list of files
    assert np.allclose(again.vectors, embedded.vectors[chosen], atol=1e-5)
    assert "Coverage beside random subsets" in (run / "selection" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--count", "65"], "--count 65: "),
        (["--count", "0"], "--count 0: input should be greater"),
        (["--count", "5", "--by", "facilty"], "unknown rule 'facilty'. Did you mean 'facility'"),
        ([], "count"),
    ],
)
def test_wrong_settings_of_select_are_said_in_one_line(run, pictures, words, reason, capsys):
    assert main(["select", str(run), str(pictures), *words]) == 2
    shown = capsys.readouterr().err.strip()
    assert reason in shown and len(shown.splitlines()) == 1 and not (run / "selection").exists()


# An index in place of a run and a path -------------------------------------------------------------------------------


def without_place(result):
    return {key: value for key, value in result.items() if key not in ("data", "run")}


@pytest.fixture
def indexed(run, coloured, tmp_path):
    """An index that has forgotten some items: its rows are no longer those of the folder."""
    data = shutil.copytree(coloured, tmp_path / "data")
    for name in ("c0/0.png", "c3/7.png"):
        (data / name).rename(data / f"{name}.kept")
    ss.index(run, coloured, tmp_path / "x.index", workers=0)
    ss.Index.open(tmp_path / "x.index").remove(["c0/0.png", "c3/7.png"])
    return tmp_path / "x.index", data


def test_of_an_index_all_four_find_what_they_find_of_the_items(run, coloured, indexed, monkeypatch):
    index, data = indexed
    by = {
        "verify": {"far": 0.05},
        "outliers": {"neighbour": 5, "anomalies": "c5"},
        "clusters": {"count": 6},
        "select": {"count": 6},
    }
    direct = {name: getattr(ss, name)(run, data, **settings, **SMALL) for name, settings in by.items()}
    for name, settings in by.items():
        found = getattr(ss, name)(index, **settings, **SMALL)
        assert found["data"] == str(index) and Path(found["run"]).resolve() == run.resolve()
        assert without_place(found) == near(without_place(direct[name]))
    listed = rows_of(run / "selection" / "selection.csv")
    assert [row["path"] for row in listed] == [str(coloured / row["name"]) for row in listed]
    assert 'class="tile' in (run / "outliers" / "report.html").read_text()
    # The encoder itself is not asked again.
    monkeypatch.setattr("selfsame.jobs.given.all_vectors", None)
    assert ss.outliers(run, index, neighbour=5, **SMALL)["items"] == 46


def near(value):
    """Equal but for rounding."""
    if isinstance(value, dict):
        return {key: near(one) for key, one in value.items()}
    if isinstance(value, list):
        return [near(one) for one in value]
    return pytest.approx(value, abs=2e-5) if isinstance(value, float) else value


def test_an_index_whose_items_are_gone_still_has_its_vectors_and_labels(run, indexed, capsys, tmp_path):
    index, _ = indexed
    made = ss.Index.open(index)
    moved = ss.Index.open(index)
    moved.add(["stranger"], np.ones((1, made.made.dim)), ["c9"])
    assert main(["outliers", str(index), "--anomalies", "c9", "--neighbour", "5", "--workers", "0"]) == 0
    shown = capsys.readouterr().err
    assert "nothing stands beside the encoder" in shown
    kept = json.loads((run / "outliers" / "outliers.json").read_text())
    assert [row["features"] for row in kept["rows"]] == ["encoder"] and kept["items"] == 47
    speakers = tmp_path / "l.csv"  # other labels than those of the index: who is who, not which class
    speakers.write_text("path,label\n" + "".join(f"{name},{name[3] in '0123'}\n" for name in made.names if "/" in name))
    moved.remove(["stranger"])
    whole = speakers.read_text() + "c0/0.png,True\nc3/7.png,False\n"
    speakers.write_text(whole)
    found = ss.clusters(index, count=2, labels=str(speakers), **SMALL)
    assert len(found["rows"]) == 3 and found["items"] == 46


def test_an_index_of_another_encoder_and_one_without_items_are_refused(run, indexed, tmp_path, capsys):
    index, _ = indexed
    other = shutil.copytree(run, tmp_path / "other")
    weights = load_file(other / "encoder.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "encoder.safetensors")
    for name, more in (("verify", []), ("outliers", []), ("clusters", []), ("select", ["--count", "3"])):
        assert main([name, str(other), str(index), *more]) == 2
        assert "was made by another encoder" in capsys.readouterr().err
        assert main([name, str(run), *more]) == 2
        assert "of which items?" in capsys.readouterr().err
    run.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"the run that made .* is not at .* Give it before the index: RUN "):
        ss.clusters(index, count=2, **SMALL)
    assert ss.clusters(tmp_path / "moved", index, count=2, **SMALL)["items"] == 46
    empty = ss.Index.open(index)
    empty.remove(list(empty.names))
    with pytest.raises(UserError, match=r"holds no items.*--out .* --add$"):
        ss.clusters(tmp_path / "moved", index, count=2, **SMALL)


# All four ------------------------------------------------------------------------------------------------------------


def test_an_encoder_that_gives_all_items_one_vector_is_refused(run, tmp_path):
    for k in range(8):
        Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / f"grey{k}.png")
    with pytest.raises(UserError, match=r"gives all 8 items the same vector"):
        ss.outliers(run, tmp_path / "grey*.png", neighbour=2, **SMALL)


def test_where_nothing_can_be_written_nothing_is_encoded(run, pictures, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"cannot write in .*: Permission denied"):
        ss.clusters(run, pictures, count=2, out=run / "a" / "b")


def one_item(kind, data, folder):
    """A file with one item of the kind."""
    folder.mkdir()
    if kind in ("image", "audio"):
        return str(next(path for path in sorted(Path(data).rglob("*")) if path.is_file()))
    if kind == "signal":
        np.savez(folder / "one.npz", x=np.load(data)["x"][:1])
        return str(folder / "one.npz")
    (folder / "one.csv").write_text("".join(Path(data).read_text(encoding="utf-8").splitlines(keepends=True)[:2]))
    return str(folder / "one.csv")


@pytest.mark.parametrize("kind", modalities.names())
def test_the_four_commands_work_on_every_kind_of_data(kind, tmp_path, capsys):
    made = importlib.import_module(f"tests.modalities.{kind}.made")
    data, labels = made.labelled(tmp_path / "data")
    run = tmp_path / "run"
    words = ["pretrain", data, "--out", str(run), "--encoder", made.TINY, "--batch-size", "8", "--workers", "0"]
    words += ["--precision", "fp32", "--epochs", "1", *(["--size", str(made.SIZE)] if getattr(made, "SIZE", 0) else [])]
    words += ["--reading.leave-out", labels] if getattr(made, "LEAVE_OUT", False) else []
    assert main(words) == 0
    names = ss.embed(run, data, workers=0).names
    pairs = written_pairs(tmp_path / "p.csv", pairs_by(names, [k // 4 for k in range(len(names))]))
    named = ["--labels", labels] if labels else []
    small = ["--workers", "0", "--seeds", "1"]
    capsys.readouterr()
    assert main(["verify", str(run), data, "--pairs", str(pairs), "--far", "0.2", *small]) == 0
    one = one_item(kind, data, tmp_path / "one")
    assert main(["verify", str(run), one, one]) == 0
    assert "same: cosine 1.0000" in capsys.readouterr().err
    assert main(["outliers", str(run), data, "--neighbour", "3", *small]) == 0
    assert main(["clusters", str(run), data, "--count", "3", *named, *small]) == 0
    assert main(["select", str(run), data, "--count", "5", "--by", "facility", *small]) == 0
    for folder, table, rows in (("outliers", "outliers", len(names)), ("selection", "selection", 5)):
        listed = rows_of(run / folder / f"{table}.csv")
        assert len(listed) == rows and {row["name"] for row in listed} <= set(names)
    measured = json.loads((run / "clusters" / "clusters.json").read_text())
    assert measured["raw"] == modalities.load(kind).raw_name and len(measured["rows"]) == 3
    for folder in ("verification", "outliers", "clusters", "selection"):
        page = (run / folder / "report.html").read_text()
        assert 'class="tile' in page and 'src=""' not in page


@pytest.mark.parametrize("command", ["verify", "outliers", "clusters", "select"])
def test_a_folder_that_is_not_there_may_have_been_a_run_or_an_index(command, capsys):
    given = ["--count", "3"] if command == "select" else []
    assert main([command, "none.index", *given]) == 2
    assert "there is no folder none.index. Give the folder of a run, or of an index." in " ".join(
        capsys.readouterr().err.split()
    )
