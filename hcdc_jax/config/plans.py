"""What the commands `search` and `evaluate` are asked for: settings that no run depends on."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """What is searched, and how.

    Attributes:
      method: a name in `search.SEARCHES`, or "calibrated". None: "calibrated" where the run can, else "random".
      num: candidates on the condensed data.
      top: how many of the best are then trained on the full data; of "calibrated" at most, one by one, each chosen by
        what those before have told. None: `TOP`, or 1.
      seed: of the search.
      artefact: whose condensed data, as `<method>` or `<method>_seed<k>`; by default those of the primary artefact.
      halving: also search by successive halving on the full data, among as many candidates.
      storage: URL of an Optuna storage that keeps the study; by default it is not kept.
      study: its name there.
    """

    method: str | None = None
    num: int = 1000
    top: int | None = None
    seed: int = 0
    artefact: str | None = None
    halving: bool = False
    storage: str | None = None
    study: str = "hcdc"


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What is trained on condensed images, and how.

    Attributes:
      protocol: in words, as `protocols.described_protocol` reads them.
      models: image networks in words, as `models.described_net` reads them; by default that of the run. The run's own
        network, by its name alone, has the run's options.
      methods: of the run; all by default.
      networks: per set and model; by default as many as the protocol says.
      augment: operations in place of the protocol's and of its RandAugment, such as "crop_scale_rotate", or "none".
      whole: also train on the whole real training part, for reference.
      whole_epochs: how long there; as long as everywhere by default.
    """

    protocol: str = "dsa"
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    networks: int | None = None
    augment: str | None = None
    whole: bool = False
    whole_epochs: int | None = None
