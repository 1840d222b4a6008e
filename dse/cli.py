"""``python -m dse COMMAND [key=value ...]``: one word selects the command, the rest is Hydra's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

COMMANDS = {
    "sweep": "search compressed networks and accelerators for the best trade-offs; resumes",
    "analyze": "compress each layer alone in every way: sensitivity, error against the oracle, repairs",
    "report": "write the tables, figures and page of a run again, from its folder alone",
    "export": "write one candidate of a run: plan, packed weights, metrics",
    "evaluate": "score an exported candidate and print its metrics as JSON",
    "price": "what a workload file costs on accelerators, without a network",
    "validate": "published figures of accelerators beside the models' answers",
    "doctor": "what this machine can measure, and what to do about the rest",
}
_CODE_BROKEN_PIPE = 141
_OPEN_MAPPING = re.compile(
    r"(space\.(weights|baselines)|technology\.overrides|meter\.protocol|model\.args)(\..*)?"
)


def usage() -> str:
    """The text of ``dse --help``."""
    rows = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return f"""Usage: python -m dse COMMAND [key=value ...]

Which compression of a trained network, layer by layer, for which hardware? No retraining.

Commands:
{rows}

Start with:  python -m dse sweep +experiment=resnet_ternary
More on one: python -m dse COMMAND --help
Your own configurations: a folder like the shipped configs/, named in $DSE_CONFIG_PATH,
                     or behind the command: sweep --config-dir DIR
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 2 wrong input, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from dse import __version__

        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        from dse.errors import UnknownName

        print(f"dse: {UnknownName('command', words[0], COMMANDS)}", file=sys.stderr)
        return 2
    from dse.locations import user_folder_first

    overrides, folder = _take_config_dir(words[1:])
    with user_folder_first(folder):
        return _guarded(words[0], overrides)


def _guarded(command: str, overrides: list[str]) -> int:
    """Run a command and turn whatever the user caused into one line and an exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from dse.errors import DseError

    try:
        return _run_hydra(command, overrides)
    except (DseError, HydraException, OmegaConfBaseException) as error:
        print(f"dse: {_explain(error, overrides, command)}", file=sys.stderr)
        return 2
    except SystemExit as ended:  # --help, or an option Hydra does not know
        return ended.code if isinstance(ended.code, int) else 2
    except KeyboardInterrupt:
        print("dse: interrupted; the same command again goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return _CODE_BROKEN_PIPE


def _run_hydra(command: str, overrides: list[str]) -> int:
    import hydra
    from omegaconf.errors import OmegaConfBaseException

    from dse.errors import DseError
    from dse.locations import config_dir, register_user_configs
    from dse.schema import register_schemas

    register_schemas()
    register_user_configs()
    # lets Hydra's own errors through instead of ending the process with its wording and code
    os.environ["HYDRA_FULL_ERROR"] = "1"
    result: list[int] = []
    failed: list[Exception] = []
    composed: list[object] = []

    def task(config: object) -> None:
        composed.append(config)
        try:
            run: Callable[[dict[str, Any]], int] = import_module(f"dse.commands.{command}").run
            result.append(run(_plain(config)))
        except BrokenPipeError:
            result.append(_CODE_BROKEN_PIPE)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        except (DseError, OmegaConfBaseException) as error:
            failed.append(error)  # told below, or Hydra would print a line of its own before it

    before = sys.argv
    words = sorted((_for_hydra(word) for word in overrides), key=_is_option)
    sys.argv = [f"python -m dse {command}", *words]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(task)()
    except ValueError as error:  # Hydra's own, as of a group set to null; one of a command is a fault of ours
        if composed:
            raise
        failed.append(error)
    finally:
        sys.argv = before
    for error in failed:
        print(f"dse: {_explain(error, overrides, command)}", file=sys.stderr)
    return max([*result, *(getattr(error, "exit_code", 2) for error in failed)], default=0)


def _plain(config: Any) -> dict[str, Any]:
    """The composed configuration as plain data; an unnamed study takes its experiment's name."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if "study" in plain and plain["study"]["name"] is None:
        plain["study"]["name"] = HydraConfig.get().runtime.choices.get("experiment")
        if plain["study"]["name"] is None:
            from dse.errors import ConfigError
            from dse.locations import config_names

            experiments = ", ".join(config_names("experiment"))
            raise ConfigError(
                "study.name",
                "null",
                "a name for the run folder",
                f"or choose +experiment=NAME of: {experiments}",
            )
    return plain


def _take_config_dir(words: list[str]) -> tuple[list[str], str | None]:
    """Separate ``--config-dir DIR``: Hydra puts that folder last, where a user's file would not win."""
    for i, word in enumerate(words):
        flag, _, folder = word.partition("=")
        rest = words[i + 1 :]
        if flag in ("--config-dir", "-cd"):
            if not folder and rest:
                folder, *rest = rest
            return (words[:i] + rest, folder) if folder else (words, None)
    return words, None


def _is_option(word: str) -> bool:
    """Not an override: a flag or its value. They go last, as Hydra takes no override behind a flag."""
    return word.startswith("-") or not ("=" in word or word.startswith("~"))


def _for_hydra(word: str) -> str:
    """Spare the user Hydra's grammar where it would only be in the way.

    ``experiment=x`` means ``+experiment=x``, as there is none in the defaults to override; keys of open mappings
    need no ``+`` either, their names are checked where they are used; the rule of
    ``select=min_energy where accuracy >= 98%`` is one string without being quoted twice.
    """
    if word.startswith("experiment="):
        return f"+{word}"
    key, _, value = word.partition("=")
    if _OPEN_MAPPING.fullmatch(key):
        return f"++{word}"
    if key == "select" and value[:1] not in ("'", '"'):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{quoted}'"
    return word


def _explain(error: Exception, overrides: Sequence[str], command: str) -> str:
    """The error's message, with the nearest names where a group option or a key does not exist."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue

    from dse.errors import DseError, UnknownName
    from dse.locations import config_names

    if isinstance(error, DseError):
        return str(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give {error.full_key}=VALUE"
    cause = error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.parent_node:
        parent = str(cause.full_key).rpartition(".")[0]
        return str(UnknownName("key", cause.key, map(str, cause.parent_node), key=parent))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        names = config_names(group) if group else []
        if names:
            return str(UnknownName(group, name, names, key=group))
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override.lstrip('+')}: cannot be read as key=value; close every bracket and quote, and put text "
            "with other signs in quotes of its own, as in \"key='te(x)t'\""
        )
    told = _explain_type(error, overrides, command)
    if told is not None:
        return told
    text = str(error.__cause__ or error) if str(error.__cause__ or "") else str(error)
    parts = [line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line]
    given = [word for word in overrides if "=" in word]
    hint = f" (given: {' '.join(given)})" if given else ""
    return f"{'; '.join(parts)}{hint}"


def _explain_type(error: Exception, overrides: Sequence[str], command: str) -> str | None:
    """The message for a value of the wrong type, on the command line or in a file; None where it is another error."""
    from omegaconf.errors import ConfigTypeError, ValidationError

    from dse.errors import ConfigError
    from dse.expected import expectation
    from dse.schema import SCHEMAS

    wrong = error if isinstance(error, ValidationError) else error.__cause__ or error.__context__
    if not isinstance(wrong, (ValidationError, ConfigTypeError)):
        return None
    file = re.match(r"In '([^']+)'", str(error))
    given = {} if file else {k.lstrip("+"): value for k, _, value in (w.partition("=") for w in overrides)}
    key = next((k for k in given if k == wrong.full_key or k.endswith(f".{wrong.full_key}")), wrong.full_key)
    if key not in given and isinstance(wrong, ConfigTypeError):
        return None  # a key taken out, say
    value = given.get(key, "null" if wrong.value is None else str(wrong.value))
    found = expectation(SCHEMAS[command], key, value)
    if found is None:
        return None
    expected = ", ".join(part for part in found if part)
    return str(ConfigError(key, value or "''", expected, f"correct it in {file[1]}.yaml" if file else ""))


def entry() -> None:
    """The ``dse`` script."""
    sys.exit(main())
