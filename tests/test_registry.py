"""Registries: what comes with the library, what plugins bring, and what a session adds; mistakes are one line."""

from __future__ import annotations

import importlib.metadata
import re
import threading
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import hcdc_jax as hc
from hcdc_jax import config as configs
from hcdc_jax import pipeline, spaces
from hcdc_jax.config import Config
from hcdc_jax.evaluation.protocols import described_protocol
from hcdc_jax.extend import REGISTRIES, ImageSetting, NamedContainer, Protocol
from hcdc_jax.models import graph_problem, spectral_gnn
from hcdc_jax.pipeline.checks import check_config
from hcdc_jax.pipeline.condensed_parts import _by_name
from hcdc_jax.pipeline.kinds import image_containers
from hcdc_jax.pipeline.kinds.named_containers import containers
from hcdc_jax.pipeline.recipes import METHODS
from hcdc_jax.registry import Registry, first_line
from tests.errors import error_of
from tests.image_runs import config_with

DIST = types.SimpleNamespace(name="bowl", version="2.1")


class Point:
    """An entry point that counts how often it is loaded."""

    def __init__(self, name, load, dist=DIST):
        self.name, self.value, self.dist, self.loads, self._load = name, f"bowl:{name}", dist, 0, load

    def load(self):
        self.loads += 1
        return self._load()


@pytest.fixture(name="installed")
def _installed(monkeypatch):
    """A list that stands for what is installed."""
    points = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points if group == "test.fruits" else [])
    return points


def fruits(**entries) -> Registry[str]:
    return Registry(
        "fruit", {"apple": "green", **entries}, group="test.fruits", wanted="a text",
        accept=lambda entry: entry if isinstance(entry, str) else None, reserved=("own",),
    )  # fmt: skip


def broken():
    raise ImportError("no module named 'peeler';\n  install it")


class TestPlugins:
    def test_are_loaded_when_they_are_needed_and_once(self, installed):
        point = Point("plum", lambda: "blue")
        installed.append(point)
        fig = Point("fig", broken)
        installed.append(fig)
        registry = fruits()
        assert registry["apple"] == registry.look_up("apple") == "green"
        assert point.loads == 0
        assert registry.look_up("plum") == "blue"
        assert fig.loads == 0  # who asks for one does not import the others
        with pytest.warns(UserWarning, match="fig"):
            list(registry)
        assert list(registry) == ["apple", "plum"]
        assert registry.look_up("plum") == registry["plum"] == "blue"
        assert "pear" not in registry
        assert len(registry) == 2
        assert (point.loads, fig.loads) == (1, 1)

    def test_that_fail_are_told_in_a_line_and_leave_the_others(self, installed):
        installed += [
            Point("plum", broken), Point("fig", lambda: 3), Point("apple", lambda: "red"),
            Point("date", lambda: "brown"), Point("own", lambda: "x"), Point("Bad-name", lambda: "x"),
        ]  # fmt: skip
        registry = fruits()
        with pytest.warns(UserWarning, match="left out of bowl") as caught:
            assert dict(registry) == {"apple": "green", "date": "brown"}
        assert sorted(str(warning.message) for warning in caught) == [
            "fruit 'Bad-name': left out of bowl 2.1: the fruit 'Bad-name' cannot have this name: take small letters, "
            "digits and _, a letter first and no _seed<number> last",
            "fruit 'apple': left out of bowl 2.1: the fruit 'apple' is taken by hcdc_jax: choose another name",
            "fruit 'fig': left out of bowl 2.1: the fruit 'fig' must be a text, got int",
            "fruit 'own': left out of bowl 2.1: the fruit 'own' is taken by hcdc_jax: choose another name",
            "fruit 'plum': left out of bowl 2.1, bowl:plum: ImportError: no module named 'peeler'; install it",
        ]
        assert list(registry) == ["apple", "date"]  # in silence now
        assert error_of(lambda: registry.look_up("plum", where="in 'bowl'")) == (
            "fruit 'plum' in 'bowl': left out of bowl 2.1, bowl:plum: ImportError: no module named 'peeler'; install it"
        )

    def test_the_second_of_a_name_is_told_who_has_it(self, installed):
        installed += [Point("plum", lambda: "blue"), Point("plum", lambda: "red", None)]
        with pytest.warns(UserWarning, match="'plum': left out of a plugin: the fruit 'plum' is taken by bowl 2.1"):
            assert fruits()["plum"] == "blue"

    def test_may_register_more_while_they_are_imported(self, installed):
        registry = fruits()

        def load():
            registry.register("cherry", "red")
            return "blue"

        installed.append(Point("plum", load))
        assert dict(registry) == {"apple": "green", "cherry": "red", "plum": "blue"}

    def test_many_threads_load_once_and_see_all(self, installed):
        started = threading.Barrier(8)
        point, registry, seen = Point("plum", lambda: time.sleep(0.05) or "blue"), fruits(), []
        installed.append(point)

        def ask():
            started.wait()
            seen.append(registry["plum"])
            registry.register(f"fruit_{threading.get_ident()}", "new")

        threads = [threading.Thread(target=ask) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert seen == ["blue"] * 8
        assert point.loads == 1
        assert len(registry) == 10


class TestSession:
    def test_registers_and_takes_back(self, installed):
        installed.append(Point("plum", lambda: "blue"))
        registry = fruits()
        assert registry.register("pear", "yellow") == registry["pear"] == "yellow"
        assert error_of(lambda: registry.register("pear", "red")) == (
            "the fruit 'pear' is taken by hc.register: choose another name, or first hc.unregister('fruit', 'pear')"
        )
        registry.unregister("pear")
        registry.register("pear", "red")
        assert registry["pear"] == "red"
        for name, by in (("apple", "hcdc_jax"), ("plum", "bowl 2.1")):
            assert f"the fruit '{name}' is taken by {by}" in error_of(lambda name=name: registry.register(name, "x"))
            assert f"is of {by}" in error_of(lambda name=name: registry.unregister(name))

    def test_who_iterates_is_not_disturbed(self, installed):
        registry = fruits()
        for _ in registry:
            registry.register("pear", "yellow")
        assert list(registry) == ["apple", "pear"]

    def test_unknown_names_are_answered_with_the_nearest(self, installed):
        assert error_of(lambda: fruits().look_up("aple")) == "unknown fruit 'aple'; did you mean 'apple'?"
        assert error_of(lambda: fruits().look_up("zzz", where="in 'bowl'", also=["own"])) == (
            "unknown fruit 'zzz' in 'bowl'; known are apple, own"
        )

    def test_kinds(self):
        assert list(REGISTRIES) == [
            "method", "space", "model", "graph_model", "dataset", "searcher", "distance", "container", "protocol",
        ]  # fmt: skip
        assert error_of(lambda: hc.register("methods", "x", 3)) == (
            "unknown kind of extension 'methods'; did you mean 'method'?"
        )
        for kind in ("method", "model"):
            assert "cannot" not in (text := error_of(lambda kind=kind: hc.register(kind, "mine", 3)))
            assert "'mine' must be a" in text


@pytest.fixture(name="registered")
def _registered():
    """`hc.register` whose work is undone after the test."""
    done = []

    def register(kind, name, *entry):
        done.append((kind, name))
        return hc.register(kind, name, *entry)

    yield register
    for kind, name in done:
        hc.unregister(kind, name)


class TestWhatIsRegistered:
    def test_a_space_is_one_object_and_a_run_finds_it(self, registered):
        registered("space", "mine", lambda: hc.spaces.image_training("mine", mixup=(0.0, 1.0)))
        assert spaces.get("mine") is spaces.get("mine")
        assert "mine" in spaces.names()
        config = configs.apply_overrides(Config(), ["--space.name", "mine", "--model.name", "mlp"])
        check_config(config)
        registered("space", "given", hc.spaces.box("given", {"gain": (0.5, 2.0)}))
        assert spaces.get("given").hparam_names == ("gain",)
        assert spaces.options("given") == ()

    def test_a_space_of_another_name_or_type_is_refused(self, registered):
        registered("space", "mine", lambda: hc.spaces.box("other", {"gain": (0.5, 2.0)}))
        registered("space", "none", lambda: 3)
        said = "what is registered as the space {!r} must return a Space of that name, got {}"
        assert error_of(lambda: spaces.get("mine")) == said.format("mine", "the space 'other'")
        assert error_of(lambda: spaces.get("none")) == said.format("none", "int")

    def test_a_network(self, registered):
        import flax.linen as nn

        from hcdc_jax.extend import Head

        class Linear(nn.Module):
            """One linear layer."""

            num_classes: int

            @nn.compact
            def __call__(self, images):
                return Head(self.num_classes)(images.reshape(len(images), -1))

        registered("model", "linear", Linear)
        assert hc.models.image_nets()["linear"] == "One linear layer"
        check_config(configs.apply_overrides(Config(), ["--space.name", "regularisation", "--model.name", "linear"]))
        read = lambda hparams: ImageSetting(weight_decay=hparams)  # noqa: E731
        problem = hc.models.image_problem("linear", (2, 2, 1), 3, read=read)
        params = problem.init(jax.random.key(0), 0.1)
        assert problem.apply(params, 0.1, np.ones((5, 2, 2, 1), np.float32)).shape == (5, 3)

    def test_another_network_of_the_same_name_is_another_problem(self):
        import flax.linen as nn

        from hcdc_jax.extend import Head

        shapes = []
        for width in (2, 5):

            class Net(nn.Module):
                num_classes: int
                size: int = width

                @nn.compact
                def __call__(self, images):
                    return Head(self.num_classes)(nn.Dense(self.size)(images.reshape(len(images), -1)))

            hc.register("model", "net", Net)
            problem = hc.models.image_problem("net", (2, 2, 1), 3)
            assert problem is hc.models.image_problem("net", (2, 2, 1), 3)
            shapes.append(jax.eval_shape(problem.init, jax.random.key(0), 0.1)["Dense_0"]["kernel"].shape)
            hc.unregister("model", "net")
        assert shapes == [(4, 2), (4, 5)]

    def test_a_data_set(self, registered):
        def load(*, split, seed, data_dir):
            """Two classes of noise."""
            del split, data_dir
            rng = np.random.default_rng(seed)
            arrays = {
                "train_images": rng.random((12, 3, 3, 1), np.float32), "train_labels": np.arange(12) % 2,
                "test_images": rng.random((4, 3, 3, 1), np.float32), "test_labels": np.arange(4) % 2,
            }  # fmt: skip
            return hc.extend.images_from_arrays(arrays, name="noise", where="noise", split=0, seed=seed)

        registered("dataset", "noise", load)
        registered("dataset", "nothing", lambda **given: given)
        assert hc.datasets()["noise"] == "Two classes of noise"
        data = hc.load_dataset("noise", seed=3)
        assert (data.name, data.num_images, data.num_classes) == ("noise", 16, 2)
        assert error_of(lambda: hc.load_dataset("nothing")) == (
            "the reader of the data set 'nothing' must return GraphData, ImageData or ArrayData, got dict"
        )

    def test_a_distance_and_a_search(self, registered):
        @registered("distance", "level")
        def level(value_s, gradient_s, value_t, gradient_t):
            """Distance of mean losses."""
            return (value_s.mean() - value_t.mean()) ** 2

        assert hc.distances.get("level") is level
        check_config(configs.apply_overrides(Config(), ["--hcdc.distance", "level"]))
        unknown = configs.apply_overrides(Config(), ["--hcdc.distance", "levle"])
        assert error_of(lambda: check_config(unknown)) == (
            "unknown distance 'levle' in 'hcdc.distance'; did you mean 'level' or 'value'?"
        )
        registered("searcher", "first", lambda key, space, evaluate_fn, num, *, report=None: None)
        assert {"first", "calibrated", "random"} <= set(hc.search.SEARCHES) | {"calibrated"}

    def test_a_container(self, registered):
        mine = NamedContainer("mine indeed", "images", lambda *asked: "made", lambda setup, part, factor: 3 * factor)
        registered("container", "mine", mine)
        config = config_with(("random",))
        config = configs.apply_overrides(config, ["--condense.container", "mine"])
        check_config(config)
        assert containers()["mine"] == "mine indeed"
        setup = types.SimpleNamespace(config=config, kind=types.SimpleNamespace(unit="images"))
        assert image_containers.learned(setup, "train") == "made"
        assert image_containers.generated_per_class(setup, "train") == 3
        assert "mine stores 3 + 3 of each class" in image_containers.storage(setup)
        registered("container", "of_graphs", mine._replace(unit="nodes"))
        wrong = configs.apply_overrides(config, ["--condense.container", "of_graphs"])
        assert error_of(lambda: pipeline.prepare(wrong)) == (
            "digits_images holds images, and condense.container = 'of_graphs' stores nodes; choose one of auto, "
            "pixels, multi_formation, hmn, mine"
        )
        assert "'auto' is taken by hcdc_jax" in error_of(lambda: hc.register("container", "auto", mine))
        assert _by_name(("memory", "labels")) is _by_name(("memory", "labels"))  # so that JAX takes them for one form

    def test_a_protocol(self, registered):
        registered("protocol", "short", Protocol("short indeed", epochs=10, drops=(5,)))
        assert described_protocol("short:epochs=20")[1].drops == (10,)
        assert error_of(lambda: described_protocol("shrt")) == "unknown protocol 'shrt'; did you mean 'short'?"
        assert "must be a Protocol, got dict" in error_of(lambda: hc.register("protocol", "other", {}))

    def test_a_network_of_graphs(self, registered):
        registered("graph_model", "wide", lambda num_features, num_classes, *, read: spectral_gnn(
            num_features, num_classes, hidden=64, read=read
        ))  # fmt: skip
        registered("graph_model", "odd", lambda num_features, num_classes: 3)
        registered("graph_model", "wants", lambda num_features, num_classes, depth: 3)
        check_config(configs.apply_overrides(Config(), ["--model.name", "wide"]))
        read = hc.spaces.graph_filter(2).read
        assert graph_problem("wide", 5, 3, hidden=2, read=read) is spectral_gnn(5, 3, hidden=64, read=read)
        assert error_of(lambda: graph_problem("odd", 5, 3)) == (
            "the graph network 'odd' must return a Problem, got int"
        )
        assert "missing a required argument: 'depth'" in error_of(lambda: graph_problem("wants", 5, 3))

    def test_a_method(self, registered):
        registered("method", "mine", METHODS["random"]._replace(about="mine indeed", unit="images"))
        assert hc.methods()["mine"] == "mine indeed"
        check_config(Config(methods=("mine", "random")))
        assert error_of(lambda: check_config(Config(methods=("hcdc", "randm")))) == (
            "unknown method 'randm' in 'methods'; did you mean 'random' or 'random_val'?"
        )
        registered("method", "of_graphs", METHODS["random"]._replace(unit="nodes"))
        assert error_of(lambda: pipeline.prepare(config_with(("random", "of_graphs")))) == (
            "digits_images holds images, and the method 'of_graphs' is for other data; leave it out"
        )
        wrong = configs.apply_overrides(Config(methods=("hcdc",)), ["--hcdc.train_method", "zzz"])
        assert error_of(lambda: check_config(wrong)).startswith(
            "unknown method 'zzz' in 'hcdc.train_method'; known are"
        )


def test_the_page_does_what_it_says():
    text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    blocks, names = re.findall(r"```python\n(.*?)```", text, re.DOTALL), {}
    try:
        for block in blocks:
            exec(block, names)
        assert hc.distances.get("level") is names["level"]
    finally:
        hc.unregister("space", "two_decays")
        hc.unregister("distance", "level")
    assert len(blocks) == 2
    for registry in REGISTRIES.values():
        assert f"| `{registry.kind}` | " in text
        assert f"| `{registry.group}` |" in text


def test_first_lines():
    assert first_line(error_of) == "The text of the `UserError` that the call raises, which must be one line"
    assert first_line(types.SimpleNamespace(__doc__=None)) == ""
