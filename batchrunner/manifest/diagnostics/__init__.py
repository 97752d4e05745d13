"""Problems found in a manifest, and how they are printed."""
