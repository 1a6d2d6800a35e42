"""Completion of words in a shell: a script that holds all of them, so that a key press starts no Python."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from hcdc_jax.cli.bundled import bundled
from hcdc_jax.cli.parser import subcommands
from hcdc_jax.config.options import sections

_BASH = """\
# hcdc: completion for {shell}
{start}_hcdc() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _hcdc hcdc
"""


class _Command(NamedTuple):
    about: str
    options: list[str]
    words: list[str]  # what may stand where a target is named, or is the value of an option


def script(shell: str) -> str:
    """The script that a shell is to read.

    Args:
      shell: "bash", "zsh", which reads scripts of bash, or "fish".
    """
    commands = _commands()
    if shell == "fish":
        return _fish(commands)
    cases = "\n".join(
        f'      {name}) words="{" ".join(command.options + command.words)}" ;;' for name, command in commands.items()
    )
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _BASH.format(shell=shell, start=start, commands=" ".join(commands), cases=cases)


def _commands() -> dict[str, _Command]:
    settings = [f"--{setting}" for setting in _settings()]
    targets, found = list(bundled()), {}
    for name, parser in subcommands().items():
        options, words = ["--help"], []
        for action in parser._actions:  # of argparse, which has no public name for it
            options += [option for option in action.option_strings if option.startswith("--") and option != "--help"]
            words += [str(choice) for choice in action.choices or ()]
            words += targets if action.dest in ("target", "config") else []
            words += [*sections(), "plugins"] if action.dest == "section" else []
        taken = settings if parser.get_default("overridable") else []
        found[name] = _Command(parser.description or "", options + taken, words)
    return found


def _settings() -> list[str]:
    of_sections = [f"{name}.{field.name}" for name, cls in sections().items() for field in dataclasses.fields(cls)]
    return ["methods", "seeds", *of_sections]


def _fish(commands: dict[str, _Command]) -> str:
    lines = ["# hcdc: completion for fish"]
    for name, command in commands.items():
        lines.append(f"complete -c hcdc -n __fish_use_subcommand -a {name} -d '{_quoted(command.about)}'")
        here = f"complete -c hcdc -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{here} -l {option.removeprefix('--')}" for option in command.options]
        lines += [f"{here} -a '{' '.join(command.words)}'"] if command.words else []
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")
