"""What HTTP asks of all resources: caching, links, pages, and requests that are repeated."""
