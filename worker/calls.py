"""The tasks of the process at the queue ``infer``, which answers at once (`store.calls`).

It is a Celery worker with ``--pool solo --include worker.calls``: one task at a time, in the process that holds torch and the
models it has loaded, without a fork. Workers that fork do not include this module.
"""

import logging

import worker.infer_now
import worker.program_task  # noqa: F401 (makes its task known)

for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines for each request
    logging.getLogger(name).setLevel(logging.WARNING)
