"""Run a program that stops, as at Ctrl-C, when the process that started it is gone.

Called as `python child.py PARENT -m MODULE WORDS` or `python child.py PARENT FILE WORDS`; PARENT: its process id.
"""

import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from threading import Thread


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # blocked in threads of Ray
    Thread(target=_stop_with, args=(int(sys.argv[1]),), daemon=True).start()
    del sys.argv[:2]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def _stop_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    with suppress(OSError):  # a full disk
        print("the process that started this one is gone", flush=True)
    handled = callable(signal.getsignal(signal.SIGHUP))  # then a second one does not interrupt the saving
    os.kill(os.getpid(), signal.SIGHUP if handled else signal.SIGINT)


if __name__ == "__main__":
    main()
