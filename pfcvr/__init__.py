"""pfcvr: text-to-image vehicle re-identification, from image collection to ranked answer."""

__version__ = "0.1.0"
