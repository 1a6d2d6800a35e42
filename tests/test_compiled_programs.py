"""What XLA compiled is kept for the next command: where, how much of it, and that users may say otherwise."""

from __future__ import annotations

import os

import jax
import pytest

from hcdc_jax.cli import compiled_programs

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """What JAX was told, instead of telling it."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return told


def test_programs_lie_in_the_cache_of_the_user(settings, tmp_path):
    compiled_programs.keep_compiled_programs()
    assert tuple(settings) == SETTINGS
    (folder,) = (tmp_path / "hcdc_jax").iterdir()
    assert settings["jax_compilation_cache_dir"] == str(folder)


def test_processors_do_not_share_programs(monkeypatch):
    here = compiled_programs.cache_folder()
    monkeypatch.setattr(compiled_programs, "_processor", lambda: "another")
    assert compiled_programs.cache_folder() != here


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_the_users_own_choice_stays(settings, monkeypatch, chosen):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    compiled_programs.keep_compiled_programs()
    assert settings == {}


def test_what_cannot_be_written_is_done_without(settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiled_programs.keep_compiled_programs()
    assert settings == {}


def test_the_oldest_programs_go_first(tmp_path):
    for age in range(6):
        path = tmp_path / f"program{age}"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    compiled_programs.drop_oldest(tmp_path, 60)
    assert len(list(tmp_path.iterdir())) == 6
    compiled_programs.drop_oldest(tmp_path, 59)
    assert {path.name for path in tmp_path.iterdir()} == {"program0", "program1"}
