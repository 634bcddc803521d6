from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from segue import rng
from segue.errors import SegueError
from segue.training.inputs.sampler import draw_samples, is_fixed, plan_epoch, repeats_per_sample, sample_weights
from segue.training.spec import SamplingSpec, StageSpec


def rare(power: float = 0.5) -> SamplingSpec:
    return SamplingSpec(name="class_balanced", power=power)


def counts_of(*sizes: int) -> np.ndarray:
    """Returns (n, K) counts in which `sizes[k]` samples hold class k and nothing else."""
    return np.repeat(np.eye(len(sizes), dtype=np.int64) * 7, sizes, axis=0)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_expected_share_of_each_class(power: float):
    """Where samples hold one class each, class k with frequency f_k gets the share f_k^(1 - power) / sum of these."""
    counts = counts_of(160, 32, 8)
    shares = np.array([0.8, 0.16, 0.04]) ** (1 - power)
    weights = sample_weights(rare(power), counts)
    assert ((counts > 0) * weights[:, None]).sum(0) == pytest.approx(shares / shares.sum())


def test_the_rarest_class_decides():
    """A sample counts by the rarest class it holds, however few its pixels: 1, 1/2 and 1/4 of the samples hold them."""
    counts = np.array([[9, 0, 0], [9, 0, 0], [9, 5, 0], [9, 1, 1]])
    assert sample_weights(rare(1.0), counts) == pytest.approx(np.array([1, 1, 2, 4]) / 8)


@pytest.mark.parametrize("count", [200, 77])
def test_visits_are_floor_or_ceil_of_the_expected(count: int):
    """Every draw visits each sample floor or ceil of count x share times, and the number drawn is exact."""
    counts = counts_of(160, 32, 8)
    expected = count * sample_weights(rare(), counts)
    for seed in range(20):
        drawn = draw_samples(rare(), counts, count=count, generator=rng.numpy_generator("sampling", seed))
        assert len(drawn) == count and (np.diff(drawn) >= 0).all()
        visits = np.bincount(drawn, minlength=200)
        assert (np.abs(visits - expected) < 1 + 1e-9).all()


def test_mean_visits_are_the_expected():
    """Over the whole range of the one random number the visits average count x share."""

    class Fixed(np.random.Generator):
        value = 0.0

        def random(self, *_args: object, **_kwargs: object) -> float:  # type: ignore[override]
            return self.value

    counts, generator = counts_of(16, 3, 1), Fixed(np.random.PCG64(0))
    visits = np.zeros(20)
    for step in range(2000):
        generator.value = (step + 0.5) / 2000
        visits += np.bincount(draw_samples(rare(), counts, count=20, generator=generator), minlength=20)
    assert visits / 2000 == pytest.approx(20 * sample_weights(rare(), counts), abs=1e-3)


def test_power_zero_visits_every_sample_once():
    """Without power nothing is favoured: an epoch is every sample once."""
    for seed in range(20):
        generator = rng.numpy_generator("zero", seed)
        assert draw_samples(rare(0.0), counts_of(90, 10), count=100, generator=generator).tolist() == list(range(100))


def test_samples_without_labels_are_not_visited():
    """A sample of ignored pixels alone is left out, also as the last one; without any label nothing can be drawn."""
    counts = np.array([[0, 0], [5, 0], [0, 5], [0, 0]])
    for seed in range(20):
        drawn = draw_samples(rare(), counts, count=40, generator=rng.numpy_generator("unlabelled", seed))
        assert set(drawn.tolist()) == {1, 2}
    with pytest.raises(SegueError, match="no training sample has a labeled pixel"):
        sample_weights(rare(), np.zeros((3, 2), dtype=np.int64))


def test_a_class_that_no_sample_holds_changes_nothing():
    """A class of the layer without a single pixel neither fails nor weighs."""
    counts = counts_of(8, 2)
    wider = np.hstack([counts, np.zeros((10, 1), dtype=np.int64)])
    assert np.array_equal(sample_weights(rare(), wider), sample_weights(rare(), counts))


def test_specification_is_cheap_to_import():
    """A plan reads the specification of sampling and of targets without torch and pandas."""
    code = "import sys, segue.training.spec, segue.training.run_folder; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("table", "word"), [({"dihedral": "all"}, "dihedral-all"), ({"dihedral": "none"}, "none")])
def test_a_table_augments_as_its_word(table: dict[str, str], word: str):
    """A table that says no more than a word is that word in the plan of an epoch and for the cache of features."""
    specs = [StageSpec.model_validate({"data": [{"dataset": "x"}], "augment": augment}) for augment in (table, word)]
    assert [repeats_per_sample(spec) for spec in specs] == [8 if word == "dihedral-all" else 1] * 2
    assert [is_fixed(spec) for spec in specs] == [True, True]
    first, second = (plan_epoch(spec, np.zeros(5, int), 0) for spec in specs)
    assert np.array_equal(first.ids, second.ids) and np.array_equal(first.params.code, second.params.code)
    noisy = StageSpec.model_validate({"data": [{"dataset": "x"}], "augment": {**table, "noise": [0, 0.1]}})
    assert not is_fixed(noisy) and repeats_per_sample(noisy) == repeats_per_sample(specs[0])
