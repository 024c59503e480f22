"""Files on their way in: resumable, whole, or straight into the bucket."""
