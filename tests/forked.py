"""Commands that need not load torch anew: forked from a process that has loaded it, and has done nothing else.

For tests of what commands do when signals come, and of how they end. That they start by themselves is for others:
`test_what_a_process_fails_of_is_raised_where_it_was_started`,
`test_a_failed_command_of_the_shell_has_code_2_and_no_traceback`.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.connection import Connection

NEEDED = ["tests.nets", "torch._dynamo", "sklearn.manifold", "selfsame.cli", "selfsame.methods.byol"]
NEEDED += ["selfsame.jobs.adapting", "selfsame.jobs.pretraining", "selfsame.modalities.image.stats"]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(NEEDED)


class Forked:
    """What `subprocess.Popen` is to `python -m MODULE WORDS`, in a session of its own, as far as it is asked for here.

    Results go where errors go: to where this process writes them or, with subprocess.PIPE, to `communicate`.
    """

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        start_new_session: bool,
        stdin: int = subprocess.PIPE,
        stdout: int = 2,
        stderr: int | None = None,
        text: bool = True,
    ) -> None:
        assert command[:2] == [sys.executable, "-m"] and start_new_session
        assert (stdin, stdout, text) == (subprocess.PIPE, 2, True) and stderr in (None, subprocess.PIPE)
        there, self.stdin = SERVER.Pipe(duplex=False)
        self.heard, heard = (None, os.dup(2)) if stderr is None else os.pipe()
        with there, Connection(heard, readable=False) as words:
            self.process = SERVER.Process(target=entered, args=(command[2:], env, there, words))
            self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        assert self.heard is not None
        with os.fdopen(self.heard) as file:
            said = file.read()
        self.wait(timeout)
        self.stdin.close()
        return None, said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def entered(words: list[str], env: dict[str, str], stdin: Connection, stderr: Connection) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # that of the server is not the usual one
    os.environ.clear()
    os.environ.update(env)
    os.dup2(stdin.fileno(), 0)
    for number in (1, 2):
        os.dup2(stderr.fileno(), number)
    stdin.close()
    stderr.close()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
