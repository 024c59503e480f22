"""From an uploaded file of spikes to canonical arrays and a report, in a resource-limited subprocess."""
