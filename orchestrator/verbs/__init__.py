"""Verbs of the command line: a document and its text for each, in one place."""
