"""What tests of `models` share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """As the compiled scans want it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
