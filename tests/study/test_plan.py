"""Plans: every study file against counts made by hand, the grammar, keys, and all mistakes at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from segue.cli.describe import describe_plan
from segue.errors import SegueError, SpecError
from segue.study import grid
from segue.study.plan import Plan, plan_study
from segue.training import identity

STUDIES = Path(__file__).parents[2] / "studies"
StudyFile = Callable[..., Path]

# stage: configurations, models; counted by hand from the question each file asks
BY_HAND = {
    # 2 sources; (2 sources x 3 targets - 2 repeats) x 2 sizes x 3 freezes; 2 seeds
    "demo": {"pretrain": (2, 4), "transfer": (4 * 2 * 3, 48)},
    # 5 defoci x 2 rates; 50 pairs x 2 x 2 rates x 4 sizes x 3 freezes; 3 seeds (published: 2400 and 7200)
    "hrtem-defocus": {"pretrain": (10, 30), "transfer": (2400, 7200)},
    # 5 doses; 20 ordered pairs x 3 freezes; 3 seeds (published: 180)
    "hrtem-noise": {"pretrain": (5, 15), "transfer": (60, 180)},
    # 18 structures; 306 ordered pairs x 3 freezes; 3 seeds (published: 2754)
    "hrtem-structure": {"pretrain": (18, 54), "transfer": (918, 2754)},
    # 40 unordered pairs x 3 mixtures x 2 rates; 3 seeds (published: 720)
    "hrtem-baseline": {"mixture": (240, 720)},
    # small editions: 3 domains, 6 ordered pairs; 4 domains, 12 pairs; 3 freezes, 2 sizes or 1; 3 seeds
    "small-defocus": {"pretrain": (3, 9), "transfer": (6 * 2 * 3, 108)},
    "small-noise": {"pretrain": (3, 9), "transfer": (6 * 3, 54)},
    "small-structure": {"pretrain": (4, 12), "transfer": (12 * 3, 108)},
    # 3 unordered pairs x 3 mixtures; 3 seeds
    "small-baseline": {"mixture": (9, 27)},
    # 1 pretraining; 4 numbers of labels, from the pretrained weights and from scratch; 2 inits x 5 draws
    "nuclei-transfer": {"pretrain": (1, 10), "transfer": (4, 40), "scratch": (4, 40)},
    # 3 optimizers with their schedules x with and without class weights; 3 seeds
    "optimizers": {"train": (6, 18)},
    # 7 output representations; 3 seeds
    "representations": {"train": (7, 21)},
    # 2 pretrainings; 3 numbers of labels from each of 3 starts; 5 draws
    "few-labels": {
        "unlabeled": (1, 5),
        "elsewhere": (1, 5),
        "scratch": (3, 15),
        "reconstructed": (3, 15),
        "labeled": (3, 15),
    },
    # 4 simulated domains; 4 numbers of labels after each of them, and from scratch; 2 draws
    "sim-to-real-hrtem": {"pretrain": (4, 8), "transfer": (16, 32), "scratch": (4, 8)},
    # 3 optimizers x 2 networks x with and without class weights; the split by wells and by chunks; 2 seeds
    "live-dead": {"train": (12, 24), "wells": (2, 4), "chunks": (2, 4)},
}


def counts(plan: Plan) -> dict[str, tuple[int, int]]:
    return {count.stage: (count.configurations, count.models) for count in plan.counts}


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Plan]:
    """Returns a function that plans a study file of this repository, each once, over a store in which nothing is."""
    store = tmp_path_factory.mktemp("store") / "runs"
    return cache(lambda name: plan_study(STUDIES / f"{name}.toml", store))


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_by_hand(name: str, plan_of: Callable[[str], Plan]):
    """Every study file unfolds to the numbers of configurations and models counted by hand."""
    assert counts(plan_of(name)) == BY_HAND[name]


def test_every_study_file_is_counted():
    """No study file ships without a count by hand."""
    studies = {path.stem for path in STUDIES.glob("*.toml") if "[stages" in path.read_text(encoding="utf-8")}
    assert studies == set(BY_HAND)


def test_published_pretrainings_are_shared(plan_of: Callable[[str], Plan]):
    """The 7200 published models descend from 30 distinct pretrainings, not from 7200."""
    plan = plan_of("hrtem-defocus")
    distinct = {count.stage: count.distinct for count in plan.counts}
    assert distinct == {"pretrain": 30, "transfer": 7200}
    assert len(plan.parent_keys) == 30
    assert plan.evaluation_count == 7230 * 11


LIGHT = """
import sys
from segue import api
from segue.cli import describe, main as cli
HEAVY = {"torch", "pandas", "abtem", "ase", "matplotlib", "skimage", "dask", "distributed"}
file, mistaken = sys.argv[1:]
for words in (["--help"], ["study", "plan", file, "--why"], ["study", "status", file], ["study", "plan", mistaken]):
    try:
        cli.app(words, standalone_mode=False)
    except Exception as error:
        print(type(error).__name__)
    if HEAVY & set(sys.modules):
        sys.exit(f"{words}: {sorted(HEAVY & set(sys.modules))}")
"""


@pytest.mark.parametrize(("name", "models"), [("hrtem-noise", 180), ("hrtem-structure", 2754)])
def test_independent_parents_are_trained_for_every_child(tmp_path: Path, name: str, models: int):
    """As many pretrainings as transfers, each the parent of one of them, from other initial weights; the transfers have
    the seeds that they have with shared parents."""
    for file in STUDIES.glob("*.toml"):
        shutil.copy(file, tmp_path)
    path = tmp_path / f"{name}.toml"
    shared = plan_study(path)
    path.write_text(path.read_text().replace("seeds    = 3", "seeds    = 3\nindependent_parents = true"))
    plan = plan_study(path)
    assert [(count.models, count.distinct) for count in plan.counts] == [(models, models)] * 2
    by_key = {training.key: training for training in plan.trainings}
    children = [training for training in plan.trainings if training.parent]
    assert len({child.parent for child in children}) == len(children) == models
    parents = [by_key[child.parent or ""] for child in children]
    assert len({(parent.configuration.title, parent.seeds["init"]) for parent in parents}) == models
    seeds = [[t.seeds["init"] for t in p.trainings if t.parent] for p in (shared, plan)]
    assert seeds[0] == seeds[1]
    labels = [[t.label for t in p.trainings if t.parent] for p in (shared, plan)]
    assert labels[0] == labels[1]
    assert [t.key for t in plan_study(path).trainings] == [t.key for t in plan.trainings]


def test_planning_imports_nothing_heavy(tmp_path: Path):
    """Help, plan, status and the errors of a study file come without torch or pandas."""
    (tmp_path / "bad.toml").write_text("name = 3\n[stages.a]\nepochz = 1\n")
    words = [sys.executable, "-c", LIGHT, str(STUDIES / "hrtem-noise.toml"), str(tmp_path / "bad.toml")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Usage") == 1 and "180" in done.stdout and done.stdout.endswith("SpecError\n")


def test_all_mistakes_of_a_file_at_once(study_file: StudyFile):
    """Misspelt keys, unknown domains, networks, stages and axes are told together, each with place and remedy."""
    path = study_file(
        """
[stages.pretrain]
domain = "hihg"
epochz = 3
network = { name = "resnet" }

[stages.transfer]
from = "pretran"
domain = "low"

[stages.other]
domain = { each = ["low", "high"], except = "pretrain.domain" }
optimizer = { name = "adm" }
"""
    )
    with pytest.raises(SpecError) as caught:
        plan_study(path)
    text = str(caught.value)
    for line in (
        "stages.pretrain: unknown key 'epochz'; did you mean 'epochs'?",
        "stages.pretrain.domain: unknown domain 'hihg'; did you mean 'high'? allowed: high, low",
        "stages.pretrain.network.name: unknown network 'resnet'; did you mean 'resunet'?",
        "stages.transfer.from: unknown stage 'pretran'; did you mean 'pretrain'?",
        "stages.other.domain.except: 'pretrain.domain' names no ancestor of this stage",
        "stages.other.optimizer.name: unknown name 'adm'; did you mean 'adam'?",
    ):
        assert line in text, text


def test_tiles_that_do_not_fit_are_told_by_the_plan(tmp_path: Path):
    """A network that cannot take the tiles of a dataset yet to be made is refused before anything is made."""
    text = (STUDIES / "demo.toml").read_text().replace("demo-series.toml", str(STUDIES / "demo-series.toml"))
    text = text.replace("[domains]", "set = { 'imaging.tile_px' = 100 }\n\n[domains]")
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(SpecError, match=r"stages.pretrain: dataset 'cdse': its tiles are 100x100 px.*multiples of 32"):
        plan_study(tmp_path / "study.toml")


def test_rendering_without_waves_is_told_by_the_plan(tmp_path: Path):
    """A stage that renders its images from exit waves that no series keeps is refused; with a folder for them it is
    planned, and is another training than one on the stored images."""
    shutil.copy(STUDIES / "demo-series.toml", tmp_path)
    text = (STUDIES / "demo.toml").read_text(encoding="utf-8")
    path = tmp_path / "study.toml"
    path.write_text(text.replace("epochs    = 5", "epochs    = 5\nrender    = { noise = 'fresh' }"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"stages.pretrain.render: dataset 'cdse' keeps no exit waves; name a waves_f"):
        plan_study(path)
    series = tmp_path / "demo-series.toml"
    series.write_text(series.read_text(encoding="utf-8").replace("seed = 1", 'seed = 1\nwaves_folder = "waves"'))
    rendered = {training.key for training in plan_study(path).trainings}
    path.write_text(text, encoding="utf-8")
    assert not rendered & {training.key for training in plan_study(path).trainings}


def test_variants_merge_over_their_stage():
    """Named partial tables give an axis of their own and replace only what they name."""
    table = {
        "epochs": 3,
        "optimizer": {"name": "adam", "lr": 1e-3},
        "variants": {"slow": {"optimizer": {"lr": 1e-4}}, "long": {"epochs": {"each": [6, 9]}}},
    }
    points = grid.expand_grid(table)
    assert [p.coordinates for p in points] == [
        {"variant": "slow"},
        {"variant": "long", "epochs": 6},
        {"variant": "long", "epochs": 9},
    ]
    assert points[0].table == {"epochs": 3, "optimizer": {"name": "adam", "lr": 1e-4}}


def test_unordered_pairs_of_mixtures():
    """Unordered pairs leave out repeats and reversals, and put the domains into the mixture."""
    table = {
        "pairs": {"a": ["x", "y"], "b": ["x", "y", "z"], "unordered": True},
        "mix": [{"domain": "a", "images": 1}, {"domain": "b", "images": 3}],
    }
    points = grid.expand_grid(table)
    assert [p.coordinates["pair"] for p in points] == ["x+y", "x+z", "y+z"]
    assert grid.mixture(points[1].table["mix"]) == "x:1+z:3"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lr": {"each": []}}, "lr: found"),
        ({"lr": {"each": [1, 1]}}, "are not distinct"),
        ({"variants": {"a": 3}}, "variants: found no named tables"),
        ({"pairs": {"a": ["x"]}, "mix": []}, "pairs: write pairs"),
        ({"pairs": {"a": [["x"]], "b": ["y"]}, "mix": []}, "pairs: write pairs"),
    ],
)
def test_malformed_axes(table: dict[str, object], message: str):
    """An axis that cannot be read is refused with how to write it."""
    with pytest.raises(ValueError, match=message):
        grid.expand_grid(table)


@pytest.mark.parametrize(
    ("setting", "values", "labels"),
    [
        ("optimizer", "{ lr = 1e-3 }, { lr = 1e-4 }", ["lr=0.001", "lr=0.0001"]),
        ("optimizer", '{ name = "adam" }, { name = "adam", lr = 1e-4 }', ["adam", "adam lr=0.0001"]),
        ("split", "{ seed = 1 }, { seed = 2 }", ["seed=1", "seed=2"]),
        ("ema", "{ decay = 0.9 }, { decay = 0.99 }", ["decay=0.9", "decay=0.99"]),
        ("warmup", "{ epochs = 1 }, { epochs = 2 }", ["epochs=1", "epochs=2"]),
        ("early_stopping", "{ patience = 3 }, { patience = 5 }", ["patience=3", "patience=5"]),
        ("augment", "{ noise = [0, 0.1] }, { noise = [0, 0.2] }", ["noise=0,0.1", "noise=0,0.2"]),
    ],
)
def test_settings_that_are_tables_are_varied(study_file: StudyFile, setting: str, values: str, labels: list[str]):
    """`each` over tables, with and without a name, gives a configuration and a label for each."""
    path = study_file(f'\n[stages.a]\ndomain = "low"\nepochs = 4\n{setting} = {{ each = [{values}] }}\n')
    study = plan_study(path).study
    assert [one.axes[f"a.{setting}"] for one in study.configurations["a"]] == labels


def keys(path: Path) -> dict[str, str]:
    return {train.label: train.key for train in plan_study(path).trainings}


def test_keys_ignore_names_and_evaluation(study_file: StudyFile):
    """Titles, the study's name, what is evaluated and what is kept do not change a key; settings and seeds do."""
    before = keys(study_file())
    changed = study_file(name="other.toml")
    text = changed.read_text().replace('name = "discs"', 'name = "renamed"\ntitle = "t"\nkeep = "metrics"')
    changed.write_text(text + '\n[evaluate]\ndomains = ["low"]\n')
    assert keys(changed) == before
    changed.write_text(text.replace("epochs = 2", "epochs = 3"))
    assert not set(keys(changed).values()) & set(before.values())


@pytest.mark.parametrize("name", ["demo", "few-labels", "nuclei-transfer"])
def test_keys_of_repetitions_are_those_of_their_fingerprints(plan_of: Callable[[str], Plan], name: str):
    """What writes the JSON of a key once for all repetitions gives the key that `segue train` makes of a run alone."""
    for train in plan_of(name).trainings:
        parent = train.identities[-1]
        single = identity.fingerprint(
            train.spec, train.template.settings, train.inputs, parent=parent, **dict(train.seeds)
        )
        assert train.key == single.key


def test_default_written_out_is_the_same_stage(study_file: StudyFile):
    """Writing a default explicitly gives the same key as leaving it out."""
    before = keys(study_file())
    written = study_file(name="other.toml")
    written.write_text(written.read_text().replace("images = 12", "images = 12\nbatch = 16\nthreads = 1"))
    assert set(keys(written).values()) == set(before.values())


def test_changing_a_parent_changes_its_children(study_file: StudyFile):
    """A child's key holds its parent's."""
    before = plan_study(study_file())
    other = study_file(name="other.toml")
    other.write_text(other.read_text().replace("images = 12", "images = 11"))
    after = plan_study(other)
    assert not {t.key for t in before.trainings} & {t.key for t in after.trainings}


def test_all_images_share_the_training_over_draws(study_file: StudyFile):
    """A stage that takes all images does not depend on the draw: five draws of two inits are two trainings."""
    path = study_file('\n[stages.whole]\ndomain = "high"\n\n[stages.few]\nfrom = "whole"\ndomain = "low"\nimages = 2\n')
    path.write_text(path.read_text().replace("seeds = 2", "seeds = { init = 2, draw = 5 }"))
    distinct = {count.stage: (count.models, count.distinct) for count in plan_study(path).counts}
    assert distinct == {"whole": (10, 2), "few": (10, 10)}


def test_children_take_their_parents_network(study_file: StudyFile):
    """A stage without its own network has that of the stage it starts from, also when that is swept."""
    path = study_file(
        '\n[stages.a]\ndomain = "high"\nnetwork = { name = "resunet", width = { each = [8, 16] } }\n'
        '\n[stages.b]\nfrom = "a"\ndomain = "low"\n'
    )
    actual = plan_study(path).study.configurations["b"]
    assert [(c.axes, c.spec.network.width) for c in actual] == [
        ({"a.network.width": 8}, 8),
        ({"a.network.width": 16}, 16),
    ]


RECONSTRUCTED = (
    '\n[stages.a]\ndomain = "high"\ntarget = { name = "reconstruction" }\n\n[stages.b]\nfrom = "a"\ndomain = "low"\n'
)


def test_a_child_of_a_reconstruction_has_the_target_of_the_study(study_file: StudyFile):
    """What starts from a reconstruction is not trained to reconstruct again unless it says so."""
    path = study_file(RECONSTRUCTED)
    with pytest.raises(SpecError, match=r"stages\.b: starts from a stage that reconstructs images"):
        plan_study(path)
    path.write_text('target = { name = "classes" }\n' + path.read_text())
    assert [c.spec.target.name for c in plan_study(path).study.configurations["b"]] == ["classes"]
    path.write_text(path.read_text() + 'target = { name = "reconstruction" }\n')
    assert [c.spec.target.name for c in plan_study(path).study.configurations["b"]] == ["reconstruction"]


def test_external_parents_enter_by_content(study_file: StudyFile, tmp_path: Path):
    """`from = { weights = file }` gives a key by the file's bytes, and a missing file is refused."""
    path = study_file('\n[stages.tune]\nfrom = { weights = "w.safetensors" }\ndomain = "low"\n')
    with pytest.raises(SegueError, match=r"w\.safetensors: there are no such weights"):
        plan_study(path)
    (tmp_path / "w.safetensors").write_bytes(b"one")
    first = keys(path)
    (tmp_path / "w.safetensors").write_bytes(b"two!")
    assert keys(path) != first


def test_swept_datasets_are_chosen_by_domains(plan_of: Callable[[str], Plan]):
    """A dataset whose `set` varies becomes one for each value, and a domain selects among them."""
    plan = plan_of("hrtem-structure")
    assert len(plan.datasets) == 18
    assert len({train.inputs for train in plan.trainings if train.configuration.stage == "pretrain"}) == 18


def test_disk_needed_is_counted(plan_of: Callable[[str], Plan]):
    """A study that keeps metrics alone needs space for its parents' weights only."""
    plan = plan_of("hrtem-defocus")
    assert plan.disk()["weights"] == 30 * 2 * 4 * 14_323_492
    assert plan.disk()["datasets"] > 1e9


def test_disk_of_exit_waves_is_counted_once(tmp_path: Path):
    """Series of the same structures share their waves, 9 of 640² complex pixels a structure; what is there is left
    out, and without a folder there are none."""
    text = (STUDIES / "hrtem-noise.toml").read_text(encoding="utf-8")
    other = '[datasets.other]\nsimulate = "hrtem-defocus-series.toml"\n\n'
    other += '[domains]\n"0 nm" = { dataset = "other", defocus_nm = 0 }'
    both = text.replace("[domains]", other)
    (tmp_path / "both.toml").write_text(both, encoding="utf-8")
    for name in ("defocus", "noise"):
        shutil.copy(STUDIES / f"hrtem-{name}-series.toml", tmp_path)
    plan = plan_study(tmp_path / "both.toml")
    assert len(plan.datasets) == 2
    assert plan.disk()["waves"] == pytest.approx(1024 * 9 * 640**2 * 8, rel=1e-3)
    assert "30.2 GB for exit waves" in describe_plan(plan)
    (folder,) = {folder for dataset in plan.datasets.values() for folder in dataset.shared_bytes()}
    folder.mkdir(parents=True)
    for index in range(512):
        (folder / f"{index:05d}.h5").touch()
    assert plan.disk()["waves"] == pytest.approx(512 * 9 * 640**2 * 8, rel=1e-3)
    for name in ("defocus", "noise"):
        path = tmp_path / f"hrtem-{name}-series.toml"
        path.write_text(path.read_text(encoding="utf-8").replace("waves_folder", "# waves_folder"), encoding="utf-8")
    assert plan_study(tmp_path / "both.toml").disk()["waves"] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[stages.a]\ndomain = "low"\nfrom = 3', r"stages.a.from: found 3; name one stage"),
        ('[stages.a]\ndomain = "low"\nfrom = { each = ["a", "b"] }', "for several parents write a stage for each"),
        ('[stages.a]\ndomain = { each = ["low", "high"], except = 3 }', r"stages.a.domain.except: found 3"),
        ('[stages.a]\ndomain = "low"\nload = ["encoder"]', "no `from`"),
        ('[stages.a]\ndomain = "low"\n\n[domains.odd]\ndataset = ["discs"]', "domains.odd.dataset: unknown dataset"),
        ('[stages.a]\ndomain = "odd"\n\n[domains.odd]\ndataset = ["discs"]', "domains.odd.dataset: unknown dataset"),
        ('[stages.a]\ndomain = "low"\nfrom = "a"', "a stage cannot be its own ancestor"),
        (
            '[stages.a]\ndomain = "low"\nimages = -1',
            r'images: found -1; give a number above 0, or "all"',
        ),
    ],
)
def test_what_a_stage_may_not_say(study_file: StudyFile, more: str, message: str):
    """Each of these is refused by the plan with its place, and never taken for something else."""
    with pytest.raises(SpecError, match=message):
        plan_study(study_file("\n" + more + "\n"))


def test_axes_at_the_top_are_sent_to_a_stage(study_file: StudyFile):
    """A swept network belongs in a stage, and the mistake says so."""
    path = study_file()
    path.write_text(path.read_text().replace("width = 8 }", "width = { each = [8, 16] } }"))
    with pytest.raises(SpecError, match="network: `each` belongs in a stage"):
        plan_study(path)


def test_inherited_networks_decide_what_fits(tmp_path: Path):
    """A child is checked against its parent's network, not against the default."""
    text = (STUDIES / "demo.toml").read_text().replace("demo-series.toml", str(STUDIES / "demo-series.toml"))
    text = text.replace("[domains]", "set = { 'imaging.tile_px' = 72 }\n\n[domains]")
    text = text.replace("[stages.pretrain]", '[stages.pretrain]\nnetwork = { name = "pspnet-resnet18" }')
    (tmp_path / "study.toml").write_text(text)
    assert plan_study(tmp_path / "study.toml").trainings


@pytest.mark.parametrize(
    "seeds", ["1_000_000_000_000", "{ init = 1_000_000, draw = 1_000_000 }", "{ init = 200, draw = 51 }"]
)
def test_more_repetitions_than_a_study_can_have(study_file: StudyFile, seeds: str):
    """Refused before a list of them is made."""
    path = study_file()
    lines = [line for line in path.read_text().splitlines() if not line.startswith("seeds")]
    path.write_text(f"seeds = {seeds}\n" + "\n".join(lines))
    with pytest.raises(SegueError, match=r"10000 or less|allowed are 10,000"):
        plan_study(path)


def test_more_configurations_than_a_study_can_have(study_file: StudyFile):
    """Counted before they are made: of one stage, and of a stage and its ancestors together."""
    values = ", ".join(map(str, range(1, 401)))
    stage = f'domain = "high"\nepochs = {{ each = [{values}] }}\nbatch = {{ each = [{values}] }}\n'
    with pytest.raises(SegueError, match="160,000 configurations"):
        plan_study(study_file(f"[stages.a]\n{stage}"))
    one = f'domain = "high"\nepochs = {{ each = [{values}] }}\n'
    with pytest.raises(SegueError, match="160,400 configurations"):
        plan_study(study_file(f'[stages.a]\n{one}[stages.b]\nfrom = "a"\n{one}'))


def test_a_long_chain_of_stages_keeps_its_order(study_file: StudyFile):
    """Generation after generation, in the order written, whatever the order in the file."""
    links = [f'[stages.s{index}]\ndomain = "high"\nfrom = "s{index - 1}"\n' for index in range(1, 300)]
    path = study_file("".join(reversed(links)) + '[stages.s0]\ndomain = "high"\nepochs = 1\n')
    plan = plan_study(path)
    stages = dict.fromkeys(training.configuration.stage for training in plan.trainings)
    assert list(stages) == [f"s{index}" for index in range(300)]
    assert list(plan.trainings[-1].configuration.lineage) == [f"s{index}" for index in range(300)]
