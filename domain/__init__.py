"""The words of the field as data and rules, without torch, SQL and HTTP. Every package may import it."""
