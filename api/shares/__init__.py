"""Shares: links that show one data set, job or model to whoever has them."""
