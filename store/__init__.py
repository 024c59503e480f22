"""What the API and the workers share: settings, tables, migrations, the array store, the job specification.

Nothing here imports `api`, `worker` or `models`.
"""
