"""The served examples of the API's own tests."""

from tests.api.conftest import arrays, example, example_url, light_app, light_dataset_id, light_url, settings

__all__ = ["arrays", "example", "example_url", "light_app", "light_dataset_id", "light_url", "settings"]
