"""Clips that the sandbox makes: a tracked cut-out of the character in the light of the reference clip's scene."""
