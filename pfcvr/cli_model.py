"""The commands of ``pfcvr``: train, evaluate and search."""

from pfcvr.cli_output import new_app

app = new_app("Train, evaluate and search with text-to-image vehicle retrieval models.")
