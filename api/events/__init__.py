"""Events of jobs as they happen: one poller for all listeners, and requests that wait."""
