"""The service with fake training: its own scheduler, leases, reports and array store under many workers and jobs."""
