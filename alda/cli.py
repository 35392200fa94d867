"""Command line: `alda X` calls the function X of alda/commands/X.py, whose signature is its options."""

import ast
import atexit
import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path

from alda.errors import LearningError, TakenOverError, UserError, WorkerError

GROUPS = {  # what people do -> words of a command -> its module in alda/commands; the last word is its function
    "train": {"train": "train", "resume": "resume", "sweep": "sweep", "demo": "demo"},
    "look at runs": {
        "evaluate": "evaluate",
        "plot": "plot",
        "picture": "picture",
        "inspect": "inspect",
        "analyze traversal": "analyze",
        "analyze trajectory": "analyze",
        "analyze association": "analyze",
        "analyze disentanglement": "analyze",
        "analyze theorem1": "analyze",
        "represent": "represent",
    },
    "compare and share": {
        "figure": "figure",
        "compare": "compare",
        "report": "report",
        "export": "export",
        "results add": "results",
    },
    "environments and this machine": {
        "envs": "envs",
        "envs preview": "envs",
        "data prepare": "data",
        "doctor": "doctor",
        "bench": "bench",
    },
}
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}


def main() -> None:
    """Run the command of sys.argv. Exit codes: 0 done, 1 failed, 2 wrong input, 128 + n stopped by signal n."""
    words = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        run(words)
    except UserError as error:
        print(f"alda: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # as of `alda envs | head`
        sys.exit(128 + 13)
    except (OSError, WorkerError, LearningError, TakenOverError) as error:
        print(f"alda: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@atexit.register
def _forget_unwritten() -> None:
    """Drop what is still unwritten when the process ends; it would turn the exit code into 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(words: list[str]) -> None:
    """Run one command. Raises UserError for one that does not exist, and whatever the command raises."""
    first, second = [*words, "", ""][:2]
    if first in ("", "-h", "--help"):
        return print(_help("", "Agents that act from pixels and keep working when the environment looks different."))
    if first == "--version":
        return print(import_module("alda").__version__)
    name = f"{first} {second}" if f"{first} {second}" in COMMANDS else first
    if name in COMMANDS:
        return _call(name, words[len(name.split()) :])
    family = [command for command in COMMANDS if command.startswith(f"{first} ")]
    if family and second in ("", "-h", "--help"):
        return print(_help(first, f"alda {first} has these commands."))
    known = ", ".join(family or dict.fromkeys(command.split()[0] for command in COMMANDS))
    raise UserError(f"there is no command {' '.join(words[: 2 if family else 1])!r}; the commands are {known}")


def _call(name: str, words: list[str]) -> None:
    function = getattr(import_module(f"alda.commands.{COMMANDS[name]}"), name.split()[-1])
    if name == "train":  # its options depend on the method
        function(words)
    else:
        import tyro

        code = tyro.cli(function, prog=f"alda {name}", args=words)
        if isinstance(code, int) and code:
            sys.exit(code)


def _help(family: str, what: str) -> str:
    lines = [f"usage: alda {family or 'COMMAND'} [options]\n\n{what}"]
    width = max(len(name) for name in COMMANDS if name.startswith(family))
    for title, group in GROUPS.items():
        if shown := [f"  {name:{width}}  {_summary(name)}" for name in group if name.startswith(family)]:
            lines += ["", *([] if family else [f"{title}:"]), *shown]
    lines.append("\nalda COMMAND --help lists the options of a command, alda train alda --help those of a method.")
    return "\n".join(lines)


def _summary(name: str) -> str:
    """Return the first sentence of a command's docstring; its module may be slow to import, so it is only parsed."""
    spec = find_spec(f"alda.commands.{COMMANDS[name]}")
    assert spec is not None
    assert spec.origin is not None
    nodes = ast.parse(Path(spec.origin).read_text()).body
    (function,) = (n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == name.split()[-1])
    return (ast.get_docstring(function) or "").splitlines()[0].rstrip(".")


if __name__ == "__main__":
    main()
