"""Recordings whose true rates are known: of a Lorenz or Rössler system, a flip-flop, chaotic networks, two sessions."""

from domain.synthetic.flip_flop import flip_flop
from domain.synthetic.lorenz_attractor import lorenz, lorenz_session, rossler, two_sessions
from domain.synthetic.random_network import chaotic_rnn, driven
from domain.synthetic.recording import SyntheticRecording

__all__ = [
    "SyntheticRecording",
    "chaotic_rnn",
    "driven",
    "flip_flop",
    "lorenz",
    "lorenz_session",
    "rossler",
    "two_sessions",
]
