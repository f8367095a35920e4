"""The options of the command line, such as `-m` and `--cfg job`: Hydra's, checked and put in front of the overrides."""

import argparse
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from cnnzoo import __version__
from cnnzoo.cli.suggestions import suggest_override
from cnnzoo.errors import UserError, nearest

DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")
"""Hyphens and dashes that word processors put in the place of `-`."""
MODES = ("cfg", "info", "shell_completion", "hydra_help", "multirun", "run")
"""Options of which one command has at most one."""


PLAIN_KEYS = (
    *("augment", "callbacks", "data", "logger", "loader", "model", "optimizer", "resume", "run_dir", "trainer"),
    *("format", "images", "out", "repo"),  # of the jobs after training
)
"""Keys that are typed as options, such as `--model resnet`, as in other programs."""


def sort_arguments(argv: list[str]) -> list[str]:
    """The arguments with the options first and the overrides after them, which is the order that Hydra can parse.

    Raises UserError for an option that does not exist, for options that exclude each other, and for
    `--config-path`. `--version` prints the versions and exits.
    """
    parser = get_args_parser()

    def raise_user_error(message: str) -> NoReturn:
        raise UserError(message.replace("argument ", "", 1))

    parser.error = raise_user_error  # type: ignore[method-assign]  # argparse would print its usage and exit
    for argument in argv:
        name = argument.split("=")[0].translate(DASHES)
        if argument == "--version":
            print(_versions())
            raise SystemExit(0)
        if argument.startswith("-") and name in ("--config-path", "-cp"):
            raise UserError(
                "--config-path: the job needs the configuration of cnnzoo; type --config-dir DIR to add your own to it"
            )
        if argument[:1].translate(DASHES) == "-" and not _is_option(parser, name):
            raise _unknown_option(parser, argument, argv)
    args = parser.parse_intermixed_args(argv)
    modes = [f"--{mode.replace('_', '-')}" for mode in MODES if getattr(args, mode)]
    if modes == ["--cfg", "--multirun"]:
        raise UserError("--cfg shows the configuration of one job; leave out -m and the sweep's values")
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: only one of them is possible; leave the others out")
    if args.experimental_rerun:
        raise UserError(f"--experimental-rerun={args.experimental_rerun}: type resume=DIR to continue a run")
    if args.shell_completion and not args.overrides:
        raise UserError("--shell-completion: type --shell-completion install=bash")
    if args.resolve and not args.cfg:
        raise UserError("--resolve: it resolves the configuration that --cfg shows; type --cfg job --resolve")
    _check_spaces(args.overrides)
    return [*_format_options(parser, args), *args.overrides]


def _check_spaces(overrides: list[str]) -> None:
    """Raise UserError for `lr = 0.1`, which a shell splits into three arguments."""
    for i, override in enumerate(overrides):
        key, separator, value = override.partition("=")
        parts = [override]
        if separator and not key and i and "=" not in overrides[i - 1]:
            parts.insert(0, overrides[i - 1])
        if separator and not value and i + 1 < len(overrides) and "=" not in overrides[i + 1]:
            parts.append(overrides[i + 1])
        if len(parts) > 1:
            raise UserError(f"'{' '.join(parts)}': leave out the spaces around =; type {''.join(parts)}")
        if separator and not key.lstrip("+~"):
            raise UserError(f"'{override}' is not of the form key=value; for example: model=resnet")
        if override == "help":
            raise UserError("'help' is not of the form key=value; type --help")


def _format_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The parsed options as arguments again, each with its value after `=`."""
    options = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if not action.option_strings or value in (None, False):
            continue
        options.append(action.option_strings[0] if value is True else f"{action.option_strings[0]}={value}")
    return options


def _is_option(parser: argparse.ArgumentParser, name: str) -> bool:
    options = parser._option_string_actions
    return name in options or (name.startswith("--") and any(option.startswith(name) for option in options))


def _unknown_option(parser: argparse.ArgumentParser, argument: str, argv: list[str]) -> UserError:
    """The error for `--epochs 5` or `--epochs=5`: it suggests the override, else the closest option."""
    name, _, value = argument.partition("=")
    following = argv[argv.index(argument) + 1 :]
    if not value and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    name = name.translate(DASHES).lstrip("-")
    suggestion = suggest_override(name, value)
    if suggestion is None and ("." in name or name in PLAIN_KEYS):
        suggestion = f"{name}={value or '...'}"
    if suggestion is not None:
        return UserError(f"{argument}: settings are typed as key=value; type {suggestion}")
    similar = nearest(f"--{name}", [option for option in parser._option_string_actions if option.startswith("--")])
    hint = f"did you mean {', '.join(similar)}?" if similar else "settings are typed as key=value; --help lists them"
    return UserError(f"{argument}: unknown option; {hint}")


def _versions() -> str:
    """The versions of cnnzoo and of the packages that it builds on, read without importing them."""
    names = ["torch", "torchvision", "pytorch-lightning", "hydra-core", "nvidia-dali-cuda130"]
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return f"cnnzoo {__version__} ({', '.join(versions)})"
