"""The benchmark of the surrogate beside models of other libraries, end to end at its smallest."""

from __future__ import annotations

import numpy as np
import pytest

from hcdc_jax.config import Config, SpaceConfig, dumps
from hcdc_jax.errors import UserError

surrogates = pytest.importorskip("benchmarks.surrogates")  # not in every distribution
peers = pytest.importorskip("benchmarks.surrogate_peers").PEERS
tasks = pytest.importorskip("benchmarks.surrogate_tasks")

ROUGH = np.random.default_rng(0).normal(size=(20, 3))


def records_of(made):
    return [surrogates.record(surrogates.compared(task, peers), peers) for task in made]


@pytest.fixture
def folder(tmp_path):
    """A finished run on filters whose losses are even and whose trainings of seed 1 say them without noise."""
    (tmp_path / "config.toml").write_text(dumps(Config(space=SpaceConfig(name="graph_filter"), seeds=(1,))))
    losses = np.exp((ROUGH @ [1.0, 2.0, -1.0]) ** 2 / 4)
    (tmp_path / "results").mkdir()
    status = np.ones((2, 20), bool)
    status[1, 3] = False
    np.savez(tmp_path / "results" / "truth.npz", hparams=ROUGH, loss=np.stack([losses, losses]), status=status)
    trained = tmp_path / "checkpoints" / "targets_seed1"
    trained.mkdir(parents=True)
    for i, point in enumerate(np.random.default_rng(1).normal(size=(6, 3))):
        value = np.exp((point @ [1.0, 2.0, -1.0]) ** 2 / 4)
        gradient = value * (point @ [1.0, 2.0, -1.0]) * np.array([1.0, 2.0, -1.0]) / 2
        np.savez(trained / f"{i:03}.npz", hparams=point, value=value, gradient=gradient, diverged=i == 5)
    return tmp_path


def test_the_table_has_a_line_for_each_task_and_says_where_ours_is_below():
    names = [
        "additive, cells",
        "additive quadratic, 2 dimensions",
        "even, filters",
        "even, filters, mirrored for peers",
    ]
    made = tasks.drawn_tasks(range(2), counts=(4,), widths=(2,))
    records = records_of([task for task in made if task.name in names])
    lines = surrogates.table(records, peers)
    assert [one["task"] for one in records] == names
    assert len(lines) == 2 + len(records) + 2
    assert len({line.count("|") for line in lines[:-2]}) == 1
    plain, told = records[-2:]
    # Mirrored points are for peers alone.
    assert plain["spearman"][surrogates.OURS] == told["spearman"][surrogates.OURS]
    assert plain["spearman"]["forest"] != told["spearman"]["forest"]
    for one in records:
        best = max(one["spearman"][name] for name in peers)
        gap = one["spearman"][surrogates.OURS] - best
        assert one["ours_minus_best_peer"]["mean"] == pytest.approx(gap)
        assert (f"{one['task']}, 4 points" in lines[-1]) == (gap < -surrogates.TOLERANCE)


def test_a_run_folder_is_read_without_what_failed(folder):
    (paid, among, *_) = tasks.run_tasks(folder, range(2), counts=(5,))
    draw = paid.draw(1)
    assert draw.points.shape == (5, 3), "one training diverged"
    assert draw.queries.shape == (19, 3), "one candidate failed in a training of the truth"
    slope = draw.points @ [1.0, 2.0, -1.0]
    np.testing.assert_allclose(draw.values, slope**2 / 4)
    np.testing.assert_allclose(draw.gradients, np.outer(slope, [1.0, 2.0, -1.0]) / 2)
    assert among.draw(0).points.shape == (5, 3)
    assert among.draw(0).queries.shape == (14, 3)
    found = records_of([paid])[0]["spearman"]
    assert found[surrogates.WITH_GRADIENTS] > 0.8 > found["ridge"]


def test_a_folder_without_trainings_or_truth_is_told(folder, tmp_path_factory):
    with pytest.raises(UserError, match="not a run folder"):
        tasks.run_tasks(tmp_path_factory.mktemp("empty"), range(2))
    (folder / "results" / "truth.npz").unlink()
    with pytest.raises(UserError, match="no truth"):
        tasks.run_tasks(folder, range(2))
