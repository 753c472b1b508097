"""The command `i21k`: each command has a file with its arguments, one call and its output text.

Exit codes, the same for `launch.py`: 0 fine, 1 something failed, 2 the user can fix it, 128+n
stopped by signal n. What a command needs is imported when it runs, so that `--help` is fast.
"""

import argparse
import contextlib
import re
import signal
import sys
from collections.abc import Iterator, Sequence

from i21k import closed_output, log
from i21k.cli import (
    embed,
    evaluate,
    export,
    import_mxnet,
    info,
    lr_find,
    pack,
    predict,
    probe,
    report,
    runs,
    search,
    serve,
    summary,
    verify,
)
from i21k.errors import UserError, can_be_fixed

EXIT_CODES = "exit codes: 0 fine, 1 something failed, 2 user error, 128+n stopped by signal n"
_COMMANDS = {
    "pack": pack,
    "verify": verify,
    "info": info,
    "summary": summary,
    "import-mxnet": import_mxnet,
    "export": export,
    "evaluate": evaluate,
    "predict": predict,
    "embed": embed,
    "probe": probe,
    "search": search,
    "serve": serve,
    "report": report,
    "runs": runs,
    "lr-find": lr_find,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `i21k` with the given arguments (those of the process by default).

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if argv[:1] == ["pack"] and "--" in argv else len(argv)
    try:
        with _sigterm_as_exit():
            _check_none_is_empty(argv[:end])
            parser = _parser(argv[:1])
            args, rest = parser.parse_known_args(argv[:end])
            args.overrides = rest
            if args.overrides and not args.takes_overrides:
                parser.error(f"unrecognized arguments: {' '.join(args.overrides)}")
            args.beam_options = argv[end + 1 :]
            return args.run(args)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        closed_output.discard()
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        if not can_be_fixed(error):
            raise
        log.error(str(error))
        return 2
    except KeyboardInterrupt:
        log.note("interrupted")
        return 128 + signal.SIGINT


def _check_none_is_empty(argv: Sequence[str]) -> None:
    """Refuse `--out=$UNSET`: an empty path would be the directory in which the command runs.

    Raises:
        UserError: naming the flag.
    """
    for before, argument in zip(("", *argv), argv, strict=False):
        flag = argument.removesuffix("=") if argument.startswith("--") else before
        if argument == "" or (argument.endswith("=") and re.fullmatch("--[a-z-]+=", argument)):
            what = flag if flag.startswith("-") else "an argument"
            raise UserError(f"{what} is empty. Give a value.")


def _parser(chosen: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the chosen command has its arguments, which may import much."""
    parser = argparse.ArgumentParser(
        prog="i21k",
        description="Pack, inspect and use images and models of the full ImageNet.",
        epilog=EXIT_CODES,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=EXIT_CODES
        )
        command.set_defaults(run=module.run, takes_overrides=module in (lr_find, summary))
        if name in chosen:
            module.add_arguments(command)
    return parser


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Make SIGTERM unwind the stack as Ctrl-C does, so that files and processes are cleaned up."""

    def leave(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
