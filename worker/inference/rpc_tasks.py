"""The tasks of the process at the queue ``infer``, which answers calls at once (`store.rpc`).

The process is a Celery worker with ``--pool solo --include worker.inference.rpc_tasks``. It runs one task at a time without a
fork, since it holds torch and the loaded models. Workers that fork do not include this module.
"""

import logging
import subprocess
import sys
import threading

import msgpack

import worker.inference.online_inference  # noqa: F401 (defines the task infer_now)
from store.rpc import give_answer, take_question
from worker.celery_app import app
from worker.child_processes import die_with_parent

logger = logging.getLogger(__name__)

LONGEST_S = 300.0
_one_at_a_time = threading.Lock()


@app.task(name="export_program", acks_late=False)
def export_program(call_id: str) -> None:
    """Start a process that exports a model as a program, and do not wait for it.

    `torch.export` takes seconds and some hundred megabytes, and changes how torch behaves meanwhile. So another process does it.
    """
    threading.Thread(target=_answer, args=(call_id,), daemon=True).start()


def _answer(call_id: str) -> None:
    with _one_at_a_time:
        if (arguments := take_question(call_id)) is None:
            return  # the caller waits no longer
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
            logger.exception("the export of a model failed")
            answer = {
                "problem": {"code": "internal", "message": f"the process that writes it failed: {error}"}
            }
    give_answer(call_id, answer)
