"""A callback that sends a signal to its own process, for tests of interrupted runs."""

import os
import signal
from typing import Any

from pytorch_lightning import Callback

from cnnzoo.callbacks import checkpoint


class Killer(Callback):
    """Sends a signal at the nth call of a hook, given by the environment variable KILL.

    `KILL="SIGKILL on_train_batch_end 27"` names the signal, the hook and n. With several ranks, only rank 0 sends it.
    The hook `writing` is the writing of a checkpoint: the signal comes when half of the temporary file is written.
    """

    def __init__(self) -> None:
        signal_name, hook, count = os.environ.get("KILL", "SIGKILL none 0").split()
        self.calls_left, self.number = int(count), getattr(signal, signal_name)
        if hook == "writing":
            save = checkpoint.torch.save

            def save_and_truncate(state: Any, file: Any) -> None:
                save(state, file)
                if self.calls_left == 1:
                    file.truncate(file.tell() // 2)
                    file.flush()
                self._count_call()

            checkpoint.torch.save = save_and_truncate
        elif hook != "none":
            setattr(self, hook, self._count_call)

    def _count_call(self, *args: Any) -> None:
        self.calls_left -= 1
        if self.calls_left == 0 and os.environ.get("LOCAL_RANK", "0") == "0":
            os.kill(os.getpid(), self.number)
