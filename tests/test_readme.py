"""What the README and the first pages of the docs show runs as shown."""

import re
from pathlib import Path

import hcdc_jax as hc
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.batches import augment
from hcdc_jax.models import image_net, image_nets
from hcdc_jax.pipeline import checks, ladder
from hcdc_jax.pipeline.kinds.images import network_options
from hcdc_jax.pipeline.setup import space_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
SMALL = {
    "hcdc": {"full_trainings": 4, "oversampling": 1, "steps": 4, "inits": 1, "damping": 1.0},
    "condense": {"val_factor": 1.0},
    "training": {"proxy_inits": 1},
}


def example(text: str, with_words: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return next(block for block in blocks if with_words in block)


def test_the_readme_is_short_and_its_example_runs(tmp_path, monkeypatch, capsys):
    assert len(README.splitlines()) <= 100
    code = example(README, "hc.Study(")
    for shown, run in (("steps=150", "steps=12"), ('name="tumours"', "settings=SMALL"), ("examples=60", "examples=12")):
        assert shown in code
        code = code.replace(shown, run)
    # With less to compute; tests/test_study.py has the other search.
    code = code.replace("search(2000, top=4)", "search(12, top=1, method='random')")
    monkeypatch.chdir(tmp_path)
    exec(code, {"SMALL": SMALL})
    assert "'gain'" in capsys.readouterr().out.splitlines()[-1]


def test_the_example_runs_on_what_the_demo_leaves(tmp_path, monkeypatch, capsys):
    config = configs.apply_overrides(
        configs.load(ROOT / "configs" / "digits_graph.toml"),
        [
            "--methods=hcdc",
            "--hcdc.full_trainings=2",
            "--hcdc.steps=2",
            "--hcdc.damping=1",  # so few steps end far from a minimum
            "--training.steps=20",
            "--space.candidates=4",
            "--truth.enabled=false",
        ],
    )
    monkeypatch.chdir(tmp_path)
    pipeline.run(config, "runs/demo")
    exec(example(STUDIES, "runs/demo").replace("1000)", "5)"), {})  # fewer candidates, same calls
    assert capsys.readouterr().out.strip()


def test_names_in_the_readme_exist():
    for name in set(re.findall(r"\bhc\.([a-z_]+)", README + STUDIES)):
        assert hasattr(hc, name), name


def test_every_config_loads_and_names_its_own_command():
    for path in sorted((ROOT / "configs").rglob("*.toml")):
        ladders = ladder.is_ladder(path)
        for config in [rung.config for rung in ladder.load(path)] if ladders else [configs.load(path)]:
            checks.check_config(config)
            space_of(config)
            if config.model.name in image_nets():
                augment.parse(config.condense.augmentation)
                image_net(config.model.name, 10, **network_options(config.model))
        # Settings for own data are taken by the command itself, and printed to be edited.
        taken = f"hcdc configs {path.relative_to(ROOT / 'configs').with_suffix('')}"
        named = f"hcdc (run|condense) {path.relative_to(ROOT)}|{taken}"
        assert re.search(named, path.read_text(encoding="utf-8")), path.name


def test_linked_files_exist():
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
