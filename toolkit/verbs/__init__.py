"""The verbs of the command line, a file per group: each parses, calls one function, prints."""
