"""The command line: one command per job, its flags the fields of the job's record, found by file name.

Exit codes: 0 done; 2 wrong input or a run that was stopped for a reason, said in one line; 128 + n after signal n.
"""

import contextlib
import ctypes
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, get_args, get_origin

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from selfsame import __version__
from selfsame.engine import slurm
from selfsame.errors import UserError, unknown
from selfsame.jobs.checked import checked, explained, named
from selfsame.records import Record
from selfsame.storage.folders import check_there

JOBS = {  # command -> the record that is its definition
    "pretrain": "Pretrain",
    "compare": "Compare",
    "evaluate": "Evaluate",
    "adapt": "Adapt",
    "predict": "Predict",
    "maps": "Maps",
    "propagate": "Propagate",
    "embed": "Embed",
    "verify": "Verify",
    "outliers": "Outliers",
    "clusters": "Clusters",
    "select": "Select",
    "export": "Export",
    "duplicates": "Duplicates",
    "index": "IndexItems",
    "search": "Search",
    "remove": "Remove",
    "views": "Views",
    "profile": "Profile",
    "plan": "Plan",
    "methods": "Methods",
}
NAMED = ("method", "views", "task")  # flags that name a set of settings, which `--method.x` changes one by one
FLAGS = {"run_folder": "--run", "k": ("-k", "--k")}  # where a field has another name: `run` is what a record does
SHOWN_AS = {"method": str, "task": str, "views": str, "encoder": str}  # what Python takes more kinds of


def main(argv: Sequence[str] | None = None) -> int:
    tokens = list(sys.argv[1:] if argv is None else argv)
    # OpenMP threads that spin while they wait made steps 3 to 5 times slower on a machine that others use too.
    # It must be said before torch is loaded, and only a program may say it, not a library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    # Large pages for large tensors: the system hands out 512 times fewer of them, which a step on a CPU waits for.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        if tokens[:1] == ["pretrain"]:
            slurm.take_seat()  # so that of several tasks one speaks
        return dispatch(tokens)
    except UserError as error:
        tell(f"error: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        tell("stopped.", sys.stderr)
        return 130
    except Exception as error:
        # Imported only here, where torch has long been loaded: --help must stay quick.
        interrupted = sys.modules.get("selfsame.engine.loop")
        if interrupted is not None and isinstance(error, interrupted.Interrupted):
            tell(str(error), sys.stderr)
            return 128 + int(error.signal_number)
        raise


def keep_heap() -> None:
    """Let the C library keep memory that is freed, and give large tensors of it.

    Otherwise each comes from the system and goes back to it in every step, and every page of it is made anew when it is
    first written. For programs, not for a library: what a process once held at its peak, it holds to its end.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc has it; elsewhere all stays as it is
        trim, top_pad, mmaps = -1, -2, -4
        for setting, value in ((mmaps, 0), (trim, 2**31 - 1), (top_pad, 64 << 20)):
            ctypes.CDLL(None).mallopt(setting, value)


def tell(text: str, where: TextIO) -> None:
    """Print, once: of several processes the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=where)


def dispatch(tokens: list[str]) -> int:
    asked = next((token for token in tokens if not token.startswith("-")), None)
    app = App(name="selfsame", version=__version__, help=HELP, help_format="plaintext", version_flags=["--version"])
    if asked is not None and asked not in JOBS:
        raise unknown("command", asked, JOBS, "See: selfsame --help")
    for name, class_name in JOBS.items():
        record = getattr(importlib.import_module(f"selfsame.jobs.{name}"), class_name)
        # Nested settings mean loading a method; only the command that was asked for needs its flags in full.
        app.command(flags_of(record, tokens if name == asked else []), name=name)
    if not tokens:
        app(["--help"], result_action="return_value")
        return 0
    try:
        function, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        advice = f"See: selfsame {asked or ''} --help"
        if isinstance(wrong := error.__cause__, ValidationError):
            inside = wrong.errors()[0]["loc"]  # nothing of a flag that is one number
            flag = "" if error.argument is None else error.argument.name.removeprefix("--")
            place = place_of(str(inside[0]), tokens) if inside else [flag]
            raise explained(wrong, place=place, advice=advice) from None
        raise UserError(f"{one_line(error)} {advice}") from None
    if asked is None or "--help" in tokens or "-h" in tokens:
        function(*bound.args, **bound.kwargs)
        return 0
    return carry_out(asked, function, dict(bound.arguments))


def carry_out(name: str, function: Callable[..., Any], given: dict[str, Any]) -> int:
    record: type[Record] = function.record  # type: ignore[attr-defined]
    as_json = given.pop("as_json", False)
    config = given.pop("config", None)
    values = combined(read_config(config) if config else {}, given)
    data, guessed = values.get("data"), "modality" in record.model_fields and values.get("modality") is None
    if guessed and isinstance(data, str):  # data of an own modality need not be a path
        check_there(data)  # at once: a method takes seconds to load
    job = checked(record, values, advice=f"See: selfsame {name} --help")
    keep_heap()
    result = job.run()  # type: ignore[attr-defined]
    if as_json:
        document = result if isinstance(result, dict) else {"run": str(result.folder), **result.result}
        tell(json.dumps(document, indent=1), sys.stdout)
    elif hasattr(job, "show"):
        job.show(result)
    return 0


def flags_of(record: type[Record], tokens: list[str]) -> Callable[..., None]:
    """A function whose signature is the record: required fields by place, all others by flag."""
    from_file = any(token.split("=")[0] == "--config" for token in tokens)
    parameters: list[inspect.Parameter] = []
    # Where the result goes stands in the help before how it is made.
    placed, flagged = getattr(record, "BY_PLACE", ()), getattr(record, "BY_FLAG", ())

    def rank(item: tuple[str, Any]) -> int:
        name, field = item
        return 0 if field.is_required() and name not in flagged else 1 if name in placed else 2 if name == "out" else 3

    for name, field in sorted(record.model_fields.items(), key=rank):
        if name == "reading":  # settings alone, without a name: `--reading.x`
            continue
        kind: Any = SHOWN_AS.get(name, field.annotation)
        if name in SHOWN_AS and field.default is None:
            kind = kind | None
        flag = None if field.is_required() else FLAGS.get(name)
        note = Parameter(
            name=flag, help=field.description, negative="", show_default=field.default not in (None, False)
        )
        if field.is_required():
            default = "" if from_file else inspect.Parameter.empty
        else:
            default = field.default
        by_place = (field.is_required() and name not in flagged) or name in placed
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD if by_place else inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, place, default=default, annotation=Annotated[kind, note]))
    for name in (*NAMED, "reading"):
        if name in record.model_fields:
            parameters += nested(name, tokens)
    by_flag = inspect.Parameter.KEYWORD_ONLY
    parameters += [
        inspect.Parameter(
            "config",
            by_flag,
            default=None,
            annotation=Annotated[Path | None, Parameter(help="YAML file with any of these; flags win")],
        ),
        inspect.Parameter(
            "as_json",
            by_flag,
            default=False,
            annotation=Annotated[
                bool,
                Parameter(name="--json", help="print the result as one JSON document", negative="", show_default=False),
            ],
        ),
    ]

    def function(**values: Any) -> None:
        """Never called: the flags are read from the signature, and the record does the job."""

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__doc__ = record.__doc__
    function.record = record  # type: ignore[attr-defined]
    return function


def nested(name: str, tokens: list[str]) -> list[inspect.Parameter]:
    """The settings behind `--method NAME`, `--views NAME` or `--reading.x`, where the command touches them."""
    if name == "reading":
        wanted = any(token.startswith("--reading.") for token in tokens)
        if not wanted and not ("--help" in tokens and value_of("--modality", tokens)):
            return []
        known = modality_of(tokens, sure=wanted).Reading.model_fields
        fields = {f"reading_{key}": (key, field) for key, field in known.items()}
        return [flag_of(kept, f"--reading.{key.replace('_', '-')}", field) for kept, (key, field) in fields.items()]
    if not any(token.split("=")[0] == f"--{name}" or token.startswith(f"--{name}.") for token in tokens):
        return []
    if name == "method":
        from selfsame import methods

        chosen = value_of("--method", tokens) or "byol"
        kinds: dict[str, tuple[Any, str]] = {"method_settings": (methods.load(chosen), "--method")}
    elif name == "task":
        from selfsame.downstream import tasks

        kinds = {"task_settings": (tasks.load(value_of("--task", tokens) or "classification"), "--task")}
    else:
        if not any(token.startswith("--views.") for token in tokens) and "--help" not in tokens:
            return []
        modality = modality_of(tokens)
        kinds = {
            f"views_{key}": (field.annotation, f"--views.{key.replace('_', '-')}")
            for key, field in modality.Views.model_fields.items()
            if not field.is_required()  # the size of views has a flag of its own
        }
    return [
        inspect.Parameter(
            key,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, Parameter(name=flag, negative_iterable="")],
        )
        for key, (kind, flag) in kinds.items()
    ]


def flag_of(key: str, flag: str, field: Any) -> inspect.Parameter:
    several = get_origin(field.annotation) is tuple and Ellipsis in get_args(field.annotation)  # --reading.columns a b
    note = Parameter(
        name=flag,
        help=field.description,
        negative="",
        negative_iterable="",
        show_default=False,
        consume_multiple=several,
    )
    kind = Annotated[field.annotation | None, note]
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def modality_of(tokens: list[str], sure: bool = False) -> Any:
    """The modality that is named, or else the one that reads the data.

    Where this is not known yet, that of images, or if it must be `sure` UserError.
    """
    from selfsame import modalities

    given, data = value_of("--modality", tokens), data_of(tokens)
    if config := value_of("--config", tokens):
        content = read_config(Path(config))
        given, data = given or content.get("modality"), data or content.get("data")
    if given is None and data is not None:
        with contextlib.nullcontext() if sure else contextlib.suppress(UserError):
            return modalities.of(str(data))
    if given is None and sure:
        raise UserError("--reading.x goes with a kind of data: give the data before it, or say the kind by --modality.")
    return modalities.load(given or "image")


def data_of(tokens: list[str]) -> str | None:
    """The data of the line: the word behind the command, or else the first word that is a place on the disk."""
    words = [token for token in tokens[1:] if not token.startswith("-")]
    if words[:1] == tokens[1:2]:
        return words[0] if words else None
    return next((word for word in words if Path(word.partition("::")[0]).expanduser().exists()), None)


def place_of(field: str, tokens: list[str]) -> list[str]:
    """Where a nested setting stands, by the flag that set it: `--views.one.blur` gives views, one."""
    flags = [
        token.split("=")[0].removeprefix("--").replace("-", "_").split(".") for token in tokens if token[:2] == "--"
    ]
    return next((parts[:-1] for parts in flags if parts[-1] == field), [])


def value_of(flag: str, tokens: list[str]) -> str | None:
    for place, token in enumerate(tokens):
        if token == flag and place + 1 < len(tokens):
            return tokens[place + 1]
        if token.startswith(f"{flag}="):
            return token.split("=", 1)[1]
    return None


def combined(file: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Flags over file; a name and the settings behind it become one value."""
    values = {**file}
    for name in NAMED:
        settings: dict[str, Any] = {}
        if file.get(name) is not None:
            settings.update(named(file[name], name))
        if name in flags:
            chosen = flags.pop(name)
            if settings.get("name", chosen) != chosen:
                settings = {}  # another name: the file's settings are not its own
            settings["name"] = chosen
        for key in [key for key in flags if key.startswith(f"{name}_")]:
            given, part = flags.pop(key), key.removeprefix(f"{name}_")
            changed = given.model_dump(exclude_unset=True) if isinstance(given, Record) else given
            if part == "settings":
                settings.update(changed or {})
            elif isinstance(changed, dict):
                settings[part] = {**settings.get(part, {}), **changed}
            elif changed is not None:
                settings[part] = changed
        if settings:
            values[name] = settings
    reading = {key: flags.pop(key) for key in list(flags) if key.startswith("reading_")}
    if reading:
        told = {key.removeprefix("reading_"): value for key, value in reading.items() if value is not None}
        values["reading"] = {**(file.get("reading") or {}), **told}
    return {**values, **{key: value for key, value in flags.items() if value != ""}}  # "" stands for not given


def read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}. --config takes a YAML file of flags, without the dashes.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines, such as `epochs: 20`.")
    return unfolded(content)


def unfolded(content: dict[Any, Any]) -> dict[str, Any]:
    """Keys as the flags have them: dashes become underscores, and `method.momentum: 0.9` one setting of method."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        first, dot, rest = str(key).replace("-", "_").partition(".")
        value = unfolded({rest: value} if dot else value) if dot or isinstance(value, dict) else value
        found[first] = joined(found[first], value, first) if first in found else value
    return found


def joined(one: Any, two: Any, place: str) -> dict[str, Any]:
    """Two values of one setting, at most one of them a name. Raises UserError where they say different things."""
    both = named(one, place)
    for key, value in named(two, place).items():
        inside = f"{place}.{key}"
        if key in both and not (isinstance(both[key], dict) or isinstance(value, dict)):
            raise UserError(f"{inside} is given twice: {both[key]!r} and {value!r}. Give it once.")
        both[key] = joined(both[key], value, inside) if key in both else value
    return both


def one_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."


HELP = "From unlabelled data to an encoder worth using.\n\nselfsame pretrain photos/ --out runs/photos"
