"""Run a program that stops, as at Ctrl-C, when the process that started it is gone.

Called as `python child.py -m MODULE WORDS` or `python child.py FILE WORDS`. Standard input must be a pipe whose other
end the parent alone keeps open: it closes when the parent ends, even by SIGKILL.
"""

import os
import runpy
import signal
import sys
from contextlib import suppress
from threading import Thread


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # blocked in threads of Ray
    Thread(target=_stop_with_parent, args=(os.dup(0),), daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def _stop_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever sent
    with suppress(OSError):  # a full disk
        print("the process that started this one is gone", flush=True)
    handled = callable(signal.getsignal(signal.SIGHUP))  # then a second one does not interrupt the saving
    os.kill(os.getpid(), signal.SIGHUP if handled else signal.SIGINT)


if __name__ == "__main__":
    main()
