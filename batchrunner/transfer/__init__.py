"""Downloads: partial files, checks, delivery, URL guard."""
