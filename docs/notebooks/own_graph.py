# %% [markdown]
# # Your own graph
# One `.npz` file with features, edges, labels and the split; everything else is as for the shipped graphs.

# %%
import tempfile
from pathlib import Path

import numpy as np

import hcdc_jax as hc
from hcdc_jax import config, pipeline

rng = np.random.default_rng(0)
n, classes = 300, 3
labels = np.arange(n) % classes
likely = np.where(labels[:, None] == labels[None], 0.06, 0.01)
adjacency = np.triu(rng.random((n, n)) < likely, 1)
order = rng.permutation(n)
folder = Path(tempfile.mkdtemp())
np.savez(
    folder / "mine.npz",
    features=(rng.normal(size=(n, 16)) + np.eye(16)[labels]).astype(np.float32),
    edge_index=np.argwhere(adjacency).T,
    labels=labels,  # -1 would mean unknown
    train_idx=order[:90],
    val_idx=order[90:180],
    test_idx=order[180:],
)

# %% [markdown]
# A mistake in the file is said in one line:

# %%
try:
    np.savez(folder / "broken.npz", **(dict(np.load(folder / "mine.npz")) | {"labels": labels[:-1]}))
    hc.load_dataset(str(folder / "broken.npz"))
except hc.UserError as error:
    print(error)

# %%
settings = config.apply_overrides(
    config.Config(),
    [
        f"--data.path={folder / 'mine.npz'}", "--methods", "random", "hcdc", "real_val", "--condense.ratio=0.1",
        "--space.candidates=20", "--model.hidden=16",
    ],
)  # fmt: skip
report = pipeline.run(settings, folder / "run")
for name, entry in report["methods"].items():
    print(f"{name:10s} {entry['spearman_loss']['mean']:.3f}")

# %% [markdown]
# The condensed graph leaves as plain arrays, or as `X, y, split` for any search of scikit-learn.

# %%
features, targets, split = hc.load_condensed(folder / "run").as_sklearn()
print(features.shape, targets.shape, split)
