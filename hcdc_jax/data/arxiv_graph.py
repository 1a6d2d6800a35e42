"""The citation graph of ogbn-arxiv without its official features: a test of size, not the official data set."""

from __future__ import annotations

from pathlib import Path

from hcdc_jax.data.download import DATA_DIR_VARIABLE
from hcdc_jax.data.graphs import GraphData
from hcdc_jax.data.npz import graph_from_arrays, read_arrays
from hcdc_jax.data.structure import structural_features
from hcdc_jax.errors import UserError

FILE = "ogbn_arxiv_graph/ogbn_arxiv_graph.npz"


def load_arxiv_graph(*, split: int = 0, seed: int = 0, data_dir: Path | None = None) -> GraphData:
    """169,343 papers, 1,157,799 undirected citations, 40 subjects; the official split by year of publication.

    The 128 features are `structural_features`: they come from the citations and from no label. Accuracies on this set
    are not those of ogbn-arxiv, whose features hold the words of titles and abstracts.

    Raises:
      UserError: `data_dir` does not hold the file (the set is not downloaded), or it is damaged.
    """
    path = data_dir / FILE if data_dir else None
    if path is None or not path.exists():
        raise UserError(
            f"arxiv_graph is read from disk only: put {FILE} (edge_index, labels, train_idx, val_idx, test_idx) into "
            f"a folder that {DATA_DIR_VARIABLE} names"
        )
    arrays = read_arrays(path)
    if not {"edge_index", "labels"} <= arrays.keys():
        raise UserError(f"{path}: edge_index or labels is missing; the file holds {', '.join(sorted(arrays))}")
    arrays["features"] = structural_features(arrays["edge_index"], len(arrays["labels"]))
    return graph_from_arrays(arrays, name="arxiv_graph", where=str(path), split=split, seed=seed)
