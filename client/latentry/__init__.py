"""The light client of Latentry: HTTP and NumPy, no torch.

>>> from latentry import Client
>>> client = Client("http://127.0.0.1:8000")
>>> dataset = client.upload_dataset("spikes.npz")
>>> job = client.wait_for_job(client.create_job({"dataset_id": dataset["id"]})["id"])
>>> rates = client.read_model_array(job["selected_model_id"], "rates")
"""

from latentry.client import Client
from latentry.errors import LatentryError

__all__ = ["Client", "LatentryError"]
