"""What is done next, and by which worker: leases, the fair queue, strategies, and the decisions after each slice."""
