"""The sections of a configuration: one frozen dataclass each, with the meaning of every setting beside it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, TypeAlias

from hcdc_jax.config.values import (
    Count,
    Counts,
    NonNegative,
    NonNegativeInt,
    Positive,
    Probability,
    Range,
    Sections,
    Seed,
    Share,
)

Optimizer: TypeAlias = Literal["adam", "sgd", "momentum"]
Solver: TypeAlias = Literal["neumann", "chebyshev", "conjugate_gradient", "dense", "identity"]
Sensitivity: TypeAlias = Literal["implicit", "unroll", "direct"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is condensed."""

    name: str = "digits_graph"  # data set, see `hcdc list`
    path: str | None = None  # own file or folder; wins over name, see docs/own_data.md
    target: str | None = None  # of a table: the column that is predicted
    split: NonNegativeInt = 0  # which of several splits
    seed: Seed = 0  # draws splits that the data does not bring along
    train: Count | None = None  # images of the training part at most, classes in proportion; all by default
    val: Count | None = None  # of the validation part
    test: Count | None = None  # of the test part
    shrink: Count = 1  # images: means of so many by so many pixels take their place
    label_noise: Probability = 0.0  # images: share of the training part that has the label of another class
    # of images, by statistics of the training part, or by the constants that are usual for ImageNet; whitened as in
    # FRePo's code ("zca": standardised before) or in MTT's ("zca_mtt": raw pixels), see docs/images.md
    preprocessing: Literal["standard", "zca", "zca_mtt", "none", "imagenet"] = "standard"
    stream: bool = False  # training pictures of a folder are decoded batch by batch; for the methods edc and random
    side: Count | None = None  # of the squares that pictures of any size are cut to, where they are streamed
    resize: Count | None = None  # their shorter side before that, such as 256 for 224; data.side if left out
    crop_area: Share | None = None  # observers train on random crops of at least this share; on the centre if left out


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """What is searched."""

    name: str = "graph_filter"  # search space, see `hcdc list`
    order: NonNegativeInt = 2  # highest power of the filter; 10 in the papers of appnp, bernnet and gprgnn
    basis: Literal["laplacian", "adjacency", "chebyshev"] = "laplacian"  # polynomial basis of the filter
    prior: Literal["box", "l1"] = "box"  # free coefficients uniform in [-1, 1], or of unit L1 norm
    candidates: Annotated[int, Range(low=2)] = 80  # how many candidates are ranked
    cells: tuple[str, ...] | None = None  # of NAS-Bench-201, by string or number: what is ranked in place of draws
    seed: Seed = 0  # draws the candidates


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network that every candidate trains."""

    name: str = "spectral_gnn"  # model, see `hcdc list`
    hidden: Count = 32  # width of the hidden layer of a graph network
    width: Count | None = None  # of an image network; its own default if left out
    depth: Count | None = None  # of an image network; its own default if left out
    norm: Literal["instance", "group", "layer", "batch", "none"] | None = None  # likewise
    activation: Literal["relu", "tanh", "gelu", "elu"] = "relu"  # between the layers
    val_loss: Literal["cross_entropy", "brier"] = "cross_entropy"  # of ranking; training has the former


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The inner training of every candidate, on full and on condensed data."""

    optimizer: Optimizer = "adam"  # of the inner training
    learning_rate: Positive = 0.01  # of the inner training
    weight_decay: NonNegative = 2.5e-4  # factor of the squared norm of the weights in the training loss
    schedule: Literal["constant", "cosine"] = "constant"  # of the learning rate
    batch_size: Count | None = None  # images per step; all by default, and where there are no more than that
    steps: Count = 200  # of a training on the full data
    proxy_steps: Count | None = None  # of a training on condensed data; as many by default
    proxy_batch_size: Count | None = None  # images per step of such a training; as many by default
    proxy_inits: Count = 2  # initialisations averaged when ranking on condensed data
    proxy_average: Literal["losses", "logits"] = "losses"  # what is averaged; where S_val is matched, too
    # flaws of DC-BENCH's harness that trainings of cells on condensed images are to have; docs/nas_bench_201.md
    dcbench_compat: tuple[Literal["softmax", "narrow", "no_affine", "unshuffled"], ...] | None = None


@dataclasses.dataclass(frozen=True)
class CondenseConfig:
    """The condensed data: its size, form and start."""

    ratio: Share = 0.018  # nodes of S_train as a share of all nodes
    images_per_class: Count = 10  # of S_train; containers other than pixels make more of as many numbers
    examples: Count = 100  # of S_train in a study of arrays, as many of each class as can be
    # of images and examples: as many of each class, as many in all but by the class sizes, or a number for each class
    per_class: Literal["auto", "proportional"] | Counts = "auto"
    val_factor: Positive = 2.0  # examples of S_val per example of S_train
    copies: Count = 1  # of both, from other real examples, for the same full trainings; their scores are averaged
    container: str = "auto"  # what stores it, see `hcdc list`; images: docs/hmn.md
    sampling: Literal["auto", "plain", "ego"] = "auto"  # nodes to start from: random, or with neighbours
    init: Literal["real", "noise", "fit_real", "mosaics"] = "real"  # to start from; hmn is fitted, edc knows mosaics
    val: Literal["learned", "random"] = "learned"  # S_val of methods that learn S_train: likewise, or real examples
    relay: Literal["plain", "centre"] = "plain"  # dc, dm, mtt, ...: networks unregularised, or at the space's centre
    augmentation: str = "color_crop_cutout_flip_scale_rotate"  # dsa, dm, mtt: of these; digits without flip; or "none"
    classes_at_once: Count | None = None  # dc, dsa, dm, idc: side by side, fewer take less memory; by the device
    synthetic_per_class: Count | None = None  # dc, dsa, dm, idc: condensed images of a class in a step; all, idc 128
    formation_factor: Count = 2  # multi_formation: sides of images are stored so many times shorter


@dataclasses.dataclass(frozen=True)
class LabelsConfig:
    """Labels of condensed images: those of their classes, or what networks trained on the full data say."""

    teachers: NonNegativeInt = 0  # the best so many of hcdc's full trainings label S_train; 0 leaves it its own labels
    loss: Literal["kl", "logit_mse"] = "kl"  # of networks trained on such labels
    temperature: Positive = 2.0  # under which kl compares
    views: Count = 1  # of each image, each with its labels: the image itself, the others augmented
    augmentation: str = "crop_flip"  # of the other views, one operation after the other; cutmix, too
    val: Literal["own", "teachers"] = "own"  # labels of S_val
    val_loss: Literal["cross_entropy", "kl", "logit_mse"] = "cross_entropy"  # of networks asked about such labels


@dataclasses.dataclass(frozen=True)
class HMNConfig:
    """The hierarchical memory network (HMN), a container of images. Sizes left out are usual for the budget."""

    side: Count | None = None  # height of all memories
    dataset_channels: Count | None = None  # of the memory that all images share
    extracted_channels: Count | None = None  # that each class extracts from it
    class_channels: Count | None = None  # of the memory of each class
    instance_channels: Count | None = None  # of the memory of each image: more make better images, and fewer
    decoder_width: Count | None = None  # channels inside the decoder
    memory_rate: Positive = 0.01  # Adam step of the memories
    network_rate: Positive = 0.01  # Adam step of extractors and decoder
    fit_steps: Count = 500  # of the fit to real images that a network starts with, unless condense.init = "noise"
    fit_rate: Positive = 0.01  # Adam step of the fit


@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """Learned images of S_train beyond the budget, of which the least useful go in the end (HMN)."""

    strategy: Literal["none", "double_end", "easy_only", "hard_only", "random"] = "none"  # which images go
    over_budget: Positive = 0.1  # numbers that are learned beyond the budget, as a share of it
    betas: tuple[Probability, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # double_end tries these
    inits: Count = 4  # networks that are averaged over
    epochs: Count = 100  # of each on the condensed images
    learning_rate: Positive = 0.01  # of their gradient descent with momentum, down to 0 by a cosine
    batch_size: Count = 64  # condensed images per step


@dataclasses.dataclass(frozen=True)
class GCondConfig:
    """Gradient matching (GCond)."""

    epochs: Count = 20  # fresh relay networks
    outer_steps: Count = 20  # matching steps per epoch
    inner_steps: NonNegativeInt = 15  # training steps of the relay after each matching step
    feature_step: Positive = 0.01  # Adam step of X' in units of the root mean square of X
    structure_learning_rate: Positive = 0.01  # Adam step of the adjacency
    threshold: NonNegative = 0.05  # lighter edges are cut when gcond is done, as its code does for other networks


@dataclasses.dataclass(frozen=True)
class DCConfig:
    """Gradient matching on images (DC, DSA), rows of tables and other arrays (DC)."""

    networks: Count = 1000  # fresh networks, one after the other
    outer_steps: Count | None = None  # steps per network; as published for so many images per class if left out
    inner_epochs: NonNegativeInt | None = None  # epochs of the network between two steps; likewise
    image_rate: Positive = 0.1  # step size of the pixels
    feature_step: Positive = 0.01  # of arrays that are no images: Adam step in units of their root mean square
    relay_rate: Positive = 0.01  # step size of the networks
    batch_size: Count = 256  # real images of a class per step


@dataclasses.dataclass(frozen=True)
class IDCConfig:
    """Gradient matching on images under networks trained on real ones (IDC); the loss of HMN, too."""

    networks: Count = 2000  # fresh networks, one after the other
    outer_steps: Count = 100  # steps per network
    relay_images: NonNegativeInt = 2000  # real images that the network trains on between two steps
    relay_rate: Positive = 0.01  # step size of the networks, with momentum 0.9
    cutmix: Probability = 0.5  # of their batches
    distance: Literal["squared", "absolute", "cosine"] = "squared"  # "absolute" for MNIST, Fashion-MNIST and ImageNet
    image_rate: Positive = 0.005  # step size of the pixels, as if they went from 0 to 1; hmn has its own
    image_optimizer: Literal["sgd", "adam"] = "sgd"  # of the pixels; hmn has Adam
    schedule: Literal["constant", "cosine"] | None = None  # of step sizes; if left out cosine for hmn, else constant
    batch_size: Count = 64  # real images of a class per step, and of all in a batch of the network
    augmentation: str = "color_crop_cutout_flip"  # siamese, and of the networks; "none" for none


@dataclasses.dataclass(frozen=True)
class DMConfig:
    """Distribution matching on images, rows of tables and other arrays (DM)."""

    steps: Count = 20_000  # each with a fresh network, which is never trained
    image_rate: Positive = 1.0  # step size of the pixels, for a network with 2,048 features; 10 from 100 a class on
    feature_step: Positive = 0.001  # of arrays that are no images: Adam step in units of their root mean square
    batch_size: Count = 256  # real images of a class per step


@dataclasses.dataclass(frozen=True)
class KIPConfig:
    """Kernel inducing points (KIP), by the tangent kernel of a wide network or by random features."""

    steps: Count = 1000  # of Adam
    image_rate: Positive = 0.04  # Adam step of the pixels
    ridge: Positive = 1e-6  # added to the diagonal of the kernel, in units of its mean
    batch_size: Count = 5000  # real images per step, equally many of each class
    kernel: Literal["fully_connected", "convolutional", "random_features"] = "fully_connected"  # see docs/images.md
    depth: Count = 1  # hidden layers, or blocks of the convolutional kernel
    networks: Count = 8  # random_features: networks that are drawn for a step


@dataclasses.dataclass(frozen=True)
class MTTConfig:
    """Matching training trajectories (MTT); defaults of CIFAR-10 at 10 images a class."""

    steps: Count = 5000  # of the images
    student_steps: Count = 30  # of a student on the synthetic images
    expert_epochs: Count = 2  # that they make up for
    max_start: Count = 20  # a student starts after one of so many first epochs of an expert
    image_rate: Positive = 100.0  # step size of the pixels
    step_size: Positive = 0.001  # of the student, at the start; it is learned
    step_size_rate: NonNegative = 1e-5  # step size of the student's step size
    batch_size: Count | None = None  # synthetic images per step of a student; all if left out
    experts: Count = 100  # networks trained on the real data; they keep a snapshot per epoch in the run folder
    expert_rate: Positive = 0.01  # their step size
    expert_batch_size: Count = 256  # real images per step of theirs
    expert_precision: Literal["float32", "float16"] = "float32"  # of the snapshots


@dataclasses.dataclass(frozen=True)
class EDCConfig:
    """Matching statistics of networks trained on the real data (EDC), and its design choices; docs/edc.md."""

    # networks to look through, each with its options
    observers: tuple[str, ...] = ("resnet18", "convnet", "convnet:width=32", "convnet:depth=1", "convnet:depth=2")
    observer_epochs: Count = 10  # weak observers are better ones
    observer_rate: Positive = 0.05  # their step size
    observer_batch_size: Count = 64  # real images per step of theirs
    # variances, first layer, and how images are shown to observers: as published, or as in the authors' code
    statistics: Literal["paper", "code"] = "paper"
    iterations: Count = 2000  # steps of each batch of images; 75 in the code for CIFAR-10
    batch_size: Count | None = None  # images moved at once, a multiple or divisor of the classes; all if left out
    image_rate: Positive = 0.05  # Adam step of the pixels
    # weight of the statistics of all images; those of classes have the rest
    alpha: Annotated[float, Range(low=0, high=1)] = 0.5
    matching_weight: NonNegative = 0.01  # of statistics beside the cross-entropy; 0.1 for ImageNet-1k
    # factor of the statistics of the first norm and convolution; in "code" of the latter alone
    first_layer: NonNegative = 10.0
    momentum: Annotated[float, Range(low=0, high=0.999)] = 0.8  # of the average of a batch's statistics over steps
    crop_area: Share = 0.5  # observers see crops of at least this share; 0.08 is the strong augmentation, 1 is none
    flatness: Literal["none", "paper", "code"] = "paper"  # logits are held near those of averaged images
    flatness_weight: NonNegative = 0.25  # of that term
    flatness_decay: Annotated[float, Range(low=0, high=1)] = 0.99  # of the average of images
    flatness_temperature: Positive = 4.0  # under which logits are compared
    mosaic_factor: Count = 1  # condense.init = "mosaics": tiles along each side; 2 for images of 224 pixels
    mosaic_images: Count = 300  # of each class that are looked at for them
    mosaic_crops: Count = 5  # of each of those


@dataclasses.dataclass(frozen=True)
class HCDCConfig:
    """Hypergradient matching (HCDC)."""

    theta: Literal["own", "shared"] = "own"  # targets at networks trained on the full data, or on S_train
    full_trainings: Count = 8  # m, candidates that are trained on the full data
    oversampling: Count = 8  # candidates tried per matched one; losses on S_train spread these from good to bad
    design: Literal["strata", "factorial"] = "strata"  # by those losses; or high and low levels of each, in balance
    steps: Count = 40  # steps of S_val; more fit the matched candidates and lose the others
    feature_step: Positive = 0.035  # Adam step of X', features or pixels, in units of the root mean square of X
    structure_learning_rate: Positive = 0.05  # Adam step of the adjacency's logits
    edge_logit: Positive | Literal["auto"] = "auto"  # the logits of the adjacency start at +- this
    # of the inverse Hessian; "auto" is Chebyshev's, or Neumann's for Algorithm 1
    solver: Solver | Literal["auto"] = "auto"
    num_hvps: NonNegativeInt = 20  # Hessian-vector products per solve
    damping: NonNegative = 0.0  # added to the Hessian
    direct: bool = True  # include the direct term of the hypergradient
    distance: str = "value_gradient"  # between what both sides say, see `hcdc list`; the paper has "cosine"
    selection: Literal["fixed", "leave_one_out"] = "fixed"  # steps (up to hcdc.steps) and distance: by left-out targets
    sensitivity: Sensitivity = "implicit"  # how hypergradients are taken; "direct": partly
    adjoint_batch_size: Count | None = None  # unroll: images per step of the reverse pass; as in training if left out
    side_by_side: Count = 1  # unroll: full trainings in one call, which share their batches and their noise
    start: Literal["val", "train"] = "val"  # S_val starts from images of the real validation part, or of S_train
    extended_space: Literal["samples", "trajectories", "mixes"] = "samples"  # candidates to match; mixes of cells
    trajectory_length: Annotated[int, Range(low=2)] = 2  # trajectories: points of each, the draw it begins at included
    mix_temperature: Positive = 0.5  # mixes: the lower, the nearer to a cell
    refinements: NonNegativeInt = 0  # searches on S_val whose best candidates are trained in full and matched too
    refined_by: Literal["random", "hypergradient"] = "random"  # the search of a refinement
    searched: Count = 480  # candidates that it scores on S_val
    found: Count = 4  # of them so many are matched
    # a full training that a search asks for stops after 1/9 or 1/3 of its steps where it cannot win, as sure as this
    stop_sure: Annotated[float, Range(low=0.5, high=1)] | None = None
    train_method: str = "random"  # the method that makes S_train
    inits: Count = 2  # networks trained on S_train per matched candidate
    seed: Seed = 0  # draws the matched candidates


@dataclasses.dataclass(frozen=True)
class TruthConfig:
    """Scores after training on the full data, which the rankings are held against."""

    enabled: bool = True  # train every candidate on the full data
    seeds: Count = 1  # trainings per candidate
    table: str | None = None  # published table to read instead of training, where one exists


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run."""

    methods: tuple[str, ...] = ("random", "gcond", "hcdc", "real_val", "random_val")  # what is compared
    seeds: tuple[Seed, ...] = (0,)  # each method is run once per seed
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    condense: CondenseConfig = CondenseConfig()
    labels: LabelsConfig = LabelsConfig()
    hmn: HMNConfig = HMNConfig()
    pruning: PruningConfig = PruningConfig()
    gcond: GCondConfig = GCondConfig()
    dc: DCConfig = DCConfig()
    idc: IDCConfig = IDCConfig()
    dm: DMConfig = DMConfig()
    kip: KIPConfig = KIPConfig()
    mtt: MTTConfig = MTTConfig()
    edc: EDCConfig = EDCConfig()
    hcdc: HCDCConfig = HCDCConfig()
    truth: TruthConfig = TruthConfig()
    plugins: Sections = dataclasses.field(default_factory=dict)  # settings of methods that plugins bring, by method
