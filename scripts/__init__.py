"""Commands: each file parses its words, calls the library and prints."""
