"""Recordings whose true rates are known: of a Lorenz system, a chaotic network, a driven one, two sessions."""

from domain.synthetic.lorenz_attractor import lorenz, lorenz_session, two_sessions
from domain.synthetic.random_network import chaotic_rnn, driven
from domain.synthetic.recording import SyntheticRecording

__all__ = ["SyntheticRecording", "chaotic_rnn", "driven", "lorenz", "lorenz_session", "two_sessions"]
