"""What the paper of HMN (arXiv 2310.07506) leaves open, measured: containers, pruning, memory sizes, losses and
more; all studies by default.

    python -m benchmarks.hmn_studies [study ...] [--config configs/images/hmn_mini.toml] [--out DIR]
                                     [--networks 2] [--epochs 500] [--section.field value ...]

Every variant is a run of its own in DIR; what is finished is not made again, and interrupted runs go on. Accuracies
are those of new networks on the real test part, trained on the whole of S_train by the protocol of IDC; nothing is
chosen by them. Prints one table per study, writes them into `hmn_studies.md`, and draws `pruning.png`
and `memories.png`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.command import CONFIGS, chosen, parser_of
from benchmarks.hmn_memories import correlations, images_changed, memories
from benchmarks.networks_on import accuracies, percent
from benchmarks.step_memory import temporary_bytes
from benchmarks.tables import save
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.condense.pruning import prune
from hcdc_jax.config import Config
from hcdc_jax.containers import Container
from hcdc_jax.containers.hmn import Extractor
from hcdc_jax.evaluation.protocols import PROTOCOLS, Protocol, with_epochs
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.condensed_parts import CondensedPart, Place, make_part, read_over_budget
from hcdc_jax.pipeline.kinds import named_containers
from hcdc_jax.pipeline.pruning import judge_of
from hcdc_jax.pipeline.setup import PRUNE, Run, Setup, key_for
from hcdc_jax.progress import silent
from hcdc_jax.report.pruning import pruning as pruning_figure
from hcdc_jax.report.results import Pruning
from hcdc_jax.storage import files
from hcdc_jax.terminal import progress
from hcdc_jax.types import Batch

OVER = ["--pruning.strategy", "double_end"]
STRATEGIES = ("double_end", "easy_only", "hard_only", "random")
BUDGETS = (1, 2, 5)
MODELS = ("convnet:width=32", "resnet18:width=16", "wrn16:width_factor=1", "mlp")
"""Narrow ones: a CPU is to train them on every set."""


class Study(NamedTuple):
    """Where variants lie, and how S_train is judged.

    Attributes:
      base: configuration of all variants.
      out: folder of their runs.
      networks: that are trained on each S_train.
      protocol: how.
    """

    base: Config
    out: Path
    networks: int
    protocol: Protocol


def made(study: Study, name: str, overrides: Sequence[str]) -> tuple[Setup, list[CondensedPart]]:
    """S_train of a variant, by seed: made, continued, or read."""
    config = configs.apply_overrides(study.base, overrides)
    method = config.methods[0]
    with progress() as shown, pipeline.opened(config, study.out / name, progress=shown) as run:
        recipe = recipes.train_recipe(config, method)
        return run.setup, [make_part(run, recipe, "train", seed, method=method) for seed in config.seeds]


def judged(
    study: Study, name: str, setup: Setup, seed: int, batch: Batch, model: str | None = None
) -> list[float | None]:
    """Test accuracies of new networks on one S_train, kept beside the runs under `name`."""
    path = study.out / "tested" / f"{name}_seed{seed}.json"
    return accuracies(path, setup, seed, batch, study.protocol, study.networks, model=model)


def line(study: Study, name: str, label: str, overrides: Sequence[str]) -> str:
    """One line of a table: what is stored and generated, how well networks do on it, what it took."""
    setup, parts = made(study, name, overrides)
    found = [
        accuracy
        for seed, part in zip(setup.config.seeds, parts, strict=True)
        for accuracy in judged(study, name, setup, seed, part.batch)
    ]
    stored = sum(leaf.size for leaf in jax.tree.leaves(_learned(parts[0])))
    images = parts[0].batch.labels.shape[0] // setup.data.num_classes
    seconds = np.mean([part.cost.seconds + part.cost.training_seconds for part in parts])
    return f"| {label} | {stored:,} | {images} | {percent(found)} | {seconds:.0f} |"


def _learned(part: CondensedPart) -> Any:
    """What counts: labels, which are known from the places of the images, and weights of 1 do not."""
    variables = part.variables._asdict()
    return {name: value for name, value in variables.items() if name not in ("labels", "weights")}


HEAD = ["| | stored numbers | images a class | test accuracy, % | seconds |", "|---|---|---|---|---|"]


CONTAINERS = ("pixels", "multi_formation", "hmn")


def containers(study: Study) -> list[str]:
    """The same loss, the same stored numbers, three containers."""
    rows = [line(study, name, f"`{name}`", ["--condense.container", name]) for name in CONTAINERS]
    return ["**Containers under one loss**", "", *HEAD, *rows, ""]


def memory(study: Study) -> list[str]:
    """Channels of an image's memory and of the decoder against the number of images."""
    rows = []
    for setting, values in (("instance_channels", (1, 2, 4)), ("decoder_width", (2, 4, 6))):
        for value in values:
            overrides = ["--seeds", "0", "--condense.container", "hmn", f"--hmn.{setting}", str(value)]
            rows.append(line(study, f"hmn_{setting}_{value}", f"`hmn.{setting}` = {value}", overrides))
    return ["**Size of the memories, one seed**", "", *HEAD, *rows, ""]


def pruning(study: Study) -> list[str]:
    """All strategies on the same over-budget sets, and accuracy against the share of hard images."""
    setup, parts = made(study, "hmn_over", ["--condense.container", "hmn", *OVER])
    container = recipes.train_recipe(setup.config, setup.config.methods[0]).container(setup, "train")
    drop = setup.kind.surplus(setup, "train")
    found: dict[str, list[float | None]] = {name: [] for name in (*STRATEGIES, "nothing went")}
    for seed, part in zip(setup.config.seeds, parts, strict=True):
        over = read_over_budget(Place(study.out / "hmn_over", setup.config.methods[0], "train", seed))
        for strategy in STRATEGIES:
            batch = part.batch
            if strategy != "double_end":
                batch = jax.jit(container.decode)(_pruned(setup, container, over, part, drop, strategy, seed))
            found[strategy] += judged(study, f"pruned_{strategy}", setup, seed, batch)
        found["nothing went"] += judged(study, "pruned_nothing", setup, seed, jax.jit(container.decode)(over))
    prunings = [
        Pruning("idc", seed, *(part.pruning[name] for name in ("margins", "kept", "betas", "accuracies")))
        for seed, part in zip(setup.config.seeds, parts, strict=True)
    ]
    save(pruning_figure(prunings), study.out / "pruning.png")
    images = parts[0].batch.labels.shape[0] // setup.data.num_classes
    lines = ["**Pruning**", "", "| what goes | images a class | test accuracy, % |", "|---|---|---|"]
    for strategy, values in found.items():
        count = images + drop if strategy == "nothing went" else images
        lines.append(f"| {strategy} | {count} | {percent(values)} |")
    betas = ", ".join(f"{part.facts['pruning_beta']:g}" for part in parts)
    curve = np.mean([part.pruning["accuracies"] for part in parts], axis=0)
    shares = prunings[0].betas
    told = ", ".join(f"{share:g}: {100 * value:.1f}" for share, value in zip(shares, curve, strict=True))
    return [*lines, "", f"Chosen beta by seed: {betas}. Validation accuracy by beta, mean over seeds: {told}.", ""]


def _pruned(
    setup: Setup, container: Container, over: Any, part: CondensedPart, drop: int, strategy: str, seed: int
) -> Any:
    """Another strategy on the margins that are known already."""

    def known(name: str, make: Callable[[], jax.Array]) -> np.ndarray:
        del make
        assert name == "margins"
        return part.pruning["margins"]

    judge = judge_of(setup, len(part.pruning["labels"]))
    return prune(key_for(PRUNE, seed), container, over, drop, strategy, judge=judge, keep=known).variables


def budgets(study: Study) -> list[str]:
    """Validation accuracy by the share of hard images among those that went, at several budgets."""
    lines = ["**Share of hard images at several budgets, one seed**", ""]
    rows, betas = [], np.empty(0)
    for count in BUDGETS:
        overrides = ["--seeds", "0", "--condense.container", "hmn", "--condense.images_per_class", str(count), *OVER]
        setup, (part, *_) = made(study, f"hmn_over_{count}", overrides)
        betas, curve = part.pruning["betas"], part.pruning["accuracies"]
        images, drop = part.batch.labels.shape[0] // setup.data.num_classes, setup.kind.surplus(setup, "train")
        cells = [f"{count}", f"{images + drop}", f"{drop}", *(f"{100 * share:.1f}" for share in curve)]
        rows.append(f"| {' | '.join(cells)} |")
    head = ["budget", "images a class", "of them went", *(f"β {beta:g}" for beta in betas)]
    return [*lines, f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows, ""]


def architectures(study: Study) -> list[str]:
    """Other networks on the images of the three containers."""
    lines = ["**Other networks, one seed**", "", f"| | {' | '.join(f'`{model}`' for model in MODELS)} |"]
    lines.append("|---" * (len(MODELS) + 1) + "|")
    for name in CONTAINERS:
        setup, (part, *_) = made(study, name, ["--condense.container", name])
        seed = setup.config.seeds[0]
        found = [percent(judged(study, name, setup, seed, part.batch, model)) for model in MODELS]
        lines.append(f"| `{name}` | {' | '.join(found)} |")
    return [*lines, ""]


def independence(study: Study) -> list[str]:
    """How much images depend on the memories of others, and memories of images on what their class shares."""
    setup, parts = made(study, "hmn", ["--condense.container", "hmn"])
    container = recipes.train_recipe(setup.config, setup.config.methods[0]).container(setup, "train")
    extractor = Extractor(named_containers.shapes(setup, "train").extracted)
    head = "| seed | images that change with one m_I | correlation with memories of the class | of another class |"
    lines = ["**Independence of the images of a memory network**", "", head, "|---|---|---|---|"]
    for seed, part in zip(setup.config.seeds, parts, strict=True):
        own, others = correlations(extractor, part.variables)
        changed = images_changed(container, part.variables)
        lines.append(f"| {seed} | {changed} of {len(part.batch.labels)} | {own:.2f} | {others:.2f} |")
    save(memories(extractor, parts[0].variables, parts[0].batch), study.out / "memories.png")
    return [*lines, ""]


def losses(study: Study) -> list[str]:
    """Batches against trajectories on the same memory network: accuracy, time, memory of one step."""
    head = "| | condensed images in a step | test accuracy, % | seconds | temporary memory of a step, MB |"
    lines = ["**Loss on a memory network, one seed**", "", head, "|---|---|---|---|---|"]
    for method, name in (("idc", "hmn"), ("mtt", "hmn_mtt")):
        overrides = ["--methods", method, "--condense.container", "hmn"]
        setup, (part, *_) = made(study, name, overrides if method == "idc" else [*overrides, "--seeds", "0"])
        images, chosen = part.batch.labels.shape[0], setup.config.condense.synthetic_per_class
        seen = images if method == "mtt" or chosen is None else min(chosen * setup.data.num_classes, images)
        values = percent(judged(study, name, setup, setup.config.seeds[0], part.batch))
        seconds = part.cost.seconds + part.cost.training_seconds
        megabytes = _memory_of_a_step(study, name, setup) / 1e6
        lines.append(f"| `{method}` | {seen} | {values} | {seconds:.0f} | {megabytes:.0f} |")
    return [*lines, ""]


def _memory_of_a_step(study: Study, name: str, setup: Setup) -> int:
    """`temporary_bytes` of a variant, kept beside the runs: the compiler takes minutes."""
    path = study.out / "memory" / f"{name}.json"
    if not path.exists():
        run = Run(setup, study.out / name, silent())
        files.write_json(path, temporary_bytes(run, setup.config.methods[0]))
    return json.loads(path.read_text())


STUDIES: dict[str, Callable[[Study], list[str]]] = {
    "containers": containers,
    "pruning": pruning,
    "memory": memory,
    "losses": losses,
    "independence": independence,
    "architectures": architectures,
    "budgets": budgets,
}


def main() -> None:
    parser = parser_of(__doc__, "hmn_studies")
    parser.add_argument("--config", type=Path, default=CONFIGS / "images" / "hmn_mini.toml")
    parser.add_argument("--networks", type=int, default=2, help="trained on each S_train")
    parser.add_argument("--epochs", type=int, default=500, help="of each; IDC has 1,000")
    args, overrides = chosen(parser, "study", STUDIES, usual=STUDIES, by_default="all")
    base = configs.apply_overrides(configs.load(args.config), overrides)
    study = Study(base, args.out, args.networks, with_epochs(PROTOCOLS["idc"], args.epochs))
    seeds = ", ".join(map(str, study.base.seeds))
    what = f"{args.networks} networks on each S_train, {args.epochs} epochs; mean ± their deviation"
    lines = [f"{args.config.stem}, seeds {seeds}, {what}", ""]
    for name in args.names:
        lines += STUDIES[name](study)
        files.write_text(args.out / "hmn_studies.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
