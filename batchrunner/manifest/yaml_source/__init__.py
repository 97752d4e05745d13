"""YAML text: encoding, parsing, syntax errors and common pitfalls."""
