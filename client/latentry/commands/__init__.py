"""The groups of commands, one file each. Nothing heavy is imported before a command runs, so that help comes at once."""
