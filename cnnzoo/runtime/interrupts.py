"""SIGINT (Ctrl-C) outside of training: it ends the process without a traceback. `signals` handles it during a run."""

import signal


def exit_at_sigint() -> None:
    """Let SIGINT end the process at once and without a traceback, unless the process ignores it.

    Call it before the imports and checks of a job, which have nothing to close.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_at_sigint() -> None:
    """Undo `exit_at_sigint`: SIGINT raises KeyboardInterrupt again, so that files and processes are closed."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_interrupt(error: BaseException) -> bool:
    """Whether `error` is a KeyboardInterrupt, or the SystemExit into which Lightning turns one."""
    return isinstance(error.__context__ if isinstance(error, SystemExit) else error, KeyboardInterrupt)
