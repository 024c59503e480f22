"""Storage, which the API and the workers share: settings, tables, migrations, the array store, uploads and messages.

It imports only `domain` of the other packages.
"""
