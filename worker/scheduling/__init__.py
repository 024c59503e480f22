"""What is done next and by whom: leases, the fair queue, strategies, and the decisions after each slice."""
