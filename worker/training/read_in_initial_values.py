"""Where read-ins begin: sessions of a data set get a common meaning from what their conditions have in common."""

import numpy as np
from torch import Tensor

from models import Session, principal_components_initial_values
from models.data import visible_and_held_out
from worker.training.context import TrainingProcess, Work


def read_in_initial_values(process: TrainingProcess, work: Work) -> dict[str, Tensor]:
    """Parameters of a fresh model's read-ins and read-outs, by name, by principal-components regression.

    Training trials are averaged within each condition that all sessions have, or all together if they share none; from their
    beginning, as far as all sessions have bins. Samples that sample validation holds out count as missing.
    """
    training = work.specification.training
    bins = min(recorded.bins for recorded in work.sessions)
    names = process.conditions(work.dataset)
    codes: dict[int | float | str, int] = {}
    sessions, conditions = [], []
    for number, recorded in enumerate(work.sessions):
        session = process.session(work, recorded)
        enters, _ = visible_and_held_out(session, training.sv_rate, training.evaluation_seed, number)
        sessions.append(
            Session(
                session.spikes[:, :bins],
                session.trial_length_bins.clip(max=bins),
                session.is_validation,
                missing=~enters[:, :bins],
                is_test=session.is_test,
                is_left_out=session.is_left_out,
            )
        )
        # Trials without a condition are no other session's.
        found = [
            -1 - number if name is None else codes.setdefault(name, len(codes))
            for name in names[recorded.rows]
        ]
        conditions.append(np.array(found, np.int64))
    trained = zip(conditions, sessions, strict=True)
    common = set.intersection(*(set(of[session.is_training].tolist()) for of, session in trained))
    return principal_components_initial_values(work.architecture(), sessions, conditions if common else None)
