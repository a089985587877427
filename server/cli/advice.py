"""What `qwen-edit doctor` advises: commands that keep the options it was given."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Options of `qwen-edit serve` by the names of their settings; one that is None is left out.
Options = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Serve:
    """`qwen-edit serve` with these options and variables instead of those in use."""

    options: Options = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pull:
    """`qwen-edit pull` of this model; `name_here` where it lies under another name than its own."""

    name: str
    name_here: str | None = None


# A plain string is a command of another program.
Advice = Serve | Pull | str


def command(advice: Advice, options: Options, *, verb: str = "serve") -> str:
    """The advice as a line for a shell; `verb` is `doctor` where that takes the place of `serve`.

    `options` are those in use: all of them stay but for what the advice changes.
    """
    match advice:
        case Serve():
            variables = [f"{name}={shlex.quote(value)}" for name, value in advice.variables.items()]
            return " ".join([*variables, _line([verb], {**options, **advice.options})])
        case Pull():
            kept = {"name": advice.name_here, "weights_dir": options.get("weights_dir")}
            return _line(["pull", advice.name], kept)
        case _:
            return advice


def together(changes: Iterable[Serve]) -> Serve:
    """One start with all changes; where two change the same, the first counts."""
    options: dict[str, object] = {}
    variables: dict[str, str] = {}
    for change in changes:
        options = {**change.options, **options}
        variables = {**change.variables, **variables}
    return Serve(options, variables)


def _line(words: list[str], options: Options) -> str:
    line = ["qwen-edit", *words]
    for name, value in options.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            line += [option] if value is True else [option, str(value)]
    return shlex.join(line)
