"""Into production: an encoder with its back end and threshold as a folder, and who new samples are by it."""
