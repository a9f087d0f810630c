"""The one place that makes a worker end when its daemon does, however the daemon ends.

Line 1, everywhere: the daemon holds the other end of the worker's standard input. Whatever ends
the daemon closes it, and the worker's reader thread leaves at once (worker.py).

Line 2, Linux: the kernel signals the worker when its parent goes (PR_SET_PDEATHSIG). The kernel's
"parent" is the *thread* that started the worker, and trio starts processes in short-lived threads:
asking for SIGKILL would end a healthy worker when that thread retires. So the signal is one that a
waiting thread takes up, and that thread looks whether the parent process is really gone.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading

EXIT_ORPHANED = 3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie_to_parent(parent: int) -> None:
    """End this process when the process `parent` is gone. Call before starting any thread."""
    if sys.platform == "win32":
        return
    if sys.platform == "linux":
        # Blocked in all threads that start from here on, so that only sigwait takes it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        watcher = threading.Thread(target=_watch, args=(parent,), daemon=True, name="lifeline")
        watcher.start()
        with contextlib.suppress(OSError, AttributeError):  # no prctl: line 1 has to do
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    # The parent may have gone before the kernel was asked.
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)


def _watch(parent: int) -> None:
    while True:
        signal.sigwait({signal.SIGUSR1})
        if os.getppid() != parent:
            os._exit(EXIT_ORPHANED)
