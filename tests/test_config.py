"""The configuration: what is read is what was written, and every mistake is answered in one line."""

from __future__ import annotations

import dataclasses
import random
import typing
from typing import Annotated, Literal

import pytest

from hcdc_jax import config as configs
from hcdc_jax.config import Config
from hcdc_jax.config.options import help_text
from hcdc_jax.config.values import REPEATS, Count, Sections
from tests.errors import error_of


def write(folder, text):
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def leaf_names() -> list[str]:
    names = []
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        if dataclasses.is_dataclass(value):
            names += [f"{field.name}.{inner.name}" for inner in dataclasses.fields(value)]
        else:
            names.append(field.name)
    return names


def random_value(rng: random.Random, kind):
    """Any value that the annotation of a field allows."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return rng.choice(args)
    if kind == Sections:
        return {
            name: {"steps": rng.randint(-9, 9), "rates": (rng.random(),), "on": True}
            for name in "ba"[: rng.randint(0, 2)]
        }
    if origin is tuple:
        return tuple({random_value(rng, args[0]): None for _ in range(rng.randint(1, 4))})
    if origin is Annotated:
        limits = args[1]
        if limits == REPEATS:
            return tuple(random_value(rng, typing.get_args(args[0])[0]) for _ in range(rng.randint(1, 4)))
        low, high = max(limits.low, limits.above, 0), min(limits.high, 1e6)
        if args[0] is int:
            return rng.randint(int(low), int(high))
        return high - rng.random() * (high - low)  # in (low, high]
    if args:
        return random_value(rng, rng.choice(args))
    if kind is type(None):
        return None
    if kind is bool:
        return rng.random() < 0.5
    assert kind is str
    return "".join(rng.choices("aß漢 \\\"'#=[]\t"[:-1] + "/.😀", k=rng.randint(0, 9)))


def random_config(rng: random.Random, cls: type = Config):
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {
        name: random_config(rng, kind) if dataclasses.is_dataclass(kind) else random_value(rng, kind)
        for name, kind in hints.items()
    }
    return cls(**values)


class TestRoundTrip:
    def test_default(self, tmp_path):
        assert configs.load(write(tmp_path, configs.dumps(Config()))) == Config()

    @pytest.mark.parametrize("seed", range(50))
    def test_any_valid_configuration(self, tmp_path, seed):
        config = random_config(random.Random(seed))
        configs.validate(config)
        assert configs.load(write(tmp_path, configs.dumps(config))) == config
        assert configs.load(write(tmp_path, configs.changes(config))) == config

    def test_changes_leave_defaults_out(self):
        config = dataclasses.replace(Config(), seeds=(3,), truth=dataclasses.replace(Config().truth, seeds=4))
        assert configs.changes(config) == "seeds = [3]\n\n[truth]\nseeds = 4\n"

    def test_every_default_is_written_out(self):
        text = configs.dumps(Config())
        optional = {
            "plugins", "data.path", "data.target",
            "data.train", "data.val", "data.test", "data.side", "data.resize", "data.crop_area",
            "model.width", "model.depth", "model.norm",
            "training.batch_size", "training.proxy_steps", "training.proxy_batch_size", "truth.table",
            "condense.classes_at_once", "dc.outer_steps", "dc.inner_epochs", "mtt.batch_size",
            "condense.synthetic_per_class", "hmn.side", "hmn.dataset_channels", "hmn.extracted_channels",
            "hmn.class_channels", "hmn.instance_channels", "hmn.decoder_width", "space.cells",
            "training.dcbench_compat", "hcdc.adjoint_batch_size", "hcdc.stop_sure",
        }  # fmt: skip
        assert all(f"\n{name.split('.')[-1]} = " in f"\n{text}" for name in leaf_names() if name not in optional)

    def test_hash_follows_the_values(self):
        assert configs.config_hash(Config()) == configs.config_hash(Config())
        assert len(configs.config_hash(Config())) == 16
        changed = configs.apply_overrides(Config(), ["--hcdc.damping", "1e-3"])
        assert configs.config_hash(changed) != configs.config_hash(Config())


class TestFile:
    @pytest.mark.parametrize(("text", "words"), [("'proportional'", ["proportional"]), ("[3, 3, 1]", ["3", "3", "1"])])
    def test_budgets_by_class_are_a_word_or_a_list_whose_numbers_may_repeat(self, tmp_path, text, words):
        config = configs.load(write(tmp_path, f"[condense]\nper_class = {text}"))
        assert configs.apply_overrides(Config(), ["--condense.per_class", *words]) == config != Config()
        assert configs.load(write(tmp_path, configs.dumps(config))) == config

    def test_what_is_not_named_keeps_its_default(self, tmp_path):
        config = configs.load(write(tmp_path, 'methods = ["hcdc"]\n[training]\nlearning_rate = 1\n'))
        assert config.methods == ("hcdc",)
        assert config.training == dataclasses.replace(Config().training, learning_rate=1.0)
        assert isinstance(config.training.learning_rate, float)
        assert config.hcdc == Config().hcdc

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[hcdc]\nnum_hvp = 3", "unknown key 'hcdc.num_hvp'; did you mean 'num_hvps'?"),
            ("[trainig]\nsteps = 3", "unknown key 'trainig'; did you mean 'training'?"),
            ("candidates = 3", "unknown key 'candidates'; did you mean 'space.candidates'?"),
            (
                "[model]\nzzz = 3",
                "unknown key 'model.zzz'; known are name, hidden, width, depth, norm, activation, val_loss",
            ),
            ("training = 3", "'training' is a section, not a value; name a field of it"),
            ("[training.steps]\na = 3", "'training.steps' must be an integer, got {'a': 3}"),
            ("[training]\nsteps = 'abc'", "'training.steps' must be an integer, got 'abc'"),
            ("[training]\nsteps = 2.0", "'training.steps' must be an integer, got 2.0"),
            ("[training]\nsteps = true", "'training.steps' must be an integer, got True"),
            ("[training]\nsteps = 0", "'training.steps' must be at least 1, got 0"),
            ("[training]\nlearning_rate = 0.0", "'training.learning_rate' must be above 0, got 0.0"),
            ("[training]\nlearning_rate = nan", "'training.learning_rate' must be a finite number, got nan"),
            ("[training]\nlearning_rate = inf", "'training.learning_rate' must be a finite number, got inf"),
            (
                "[training]\noptimizer = 'adm'",
                "'training.optimizer' must be one of 'adam', 'sgd', 'momentum', got 'adm'; did you mean 'adam'?",
            ),
            ("[condense]\nratio = 1.5", "'condense.ratio' must be above 0 and at most 1, got 1.5"),
            ("[condense]\nratio = 0", "'condense.ratio' must be above 0 and at most 1, got 0"),
            ("[space]\ncandidates = 1", "'space.candidates' must be at least 2, got 1"),
            ("[space]\nbasis = 3", "'space.basis' must be one of 'laplacian', 'adjacency', 'chebyshev', got 3"),
            ("[hcdc]\nedge_logit = 'big'", "'hcdc.edge_logit' must be a finite number or 'auto', got 'big'"),
            ("[hcdc]\ndirect = 1", "'hcdc.direct' must be true or false, got 1"),
            ("[data]\nname = 3", "'data.name' must be a line of text, got 3"),
            ('[data]\nname = "a\\nb"', "'data.name' must be a line of text, got 'a\\nb'"),
            (
                "[condense]\nper_class = 3",
                "'condense.per_class' must be one of 'auto', 'proportional' or a list, got 3",
            ),
            ("[condense]\nper_class = [3, 0]", "'condense.per_class' must be at least 1, got 0"),
            ("seeds = []", "'seeds' needs at least one value"),
            ("seeds = [1, 2, 1]", "'seeds' holds 1 twice"),
            ("seeds = 1", "'seeds' must be a list, got 1"),
            ("seeds = ['a']", "'seeds' must be an integer, got 'a'"),
            ("seeds = [-1]", "'seeds' must be at least 0 and at most 4294967295, got -1"),
            ("methods = ['hcdc', 3]", "'methods' must be a line of text, got 3"),
            ("plugins = 3", "'plugins' holds sections, not a value; name a field of one, as in plugins.mine.steps"),
            ("[plugins]\nmine = 3", "'plugins.mine' is a section, not a value; name a field of it"),
            (
                "[plugins.mine.deep]\na = 1",
                "'plugins.mine.deep' must be a line of text, a finite number, true or false, or a list of them, got "
                "{'a': 1}",
            ),
            (
                "[plugins.mine]\nrate = inf",
                "'plugins.mine.rate' must be a line of text, a finite number, true or false, or a list of them, got "
                "inf",
            ),
        ],
    )
    def test_mistakes(self, tmp_path, text, message):
        path = write(tmp_path, text)
        assert error_of(lambda: configs.load(path)) == f"{path}: {message}"

    def test_files_that_cannot_be_read(self, tmp_path):
        assert error_of(lambda: configs.load("no.toml")) == "no.toml: no such file"
        assert error_of(lambda: configs.load(tmp_path)) == f"{tmp_path} is a folder; give the .toml file"
        path = write(tmp_path, "seeds = [0]\n[training\n")
        message = error_of(lambda: configs.load(path))
        assert message.startswith(f"{path} is not valid TOML: ")
        assert "line 2" in message
        path.write_bytes(b"\xff\xfe")
        assert error_of(lambda: configs.load(path)) == f"{path} is not UTF-8 text (byte 0)"


class TestOverrides:
    def test_values_of_every_kind(self):
        words = """--seeds 0 1 2 --methods hcdc random --training.steps=50 --training.learning-rate 1e-3
                   --hcdc.direct false --hcdc.edge_logit 5 --data.path my.npz --training.steps 60"""
        config = configs.apply_overrides(Config(), words.split())
        assert (config.seeds, config.methods) == ((0, 1, 2), ("hcdc", "random"))
        assert (config.training.steps, config.training.learning_rate) == (60, 1e-3)
        assert (config.hcdc.direct, config.hcdc.edge_logit, config.data.path) == (False, 5.0, "my.npz")
        back = configs.apply_overrides(config, ["--hcdc.edge_logit", "auto", "--data.path", "None"])
        assert (back.hcdc.edge_logit, back.data.path) == ("auto", None)

    def test_the_given_configuration_is_the_start(self):
        start = dataclasses.replace(Config(), seeds=(7,))
        assert configs.apply_overrides(start, []) == start
        assert configs.apply_overrides(start, ["--truth.seeds", "2"]).seeds == (7,)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--hcdc.num_hvp", "3"], "unknown key 'hcdc.num_hvp'; did you mean 'num_hvps'?"),
            (
                ["--steps", "3"],
                "unknown key 'steps'; did you mean 'training.steps' or 'dm.steps' or ",
            ),
            (
                ["--a.b.c", "1"],
                "unknown key 'a'; known are methods, seeds, data, space, model, training, condense, labels, hmn",
            ),
            (["--training.steps", "abc"], "'training.steps' must be an integer, got 'abc'"),
            (["--training.steps", "5", "6"], "'training.steps' takes one value, got 2"),
            (["--training.steps"], "'training.steps' takes one value, got 0"),
            (["--training", "5"], "'training' is a section, not a value; name a field of it"),
            (["--training.weight_decay", "-1"], "'training.weight_decay' must be at least 0, got -1.0"),
            (["--hcdc.direct", "no"], "'hcdc.direct' must be true or false, got 'no'"),
            (["--seeds"], "'seeds' needs at least one value"),
            (["--", "3"], "expected --section.field value, got '--'"),
            (["more.toml"], "expected --section.field value, got 'more.toml'"),
        ],
    )
    def test_mistakes(self, args, message):
        assert error_of(lambda: configs.apply_overrides(Config(), args)).startswith(f"command line: {message}")


@dataclasses.dataclass(frozen=True)
class Mine:
    """Settings of a plugin's method."""

    steps: Count = 5  # of mine
    rate: float = 0.1  # how fast
    widths: tuple[int, ...] = (2, 3)  # of layers
    words: str | None = None  # as one likes


class TestPlugins:
    def test_settings_come_from_files_and_words_and_go_to_files(self, tmp_path):
        config = configs.load(write(tmp_path, "[plugins.mine]\nsteps = 7\nwords = 'a'\n[plugins.other]\non = true\n"))
        words = ["--plugins.mine.rate", "2", "--plugins.mine.widths", "4", "5", "--plugins.other.text", "it's"]
        config = configs.apply_overrides(config, [*words, "--plugins.mine.words=None"])
        assert configs.settings_of(config, "mine", Mine) == Mine(7, 2.0, (4, 5), None)
        assert config.plugins["other"] == {"on": True, "text": "it's"}
        assert configs.load(write(tmp_path, configs.dumps(config))) == config
        changed = configs.apply_overrides(config, ["--plugins.mine.steps", "8"])
        assert configs.config_hash(changed) != configs.config_hash(config)

    def test_order_does_not_matter(self, tmp_path):
        one, other = ("[plugins.{}]\nx = 1\ny = 2\n[plugins.{}]\n{}", "[plugins.{1}]\n{2}[plugins.{0}]\ny = 2\nx = 1\n")
        first, second = (configs.load(write(tmp_path, text.format("a", "b", "z = 3\n"))) for text in (one, other))
        assert configs.config_hash(first) == configs.config_hash(second)

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("--plugins.mine.step=3", "unknown key 'plugins.mine.step'; did you mean 'steps'?"),
            ("--plugins.mine.steps=0", "'plugins.mine.steps' must be at least 1, got 0"),
            ("--plugins.mine.rate=fast", "'plugins.mine.rate' must be a finite number, got 'fast'"),
            ("--plugins.mine.widths=4", "'plugins.mine.widths' must be a list, got 4"),
        ],
    )
    def test_mistakes_are_those_of_other_sections(self, word, message):
        config = configs.apply_overrides(Config(), [word])
        assert error_of(lambda: configs.settings_of(config, "mine", Mine)) == f"config: {message}"

    def test_help_says_what_they_are(self):
        text = help_text(plugins={"mine": Mine})
        assert "of mine" in text[text.index("--plugins.mine.steps ") :].splitlines()[1]
        assert "--hcdc.steps " in text


def test_configurations_built_in_python_are_checked_too():
    wrong = dataclasses.replace(Config(), condense=configs.CondenseConfig(ratio=2.0))
    message = error_of(lambda: configs.validate(wrong))
    assert message == "config: 'condense.ratio' must be above 0 and at most 1, got 2.0"


def test_help_names_every_option_and_says_what_it_is():
    text = help_text()
    for name in leaf_names():
        if name == "plugins":  # it has options where plugins have
            continue
        line = text[text.index(f"--{name} ") :].splitlines()[1]
        assert line.strip(), f"{name} has no comment in the source, which stands below an option"
