"""The tasks of the process at the queue ``infer``, which answers at once (`store.rpc`).

It is a Celery worker with ``--pool solo --include worker.inference.rpc_tasks``: it runs one task at a time, without a fork, in
the process that holds torch and the loaded models. Workers that fork do not include this module.
"""

import logging

import worker.inference.online_inference
import worker.inference.program_task  # noqa: F401 (makes its task known)

for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines for each request
    logging.getLogger(name).setLevel(logging.WARNING)
