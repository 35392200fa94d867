"""A command in a process of its own, which stops as at Ctrl-C when the process that started it is gone.

Started as `python child.py PIPE -m MODULE WORDS` or `... PIPE FILE WORDS`: an inherited file descriptor, whose
other end is closed when the starting process ends, however it does, and a program as Python is called with it.
"""

import os
import runpy
import signal
import sys
from contextlib import suppress
from threading import Thread


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # as they are in threads of Ray
    Thread(target=_stop_with, args=(int(sys.argv[1]),), daemon=True).start()
    del sys.argv[:2]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def _stop_with(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever sent
    with suppress(OSError):  # as on a full disk
        print("the sweep that started this is gone", flush=True)
    asked = callable(signal.getsignal(signal.SIGHUP))  # while it saves, a second one of these interrupts nothing
    os.kill(os.getpid(), signal.SIGHUP if asked else signal.SIGINT)


if __name__ == "__main__":
    main()
