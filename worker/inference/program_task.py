"""A model as a program for whoever asks (`store.rpc`): written by a process of its own.

What `torch.export` needs takes seconds and some hundred megabytes, and it changes how torch behaves meanwhile. The process that
answers at once has no time, memory or torch to give for it: it only starts another one, and hands its answer on.
"""

import logging
import subprocess
import sys
import threading

import msgpack

from store.rpc import give_answer, take_question
from worker.celery_app import app
from worker.training.process_handle import die_with_parent

logger = logging.getLogger(__name__)

LONGEST_S = 300.0
_one_at_a_time = threading.Lock()


@app.task(name="export_program", acks_late=False)
def export_program(call_id: str) -> None:
    """Have a program written, without waiting for it."""
    threading.Thread(target=_answer, args=(call_id,), daemon=True).start()


def _answer(call_id: str) -> None:
    with _one_at_a_time:
        if (arguments := take_question(call_id)) is None:
            return  # whoever asked has gone
        try:
            written = subprocess.run(
                [sys.executable, "-m", "worker.inference.program_process"],
                input=msgpack.packb(arguments),
                stdout=subprocess.PIPE,
                check=True,
                timeout=LONGEST_S,
                preexec_fn=die_with_parent,
            )
            answer = msgpack.unpackb(written.stdout)
        except (OSError, subprocess.SubprocessError) as error:
            logger.exception("a program was not written")
            answer = {
                "problem": {"code": "internal", "message": f"the process that writes it failed: {error}"}
            }
    give_answer(call_id, answer)
