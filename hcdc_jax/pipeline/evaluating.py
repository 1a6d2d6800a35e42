"""New networks trained on the S_train of every method of a run of images, tested, and kept in `evaluation.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hcdc_jax.batches import augment
from hcdc_jax.config.plans import EvaluationPlan
from hcdc_jax.config.values import with_defaults
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.evaluation import Teacher, evaluate_networks, summary
from hcdc_jax.evaluation.protocols import Protocol, described_protocol, settings_of, with_epochs
from hcdc_jax.models import described_net, image_problem
from hcdc_jax.models.image import num_parameters
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.condensed_parts import Place, read_part
from hcdc_jax.pipeline.folder import check_same_data, describe, locked
from hcdc_jax.pipeline.kinds.images import network_options
from hcdc_jax.pipeline.recipes.edc import observing_teacher
from hcdc_jax.pipeline.setup import EVALUATE, Run, Setup, check_in_memory, key_for
from hcdc_jax.pipeline.taught.observers_logits import labels_path, make_labels
from hcdc_jax.pipeline.taught.taught_parts import train_place
from hcdc_jax.problem import Problem
from hcdc_jax.progress import Progress, silent
from hcdc_jax.report import evaluations
from hcdc_jax.report.evaluations import MADE_BY, WHOLE
from hcdc_jax.storage import files

_IDENTITY = ("s_train", "seed", "model")


class Job(NamedTuple):
    """Networks of one kind on one set.

    Attributes:
      model: their name.
      s_train: name of the recipe that made the set, or `WHOLE`.
      seed: of the recipe.
      methods: of the run, that train on this set.
      sha256: of the set.
      learning_rate: that was learned with it, where there is one.
    """

    model: str
    s_train: str
    seed: int
    methods: tuple[str, ...]
    sha256: str
    learning_rate: float | None = None


def evaluate_condensed(
    setup: Setup, folder: Path, plan: EvaluationPlan, progress: Progress | None = None
) -> dict[str, Any]:
    """Trains new networks on every S_train of a run and tests them on the real test part.

    Methods that share an S_train are evaluated once. What `evaluation.json` holds already is not made again, and every
    finished entry is written at once, so that a killed evaluation goes on where it was.

    Args:
      setup: the run.
      folder: of the run; gets `evaluation.json`.
      plan: what is trained.
      progress: told what is going on; nobody by default.

    Returns:
      The content of `evaluation.json`.

    Raises:
      UserError: a run of graphs; an unknown method, model, protocol or augmentation; images that are too small for a
        network; S_train is missing; or the file holds the same protocol with other settings. Nothing is written then.
        Or logits that are kept for a protocol with `logits` "stored" are of other observers, images or views.
    """
    progress = progress or silent()
    if setup.kind.unit != "images":
        raise UserError(f"{folder} is a run on {setup.kind.unit}; only condensed images are evaluated by new networks")
    info = describe(setup)
    check_same_data(folder, info)
    words, protocol = _protocol(setup, plan)
    problems = _problems(setup, plan)
    if plan.whole:
        check_in_memory(setup, "--whole")
        if protocol.logits == "stored":
            raise UserError(
                "logits of the whole training part, of each of its images in each epoch, are too many to be stored; "
                "leave --whole out, or take a protocol that asks for them online, such as edc_soft"
            )
    jobs = list(_jobs(setup, folder, plan, tuple(problems), progress))
    networks = plan.networks or protocol.networks
    with locked(folder):
        content = evaluations.read(folder)
        ours = {"networks": networks, "settings": settings_of(protocol)}
        stored = content["protocols"].get(words, ours | {"entries": []})
        _check_same_settings(folder / evaluations.FILE, words, stored, ours)
        identities = [_identity(setup, plan, protocol, job) for job in jobs]
        known = [{name: entry[name] for name in MADE_BY} for entry in stored["entries"]]
        left = [(job, made) for job, made in zip(jobs, identities, strict=True) if made not in known]
        teacher = None
        if left and protocol.label_weight is not None:
            teacher = observing_teacher(Run(setup, folder, progress))
        what = f"{networks} networks each, protocol {words}: models x S_train"
        for job, made in progress.track(left, what, len(jobs) - len(left)):
            entry = made | _evaluated(setup, folder, plan, words, protocol, job, made, problems[job.model], teacher)
            others = [e for e in stored["entries"] if any(e[name] != made[name] for name in _IDENTITY)]
            stored = ours | {"entries": [*others, entry]}
            content = {
                **{name: info[name] for name in ("config_hash", "versions", "data")},
                "protocols": content["protocols"] | {words: stored},
            }
            files.write_json(folder / evaluations.FILE, content)
        return evaluations.read(folder)


def _protocol(setup: Setup, plan: EvaluationPlan) -> tuple[str, Protocol]:
    words, protocol = described_protocol(plan.protocol)
    if plan.augment is not None:
        chosen = None if plan.augment == "none" else augment.parse(plan.augment)
        return words, dataclasses.replace(protocol, augmentation=chosen, rand_augment=None)
    if protocol.augmentation is None:
        return words, protocol
    chosen = augment.fitting(protocol.augmentation, setup.data.name)
    return words, dataclasses.replace(protocol, augmentation=chosen if chosen.operations else None)


def _problems(setup: Setup, plan: EvaluationPlan) -> dict[str, Problem]:
    problems = {}
    for text in plan.models or (setup.config.model.name,):
        check_name("model", text.partition(":")[0], setup.kind.models)
        try:
            name, options = described_net(text)
            options |= _options(setup, text)
            problems[text] = image_problem(name, setup.data.image_shape, setup.data.num_classes, **options)
        except UserError as error:
            height, width, _ = setup.data.image_shape
            raise UserError(
                f"model {text!r} does not go with the {height} x {width} pixels of {setup.data.name} ({error}); mend "
                "it, or leave it out of --models"
            ) from error
    return problems


def _options(setup: Setup, model: str) -> dict[str, Any]:
    """Of the run's own network; all others say theirs in their names."""
    return network_options(setup.config.model) if model == setup.config.model.name else {}


def _jobs(
    setup: Setup, folder: Path, plan: EvaluationPlan, models: tuple[str, ...], progress: Progress
) -> Iterator[Job]:
    config, wanted = setup.config, set(plan.methods or setup.config.methods)
    for method in plan.methods:
        check_name("method of this run", method, config.methods)
    sharing: dict[str, list[str]] = {}
    for method in config.methods:
        sharing.setdefault(train_place(folder, config, method, 0).recipe, []).append(method)
    sets = []
    for seed in config.seeds:
        for s_train, methods in sharing.items():
            if wanted.isdisjoint(methods):
                continue
            place = Place(folder, s_train, "train", seed)
            condensed_part = read_part(place)  # that it is there and whole is found before anything is trained
            if condensed_part.why is not None:
                progress.say(f"every network will fail on S_train of {', '.join(methods)}: {condensed_part.why}")
            rate = condensed_part.facts.get("learned_learning_rate")
            sets.append((s_train, seed, tuple(methods), files.sha256(place.finished), rate))
    if plan.whole:
        sets.append((WHOLE, config.seeds[0], (), setup.data.checksum, None))
    # A model's networks one after the other: they share what was compiled, and its column of the table is full first.
    for model in models:
        yield from (Job(model, *one) for one in sets)


def _identity(setup: Setup, plan: EvaluationPlan, protocol: Protocol, job: Job) -> dict[str, Any]:
    """All that decides the numbers of an entry, besides the settings of its protocol."""
    own_rate = protocol.learned_rate and job.learning_rate is not None
    return {
        **{name: getattr(job, name) for name in (*_IDENTITY, "sha256")},
        "epochs": plan.whole_epochs or protocol.epochs if job.s_train == WHOLE else protocol.epochs,
        "learning_rate": job.learning_rate if own_rate else protocol.learning_rate,
        "options": _options(setup, job.model),
    }


def _evaluated(
    setup: Setup,
    folder: Path,
    plan: EvaluationPlan,
    words: str,
    protocol: Protocol,
    job: Job,
    made: dict[str, Any],
    problem: Problem,
    teacher: Teacher | None,
) -> dict[str, Any]:
    """The scores of one job, and what they took."""
    condensed_part = None if job.s_train == WHOLE else read_part(Place(folder, job.s_train, "train", job.seed))
    train, kept = (
        (setup.train, setup.train) if condensed_part is None else (condensed_part.batch, condensed_part.variables)
    )
    protocol, labels = with_epochs(protocol, made["epochs"]), None
    if teacher is not None and protocol.logits == "stored":
        path = labels_path(folder, words, job.s_train, job.seed)
        labels = make_labels(path, job.seed, protocol, train, teacher)
    with measured() as elapsed:
        scores = evaluate_networks(
            key_for(EVALUATE, job.seed), problem, protocol, train, setup.test,
            networks=plan.networks or protocol.networks, learning_rate=made["learning_rate"],
            teacher=teacher if labels is None else labels.stored,
        )  # fmt: skip
        jax.block_until_ready(scores)
    taught_by = teacher.params if teacher is not None and labels is None else ()
    return {
        "methods": job.methods,
        "images": train.labels.shape[0],
        "stored_numbers": {
            "S_train": num_parameters(kept),
            "teachers": num_parameters(taught_by),
            "logits": 0 if labels is None else labels.stored.logits.size,
        },
        "label_seconds": 0.0 if labels is None else labels.seconds,
        "test_accuracy": summary(scores),
        "test_loss": scores.loss,
        "seconds": elapsed.run,
        "compile_seconds": elapsed.compile,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _check_same_settings(path: Path, name: str, stored: dict[str, Any], ours: dict[str, Any]) -> None:
    theirs, asked = (with_defaults(Protocol, x["settings"]) | {"networks": x["networks"]} for x in (stored, ours))
    for key, value in asked.items():
        if theirs.get(key) != value:
            raise UserError(
                f"{path} holds protocol {name} with {key} = {theirs.get(key)}, not {value}; ask for the same, or move "
                "the file away to evaluate anew"
            )
