"""Studies run with real trainings: sharing, resuming, failing, leaking, and a table without timings."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from samples.cli import COMMAND, assert_refused, run_segue
from samples.study import write_study

from segue import api
from segue.errors import SegueError
from segue.study.executor import run_study
from segue.study.plan import Plan, plan_study
from segue.study.store import image_counts_file
from segue.study.table import collect
from segue.training.run_folder import MAX_COUNTS_BYTES, RunFolder

StudyFile = Callable[..., Path]


@pytest.fixture(scope="module")
def finished_study(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the file of a study of five trainings, all of them finished in the folder `runs` beside it."""
    path = write_study(tmp_path_factory.mktemp("finished") / "study.toml", discs)
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    summary = run_study(plan_study(path))
    assert (summary.finished, summary.failed, summary.blocked) == (1 + 4, 0, 0)
    return path


@pytest.fixture
def copied_study(finished_study: Path, tmp_path: Path) -> Path:
    """Returns the file of a copy of the finished study, which a test may change and run on."""
    shutil.copytree(finished_study.parent, tmp_path / "copy")
    return tmp_path / "copy" / finished_study.name


def test_a_study_from_plan_to_table(copied_study: Path):
    """Every distinct stage runs once, is scored on every domain, and a second run has nothing to do."""
    path = copied_study
    results = collect(plan_study(path), command="segue study run")
    table = results.table
    assert len(table) == 5 * 2
    assert set(table["evaluated_domain"]) == {"low", "high"} and set(table["split"]) == {"test"}
    assert not [name for name in table.columns if "second" in name or "time" in name]
    transfer = table[table["stage"] == "transfer"]
    assert set(transfer["labels_train"]) == {2, 4} and set(transfer["transfer.freeze"]) == {"none", "encoder"}
    assert set(transfer["parent"]) == set(table.loc[table["stage"] == "pretrain", "run"])
    assert results.counts["finished"] == 5 and results.failures.empty
    assert set(results.histories["epoch"]) == {1, 2}
    plan = plan_study(path)
    for evaluation in plan.evaluations:  # named in the folder of each run, so that its own page can name them
        for run in table["run"].unique():
            assert json.loads(plan.evaluation_file(run, evaluation).read_text())["domain"] == evaluation.domain
    again = run_study(plan_study(path))
    assert again.finished == 0


@pytest.mark.slow
def test_every_test_image_has_a_row(copied_study: Path, tmp_path: Path):
    """Images with their groups and scores are those of the test part; pooled, they give the table's scores. Evaluations
    of before have no images, which is said; counts that do not fit the scores are refused."""
    plan = plan_study(copied_study)
    images, table = api.table(copied_study, per_image=True), api.table(copied_study)
    by_evaluation = images.groupby(["run", "evaluated_domain"])
    assert by_evaluation.size().to_dict() == table.set_index(["run", "evaluated_domain"])["samples"].to_dict()
    assert set(images["group"]) <= set(images["image"].str.split(" tile ").str[0]) and "transfer.freeze" in images
    pooled = table.set_index(["run", "evaluated_domain"])
    for (run, domain), part in by_evaluation:  # of equally large images without ignored pixels, losses are means
        assert part["loss"].mean() == pytest.approx(pooled.loc[(run, domain), "loss"], rel=1e-5)
        assert part["accuracy"].mean() == pytest.approx(pooled.loc[(run, domain), "accuracy"])
    values, differences = api.analyze(copied_study, "images", stage="transfer")
    assert (values.table["groups"] > 1).all() and values.table["value_over_images_low"].notna().all()
    assert differences.table["kind"].eq("paired by group").all()

    files = [image_counts_file(plan.evaluation_file(train.key, plan.evaluations[0])) for train in plan.trainings]
    record = json.loads(gzip.decompress(files[0].read_bytes()))
    record["confusion"][0][0][0] += 50
    files[0].write_bytes(gzip.compress(json.dumps(record).encode()))
    assert_refused(run_segue("study", "table", copied_study, "--per-image"), "does not give the score")
    files[0].write_bytes(files[0].read_bytes()[:-40])
    assert_refused(run_segue("study", "table", copied_study, "--per-image"), "is damaged or was altered")
    files[0].write_bytes(gzip.compress(b"0" * (MAX_COUNTS_BYTES + 1), compresslevel=1))
    assert_refused(run_segue("study", "table", copied_study, "--per-image"), "more than 268,435,456 bytes")
    files[0].unlink()
    done = run_segue("study", "table", copied_study, "--per-image", "-o", tmp_path / "images.csv")
    assert done.returncode == 0 and "1 of 10 evaluations are left out" in done.stderr
    for train in plan.trainings:
        for file in RunFolder(plan.store.run(train.key)).evaluations.glob("*.images.json.gz"):
            file.unlink()
    with pytest.raises(SegueError, match="scored by an earlier version"):
        api.table(copied_study, per_image=True)
    with pytest.raises(SegueError, match="analyze images: no stage has what it needs"):
        api.analyze(copied_study, "images")


@pytest.mark.slow
def test_scratch_and_transfer_see_the_same_images(study_file: StudyFile):
    """The draw depends on the study, the domain and the draw index only, and small draws lie in large ones; what is
    transferred starts from the parent of its own seed."""
    path = study_file(
        '\n[stages.pretrain]\ndomain = "high"\nepochs = 1\n'
        '\n[stages.transfer]\nfrom = "pretrain"\ndomain = "low"\nimages = { each = [2, 6] }\nepochs = 1\n'
        '\n[stages.scratch]\ndomain = "low"\nimages = { each = [2, 6] }\nepochs = 1\n'
    )
    plan = plan_study(path)
    run_study(plan)
    drawn = {}
    for train in plan.trainings:
        groups = json.loads((plan.store.run(train.key) / "groups.json").read_text())["training"]
        drawn[train.configuration.stage, train.spec.data[0].images, train.spec.draw] = set(groups)
    for draw in (0, 1):
        for images in (2, 6):
            assert drawn["transfer", images, draw] == drawn["scratch", images, draw]
        assert drawn["transfer", 2, draw] < drawn["transfer", 6, draw]
    assert drawn["transfer", 6, 0] != drawn["transfer", 6, 1]
    table = collect(plan, command="").table.set_index("run")
    transfer = table[table["stage"] == "transfer"]
    parents = table[~table.index.duplicated()].loc[transfer["parent"]]
    assert set(parents.index) == set(table.index[table["stage"] == "pretrain"]) and len(set(parents.index)) == 2
    assert parents["seed_init"].tolist() == transfer["seed_init"].tolist()


def test_adding_a_domain_retrains_nothing(copied_study: Path):
    """A domain added later is only scored."""
    path = copied_study
    plan = plan_study(path)
    before = {t.key: (plan.store.run(t.key) / "timing.json").read_bytes() for t in plan.trainings}
    path.write_text(path.read_text().replace("[domains]", '[domains]\nboth = { dataset = "discs" }'))
    summary = run_study(plan_study(path))
    assert summary.finished == 5
    plan = plan_study(path)
    assert {t.key: (plan.store.run(t.key) / "timing.json").read_bytes() for t in plan.trainings} == before
    assert set(collect(plan, command="").table["evaluated_domain"]) == {"low", "high", "both"}
    # a study that is finished writes nothing, so that its store may be read-only
    (plan.store.folder / "plans" / f"{plan.study.spec.name}.json").unlink()
    assert run_study(plan_study(path)).complete
    assert not list((plan.store.folder / "plans").iterdir())


def test_a_failed_stage_stops_only_its_children(study_file: StudyFile):
    """One stage asks for too many images: it fails with the reason, its child is not run, the others finish."""
    path = study_file(
        '\n[stages.good]\ndomain = "high"\nimages = 4\nepochs = 1\n'
        '\n[stages.bad]\ndomain = "high"\nimages = 4000\nepochs = 1\n'
        '\n[stages.child]\nfrom = "bad"\ndomain = "low"\nimages = 2\nepochs = 1\n'
    )
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    summary = run_study(plan_study(path))
    assert (summary.finished, summary.failed, summary.blocked) == (1, 1, 1)
    results = collect(plan_study(path), command="")
    assert set(results.table["stage"]) == {"good"}
    errors = dict(zip(results.failures["stage"], results.failures["error"], strict=True))
    assert "asks for 4000" in errors["bad"] and errors["child"].startswith("not run: bad")
    failures = results.failures.set_index("stage")
    assert failures["bad.domain"].tolist() == ["high", "high"] and failures.loc["child", "domain"] == "low"
    assert failures.loc["child", "parent"] == failures.loc["bad", "run"]
    assert results.counts["failed"] == 2
    status = run_segue("study", "status", path)
    assert status.returncode == 0 and "asks for 4000" in status.stdout
    mended = path.read_text().replace("images = 4000", "images = 5")
    path.write_text(mended)
    assert run_study(plan_study(path)).failed == 0
    assert collect(plan_study(path), command="").failures.empty


def test_why_tells_what_changed(study_file: StudyFile, copied_study: Path):
    """After a run, a changed setting, a changed parent and a new axis value are distinguished."""
    assert {reason for *_, reason in plan_study(study_file()).why() if reason != "finished"} == {"new"}
    path = copied_study
    assert {reason for *_, reason in plan_study(path).why()} == {"finished"}
    assert {reason for _, name, reason in plan_study(path).why(force=True) if "dataset" not in name} == {"forced"}
    path.write_text(path.read_text().replace("images = 12", "images = 11"))
    assert reasons_by_stage(path) == {
        "dataset": {"finished"},
        "pretrain": {"settings changed: data.images 12 -> 11"},
        "transfer": {"settings changed: data.images 12 -> 11"},
    }
    path.write_text(path.read_text().replace("[2, 4]", "[2, 4, 6]"))
    assert "new" in {reason for *_, reason in plan_study(path).why()}


def reasons_by_stage(path: Path) -> dict[str, set[str]]:
    reasons: dict[str, set[str]] = {}
    for _, name, reason in plan_study(path).why():
        reasons.setdefault(name.split()[0].rstrip(","), set()).add(reason)
    return reasons


def test_why_names_the_setting_that_changed(copied_study: Path):
    """Settings within tables, settings that had their default, and several at once are each named with both values."""
    path = copied_study
    unchanged = path.read_text()
    path.write_text(unchanged.replace("epochs = 2", "epochs = 3\noptimizer = { lr = 5e-4 }", 1))
    (reason,) = reasons_by_stage(path)["pretrain"]
    changes = set(reason.removeprefix("settings changed: ").split("; "))
    assert changes == {"epochs 2 -> 3", "optimizer.lr (default) -> 0.0005"}
    path.write_text(unchanged.replace("width = 8", "width = 16"))
    width = "settings changed: network.width 8 -> 16"
    assert reasons_by_stage(path) == {"dataset": {"finished"}, "pretrain": {width}, "transfer": {width}}
    output = run_segue("study", "plan", path, "--why").stdout
    assert output.count(width) == 1 and "(5 stages)" in output
    path.write_text(unchanged)
    assert set.union(*reasons_by_stage(path).values()) == {"finished"}


def test_a_missing_extra_is_told_before_any_work(
    study_file: StudyFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A study one of whose stages needs a package that is not installed runs nothing and names the extra."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    path = study_file()
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 2\ntensorboard = true"))
    with pytest.raises(SegueError, match=r"pretrain.* needs tensorboard.*segue\[tensorboard\].*Nothing was run"):
        run_study(plan_study(path, tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_train_and_studies_find_what_the_other_trained(copied_study: Path, discs: Path):
    """A stage that a study trained is taken from its store by `train`, and the other way round; parents too."""
    path, folder = copied_study, copied_study.parent
    stage = """
network = { name = "resunet", width = 8 }
split = { validation = 0.2, test = 0.2 }
precision = "fp32"
epochs = 2
augment = "dihedral-all"
"""
    data = f'[[data]]\ndataset = "{discs}"\n'
    (folder / "pretrain.toml").write_text(f'{stage}{data}images = 12\nconditions = {{ contrast = "high" }}\n')
    (folder / "transfer.toml").write_text(
        f'{stage}freeze = ["encoder"]\nfrom = {{ run = "pretrained" }}\n'
        f'{data}images = 4\nconditions = {{ contrast = "low" }}\n'
    )
    (folder / "other.toml").write_text(f'{stage}{data}images = 10\nconditions = {{ contrast = "high" }}\n')
    plan = plan_study(path)
    stored = [(plan.store.run(training.key) / "weights.safetensors").read_bytes() for training in plan.trainings]
    for name, out in (("pretrain", "pretrained"), ("transfer", "transferred")):
        lines: list[str] = []
        run = api.train(folder / f"{name}.toml", folder / out, log=lines.append)
        assert "copied from there" in lines[0] and len(lines) == 1
        assert (run / "weights.safetensors").read_bytes() in stored
    api.train(folder / "other.toml", folder / "other", log=lambda line: None)  # not in the study yet
    path.write_text(path.read_text().replace("images = 12", "images = 10"))
    reasons = reasons_by_stage(path)
    assert reasons["pretrain"] == {"finished"} and reasons["transfer"] == {"parent changed"}


def test_every_epoch_is_scored_on_request(study_file: StudyFile):
    """every_epoch = true scores the weights of each epoch on every domain, the selected one as without it."""
    path = study_file('\n[stages.only]\ndomain = "high"\nimages = 6\nepochs = 3\n\n[evaluate]\nevery_epoch = true\n')
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    plan = plan_study(path)
    run_study(plan)
    results = collect(plan_study(path), command="")
    histories = results.histories
    assert {"loss_adjusted@low", "loss_adjusted@high"} <= set(histories.columns)
    run = histories[histories["run"] == plan.trainings[0].key].set_index("epoch")
    row = results.table[(results.table["run"] == plan.trainings[0].key) & (results.table["evaluated_domain"] == "low")]
    assert run.loc[row["selected_epoch"].iloc[0], "loss_adjusted@low"] == row["loss_adjusted"].iloc[0]


def test_a_stage_keeps_its_epochs_on_request(study_file: StudyFile):
    """keep_epochs = true in a stage keeps the weights of all its epochs, is in the plan's disk, and changes only its
    key; with keep = "metrics" it is refused."""
    stages = (
        '\n[stages.a]\ndomain = "high"\nimages = 6\nepochs = 2\n\n[stages.b]\ndomain = "low"\nimages = 6\nepochs = 1\n'
    )
    path = study_file(stages)
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    without = plan_study(path)
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 2\nkeep_epochs = true"))
    plan = plan_study(path)
    assert plan.trainings[0].key != without.trainings[0].key and plan.trainings[1].key == without.trainings[1].key
    assert plan.disk()["weights"] > without.disk()["weights"]
    run_study(plan)
    assert list(RunFolder(plan.store.run(plan.trainings[0].key)).epoch_files()) == [1, 2]
    with pytest.raises(SegueError, match="were not kept; write keep_epochs = true in its stage"):
        RunFolder(plan.store.run(plan.trainings[1].key)).epoch_files()
    path.write_text(path.read_text().replace("seeds = 1", 'seeds = 1\nkeep = "metrics"'))
    with pytest.raises(SegueError, match=r'stages.a.keep_epochs: the study says keep = "metrics"'):
        plan_study(path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_studies_go_on(study_file: StudyFile, tmp_path: Path, workers: int):
    """SIGKILL of the whole command again and again, then the same words: the same table as undisturbed."""
    path = study_file()
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    calm, killed = tmp_path / "calm", tmp_path / f"killed-{workers}"
    run_study(plan_study(path, calm))
    command = [*COMMAND, "study", "run", str(path), "--store", str(killed), "--workers", str(workers)]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = finished(killed)
        deadline = time.monotonic() + 600
        while process.poll() is None and finished(killed) < before + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tables = [collect(plan_study(path, store), command="").table for store in (calm, killed)]
    assert tables[0].equals(tables[1])
    weights = [
        {p.parent.name: p.read_bytes() for p in store.glob("*/*/weights.safetensors")} for store in (calm, killed)
    ]
    assert weights[0] == weights[1]


def finished(store: Path) -> int:
    return len(list(store.glob("*/train-*/metrics.json")))


def write_dataset_stage(study_file: Callable[[str], Path], tmp_path: Path) -> Path:
    """Returns a study of a stage over the discs and one over a folder of images without any image yet."""
    (tmp_path / "images").mkdir()
    (tmp_path / "prepare.toml").write_text(
        'name = "none"\nimages = "images/*.png"\ntile_px = 32\n'
        '[labels]\nfiles = "labels/{stem}.png"\nkind = "classes"\nnames = ["background", "disc"]\n'
    )
    stage = "images = 4\nepochs = 1\n"
    path = study_file(f'\n[stages.bad]\ndomain = "none"\n{stage}\n[stages.good]\ndomain = "high"\n{stage}')
    text = path.read_text().replace(
        "[domains]", '[datasets.empty]\nprepare = "prepare.toml"\n\n[domains]\nnone = { dataset = "empty" }'
    )
    path.write_text(text.replace("seeds = 2", "seeds = 1"))
    return path


def test_a_folder_without_images_is_refused_before_any_work(study_file: Callable[[str], Path], tmp_path: Path):
    path = write_dataset_stage(study_file, tmp_path)
    with pytest.raises(SegueError, match="images"):
        plan_study(path)


def test_a_dataset_that_fails_stops_its_stages_alone(study_file: Callable[[str], Path], tmp_path: Path):
    """An image that cannot be read: the summary names the dataset and why, and the stage on the other dataset is
    trained, though it cannot be evaluated on the one that failed."""
    path = write_dataset_stage(study_file, tmp_path)
    (tmp_path / "labels").mkdir()
    for folder in ("images", "labels"):
        (tmp_path / folder / "a.png").write_bytes(b"no image")
    plan = plan_study(path)
    summary = run_study(plan)
    assert (summary.finished, summary.failed, summary.blocked, summary.complete) == (0, 1, 1, False)
    assert finished(plan.store.folder) == 1
    assert set(summary.failed_datasets) == {"empty"} and "a.png" in summary.failed_datasets["empty"]


def test_stages_that_coincide_share_a_run_and_keep_their_rows(study_file: StudyFile):
    """A baseline with the settings of another stage is trained once and stands in the table under both names."""
    stage = 'domain = "high"\nimages = 6\nepochs = 1\n'
    plan = plan_study(study_file(f"\n[stages.pretrain]\n{stage}\n[stages.scratch]\n{stage}"))
    assert {c.stage: (c.models, c.distinct) for c in plan.counts} == {"pretrain": (2, 2), "scratch": (2, 2)}
    assert len(plan.trainings) == 2
    assert run_study(plan).finished == 2
    table = collect(plan_study(plan.study.path), command="").table
    assert sorted(table["stage"]) == ["pretrain"] * 4 + ["scratch"] * 4
    assert table["run"].nunique() == 2


@pytest.mark.slow
def test_weights_not_kept_are_trained_again_when_needed(study_file: StudyFile):
    """With keep = "metrics" a leaf's weights are gone after scoring, a parent's are kept; a domain or a child added
    later brings the same weights back, and nothing else changes."""
    path = study_file('\n[stages.only]\ndomain = "high"\nimages = 6\nepochs = 2\n')
    path.write_text(path.read_text().replace("seeds = 2", 'seeds = 1\nkeep = "metrics"'))
    plan = plan_study(path)
    run_study(plan)
    folder = plan.store.run(plan.trainings[0].key)
    assert not (folder / "weights.safetensors").exists()
    before = collect(plan_study(path), command="").table
    path.write_text(path.read_text().replace("[domains]", '[domains]\nboth = { dataset = "discs" }'))
    assert plan_study(path).why()[-1][2] == "weights not kept"
    assert run_study(plan_study(path)).failed == 0
    after = collect(plan_study(path), command="").table
    assert after[after["evaluated_domain"] != "both"].reset_index(drop=True).equals(before)
    assert not (folder / "weights.safetensors").exists()
    path.write_text(path.read_text() + '\n[stages.child]\nfrom = "only"\ndomain = "low"\nimages = 2\nepochs = 1\n')
    summary = run_study(plan_study(path))
    assert (summary.finished, summary.failed) == (2, 0)
    assert {reason for *_, reason in plan_study(path).why()} == {"finished"}
    stored = {
        t.configuration.stage: (plan.store.run(t.key) / "weights.safetensors").exists()
        for t in plan_study(path).trainings
    }
    assert stored == {"only": True, "child": False}


def test_a_failure_that_no_longer_holds_is_forgotten(study_file: StudyFile):
    """A domain that cannot be scored is recorded; taken out again, nothing failed."""
    path = study_file('\n[stages.only]\ndomain = "high"\nimages = 6\nepochs = 1\n')
    text = path.read_text().replace("seeds = 2", "seeds = 1")
    path.write_text(text.replace("[domains]", '[domains]\nnone = { dataset = "discs", contrast = "absent" }'))
    assert run_study(plan_study(path)).failed == 1
    assert "absent" in collect(plan_study(path), command="").failures["error"].iloc[0]
    path.write_text(text)
    assert collect(plan_study(path), command="").failures.empty  # before anything runs again, too
    assert run_study(plan_study(path)).finished == 0
    plan = plan_study(path)
    assert plan.counts[0].failed == 0 and plan.counts[0].finished == 1
    assert collect(plan, command="").failures.empty


def test_leaks_through_a_weights_file_are_refused(study_file: StudyFile, tmp_path: Path):
    """A run's weights given as a file are still the run's; a bare file's ancestry is called unknown in the table."""

    def planned(stages: str, name: str) -> Plan:
        path = study_file(stages, name=name)
        path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
        return plan_study(path)

    parent = planned('\n[stages.whole]\ndomain = "high"\nepochs = 1\n', "study.toml")
    run_study(parent)
    weights = parent.store.run(parent.trainings[0].key) / "weights.safetensors"
    tune = '\n[stages.tune]\nfrom = { weights = "WEIGHTS" }\ndomain = "low"\nimages = 2\nepochs = 1\n'
    other = tune + "split = { seed = 9, validation = 0.2, test = 0.2 }\n"
    leaking = planned(other.replace("WEIGHTS", str(weights)), "leaking.toml")
    assert run_study(leaking).failed == 1
    assert "were trained on" in collect(leaking, command="").failures["error"].iloc[0]
    shutil.copy(weights, tmp_path / "bare.safetensors")
    bare = planned(other.replace("WEIGHTS", "bare.safetensors"), "bare.toml")
    assert run_study(bare).failed == 0
    assert set(collect(bare, command="").table["ancestry"]) == {"unknown"}
    assert set(collect(bare, command="").table["licenses"]) == {"not stated"}


def test_children_need_weights_not_scores(study_file: StudyFile):
    """A domain that cannot be scored fails every evaluation on it, but children of the trained parent run."""
    path = study_file(
        '\n[stages.pretrain]\ndomain = "high"\nimages = 6\nepochs = 1\n'
        '\n[stages.transfer]\nfrom = "pretrain"\ndomain = "low"\nimages = 2\nepochs = 1\n'
    )
    text = path.read_text().replace("seeds = 2", "seeds = 1")
    path.write_text(text.replace("[domains]", '[domains]\nnone = { dataset = "discs", contrast = "absent" }'))
    summary = run_study(plan_study(path))
    assert (summary.failed, summary.blocked) == (2, 0)
    table = collect(plan_study(path), command="").table
    assert set(table["stage"]) == {"pretrain", "transfer"} and set(table["evaluated_domain"]) == {"low", "high"}
