"""Videos and pictures: probing, decoding, MP4 structure, posters."""
